"""Reranking the top of a ranking, whatever made it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars._stage import Stage, as_numbers, positive_int, with_columns


class RerankTop(Stage):
    """Reranks the first ``k`` documents of each query; the others stay below, in their order.

    For rankings of any origin, such as TREC runs::

        run = pt.Transformer.from_df(pt.io.read_results("run.res"))
        run >> RerankTop(text >> reranker, 100)

    Ranks may count from 0 or 1. The documents below get whole numbers for scores, one less each,
    from below the lowest that the reranker gave: whoever sorts by score, in 32 bits too, finds
    their order. ``(run % k >> reranker) ^ run`` would sort those of equal scores by docno, and
    rerank one document less where ranks count from 1.

    Needs ``qid``, ``docno``, ``rank`` and what the reranker needs. Gives the columns of the
    reranker's frame, by query and rank; those it adds, such as ``text``, are missing values below
    the cutoff.

    Args:
        reranker: transformer that scores results, or a pipeline that ends with one.
        k: documents of each query to rerank.

    Raises:
        ValueError: ``k`` is no whole number above 0.
    """

    schematic = {"label": "RerankTop", "help_url": None}

    def __init__(self, reranker: pt.Transformer, k: int = 1000):
        self.reranker = reranker
        self.k = positive_int("k", k)

    def _required_columns(self) -> list[str]:
        modes = pt.inspect.transformer_inputs(self.reranker, strict=False) or [[]]
        return with_columns(["qid", "docno", "rank"], *modes[0])

    def _output_columns(self, columns: list[str]) -> list[str]:
        given = pt.inspect.transformer_outputs(self.reranker, columns, strict=False) or columns
        return with_columns([c for c in given if c not in ("score", "rank")], "score", "rank")

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        order = pd.Index(inp["qid"].unique())
        inp = inp.iloc[np.argsort(as_numbers(inp, "rank"), kind="stable")]
        place = inp.groupby("qid").cumcount()
        top = self.reranker.transform(inp[place < self.k].reset_index(drop=True))
        below, deep = inp[place >= self.k], place[place >= self.k] - self.k
        lowest = np.floor(top.groupby("qid")["score"].min())
        under = below["qid"].map(lowest).astype("float64").fillna(0.0)
        below = below.assign(score=under - 1 - deep).reindex(columns=top.columns)
        out = pt.model.add_ranks(pd.concat([top, below] if len(below) else [top]))
        return out.iloc[np.lexsort((out["rank"], order.get_indexer(out["qid"])))].reset_index(
            drop=True
        )
