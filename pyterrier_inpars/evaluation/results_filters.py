"""Stages that remove results before evaluation: unjudged documents, and the query's own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars._stage import Stage, as_numbers, check_columns, check_strings, with_columns


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

    def _validate(self, inp: pd.DataFrame) -> None:
        with pt.validate.any(inp, context=self) as v:
            for order in ("rank", "score"):
                v.columns(includes=[*self._required_columns(), order], mode=order)
        super()._validate(inp)

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
        return inp["docno"].astype(object) != inp["qid"].astype(object)
