"""Choice of a system on synthetic queries."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from ir_measures import Measure, nDCG

from pyterrier_inpars._arguments import finite
from pyterrier_inpars._counted import counted
from pyterrier_inpars._measures import checked_measure, comparable
from pyterrier_inpars._significance import corrected_p_values
from pyterrier_inpars.evaluation._systems import (
    System,
    Systems,
    judged_topics,
    named,
    run_systems,
    values_of,
    warn_if_not_found,
)
from pyterrier_inpars.evaluation.comparison import compared
from pyterrier_inpars.queries.artifact import SyntheticQueries


@dataclass(frozen=True, repr=False)
class Selection:
    """Result of `select`.

    Attributes:
        name: Name of the best system.
        best: The best system.
        candidates: The systems that are not significantly worse than the best one, by name and best
            first, with the best one.
        table: One row per system, best first: ``name``, the measure with ``low`` and ``high``,
            ``p-value`` of the paired t-test against the best system, ``p-value corrected`` by
            Holm's method, and ``candidate``.
        measure: Measure of the choice.
        num_queries: Number of queries.
    """

    name: str
    best: System
    candidates: dict[str, System]
    table: pd.DataFrame
    measure: str
    num_queries: int

    def __repr__(self) -> str:
        return f"{self._summary()}\n{self.table.to_string(index=False)}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self._summary())}</p>{self.table.to_html(index=False)}"

    def _summary(self) -> str:
        others = ", ".join(name for name in self.candidates if name != self.name)
        return (
            f"best of {counted(len(self.table), 'system')} on "
            f"{counted(self.num_queries, 'query')} by {self.measure}: {self.name}; "
            f"not significantly worse: {others or 'none'}"
        )


def select(
    systems: Systems,
    queries: SyntheticQueries | pd.DataFrame,
    measure: Measure | str = nDCG @ 10,
    names: Sequence[str] | None = None,
    alpha: float = 0.05,
    *,
    qrels: pd.DataFrame | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    verbose: bool = False,
) -> Selection:
    """Chooses the best of several systems on synthetic queries.

    The best system is the one with the highest mean. The others are tested against it by paired
    t-tests with Holm's correction; those that are not significantly worse are candidates too, and
    the cheapest of them may be the better choice::

        choice = evaluation.select([bm25, bm25 % 100 >> text >> encoder], queries)
        choice.best.search("chemical reactions")

    Of systems with equal means, the first one is the best.

    Args:
        systems: List of transformers or frames of results, or a dict of them by name.
        queries: Synthetic queries, as in `compare`.
        measure: Measure of ``ir_measures``, of which a higher value is better.
        names: Names of the systems.
        alpha: Level of significance.
        qrels: Frame ``qid, docno, label`` that replaces the source documents.
        confidence: Confidence level of the intervals.
        seed: Seed of the bootstrap samples.
        verbose: Whether to show progress.

    Returns:
        The choice, with all systems in ``table``.

    Raises:
        TypeError: A system is not a transformer or a frame, or the measure is not one of
            ``ir_measures``.
        pt.validate.InputValidationError: A column is missing.
        ValueError: As in `compare`, or ``alpha`` is not between 0 and 1.
        RuntimeError: A system fails; the error names it.
    """
    finite("alpha", alpha, above=0, below=1)
    finite("confidence", confidence, above=0, below=1)
    by_name = named(systems, names)
    measure = checked_measure(measure)
    topics, qrels = judged_topics(queries, qrels)
    results = run_systems(by_name, topics, verbose)
    warn_if_not_found(results, qrels)
    ((m, values),) = values_of(results, topics, qrels, [measure]).items()
    order = comparable(values.mean()).sort_values(ascending=False, kind="stable").index
    ordered = {name: results[name] for name in order}
    table = compared(ordered, topics, qrels, [measure], confidence, seed, baseline=0)
    table = table.rename(
        columns={f"{m} low": "low", f"{m} high": "high", f"{m} p-value": "p-value"}
    )
    table = table[["name", m, "low", "high", "p-value"]]
    _, corrected = corrected_p_values(table["p-value"], "holm")
    corrected = np.nan_to_num(corrected, nan=1.0)  # of systems with the values of the best one
    table = table.assign(**{"p-value corrected": corrected, "candidate": corrected >= alpha})
    candidates = {name: by_name[name] for name in table["name"][table["candidate"]]}
    name = table["name"].iloc[0]
    return Selection(name, by_name[name], candidates, table, m, len(topics))
