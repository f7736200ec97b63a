"""Exclusion of the topics that a generator has seen."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from pyterrier_inpars._retrieval import fold
from pyterrier_inpars._stage import check_columns, check_strings
from pyterrier_inpars.prompts.templates import Prompt
from pyterrier_inpars.queries.artifact import SyntheticQueries


def exclude_fewshot_topics(
    topics: pd.DataFrame, queries: SyntheticQueries | Prompt | Mapping[str, Prompt] | pd.DataFrame
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
        queries: Synthetic queries, the prompt of their generator or its dict of prompts, or a frame
            of the few-shot topics with ``qid``, ``query`` or both. A static prompt, and the prompt
            ``"auto"``, have no few-shot topics.

    Returns:
        The remaining rows of ``topics``, in their order.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        TypeError: ``queries`` has another type.
        ValueError: No topic remains, or a qid or query is not a string.
    """
    check_columns(topics, "qid")
    keep = pd.Series(True, topics.index)
    for fewshot in _fewshot_topics(queries):
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


def _fewshot_topics(
    queries: SyntheticQueries | Prompt | Mapping[str, Prompt] | pd.DataFrame,
) -> list[pd.DataFrame]:
    """Returns the topics of each prompt; those of one may have qids, and those of another none."""
    if isinstance(queries, SyntheticQueries):
        return [queries.fewshot_topics]
    if isinstance(queries, str) and queries == "auto":
        return []
    prompts = list(queries.values()) if isinstance(queries, Mapping) else [queries]
    if prompts and all(isinstance(prompt, Prompt) for prompt in prompts):
        return [pd.DataFrame(prompt.topics) for prompt in prompts]
    if not isinstance(queries, pd.DataFrame) or not {"qid", "query"} & set(queries):
        raise TypeError(
            "queries must be SyntheticQueries, a Prompt, a dict of them, or a frame with qid or "
            f"query, not {queries!r:.200}"
        )
    return [queries]
