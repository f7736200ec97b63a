"""Agreement of synthetic queries with human topics about systems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations

import numpy as np
import pandas as pd
from ir_measures import Measure, nDCG

from pyterrier_inpars._arguments import finite
from pyterrier_inpars._measures import checked_measure, comparable
from pyterrier_inpars._significance import check_correction, corrected_p_values, paired_p_value
from pyterrier_inpars._stage import check_columns, check_strings
from pyterrier_inpars.evaluation._systems import (
    Systems,
    check_baseline,
    judged_topics,
    named,
    run_systems,
    values_of,
    warn_if_not_found,
)
from pyterrier_inpars.evaluation.rank_correlation import kendall_tau, tau_ap
from pyterrier_inpars.queries.artifact import SyntheticQueries
from pyterrier_inpars.training.examples import graded_qrels


@dataclass(frozen=True)
class Agreement:
    """Agreement of synthetic queries with human topics; see `agreement`.

    Attributes:
        kendall_tau: Kendall's tau-b of the two orders.
        tau_ap: AP correlation, which weighs the top more.
        significant_pairs: Number of pairs of systems that differ significantly on human topics.
        significant_agreement: Share of these pairs that both order alike; NaN if there are none.
        chosen: System that the synthetic queries choose.
        best: System that the human topics choose.
        regret: Value of the best system less that of the chosen one, on human topics.
        relative_regret: Regret as a share of the value of the best system.
        gain: Value of the chosen system less that of the baseline, on human topics.
        relative_gain: Gain as a share of the value of the baseline.
        table: One row per system, best on human topics first: ``name``, mean on ``synthetic``
            queries and on ``human`` topics.
    """

    kendall_tau: float
    tau_ap: float
    significant_pairs: int
    significant_agreement: float
    chosen: str
    best: str
    regret: float
    relative_regret: float
    gain: float
    relative_gain: float
    table: pd.DataFrame

    def to_series(self) -> pd.Series:
        """Returns all figures but the table, such as for one row of a frame."""
        names = [field.name for field in fields(self) if field.name != "table"]
        return pd.Series({name: getattr(self, name) for name in names}, dtype=object)

    def __repr__(self) -> str:
        return f"{self.to_series().to_string()}\n{self.table.to_string(index=False)}"

    def _repr_html_(self) -> str:
        figures = self.to_series().to_frame("agreement")
        return figures.to_html() + self.table.to_html(index=False)


def agreement(
    systems: Systems,
    queries: SyntheticQueries | pd.DataFrame,
    topics: pd.DataFrame,
    qrels: pd.DataFrame,
    measure: Measure | str = nDCG @ 10,
    *,
    names: Sequence[str] | None = None,
    baseline: int = 0,
    synthetic_qrels: pd.DataFrame | None = None,
    alpha: float = 0.05,
    correction: str = "holm",
    verbose: bool = False,
) -> Agreement:
    """Measures how far synthetic queries choose systems as human topics do.

    It is for collections with some labels: to find out which queries, prompts and filters choose
    well, before the same are used where there are no labels.

    Args:
        systems: List of transformers, or a dict of them by name.
        queries: Synthetic queries, as in `compare`.
        topics: Human topics ``qid, query``. Topics without qrels are left out.
        qrels: Their judgements ``qid, docno, label``.
        measure: Measure of ``ir_measures``, of which a higher value is better.
        names: Names of the systems.
        baseline: Number of the system that ``gain`` is relative to.
        synthetic_qrels: Frame ``qid, docno, label`` that replaces the source documents.
        alpha: Level of significance of the pairs.
        correction: Correction of the p-values of all pairs whose values differ, by its name in
            ``statsmodels.stats.multitest.multipletests``.
        verbose: Whether to show progress.

    Returns:
        Rank correlation, regret and gain. To compute them from values that you have, see
        `agreement_of_values`.

    Raises:
        TypeError: A system is not a transformer, or the measure is not one of ``ir_measures``.
        pt.validate.InputValidationError: A column is missing.
        ValueError: There are fewer than two systems, no queries or no judged topics, a topic occurs
            twice, a label is not a whole number, or another argument is out of range.
        RuntimeError: A system fails; the error names it.
    """
    by_name = named(systems, names)
    if frames := [name for name, system in by_name.items() if isinstance(system, pd.DataFrame)]:
        raise TypeError(
            f"{frames[0]!r} is a frame of results, which cannot have both synthetic queries and "
            "topics: give a transformer, or use agreement_of_values()"
        )
    _check_options(len(by_name), baseline, alpha, correction)
    measure = checked_measure(measure)
    check_columns(topics, "qid", "query")
    check_strings(topics, "qid", "query")
    if (twice := topics["qid"].duplicated()).any():
        raise ValueError(
            f"topic {topics['qid'][twice].iloc[0]!r} occurs twice: keep one row for each qid"
        )
    qrels = graded_qrels(qrels)
    topics = topics[topics["qid"].isin(qrels["qid"])]
    if len(topics) == 0:
        raise ValueError("the qrels judge none of the topics: their qids must be the topics'")
    synthetic = judged_topics(queries, synthetic_qrels)
    values = []
    for asked, judged in (synthetic, (topics, qrels)):
        results = run_systems(by_name, asked, verbose)
        warn_if_not_found(results, judged)
        ((_, of_measure),) = values_of(results, asked, judged, [measure]).items()
        values.append(of_measure)
    return agreement_of_values(*values, baseline=baseline, alpha=alpha, correction=correction)


def agreement_of_values(
    synthetic: pd.DataFrame,
    human: pd.DataFrame,
    *,
    baseline: int = 0,
    alpha: float = 0.05,
    correction: str = "holm",
) -> Agreement:
    """Measures agreement from values that were computed before.

    Args:
        synthetic: Values of a measure on synthetic queries, one row per query and one column per
            system. A frame with the means as its only row is enough.
        human: The same on human topics, with the same columns. Pairs are tested over its rows.
        baseline: Number of the column that ``gain`` is relative to.
        alpha: Level of significance of the pairs.
        correction: Correction of the p-values of all pairs whose values differ.

    Returns:
        Rank correlation, regret and gain.

    Raises:
        ValueError: The columns differ, or are fewer than two; or a value is not a finite number.
    """
    check_columns(synthetic)
    check_columns(human)
    if set(synthetic) != set(human):
        only = sorted(map(str, set(synthetic) ^ set(human)))
        raise ValueError(f"the two frames have different systems: {only[0]!r} is in only one")
    _check_options(human.shape[1], baseline, alpha, correction)
    synthetic = synthetic[list(human)]
    for kind, values in (("synthetic", synthetic), ("human", human)):
        numbers = values.apply(pd.to_numeric, errors="coerce").to_numpy(float)
        if (bad := ~np.isfinite(numbers).all(axis=0)).any():
            raise ValueError(
                f"the {kind} values of {values.columns[bad][0]!r} are not all finite numbers: set "
                "a value for each query, or drop the query for all systems"
            )
    means = synthetic.mean(), human.mean()
    tau, ap = kendall_tau(*means), tau_ap(*means)
    estimated, true = map(comparable, means)
    pairs = _significant_pairs(human, alpha, correction)
    alike = [(estimated[a] - estimated[b]) * (true[a] - true[b]) > 0 for a, b in pairs]
    chosen, best = estimated.idxmax(), true.idxmax()
    regret, gain = true[best] - true[chosen], true[chosen] - true.iloc[baseline]
    table = pd.DataFrame({"name": list(human), "synthetic": list(estimated), "human": list(true)})
    return Agreement(
        kendall_tau=tau,
        tau_ap=ap,
        significant_pairs=len(pairs),
        significant_agreement=float(np.mean(alike)) if pairs else float("nan"),
        chosen=chosen,
        best=best,
        regret=float(regret),
        relative_regret=_ratio(regret, true[best]),
        gain=float(gain),
        relative_gain=_ratio(gain, true.iloc[baseline]),
        table=table.sort_values("human", ascending=False, kind="stable", ignore_index=True),
    )


def _check_options(systems: int, baseline: int, alpha: float, correction: str) -> None:
    """Checks the number of systems and the options of `agreement`."""
    if systems < 2:
        raise ValueError(f"agreement needs two systems or more, not {systems}")
    check_baseline(baseline, systems)
    finite("alpha", alpha, above=0, below=1)
    check_correction(correction)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _significant_pairs(values: pd.DataFrame, alpha: float, correction: str) -> list[tuple]:
    """Returns the pairs of columns that differ significantly, by paired t-tests."""
    pairs = list(combinations(values, 2))
    p_values = [paired_p_value(values[a], values[b]) for a, b in pairs]
    rejected, _ = corrected_p_values(p_values, correction, alpha)
    return [pair for pair, different in zip(pairs, rejected, strict=True) if different]
