"""What ``pt.Experiment`` lacks: the toolkit's measures, and what must not count in them."""

from __future__ import annotations

import pandas as pd
import pyterrier as pt
from ir_measures import AP, RR, Judged, Measure, P, R, nDCG

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


def measures(relevance_threshold: int = 1) -> list[Measure]:
    """The measures of the InPars Toolkit (arXiv 2307.04601): nDCG@10, nDCG@20, RR and others.

    They are means over all topics of the qrels, as ``trec_eval -c`` gives them: a topic without
    results counts 0. Judged@10 is such a mean too, where the toolkit's is a share of all the
    documents that the run has in its top 10.

    Args:
        relevance_threshold: lowest label that the binary measures (RR, R@1000, P@10, AP) take for
            relevant, as ``trec_eval -l``. The gains of nDCG are the labels themselves.

    Raises:
        ValueError: the threshold is no whole number above 0.
    """
    rel = positive_int("relevance_threshold", relevance_threshold)
    return [
        nDCG @ 10,
        nDCG @ 20,
        RR(rel=rel),
        R(rel=rel) @ 1000,
        P(rel=rel) @ 10,
        AP(rel=rel),
        Judged @ 10,
    ]


class JudgedOnly(Stage):
    """Removes the documents that nobody has judged for their topic, and ranks the others anew.

    ``bm25 >> JudgedOnly(qrels)`` is what an Experiment compares where many documents found were
    never judged. Any label is a judgement, 0 too. Rows keep their order; ranks count from 0.

    Needs ``qid``, ``docno`` and ``rank``, or ``score`` where there is no rank.

    Args:
        qrels: frame ``qid, docno``, with a label or without.

    Raises:
        pt.validate.InputValidationError: a column is missing.
        ValueError: an id is no string, or a rank or score no number.
    """

    schematic = {"label": "JudgedOnly", "help_url": None}

    def __init__(self, qrels: pd.DataFrame):
        check_columns(qrels, "qid", "docno")
        check_strings(qrels, "qid", "docno")
        self.qrels = qrels

    def _required_columns(self) -> list[str]:
        return ["qid", "docno"]

    def _output_columns(self, columns: list[str]) -> list[str]:
        return with_columns(columns, "rank")

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Removes rows; see the class."""
        with pt.validate.any(inp, context=self) as v:
            for order in ("rank", "score"):
                v.columns(includes=[*self._required_columns(), order], mode=order)
        return super().transform(inp)

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "qid", "docno")
        pairs = [pd.MultiIndex.from_frame(frame[["qid", "docno"]]) for frame in (inp, self.qrels)]
        judged = inp[pairs[0].isin(pairs[1])].reset_index(drop=True)
        order = "rank" if "rank" in inp else "score"
        values = pd.Series(as_numbers(judged, order)).groupby(judged["qid"])
        ranks = values.rank(method="first", ascending=order == "rank")
        return judged.assign(rank=ranks.astype("int64") - 1)


def exclude_fewshot_topics(
    topics: pd.DataFrame, queries: SyntheticQueries | Prompt | pd.DataFrame
) -> pd.DataFrame:
    """The topics that the generator was not shown, so that nothing is evaluated on what it saw.

    ``pt.Experiment`` leaves out the qrels of the others by itself.

    A topic is left out if its qid was shown or its query, case and white space aside. Either is
    enough. One collection goes by different ids in different sources, and one topic is spelt
    differently where its text was repaired: wanting both would keep topics that were shown. An id
    that means another topic there costs the evaluation no more than that topic.

    Args:
        topics: frame ``qid``, and ``query`` where there is one.
        queries: what was generated, the prompt that shows the topics, or a frame of them with
            ``qid``, ``query`` or both. A static prompt shows none.

    Returns:
        The rows of ``topics`` that are left, in their order.

    Raises:
        pt.validate.InputValidationError: a column is missing.
        TypeError: ``queries`` are none of these.
        ValueError: no topic is left, or a qid or query is no string.
    """
    check_columns(topics, "qid")
    shown = _shown(queries)
    keep = pd.Series(True, topics.index)
    for column, same in (("qid", str), ("query", fold)):
        if column in topics and column in shown:
            check_strings(topics, column)
            check_strings(shown, column)
            keep &= ~topics[column].map(same).isin(set(shown[column].map(same)))
    if len(topics) and not keep.any():
        raise ValueError(
            f"the generator was shown each of the {len(topics)} topics: none is left to evaluate on"
        )
    return topics[keep].reset_index(drop=True)


def _shown(queries: SyntheticQueries | Prompt | pd.DataFrame) -> pd.DataFrame:
    if isinstance(queries, SyntheticQueries):
        return queries.fewshot_topics
    if isinstance(queries, Prompt):
        return pd.DataFrame(queries.topics)
    if not isinstance(queries, pd.DataFrame) or not {"qid", "query"} & set(queries):
        raise TypeError(
            f"give SyntheticQueries, a Prompt or a frame of qid or query, not {queries!r:.200}"
        )
    return queries
