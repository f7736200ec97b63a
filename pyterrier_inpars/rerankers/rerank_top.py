"""Reranking of the top of each ranking."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._stage import as_numbers
from pyterrier_inpars.rerankers._wrapper import RerankerWrapper


class RerankTop(RerankerWrapper):
    """Reranks the top ``k`` documents of each query and appends the rest in their original order.

    It works for rankings from any source, such as TREC runs, whose ranks may start at 0 or 1::

        run = pt.Transformer.from_df(pt.io.read_results("run.res"))
        run >> RerankTop(text >> reranker, 100)

    The appended documents get whole-number scores that start below the lowest reranker score of
    their query and decrease by one, so the order survives float32 and sorting by score. For them to
    have room, a reranker score of minus infinity becomes the next whole number below the finite
    ones. In
    contrast, ``(run % k >> reranker) ^ run`` sorts appended documents with equal scores by docno,
    and reranks only ``k - 1`` documents if ranks start at 1.

    Requires the columns ``qid``, ``docno``, ``rank`` and those of the reranker. Returns the columns
    of the reranker, sorted by query and rank. Columns that the reranker adds, such as ``text``, are
    missing values for the appended documents.

    Args:
        reranker: Transformer that scores results, or a pipeline that ends with one.
        k: Number of documents to rerank per query.

    Raises:
        ValueError: ``k`` is not a positive whole number, or a rank or a score of the reranker is
            not a number.
    """

    schematic = {"label": "RerankTop", "help_url": None}
    _own_columns = ("qid", "docno", "rank")

    def __init__(self, reranker: pt.Transformer, k: int = 1000):
        self.reranker = reranker
        self.k = positive_int("k", k)

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        order = pd.Index(inp["qid"].unique())
        inp = inp.iloc[np.argsort(as_numbers(inp, "rank"), kind="stable")]
        place = inp.groupby("qid").cumcount()
        top = self.reranker.transform(inp[place < self.k].reset_index(drop=True))
        top = _above_minus_infinity(top)
        below, deep = inp[place >= self.k], place[place >= self.k] - self.k
        lowest = np.floor(top["score"].where(top["score"] < np.inf).groupby(top["qid"]).min())
        under = below["qid"].map(lowest).astype("float64").fillna(0.0)
        below = below.assign(score=under - 1 - deep).reindex(columns=top.columns)
        out = pt.model.add_ranks(pd.concat([top, below] if len(below) else [top]))
        out = out.iloc[np.lexsort((out["rank"], order.get_indexer(out["qid"])))]
        return out.reset_index(drop=True)


def _above_minus_infinity(top: pd.DataFrame) -> pd.DataFrame:
    """Replaces scores of minus infinity by a number below the finite scores of their query."""
    scores = pd.Series(as_numbers(top, "score"), index=top.index)
    if not (lost := scores == -np.inf).any():
        return top
    finite = scores.where(np.isfinite(scores)).groupby(top["qid"])
    return top.assign(score=scores.mask(lost, np.floor(finite.transform("min")).fillna(0.0) - 1))
