"""What a notebook shows of a reranker: whether it is trained, on what, and whether it helped."""

from __future__ import annotations

from typing import Any

import pyterrier as pt

from pyterrier_inpars import _html
from pyterrier_inpars.training.model_selection import START, verdict_frame
from pyterrier_inpars.training.provenance import training_log


def reranker_html(
    reranker: pt.Transformer, options: dict[str, Any], provenance: dict[str, Any] | str
) -> str:
    """Returns the schematic of a reranker, and a card.

    Args:
        reranker: The reranker.
        options: Its options to show; those that are None are left out.
        provenance: That of the last training, or what there is to say instead.
    """
    facts, parts = dict(options), []
    if isinstance(provenance, str):
        facts["trained"] = provenance
    else:
        parts = _training(facts, provenance)
    return _html.schematic(reranker) + _html.card(repr(reranker), _html.facts(facts), *parts)


def _training(facts: dict[str, Any], provenance: dict[str, Any]) -> list[str]:
    """Adds the training to the facts, and returns the verdict and the curves."""
    settings, verdict = provenance["settings"], provenance.get("verdict")
    queries = f" of {provenance['queries']:,} queries" if "queries" in provenance else ""
    facts["trained"] = f"on {settings['examples']['rows']:,} examples{queries}"
    facts["started from"] = settings["reranker"]["model"]
    facts["loss"] = settings["reranker"].get("loss")
    facts["recipe"] = settings["recipe"]
    facts["steps"] = f"{provenance['steps']:,} of {settings['effective_batch']:,} examples"
    if verdict and verdict["kept"] == START:
        facts["weights"] = "those of the start, which the training did not improve"
    elif "weights" in provenance:
        facts["weights"] = provenance["weights"][:8]
    parts: list[str] = []
    if verdict:
        parts.append(verdict["summary"])
        if verdict["systems"]:
            parts.append(_html.table(verdict_frame(verdict)))
    log = training_log(provenance)
    names = [name for name in log if name not in ("step", "learning_rate")]
    shown = {"loss": "training loss by step"}
    return parts + [
        _html.curve(log["step"], log[name], shown.get(name, f"{name} of the validation by step"))
        for name in names
    ]
