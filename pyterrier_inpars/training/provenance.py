"""Provenance of a training: its settings, its course, and a model card that shows them."""

from __future__ import annotations

from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from pyterrier_inpars._fingerprint import StreamFingerprint
from pyterrier_inpars.training.model_selection import START, TRAINED

if TYPE_CHECKING:
    import torch

TRAINING_FILE = "inpars_training.json"
"""Provenance of a training, in its ``output_dir`` and beside the weights that ``save`` writes."""
EVAL = "eval_"
"""Prefix of the measures in a trainer's log."""


def fingerprint(frame: pd.DataFrame, text_field: str = "text") -> dict[str, Any]:
    """Returns the number of rows of a frame, and a SHA-256 of them in order.

    The hash covers the columns ``qid``, ``query``, ``docno`` and ``text_field``, and ``label`` and
    ``score`` if present.
    """
    state = StreamFingerprint()
    columns = [frame[c].astype(str) for c in ("qid", "query", "docno", text_field)]
    numbers = [pd.to_numeric(frame[c], "coerce") for c in ("label", "score") if c in frame]
    columns += [column.map(lambda x: repr(float(x))) for column in numbers]
    for row in zip(*columns, strict=True):
        state = state.extended(*row)
    return {"rows": state.documents, "sha256": state.fingerprint}


def weights_fingerprint(network: torch.nn.Module) -> str:
    """Returns a SHA-256 of the first 1,024 numbers of each weight of a network."""
    digest = sha256()
    for name, parameter in network.named_parameters():
        weight = parameter.detach()
        if hasattr(weight, "qdata"):  # in int8 by torchao, which cannot be flattened
            weight = weight.dequantize()
        numbers = weight.flatten()[:1024].float().cpu().numpy()
        digest.update(f"{name} {tuple(weight.shape)}".encode() + numbers.tobytes())
    return digest.hexdigest()


def is_provenance(found: Any) -> bool:
    """Returns whether what was read from a file describes a training."""
    return isinstance(found, dict) and {"settings", "history"} <= found.keys()


def training_log(provenance: dict[str, Any]) -> pd.DataFrame:
    """Returns the loss and the validation of a training by step.

    Args:
        provenance: See ``Reranker.provenance``.

    Returns:
        See ``Reranker.training_log``.
    """
    rows: dict[int, dict[str, float]] = {}
    verdict = provenance.get("verdict") or {}
    values = {row["system"]: row["value"] for row in verdict.get("systems", [])}
    if START in values:
        rows[0] = {verdict["measure"]: values[START]}
    for entry in provenance["history"]:
        row = rows.setdefault(int(entry["step"]), {})
        row |= {name: entry[name] for name in ("loss", "learning_rate") if name in entry}
        row |= {n.removeprefix(EVAL): x for n, x in entry.items() if n.startswith(EVAL)}
    if TRAINED in values:  # a run that does not validate before its end has no other value
        rows.setdefault(provenance["steps"], {}).setdefault(verdict["measure"], values[TRAINED])
    log = pd.DataFrame([{"step": step, **rows[step]} for step in sorted(rows)])
    for name in ("loss", "learning_rate"):
        log[name] = log.get(name, np.nan)
    order = ["step", "loss", "learning_rate"]
    log = log[order + [name for name in log if name not in order]]
    return log.astype({name: float for name in log if name != "step"})


