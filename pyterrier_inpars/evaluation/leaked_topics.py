"""Leak check: synthetic queries that equal evaluation topics, or nearly do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pyterrier_inpars._retrieval import clean_folded
from pyterrier_inpars._similarity import (
    BLOCK,
    TOLERANCE,
    check_encoder,
    check_threshold,
    unit_vectors,
)
from pyterrier_inpars._stage import check_columns, check_strings
from pyterrier_inpars.queries.artifact import SyntheticQueries
from pyterrier_inpars.queries.topics import as_results


def leaked_topics(
    queries: SyntheticQueries | pd.DataFrame,
    topics: pd.DataFrame,
    encoder: Any = None,
    threshold: float = 0.9,
) -> pd.DataFrame:
    """Returns the topics that are among the synthetic queries, or nearly so.

    A language model may have seen a public test collection, and repeat its topics. A system that is
    trained on such queries is then measured too high. Leave these topics out of the evaluation, or
    the queries out of training::

        leaks = evaluation.leaked_topics(queries, topics, BiEncoder(model))
        topics = topics[~topics["qid"].isin(leaks["qid"])]

    Args:
        queries: Synthetic queries, as `SyntheticQueries` or a frame ``qid, query``.
        topics: Topics ``qid, query``.
        encoder: Object whose ``encode`` returns the vectors of texts, such as a `BiEncoder`. None
            to find only equal texts, without case and punctuation.
        threshold: Lowest cosine of a topic and a query that nearly equal each other.

    Returns:
        One row per leaked topic, in the order of the topics: ``qid`` and ``query`` of the topic,
        ``synthetic_qid`` and ``synthetic_query`` of the most similar query, and their
        ``similarity`` (1 for equal texts).

    Raises:
        pt.validate.InputValidationError: A column is missing.
        TypeError: The encoder has no method ``encode``.
        ValueError: There are no queries, the threshold is not above 0 and at most 1, or a query is
            not a string.
    """
    if encoder is not None:
        check_encoder(encoder)
    check_threshold(threshold)
    known = as_results(queries, "qid", "query")
    check_columns(topics, "qid", "query")
    check_strings(topics, "qid", "query")
    known_texts = known["query"].map(clean_folded).tolist()
    first = {text: row for row, text in reversed(list(enumerate(known_texts)))}
    texts = topics["query"].map(clean_folded).tolist()
    nearest = np.array([first.get(text, -1) for text in texts], dtype=int)
    similarity = np.where(nearest >= 0, 1.0, 0.0)
    if encoder is not None and len(topics):
        others = np.flatnonzero(nearest < 0)
        if len(others):
            vectors = unit_vectors(encoder, topics["query"].iloc[others])
            known_vectors = unit_vectors(encoder, known["query"])
            for start in range(0, len(others), BLOCK):
                block = others[start : start + BLOCK]
                cosines = vectors[start : start + BLOCK] @ known_vectors.T
                nearest[block] = cosines.argmax(axis=1)
                similarity[block] = cosines.max(axis=1)
    # A text without words equals no other one.
    leaked = (similarity >= threshold - TOLERANCE) & np.array(
        [text != "" for text in texts], dtype=bool
    )
    rows = known.iloc[nearest[leaked]]
    return (
        topics.loc[leaked, ["qid", "query"]]
        .reset_index(drop=True)
        .assign(
            synthetic_qid=rows["qid"].to_numpy(),
            synthetic_query=rows["query"].to_numpy(),
            similarity=similarity[leaked],
        )
    )
