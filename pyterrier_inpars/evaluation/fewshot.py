"""Exclusion of the topics that a generator has seen."""

from __future__ import annotations

import pandas as pd

from pyterrier_inpars._retrieval import fold
from pyterrier_inpars._stage import check_columns, check_strings
from pyterrier_inpars.prompts.templates import Prompt
from pyterrier_inpars.queries.artifact import SyntheticQueries


def exclude_fewshot_topics(
    topics: pd.DataFrame, queries: SyntheticQueries | Prompt | pd.DataFrame
) -> pd.DataFrame:
    """Excludes the topics that were few-shot examples in the generator's prompt.

    A generator has seen these topics, so they must not be evaluated on. ``pt.Experiment`` ignores
    the qrels of excluded topics.

    A topic is excluded if its qid or its query matches a few-shot topic, ignoring case and white
    space in the query. One match is enough, because sources of a collection differ in ids, and
    text repair changes queries. A qid that belongs to another topic in another source excludes at
    most that topic.

    Args:
        topics: Frame ``qid``, optionally with ``query``.
        queries: Synthetic queries, the prompt of their generator, or a frame of the few-shot topics
            with ``qid``, ``query`` or both. A static prompt has no few-shot topics.

    Returns:
        The remaining rows of ``topics``, in their order.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        TypeError: ``queries`` has another type.
        ValueError: No topic remains, or a qid or query is not a string.
    """
    check_columns(topics, "qid")
    fewshot = _fewshot_topics(queries)
    keep = pd.Series(True, topics.index)
    for column, normalize in (("qid", str), ("query", fold)):
        if column in topics and column in fewshot:
            check_strings(topics, column)
            check_strings(fewshot, column)
            keep &= ~topics[column].map(normalize).isin(set(fewshot[column].map(normalize)))
    if len(topics) and not keep.any():
        raise ValueError(
            f"all {len(topics)} topics are few-shot examples of the generator, so none remains to "
            "evaluate on: give other topics, or use fewer examples"
        )
    return topics[keep].reset_index(drop=True)


def _fewshot_topics(queries: SyntheticQueries | Prompt | pd.DataFrame) -> pd.DataFrame:
    if isinstance(queries, SyntheticQueries):
        return queries.fewshot_topics
    if isinstance(queries, Prompt):
        return pd.DataFrame(queries.topics)
    if not isinstance(queries, pd.DataFrame) or not {"qid", "query"} & set(queries):
        raise TypeError(
            "queries must be SyntheticQueries, a Prompt, or a frame with qid or query, not "
            f"{queries!r:.200}"
        )
    return queries
