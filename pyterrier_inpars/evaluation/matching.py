"""Synthetic queries that are as hard as a few real ones."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._retrieval import words_of
from pyterrier_inpars._stage import fields_of
from pyterrier_inpars.evaluation.hardness import overlap
from pyterrier_inpars.queries.artifact import SyntheticQueries
from pyterrier_inpars.queries.topics import as_results


def match(
    queries: SyntheticQueries | pd.DataFrame,
    real_queries: pd.DataFrame,
    number: int | None = None,
    *,
    text_field: str | list[str] = "text",
    seed: int = 0,
) -> pd.DataFrame:
    """Chooses synthetic queries that are like a few real ones in length and overlap.

    Real queries are drawn in turn, and for each the most similar synthetic query that is left is
    taken: by the number of words (of letters in scripts without spaces between words), and by the
    overlap with the document if the real queries have the text of a relevant one. Both are divided
    by their standard deviation over the synthetic queries. Which words are used does not count::

        real = topics.merge(qrels[qrels["label"] > 0])  # qid, query, docno
        harder = evaluation.match(queries, text(real))

    Args:
        queries: Synthetic queries, as `SyntheticQueries` or a frame ``query`` and the text.
        real_queries: Frame ``query``, and the text of a relevant document if overlap counts.
        number: Number of synthetic queries to choose; by default half of them, rounded up.
        text_field: Column with the text of the document, or several.
        seed: Seed of the order of the real queries.

    Returns:
        The chosen synthetic queries, in frame order.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: There are no queries, a query or text is not a string, or ``number`` is not a
            whole number from 1 to the number of synthetic queries.
    """
    synthetic, real = as_results(queries, "query"), as_results(real_queries, "query")
    number = positive_int("number", (len(synthetic) + 1) // 2 if number is None else number)
    if number > len(synthetic):
        raise ValueError(f"number must be at most {len(synthetic)}, the number of queries")
    with_text = all(field in real for field in fields_of(text_field))
    ours, theirs = (
        _features(frame, text_field if with_text else None) for frame in (synthetic, real)
    )
    deviation = ours.std(axis=0)
    deviation[deviation == 0] = 1.0
    order = random.Random(seed).sample(range(len(real)), len(real))
    left = np.ones(len(synthetic), dtype=bool)
    for turn in range(number):
        target = theirs[order[turn % len(order)]]
        distance = np.abs((ours - target) / deviation).sum(axis=1).round(9)  # equal ones stay equal
        left[np.where(left, distance, np.inf).argmin()] = False
    return synthetic[~left].reset_index(drop=True)


def _features(frame: pd.DataFrame, text_field: str | list[str] | None) -> np.ndarray:
    """Returns the number of words of each query, and its overlap if a text field is given."""
    words = [len(words_of(query)) for query in frame["query"]]
    if text_field is None:
        return np.array([words], dtype=float).T
    return np.array([words, overlap(frame, text_field)], dtype=float).T
