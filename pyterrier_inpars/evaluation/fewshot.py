"""Exclusion of the topics that a generator has seen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pandas as pd

from pyterrier_inpars._retrieval import fold
from pyterrier_inpars._stage import check_columns, check_strings
from pyterrier_inpars.prompts.templates import Prompt
from pyterrier_inpars.queries._manifest import joined_parts
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
            ``"auto"``, have no few-shot topics. A frame of synthetic queries needs the column
            ``fewshot_examples``, the qids of the topics, as the commands write it.

    Returns:
        The remaining rows of ``topics``, in their order.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        TypeError: ``queries`` has another type, or is a frame of synthetic queries whose few-shot
            topics are unknown.
        ValueError: No topic remains, or a qid or query is not a string.
    """
    check_columns(topics, "qid")
    keep = pd.Series(True, topics.index)
    for fewshot in _fewshot_topics(queries):
        for column, normalize in (("qid", str), ("query", fold)):
            if column in topics and column in fewshot:
                check_strings(topics, column)
                known = fewshot[~_is_known_otherwise(fewshot, column)]
                check_strings(known, column)
                keep &= ~topics[column].map(normalize).isin(set(known[column].map(normalize)))
    if len(topics) and not keep.any():
        raise ValueError(
            f"all {len(topics)} topics are few-shot examples of the generator, so none remains to "
            "evaluate on: give other topics, or use fewer examples"
        )
    return topics[keep].reset_index(drop=True)


def _is_known_otherwise(fewshot: pd.DataFrame, column: str) -> pd.Series:
    """Returns which topics lack a qid but have a query, or lack a query but have a qid."""
    other = {"qid": "query", "query": "qid"}[column]
    if other not in fewshot:
        return pd.Series(False, fewshot.index)
    return fewshot[column].isna() & fewshot[other].notna()


def _fewshot_topics(
    queries: SyntheticQueries | Prompt | Mapping[str, Prompt] | pd.DataFrame,
) -> list[pd.DataFrame]:
    """Returns the topics of each prompt; those of one may have qids, and those of another none."""
    if isinstance(queries, SyntheticQueries):
        if _has_unknown_topics(queries.metadata["settings"]):
            warnings.warn(
                f"few-shot topics of {queries!r} are unknown, since rows were stored without "
                "settings: no topic of theirs is excluded. Give the artifact or the prompt that "
                "the queries come from",
                stacklevel=3,
            )
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
    if "fewshot_examples" in queries:
        qids = [qid for qids in queries["fewshot_examples"].dropna() for qid in qids]
        return [pd.DataFrame({"qid": list(dict.fromkeys(qids))}, dtype=object)]
    if _are_synthetic(queries):
        raise TypeError(
            "the frame holds synthetic queries, such as qid "
            f"{queries['qid'].iloc[0]!r}, and not the few-shot topics of their prompt: give the "
            "SyntheticQueries, the prompt, or a frame of the topics"
        )
    return [queries]


def _has_unknown_topics(settings: dict[str, Any] | None) -> bool:
    """Returns whether nobody knows the settings of an artifact, or those of a part of it."""
    if settings is None:
        return True
    parts = joined_parts({"settings": settings}).values()
    return any(_has_unknown_topics(part["settings"]) for part in parts)


def _are_synthetic(frame: pd.DataFrame) -> bool:
    """Returns whether a frame holds rows of a `QueryGenerator`, and not pairs of a collection."""
    if len(frame) == 0 or not {"qid", "docno"} <= set(frame):
        return False
    if {"log_probs", "finish_reason"} & set(frame):
        return True
    pairs = zip(frame["qid"], frame["docno"], strict=True)
    return all(f"-{docno}-" in f"-{qid}" for qid, docno in pairs)
