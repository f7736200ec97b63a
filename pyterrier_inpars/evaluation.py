"""Evaluation for ``pt.Experiment``: the toolkit's measures, judged documents, few-shot topics."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyterrier as pt
from ir_measures import AP, RR, Judged, Measure, Metric, P, R, nDCG

from pyterrier_inpars._retrieval import fold
from pyterrier_inpars._stage import (
    Stage,
    as_numbers,
    check_columns,
    check_strings,
    positive_int,
    with_columns,
)
from pyterrier_inpars.prompts.templates import Prompt
from pyterrier_inpars.queries.artifact import SyntheticQueries

__all__ = ["ExcludeQueryDocument", "JudgedOnly", "exclude_fewshot_topics", "measures"]


def measures(relevance_threshold: int = 1) -> list[Measure]:
    """Returns the measures of the InPars Toolkit (arXiv 2307.04601).

    These are nDCG@10, nDCG@20, RR, R@1000, P@10, AP and Judged@10. Each is a mean over all topics
    of the qrels, as in ``trec_eval -c``: a topic without results scores 0. The toolkit computes
    Judged@10 differently, over all documents in the top 10 of the run at once. Of documents with
    equal scores, all measures take the one with the higher docno first, as trec_eval does.

    Args:
        relevance_threshold: Lowest label that the binary measures (RR, R@1000, P@10, AP) count as
            relevant, as ``trec_eval -l``. The gains of nDCG are the labels.

    Raises:
        ValueError: The threshold is not a positive integer.
    """
    rel = positive_int("relevance_threshold", relevance_threshold)
    return [
        nDCG @ 10,
        nDCG @ 20,
        RR(rel=rel),
        R(rel=rel) @ 1000,
        P(rel=rel) @ 10,
        AP(rel=rel),
        _Judged() @ 10,
    ]


class _Judged(type(Judged)):  # type: ignore[misc]
    """Judged of ir_measures, with ties broken as in trec_eval: the higher docno comes first."""

    RUN_INPUTS = ("query_id", "doc_id", "score")
    QREL_INPUTS = ("query_id", "doc_id", "relevance")

    def runtime_impl(self, qrels: pd.DataFrame, run: pd.DataFrame) -> Iterator[Metric]:
        """Yields the value of each topic; ir_measures calls it in place of its own provider."""
        ids = ["query_id", "doc_id"]
        run = run[run["query_id"].isin(qrels["query_id"])]
        run = run.sort_values(["score", "doc_id"], ascending=False)
        top = run.groupby("query_id").head(self["cutoff"])
        pairs = (pd.MultiIndex.from_frame(frame[ids]) for frame in (top, qrels))
        judged = pd.Series(next(pairs).isin(next(pairs))).groupby(top["query_id"].to_numpy())
        for qid, share in judged.mean().items():
            yield Metric(qid, self, share)


class _ResultsFilter(Stage):
    """Base class of a stage that removes rows of results, and recomputes the ranks.

    The input has ``qid``, ``docno`` and ``rank``, or ``score`` if there is no rank.
    """

    def _keep(self, inp: pd.DataFrame) -> pd.Series | np.ndarray:
        """Returns for each row of a validated frame whether to keep it, bool."""
        raise NotImplementedError

    def _required_columns(self) -> list[str]:
        return ["qid", "docno"]

    def _output_columns(self, columns: list[str]) -> list[str]:
        return with_columns(columns, "rank")

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Removes rows and recomputes the ranks; see the class."""
        with pt.validate.any(inp, context=self) as v:
            for order in ("rank", "score"):
                v.columns(includes=[*self._required_columns(), order], mode=order)
        return super().transform(inp)

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "qid", "docno")
        results = inp[self._keep(inp)].reset_index(drop=True)
        order = "rank" if "rank" in results else "score"
        values = pd.Series(as_numbers(results, order)).groupby(results["qid"])
        ranks = values.rank(method="first", ascending=order == "rank")
        return results.assign(rank=ranks.astype("int64") - 1)


class JudgedOnly(_ResultsFilter):
    """Removes unjudged documents from results, and recomputes the ranks.

    In an Experiment, ``bm25 >> JudgedOnly(qrels)`` compares systems when many retrieved documents
    are unjudged (condensed lists: Sakai, "Alternatives to Bpref", SIGIR 2007). A document with any
    label is judged, including 0. Rows keep their order; ranks start at 0.

    The input has ``qid``, ``docno`` and ``rank``, or ``score`` if there is no rank.

    Args:
        qrels: Frame ``qid, docno``; a label is not required.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: An id is not a string, or a rank or score is not a number.
    """

    schematic = {"label": "JudgedOnly", "help_url": None}

    def __init__(self, qrels: pd.DataFrame):
        check_columns(qrels, "qid", "docno")
        check_strings(qrels, "qid", "docno")
        self.qrels = qrels

    def _keep(self, inp: pd.DataFrame) -> pd.Series | np.ndarray:
        pairs = [pd.MultiIndex.from_frame(frame[["qid", "docno"]]) for frame in (inp, self.qrels)]
        return pairs[0].isin(pairs[1])


class ExcludeQueryDocument(_ResultsFilter):
    """Removes the query's own document from results, and recomputes the ranks.

    In ArguAna and Quora a topic is one of the documents, under the same id, and is not relevant to
    itself. BEIR leaves it out of the results (``ignore_identical_ids``), and its published figures
    depend on it. `beir.QUERY_IS_DOCUMENT` lists these collections. Elsewhere, such as in MS MARCO,
    a topic and an unrelated document may have the same id: do not use this stage there.

    A row whose ``docno`` equals its ``qid`` is removed. Rows keep their order; ranks start at 0.
    Retrieve one document more than the measures need.

    The input has ``qid``, ``docno`` and ``rank``, or ``score`` if there is no rank.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: An id is not a string, or a rank or score is not a number.
    """

    schematic = {"label": "Not own document", "help_url": None}

    def _keep(self, inp: pd.DataFrame) -> pd.Series | np.ndarray:
        return inp["docno"] != inp["qid"]


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
