"""Figures about synthetic queries, training and systems.

Each function returns a `Chart`, which is a matplotlib figure (extra ``report``). Where a figure
would need much time on a large input, it shows a sample of fixed seed, and says so in its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._html import number
from pyterrier_inpars._measures import comparable
from pyterrier_inpars._stage import as_numbers, check_columns
from pyterrier_inpars.evaluation import overlap
from pyterrier_inpars.queries.artifact import SyntheticQueries
from pyterrier_inpars.queries.topics import as_results
from pyterrier_inpars.report._numbers import (
    MOST_RETRIEVED,
    MOST_TEXTS,
    MOST_VECTORS,
    beginnings,
    first_measure,
    gains_by_topic,
    mean_log_probs,
    nearest_cosines,
    of_all,
    rank_groups,
    ranks_of_sources,
    sampled,
    scores_of_examples,
    word_counts,
)

if TYPE_CHECKING:
    from pyterrier_inpars.report.chart import Chart

Queries: TypeAlias = SyntheticQueries | pd.DataFrame

MOST_GROUPS = 12
"""Largest number of rows of a figure."""


def filter_funnel(table: pd.DataFrame) -> Chart:
    """Draws how many queries are left after each filter.

    Args:
        table: Frame ``stage, seen, dropped, kept``, as `pyterrier_inpars.funnel` returns it.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: The table has no rows.
    """
    check_columns(table, "stage", "seen", "dropped", "kept")
    if len(table) == 0:
        raise ValueError("the table has no stages: give that of funnel(pipeline)")
    first = int(table["seen"].iloc[0])
    left = {"before": first}
    notes = [f"{first:,}"]
    for row in table.to_dict("records"):
        name, place = str(row["stage"]), 2
        while name in left:  # a filter can be used twice
            name, place = f"{row['stage']} ({place})", place + 1
        left[name] = int(row["kept"])
        notes.append(f"{row['kept']:,}" + f"  (−{row['dropped']:,})" * bool(row["dropped"]))
    return _charts().bars(left, "Queries left after each filter", notes, whole=max(first, 1))


def query_lengths(queries: Queries) -> Chart:
    """Draws a histogram of the words per query.

    Words are separated by white space. In scripts without spaces between words, such as Chinese,
    each letter counts as one.

    Args:
        queries: Synthetic queries, as `SyntheticQueries` or a frame ``query``.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: There are no queries, or a query is not a string.
    """
    words = word_counts(as_results(queries, "query"))
    return _charts().histogram(words, "words per query", "Words per query")


def log_probabilities(queries: Queries) -> Chart:
    """Draws a histogram of the mean log-probability of the tokens of each query.

    Args:
        queries: Synthetic queries with ``log_probs``, or else with ``score``.

    Raises:
        pt.validate.InputValidationError: Both columns are missing.
        ValueError: There are no queries, or none has a log-probability.
    """
    means = mean_log_probs(as_results(queries))
    if len(means) == 0:
        raise ValueError("no query has log_probs: the runtime of the language model gave none")
    return _charts().histogram(
        means, "mean log-probability per token", "Mean log-probability of the tokens of a query"
    )


def first_words(queries: Queries, words: int = 2, *, most: int = MOST_GROUPS) -> Chart:
    """Draws the most frequent beginnings of queries, ignoring case and punctuation.

    Args:
        queries: Synthetic queries, as `SyntheticQueries` or a frame ``query``.
        words: Number of words of a beginning.
        most: Largest number of bars.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: There are no queries, or a number is not a positive whole number.
    """
    positive_int("most", most)
    counts = beginnings(as_results(queries, "query"), words)
    shares = (counts.head(most) / counts.sum()).to_dict()
    notes = [f"{share:.1%}" for share in shares.values()]
    return _charts().bars(shares, f"Share of queries by their first {words} words", notes)


def query_types(queries: Queries) -> Chart:
    """Draws the number of queries of each type.

    Args:
        queries: Synthetic queries with ``type``: the name of the prompt.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: There are no queries.
    """
    frame = as_results(queries)
    check_columns(frame, "type")
    types = frame["type"].astype(object).where(frame["type"].notna(), "(none)").astype(str)
    counts = types.value_counts().head(MOST_GROUPS).to_dict()
    notes = [f"{count:,}  ({count / len(frame):.1%})" for count in counts.values()]
    return _charts().bars(counts, "Queries of each type", notes)


def overlaps(queries: Queries, text_field: str | list[str] = "text") -> Chart:
    """Draws a histogram of the share of each query's words that are in its document.

    Args:
        queries: Synthetic queries, as `SyntheticQueries` or a frame ``query, text``; of more than
            10,000, a sample.
        text_field: Column with the text of the document, or several.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: There are no queries, or a query or text is not a string.
    """
    frame = as_results(queries, "query")
    shares = overlap(sampled(frame, MOST_TEXTS), text_field).to_numpy(float)
    return overlap_chart(shares, of_all(frame, MOST_TEXTS))


def overlap_chart(shares: np.ndarray, sample: str) -> Chart:
    """Draws what `overlaps` draws, of known shares."""
    return _charts().histogram(
        shares,
        f"share of the query's words in its document{sample}",
        "Share of a query's words that are in its document",
        limits=(0.0, 1.0),
    )


def nearest_queries(queries: Queries, encoder: Any) -> Chart:
    """Draws a histogram of the cosine of each query and the query that is most similar to it.

    Args:
        queries: Synthetic queries, as `SyntheticQueries` or a frame ``query``; of more than 2,000,
            a sample.
        encoder: Object whose ``encode`` returns the vectors of texts, such as a `BiEncoder`.

    Raises:
        TypeError: The encoder has no method ``encode``.
        pt.validate.InputValidationError: A column is missing.
        ValueError: There are fewer than two queries.
    """
    frame = as_results(queries, "query")
    return nearest_chart(nearest_cosines(frame, encoder), of_all(frame, MOST_VECTORS))


def nearest_chart(cosines: np.ndarray, sample: str) -> Chart:
    """Draws what `nearest_queries` draws, of known cosines."""
    return _charts().histogram(
        cosines,
        f"cosine with the most similar query{sample}",
        "Cosine of each query and the most similar other query",
    )


def source_ranks(queries: Queries, retriever: pt.Transformer, depth: int = 100) -> Chart:
    """Draws at which ranks a retriever finds the source documents of the queries.

    Args:
        queries: Synthetic queries, as `SyntheticQueries` or a frame ``qid, query, docno``; of more
            than 1,000, a sample.
        retriever: Any PyTerrier retriever.
        depth: Largest rank.

    Raises:
        TypeError: The retriever is not a transformer.
        pt.validate.InputValidationError: A column is missing.
        ValueError: There are no queries, or a qid is a duplicate.
    """
    frame = as_results(queries, "qid", "query", "docno")
    ranks = ranks_of_sources(frame, retriever, depth)
    return ranks_chart(ranks, depth, of_all(frame, MOST_RETRIEVED))


def ranks_chart(ranks: np.ndarray, depth: int, sample: str) -> Chart:
    """Draws what `source_ranks` draws, of known ranks."""
    groups = rank_groups(ranks, depth)
    notes = [f"{count / len(ranks):.1%}" for count in groups.values()]
    return _charts().bars(groups, f"Rank of the source document{sample}", notes)


def example_scores(examples: pd.DataFrame, rerankers: Mapping[str, pt.Transformer]) -> Chart:
    """Draws the scores of positives and negatives, by each reranker.

    To see what training changed, give the same reranker before and after it.

    Args:
        examples: Training examples ``qid, query, docno, text, label``; of more than 100 queries, a
            sample.
        rerankers: Rerankers by name. Without any, the column ``score`` of the examples is drawn.

    Raises:
        TypeError: A reranker is not a transformer.
        pt.validate.InputValidationError: A column is missing.
        ValueError: There are no positives or no negatives, or a reranker drops examples.
    """
    rows, _ = scores_of_examples(examples, rerankers)
    return scores_chart(rows)


def scores_chart(rows: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Chart:
    """Draws what `example_scores` draws, of known scores of positives and negatives."""
    listed = "; ".join(
        f"{name}: median of the positives {number(float(np.median(positive)))}, of the negatives "
        f"{number(float(np.median(negative)))}"
        for name, (positive, negative) in rows.items()
    )
    alt = f"Histograms of the scores of positives and negatives. {listed}."
    return _charts().two_groups(rows, ("positives", "negatives"), "score", alt)


def training_curves(log: pd.DataFrame) -> Chart:
    """Draws the loss of a training, and its validation if there is one, by step.

    Args:
        log: Frame ``step, loss`` and the measures of the validation, as the ``training_log`` of a
            reranker.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: There are no values.
    """
    check_columns(log, "step")
    drawn = [c for c in log if c not in ("step", "learning_rate", "epoch") and log[c].notna().any()]
    if not drawn:
        raise ValueError("the log has neither a loss nor a measure: give reranker.training_log")
    rows, texts = {}, []
    for column in drawn:
        known = log[log[column].notna()]
        steps, values = as_numbers(known, "step"), as_numbers(known, str(column))
        name = "training loss" if column == "loss" else f"{column} on validation queries"
        rows[name] = (steps, values)
        texts.append(
            f"{name} from {number(values[0])} at step {number(steps[0])} to {number(values[-1])} "
            f"at step {number(steps[-1])}"
        )
    return _charts().curves(rows, "step", f"Lines. {'; '.join(texts)}.")


def topic_gains(
    values: pd.DataFrame, baseline: str | None = None, measure: str | None = None
) -> Chart:
    """Draws for each system how much each query gains or loses against a baseline.

    Args:
        values: Frame ``name, qid, measure, value``, as ``pt.Experiment(..., perquery=True)``
            returns it. At most six systems are drawn: those of the largest mean gain.
        baseline: Name of the baseline; by default the first system.
        measure: Measure; by default the first one.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: There is no such system or measure, or no other system; or a value is not a
            number, or a system has two for one query.
    """
    differences, measure, baseline = gains_by_topic(values, baseline, measure)
    means = comparable(differences.mean()).sort_values(ascending=False, kind="stable")[:6]
    rows = {str(name): differences[name].to_numpy(float) for name in means.index}
    listed = "; ".join(
        f"{name}: {(of > 0).sum():,} of {len(of):,} queries gain, {(of < 0).sum():,} lose, mean "
        f"{of.mean():+.3f}"
        for name, of in rows.items()
    )
    alt = f"Gains of {measure} against {baseline} by query. {listed}."
    return _charts().gains(rows, f"gain of {measure}", alt)


def system_means(table: pd.DataFrame, measure: str | None = None) -> Chart:
    """Draws the mean of each system, with its confidence interval where the table has one.

    Args:
        table: Frame ``name`` and a column per measure, as ``pt.Experiment``, `evaluation.compare`
            or the ``table`` of `evaluation.select` have it. At most 12 systems are drawn, the best.
        measure: Column to draw; by default the first one after ``name``.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: The table has no rows or no measure, or a name is a duplicate.
    """
    measure = first_measure(table) if measure is None else measure
    check_columns(table, "name", measure)
    if table["name"].duplicated().any():
        raise ValueError(
            f"two systems are called {table['name'][table['name'].duplicated()].iloc[0]!r}: give "
            "each one another name"
        )
    means = pd.Series(as_numbers(table, measure), table["name"].astype(str))
    means = comparable(means).sort_values(ascending=False, kind="stable")[:MOST_GROUPS]
    bounds = {}
    for low, high in (("low", "high"), (f"{measure} low", f"{measure} high")):
        if low in table and high in table:
            pairs = zip(as_numbers(table, low), as_numbers(table, high), strict=True)
            bounds = dict(zip(table["name"].astype(str), pairs, strict=True))
    interval = ", and its confidence interval" if bounds else ""
    return _charts().intervals(
        means.to_dict(), bounds, f"{measure}{interval}", f"{measure} of each system"
    )


def _charts() -> Any:
    """Returns the module that needs matplotlib."""
    from pyterrier_inpars.report import chart

    return chart
