"""Model selection: training may not make a reranker worse on the validation.

The candidates are the weights at the start, the trained weights, and weighted averages of the two
(LM-Cocktail, Xiao et al. 2023, arXiv 2311.13534).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ir_measures
import numpy as np
import pandas as pd

from pyterrier_inpars._compute.xla import on_xla
from pyterrier_inpars._measures import as_measure, comparable
from pyterrier_inpars._scores import are_constant, z_scores
from pyterrier_inpars._significance import paired_p_value
from pyterrier_inpars.training.examples import graded_qrels

if TYPE_CHECKING:
    import torch

SHARES = (0.25, 0.5, 0.75)
"""Shares of the start's weights in the averages."""
_WRITING = re.compile("inline_container|PytorchStreamWriter")
"""PyTorch's writer of files, in its errors."""
START, TRAINED, FIRST_STAGE = "start", "trained", "first stage"


@dataclass
class Measured:
    """A system measured on the validation.

    Attributes:
        system: Name of the system.
        share: Share of the start's weights; ``None`` for a system that is only compared.
        value: Value of the measure.
        values: Value of each query, in the order of the qids.
        scores: Scores of the results, in the order of the rows.
        constant: Number of queries all whose documents have the same score.
        queries: Number of queries with two or more documents.
    """

    system: str
    share: float | None
    value: float
    values: np.ndarray
    scores: np.ndarray
    constant: int
    queries: int

    @property
    def collapsed(self) -> bool:
        """Whether the scores of most queries are constant: their order then means nothing."""
        return 2 * self.constant > self.queries


@dataclass
class Validation:
    """Results to rerank, and how they are judged.

    Args:
        results: Frame ``qid, query, docno`` and the text.
        qrels: Frame ``qid, docno, label``.
        rerank: Reranks the results with the network at that time.
        baselines: Scores of the results by other systems, by their names, in the order of the rows.

    Raises:
        ValueError: A label is not a whole number; see `graded_qrels`.
    """

    results: pd.DataFrame
    qrels: pd.DataFrame
    rerank: Callable[[pd.DataFrame], pd.DataFrame]
    baselines: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.qrels = graded_qrels(self.qrels)

    def value(self, measure: str) -> float:
        """Returns the value of a measure for the network at that time."""
        return self.of_network(measure, TRAINED, 0.0).value

    def of_network(self, measure: str, system: str, share: float) -> Measured:
        """Measures the network at that time."""
        return self._measured(measure, system, share, self.rerank(self.results))

    def of_others(self, measure: str, kept: Measured) -> list[Measured]:
        """Measures the baselines, and the score fusion of the first stage with what is kept."""
        scores = dict(self.baselines)
        if FIRST_STAGE in scores:
            qids = self.results["qid"]
            fused = z_scores(scores[FIRST_STAGE], qids) + z_scores(kept.scores, qids)
            scores[f"{FIRST_STAGE} + {kept.system}"] = fused
        return [
            self._measured(measure, name, None, self.results.assign(score=values))
            for name, values in scores.items()
        ]

    def _measured(
        self, measure: str, system: str, share: float | None, scored: pd.DataFrame
    ) -> Measured:
        parsed = as_measure(measure)
        run = scored.rename(columns={"qid": "query_id", "docno": "doc_id"})
        qrels = self.qrels.set_axis(["query_id", "doc_id", "relevance"], axis="columns")
        found: Any = ir_measures.calc([parsed], qrels, run)
        values = {metric.query_id: metric.value for metric in found.per_query}
        ranges = scored.groupby("qid")["score"].agg(["min", "max", "size"])
        ranges = ranges[ranges["size"] > 1]
        return Measured(
            system,
            share,
            float(found.aggregated[parsed]),
            np.array([values[qid] for qid in sorted(values)], dtype=float),
            scored["score"].to_numpy(dtype=float),
            int(are_constant(ranges["min"], ranges["max"]).sum()),
            len(ranges),
        )