def versions() -> dict[str, str]:
    """Returns the versions of the installed packages that a training depends on."""
    found = {}
    for package in ("pyterrier_inpars", "torch", "transformers", "sentence-transformers", "peft"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def model_card(provenance: dict[str, Any], kind: str) -> str:
    """Returns a model card, in the format of the Hugging Face hub.

    Args:
        provenance: See ``Reranker.provenance``.
        kind: Class of the reranker, such as ``"MonoT5"``.
    """
    started_from = provenance["settings"]["reranker"]["model"]
    header = {
        "library_name": "transformers" if kind == "MonoT5" else "sentence-transformers",
        "pipeline_tag": "sentence-similarity" if kind == "BiEncoder" else "text-ranking",
        "tags": ["pyterrier", "inpars", "reranker"],
    }
    if "/" in started_from:  # a name on the hub, not that of a folder
        header["base_model"] = started_from
    title = f"{kind} trained from {started_from}"
    used = f"""from pyterrier_inpars import {kind}

reranker = {kind}("path or name of this model")
pipeline = first_stage >> reranker"""
    return _card(header, title, used, provenance, kind)


def artifact_card(
    provenance: dict[str, Any] | None, kind: str, title: str, load: str, tags: list[str]
) -> str:
    """Returns the page of a data set of the hub that holds a reranker's package.

    Args:
        provenance: See ``Reranker.provenance``; ``None`` for an untrained reranker.
        kind: Class of the reranker, such as ``"MonoT5"``.
        title: Title of the page.
        load: Python code that loads the package.
        tags: Tags of the page.
    """
    header = {"tags": tags, "task_categories": ["text-ranking"], "viewer": False}
    used = f"""import pyterrier as pt

reranker = {load}
pipeline = first_stage >> reranker"""
    return _card(header, title, used, provenance, kind)


def _card(
    header: dict[str, Any], title: str, used: str, provenance: dict[str, Any] | None, kind: str
) -> str:
    trained = ", trained on synthetic queries by `pyterrier_inpars`" if provenance else ""
    results = _results(provenance) if provenance else ""
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {title}

A reranker for PyTerrier (`{kind}`){trained}.

```python
{used}
```
{results}"""


def _results(provenance: dict[str, Any]) -> str:
    """Returns what a card says about a training: its settings, its verdict and its course."""
    settings = provenance["settings"]
    arguments, examples = settings["arguments"], settings["examples"]
    shown = ("learning_rate", "lr_scheduler_type", "weight_decay", "warmup_steps", "seed")
    rows = {
        "examples": f"{examples['rows']:,} rows, SHA-256 `{examples['sha256']}`",
        "queries": f"{provenance['queries']:,}" if "queries" in provenance else "",
        "loss": settings["reranker"].get("loss", ""),
        "recipe": settings["recipe"] or "the defaults of pyterrier_inpars",
        "steps": f"{provenance['steps']:,} of {settings['effective_batch']:,} examples",
        **{name: arguments[name] for name in shown if name in arguments},
        **({"LoRA": f"`{settings['lora']}`"} if "lora" in settings else {}),
        "mean training loss": f"{provenance['loss']:.4f}",
    }
    for name, value in _best(provenance["history"]).items():
        rows[f"best {name} in validation"] = f"{value:.4f}"
    rows |= provenance["versions"]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items() if value != "")
    return f"""
{_verdict(provenance.get("verdict"))}## Training

| | |
|---|---|
{table}

{_course(training_log(provenance))}`{TRAINING_FILE}` has all settings and the whole log.
"""


def _verdict(known: dict[str, Any] | None) -> str:
    """Returns what a card says about the verdict of a training."""
    if known is None:
        return ""
    lines = ["## Did training help?", "", known["summary"], ""]
    if known["systems"]:
        lines += [
            f"| system | {known['measure']} | p against the start | kept |",
            "|---|---|---|---|",
        ]
        for row in known["systems"]:
            p = "" if row["p"] is None else f"{row['p']:.2g}"
            kept = "yes" if row["system"] == known["kept"] else ""
            lines.append(f"| {row['system']} | {row['value']:.4f} | {p} | {kept} |")
        lines.append("")
    return "\n".join([*lines, ""])


def _course(log: pd.DataFrame) -> str:
    """Returns loss and validation by step as a table."""
    log = log.drop(columns="learning_rate")
    lines = [f"| {' | '.join(log)} |", "|---" * len(log.columns) + "|"]
    for step, *values in log.itertuples(index=False):
        cells = ["" if np.isnan(value) else f"{value:.4f}" for value in values]
        lines.append(f"| {step:,} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", ""])


def _best(history: list[dict[str, float]]) -> dict[str, float]:
    """Returns the highest value of each measure in a log."""
    best: dict[str, float] = {}
    for entry in history:
        for name, value in entry.items():
            if name.startswith(EVAL):
                name = name.removeprefix(EVAL)
                best[name] = max(value, best.get(name, value))
    return best
