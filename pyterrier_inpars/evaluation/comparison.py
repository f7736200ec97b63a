"""Comparison of systems on synthetic queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from ir_measures import Measure, nDCG

from pyterrier_inpars._arguments import finite
from pyterrier_inpars._measures import as_measures
from pyterrier_inpars._significance import check_correction, corrected_p_values
from pyterrier_inpars._stage import check_columns
from pyterrier_inpars.evaluation._systems import (
    Systems,
    check_baseline,
    experiment,
    judged_topics,
    named,
    run_systems,
    values_of,
    warn_if_not_found,
)
from pyterrier_inpars.queries.artifact import SyntheticQueries

RESAMPLES = 2_000
"""Number of bootstrap samples of an interval."""

_OPTIONS = ("test", "correction", "correction_alpha")


def compare(
    systems: Systems,
    queries: SyntheticQueries | pd.DataFrame,
    measures: Measure | str | Sequence[Measure | str] = (nDCG @ 10,),
    *,
    names: Sequence[str] | None = None,
    baseline: int = 0,
    qrels: pd.DataFrame | None = None,
    by_type: bool = False,
    confidence: float = 0.95,
    seed: int = 0,
    verbose: bool = False,
    **experiment_options: Any,
) -> pd.DataFrame:
    """Compares systems on synthetic queries: ``pt.Experiment`` where nobody has judged anything.

    The source document of a query is its only relevant document, unless ``qrels`` are given. Such
    known-item queries order systems similarly to human topics, but their values are not those of
    human topics. Use queries that no system was trained on; see `split`.

    Queries are put to the systems without punctuation and in lower case. Stages that several
    systems begin with run once.

    Args:
        systems: List of transformers or frames of results, or a dict of them by name.
        queries: Synthetic queries, as `SyntheticQueries` or a frame ``qid, query, docno``. Rows
            with the same ``qid`` are one query with several relevant documents.
        measures: Measures of ``ir_measures``, or their names.
        names: Names of the systems.
        baseline: Number of the system that the others are tested against.
        qrels: Frame ``qid, docno, label`` that replaces the source documents, such as
            `pseudo_qrels` or the labels of a judge. Queries that it does not judge are left out.
        by_type: Whether to add the rows of each query type, by the column ``type`` of the queries.
            The rows of type ``"all"`` come first.
        confidence: Confidence level of the intervals.
        seed: Seed of the bootstrap samples.
        verbose: Whether to show progress.
        experiment_options: The options of ``pt.Experiment`` for significance tests: ``test``,
            ``correction`` (such as ``"holm"``) and ``correction_alpha``. A system without a
            p-value, because its values are those of the baseline, is not counted as a test.

    Returns:
        One row per system: ``name``; for each measure ``m`` its mean ``m``, the bootstrap interval
        of the mean over queries ``m low`` and ``m high``, and the columns of ``pt.Experiment``:
        number of queries better and worse than the baseline (``m +``, ``m -``) and the p-value of a
        paired t-test (``m p-value``).

    Raises:
        TypeError: A system is not a transformer or a frame, a measure is not one of
            ``ir_measures``, or an option is unknown.
        pt.validate.InputValidationError: A column is missing.
        ValueError: There are no queries or no systems, a ``qid`` has two queries, two systems have
            one name, a label is not a whole number, or a system returns nothing, a score that is
            not a number, or a document twice for a query.
        RuntimeError: A system fails; the error names it.
    """
    if unknown := experiment_options.keys() - set(_OPTIONS):
        raise TypeError(
            f"unknown option {sorted(unknown)[0]!r}: compare() takes {', '.join(_OPTIONS)} of "
            "pt.Experiment"
        )
    finite("confidence", confidence, above=0, below=1)
    finite("correction_alpha", experiment_options.get("correction_alpha", 0.05), above=0, below=1)
    if experiment_options.get("correction") is not None:
        check_correction(experiment_options["correction"])
    by_name = named(systems, names)
    check_baseline(baseline, len(by_name))
    measures = as_measures(measures)
    topics, qrels = judged_topics(queries, qrels)
    if by_type:
        check_columns(topics, "type")
    results = run_systems(by_name, topics, verbose)
    warn_if_not_found(results, qrels)

    def table(topics: pd.DataFrame) -> pd.DataFrame:
        options = {"baseline": baseline, **experiment_options}
        return compared(results, topics, qrels, measures, confidence, seed, **options)

    if not by_type:
        return table(topics)
    groups = [("all", topics), *topics.groupby("type", sort=False, dropna=False, observed=True)]
    tables = [table(rows).assign(type=name) for name, rows in groups]
    out = pd.concat(tables, ignore_index=True)
    return out[["type", *(column for column in out if column != "type")]]


def compared(
    results: Mapping[str, pd.DataFrame],
    topics: pd.DataFrame,
    qrels: pd.DataFrame,
    measures: Sequence[Measure | str],
    confidence: float,
    seed: int,
    *,
    correction: str | None = None,
    correction_alpha: float = 0.05,
    **options: Any,
) -> pd.DataFrame:
    """Returns the table of ``pt.Experiment`` with an interval for each measure."""
    table = experiment(results, topics, qrels, measures, **options)
    values = values_of(results, topics, qrels, measures)
    columns = ["name"]
    for measure in sorted(values, key=_order(measures)):
        by_query = values[measure].to_numpy(float)
        low, high = intervals(by_query, confidence, seed)
        # pt.Experiment sums counts, such as NumRet.
        table = table.assign(
            **{measure: by_query.mean(axis=0), f"{measure} low": low, f"{measure} high": high}
        )
        if correction is not None:
            rejected, corrected = corrected_p_values(
                table[f"{measure} p-value"], correction, correction_alpha
            )
            table[f"{measure} reject"] = rejected
            table[f"{measure} p-value corrected"] = corrected
        columns += [measure, f"{measure} low", f"{measure} high"]
        columns += [c for c in table if c.startswith(f"{measure} ") and c not in columns]
    return table[columns]


def _order(measures: Sequence[Measure | str]) -> Callable[[str], int]:
    """Returns the key to sort measures as they were given; ``pt.Experiment`` has another order."""
    given = [str(measure) for measure in measures]
    return lambda measure: given.index(measure) if measure in given else len(given)


def intervals(values: np.ndarray, confidence: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bounds of the percentile bootstrap intervals of the means of the columns.

    Args:
        values: One row per query, one column per system. A sample of queries is the same for all
            systems.
        confidence: Confidence level.
        seed: Seed of the samples.
    """
    rng = np.random.default_rng(seed)
    number = len(values)
    means = [values[rng.integers(number, size=number)].mean(axis=0) for _ in range(RESAMPLES)]
    outside = (1 - confidence) / 2
    low, high = np.quantile(means, [outside, 1 - outside], axis=0)
    return low, high