class StoredWeights:
    """Weights of a network at the start and after training, in files, and their averages.

    Args:
        network: Network before training.
        folder: Folder for the two files, each of the size of the weights.
        only_trainable: Whether frozen weights are left out, which a training does not change.

    Raises:
        OSError: The weights cannot be written there.
    """

    def __init__(self, network: torch.nn.Module, folder: Path, only_trainable: bool = False):
        self.network = network
        self.only_trainable = only_trainable
        self.start, self.trained = folder / "start.pt", folder / "trained.pt"
        self._store(self.start)

    def end_of_training(self) -> None:
        """Stores the trained weights."""
        self._store(self.trained)

    def load(self, share: float) -> None:
        """Gives the network the average of the two.

        Args:
            share: Share of the start's weights; 1 restores them, and 0 the trained ones, exactly.
        """
        import torch

        files = [self.trained] * (share < 1) + [self.start] * (share > 0)
        stored = [
            torch.load(file, map_location="cpu", mmap=True, weights_only=True) for file in files
        ]
        with torch.no_grad():
            for name, weight in self._tensors().items():
                if len(stored) == 2 and weight.is_floating_point():
                    weight.copy_(torch.lerp(stored[0][name], stored[1][name], share))
                else:
                    weight.copy_(stored[0][name])

    def _store(self, file: Path) -> None:
        import torch

        tensors = {name: weight.detach() for name, weight in self._tensors().items()}
        if any(on_xla(weight.device) for weight in tensors.values()):
            tensors = {name: weight.cpu() for name, weight in tensors.items()}
        try:
            torch.save(tensors, file)  # which copies those of a GPU one at a time
        except (OSError, RuntimeError) as error:
            # PyTorch's own error of a full disk is about the file format.
            if isinstance(error, RuntimeError) and not _WRITING.search(str(error)):
                raise
            size = sum(weight.numel() * weight.element_size() for weight in tensors.values())
            raise OSError(
                f"cannot store {size / 1e9:,.3f} GB of weights in {file.parent}: {error}. Give "
                "training={'output_dir': ...} on a disk with more space, or set the environment "
                "variable TMPDIR to a folder there"
            ) from error

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Returns parameters and buffers, shared ones under each of their names."""
        parameters = self.network.named_parameters(remove_duplicate=False)
        return {
            **{n: w for n, w in parameters if w.requires_grad or not self.only_trainable},
            **dict(self.network.named_buffers(remove_duplicate=False)),
        }


def verdict(
    measure: str,
    candidates: list[Measured],
    others: Callable[[Measured], list[Measured]],
    *,
    higher: bool = True,
    forced: bool = False,
) -> dict[str, Any]:
    """Compares the candidates, and says which one to keep.

    Args:
        measure: Name of the measure.
        candidates: The start, the trained weights, and the averages.
        others: Returns the systems that are only compared, for the kept one.
        higher: Whether higher values are better.
        forced: Whether the trained weights are kept in any case.

    Returns:
        ``kept`` (name of the system), ``start_share`` (share of the start's weights in it),
        ``helped`` (whether it is better than the start), ``summary`` (one line), ``measure``,
        ``queries`` (their number), and ``systems``: name, ``start_share``, value and p of each. The
        p is that of a paired t-test against the start, ``None`` without any difference.
    """
    start, trained = candidates[:2]
    able = [start]
    if not trained.collapsed:
        able = [system for system in candidates if not system.collapsed]
    # rounded, so that means over other orders of the same values tie; the first of equal ones
    best = max(able, key=lambda system: (1 if higher else -1) * comparable(system.value))
    kept = trained if forced else best
    helped = best is not start and kept is best
    systems = [
        {"system": s.system, "start_share": s.share, "value": s.value, "p": _p(s, start)}
        for s in [*candidates, *others(kept)]
    ]
    return {
        "kept": kept.system,
        "start_share": kept.share,
        "helped": helped,
        "summary": _summary(measure, start, trained, best, kept, helped),
        "measure": measure,
        "queries": len(start.values),
        "systems": systems,
    }


def not_validated(why: str) -> dict[str, Any]:
    """Returns the verdict of a training without a validation."""
    return {
        "kept": TRAINED,
        "start_share": 0.0,
        "helped": None,
        "summary": f"not validated: {why}",
        "measure": None,
        "queries": 0,
        "systems": [],
    }


def verdict_frame(known: dict[str, Any]) -> pd.DataFrame:
    """Returns a verdict as a frame ``system``, the measure, ``queries``, ``p, kept``."""
    systems = known["systems"] or [{"system": known["kept"], "value": None, "p": None}]
    return pd.DataFrame(
        {
            "system": [row["system"] for row in systems],
            known["measure"] or "value": np.array([row["value"] for row in systems], dtype=float),
            "queries": known["queries"],
            "p": np.array([row["p"] for row in systems], dtype=float),
            "kept": [row["system"] == known["kept"] for row in systems],
        }
    )


def _p(system: Measured, start: Measured) -> float | None:
    """Returns the p of a paired t-test; ``None`` where no query differs."""
    p = paired_p_value(system.values, start.values)
    return None if np.isnan(p) else p


def _summary(
    measure: str,
    start: Measured,
    trained: Measured,
    best: Measured,
    kept: Measured,
    helped: bool,
) -> str:
    p = _p(kept if helped else trained, start)
    text = "training did not help"
    if helped:
        text = "training helped" if p is not None and p < 0.05 else "no significant gain"
    text += f" on {len(start.values)} validation queries: {measure} is {start.value:.4f} at the "
    text += f"start and {trained.value:.4f} trained"
    if best.share not in (0, 1):
        text += f", {best.value:.4f} for the {best.system}"
    text += "" if p is None else f" (p = {p:.2g})"
    if trained.collapsed:
        text += (
            f". The trained network gives all documents of a query the same score, for "
            f"{trained.constant} of {trained.queries} queries: give a lower learning_rate"
        )
    asked = "" if kept is best else ", as load_best_model_at_end=False asks"
    return f"{text}. Kept: {kept.system}{asked}"
