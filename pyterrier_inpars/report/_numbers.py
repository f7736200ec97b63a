"""What the report says about queries, training and systems, as numbers.

Where a number would need much time on a large input, it is that of a sample of fixed seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._retrieval import applied, check_retriever, clean, retrieve
from pyterrier_inpars._significance import paired_p_value
from pyterrier_inpars._similarity import check_encoder, unit_vectors
from pyterrier_inpars._stage import as_numbers, check_columns, check_strings
from pyterrier_inpars._words import count_words, first_words
from pyterrier_inpars.evaluation import Selection

MOST_TEXTS = 10_000
"""Largest number of queries whose words are compared with their document."""
MOST_VECTORS = 2_000
"""Largest number of queries that are encoded."""
MOST_RETRIEVED = 1_000
"""Largest number of queries that are put to a retriever."""
MOST_LISTS = 100
"""Largest number of queries whose training examples are scored."""


def sampled(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """Returns at most ``most`` rows, drawn with a fixed seed, in frame order."""
    if len(frame) <= most:
        return frame
    return frame.sample(most, random_state=0).sort_index()


def of_all(frame: pd.DataFrame, most: int) -> str:
    """Returns what a text says about a sample; nothing if it is the whole frame."""
    return f" (a sample of {most:,} of {len(frame):,})" if len(frame) > most else ""


def mean_log_probs(frame: pd.DataFrame) -> np.ndarray:
    """Returns the mean log-probabilities of those queries that have them.

    Raises:
        pt.validate.InputValidationError: Both columns are missing.
    """
    if "log_probs" not in frame:
        check_columns(frame, "score")
        scores = pd.to_numeric(frame["score"], errors="coerce").to_numpy(float)
        return scores[np.isfinite(scores)]
    lists = [v for v in frame["log_probs"] if isinstance(v, list | tuple | np.ndarray) and len(v)]
    means = np.array([np.asarray(values, dtype=float).mean() for values in lists], dtype=float)
    return means[np.isfinite(means)]


def word_counts(frame: pd.DataFrame) -> np.ndarray:
    """Returns the number of words of each query."""
    return np.array([count_words(query) for query in frame["query"]], dtype=float)


def beginnings(frame: pd.DataFrame, words: int = 2) -> pd.Series:
    """Returns the number of queries by their first words, the most frequent first."""
    positive_int("words", words)
    starts = [first_words(clean(query), words) or "(no words)" for query in frame["query"]]
    return pd.Series(starts, dtype=object).value_counts()


def nearest_cosines(frame: pd.DataFrame, encoder: Any) -> np.ndarray:
    """Returns the cosine of each query, of a sample, and the most similar other one."""
    check_encoder(encoder)
    if len(frame) < 2:
        raise ValueError("near-duplicates need two queries or more")
    vectors = unit_vectors(encoder, sampled(frame, MOST_VECTORS)["query"])
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1.0)
    return cosines.max(axis=1)


def ranks_of_sources(frame: pd.DataFrame, retriever: pt.Transformer, depth: int) -> np.ndarray:
    """Returns the rank of each source document, of a sample, from 1; infinite if not found."""
    check_retriever(retriever)
    positive_int("depth", depth)
    frame = sampled(frame, MOST_RETRIEVED)[["qid", "query", "docno"]]
    ranks = dict.fromkeys(frame["qid"], np.inf)
    sources = dict(zip(frame["qid"], frame["docno"], strict=True))
    for qid, hits in retrieve(retriever, frame, depth):
        found = np.flatnonzero(hits["docno"] == sources[qid])
        if len(found):
            ranks[qid] = found[0] + 1
    return np.array(list(ranks.values()), dtype=float)


def rank_groups(ranks: np.ndarray, depth: int) -> dict[str, int]:
    """Returns the number of ranks in groups: 1, 2 to 3, 4 to 10, and so on."""
    limits = [0, *(limit for limit in (1, 3, 10, 30, 100, 300, 1_000) if limit < depth), depth]
    groups = {}
    for low, high in zip(limits, limits[1:], strict=False):
        name = f"rank {high}" if high == low + 1 else f"rank {low + 1:,} to {high:,}"
        groups[name] = int(((ranks > low) & (ranks <= high)).sum())
    return groups | {f"not in the top {depth:,}": int(np.isinf(ranks).sum())}


def scores_of_examples(
    examples: pd.DataFrame, rerankers: Mapping[str, pt.Transformer]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], pd.DataFrame]:
    """Returns the scores of positives and negatives of a sample by each reranker, and a table.

    The table has a row per reranker: ``scores of``, ``positives`` and ``negatives`` (mean scores),
    and ``ordered`` (share of the pairs of a positive and a negative of one query in which the
    positive has the higher score).
    """
    check_columns(examples, "qid", "docno", "label")
    check_strings(examples, "qid", "docno")
    qids = pd.Series(examples["qid"].unique())
    kept = sampled(qids.to_frame("qid"), MOST_LISTS)["qid"]
    frame = examples[examples["qid"].isin(kept)].drop_duplicates(["qid", "docno"])
    label = as_numbers(frame, "label") > 0
    if label.all() or not label.any():
        raise ValueError(
            f"the examples have {label.sum():,} positives (label 1) and {(~label).sum():,} "
            "negatives (label 0): give those of a NegativeMiner"
        )
    scored = {}
    for name, reranker in rerankers.items():
        check_retriever(reranker)
        out = applied(reranker, frame.drop(columns="label"))
        check_columns(out, "qid", "docno", "score")
        if len(out) < len(frame):
            raise ValueError(
                f"the reranker {name!r} returned only {len(out):,} of {len(frame):,} examples: "
                "give one that drops none"
            )
        found = frame[["qid", "docno"]].merge(out[["qid", "docno", "score"]], how="left")
        scored[name] = as_numbers(found, "score")
    if "score" in frame or not rerankers:
        check_columns(frame, "score")
        scored = {"score of the examples": as_numbers(frame, "score"), **scored}
    rows = {name: (scores[label], scores[~label]) for name, scores in scored.items()}
    table = pd.DataFrame(
        {
            "scores of": list(rows),
            "positives": [positive.mean() for positive, _ in rows.values()],
            "negatives": [negative.mean() for _, negative in rows.values()],
            "ordered": [_ordered(frame["qid"], label, scores) for scores in scored.values()],
        }
    )
    return rows, table


def _ordered(qids: pd.Series, label: np.ndarray, scores: np.ndarray) -> float:
    """Returns the share of pairs in which the positive scores higher; ties count half."""
    pairs = right = 0.0
    for rows in pd.Series(range(len(qids))).groupby(qids.to_numpy()):
        at = rows[1].to_numpy()
        positive, negative = scores[at][label[at]], scores[at][~label[at]]
        difference = positive[:, None] - negative[None, :]
        pairs += difference.size
        right += (difference > 0).sum() + (difference == 0).sum() / 2
    return right / pairs if pairs else np.nan


def tables_of(experiment: Any) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """Returns the table of systems and the values by query, each None if it is not there.

    Raises:
        TypeError: The experiment is neither a frame, a pair of frames nor a `Selection`.
    """
    if isinstance(experiment, Selection):
        return experiment.table, None
    if isinstance(experiment, tuple) and len(experiment) == 2:
        table, values = experiment
        check_columns(table, "name")
        check_columns(values, "name", "qid", "measure", "value")
        return table.reset_index(drop=True), values
    if not isinstance(experiment, pd.DataFrame):
        raise TypeError(
            "experiment must be what pt.Experiment returned, a frame or a pair of frames, or what "
            f"evaluation.select returned, not {experiment!r:.200}"
        )
    if {"qid", "measure", "value"} <= set(experiment):
        return means_of(experiment), experiment
    check_columns(experiment, "name")
    return experiment.reset_index(drop=True), None


def means_of(values: pd.DataFrame) -> pd.DataFrame:
    """Returns means, and p-values of paired t-tests against the first system, of values by query.

    Args:
        values: Frame ``name, qid, measure, value``. A query that a system lacks counts 0.
    """
    values = checked_values(values)
    names = list(values["name"].unique())
    table = pd.DataFrame({"name": names})
    for measure, of in values.groupby("measure", sort=False):
        by_query = of.pivot(index="qid", columns="name", values="value").reindex(columns=names)
        by_query = by_query.fillna(0.0)
        table[measure] = by_query.mean().to_numpy()
        if len(names) > 1:
            first = by_query[names[0]]
            table[f"{measure} p-value"] = [paired_p_value(by_query[name], first) for name in names]
    return table


def gains_by_topic(
    values: pd.DataFrame, baseline: str | None = None, measure: str | None = None
) -> tuple[pd.DataFrame, str, str]:
    """Returns the differences to a baseline, one row per query and one column per other system.

    Also returns the measure and the baseline.
    """
    values = checked_values(values)
    names, measures = list(values["name"].unique()), list(values["measure"].unique())
    for kind, given, known in (("system", baseline, names), ("measure", measure, measures)):
        if given is not None and given not in known:
            raise ValueError(f"there is no {kind} {given!r}, only {', '.join(map(str, known))}")
    if len(names) < 2:
        raise ValueError("the gains by query need two systems or more")
    first, chosen = baseline or names[0], measure or measures[0]
    table = values[values["measure"] == chosen].pivot(index="qid", columns="name", values="value")
    others = table[[name for name in names if name != first]].fillna(0.0)
    return others.sub(table[first].fillna(0.0), axis="index"), str(chosen), str(first)


def checked_values(values: pd.DataFrame) -> pd.DataFrame:
    """Returns values by query, ``name, qid, measure, value``, if they are valid.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: A value is not a number, or a system has two for one query and measure.
    """
    check_columns(values, "name", "qid", "measure", "value")
    values = values.assign(value=as_numbers(values, "value"))
    if (twice := values.duplicated(["name", "qid", "measure"])).any():
        row = values[twice].iloc[0]
        raise ValueError(
            f"the system {row['name']!r} has two values of {row['measure']} at qid {row['qid']!r}: "
            "give each system another name"
        )
    return values


def first_measure(table: pd.DataFrame) -> str:
    """Returns the first column of numbers of a table of systems.

    Raises:
        pt.validate.InputValidationError: The column ``name`` is missing.
        ValueError: There is none, or the table has no rows.
    """
    check_columns(table, "name")
    if len(table) == 0:
        raise ValueError("the table has no systems")
    for column in table:
        if pd.api.types.is_numeric_dtype(table[column]) and not pd.api.types.is_bool_dtype(
            table[column]
        ):
            return str(column)
    raise ValueError(f"the table has no measure, only {', '.join(map(str, table))}")
