"""A reranker's scores together with those of the first stage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._stage import Stage, as_numbers, check_strings, finite, with_columns


class ScoreFusion(Stage):
    """Reranks by the weighted sum of the scores that documents came with and the reranker's.

    Each of the two is first brought to mean 0 and standard deviation 1 within its query (z-score),
    so that scales do not matter; where all scores of a query are alike, each is 0::

        bm25 % 100 >> text >> ScoreFusion(BiEncoder(model))

    Needs ``qid``, ``docno``, ``score`` (number) and what the reranker needs; ``qid`` and ``docno``
    stand together once. Gives the columns of the reranker's frame, in its order.

    Args:
        reranker: transformer that scores results, or a pipeline that ends with one. Documents that
            it drops are dropped.
        weights: of the first stage's score and of the reranker's.

    Raises:
        ValueError: the weights are not two numbers, a score is not a finite number, or a document
            stands twice for a query.
    """

    schematic = {"label": "ScoreFusion", "help_url": None}

    def __init__(self, reranker: pt.Transformer, weights: tuple[float, float] = (1.0, 1.0)):
        self.reranker = reranker
        if not isinstance(weights, Sequence) or len(weights) != 2:
            raise ValueError(f"weights must be two numbers, not {weights!r}")
        self.weights = tuple(finite("weights", weight) for weight in weights)

    def _required_columns(self) -> list[str]:
        modes = pt.inspect.transformer_inputs(self.reranker, strict=False) or [[]]
        return with_columns(["qid", "docno", "score"], *modes[0])

    def _output_columns(self, columns: list[str]) -> list[str]:
        given = pt.inspect.transformer_outputs(self.reranker, columns, strict=False) or columns
        return with_columns([c for c in given if c not in ("score", "rank")], "score", "rank")

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        keys = ["qid", "docno"]
        check_strings(inp, *keys)
        if (twice := inp.duplicated(keys)).any():
            qid, docno = inp.loc[twice.idxmax(), keys]
            raise ValueError(f"document {docno!r} stands twice for qid {qid!r}: drop one")
        first = inp[keys].assign(first=_z_scores(inp))
        out = self.reranker.transform(inp).reset_index(drop=True)
        own = _z_scores(out)
        first = out[keys].merge(first, on=keys, how="left", validate="one_to_one")["first"]
        total = self.weights[0] * first + self.weights[1] * own
        out = out.drop(columns=["score", "rank"], errors="ignore")
        return pt.model.add_ranks(out.assign(score=total))


def _z_scores(results: pd.DataFrame) -> pd.Series:
    """The scores at mean 0 and standard deviation 1 within each query."""
    scores = pd.Series(as_numbers(results, "score"), index=results.index)
    if not (finite := scores.map(math.isfinite)).all():
        row = results.loc[(~finite).idxmax()]
        raise ValueError(
            f"score must be a finite number, but is {row['score']!r} at qid {row['qid']!r}, docno "
            f"{row['docno']!r}: drop the row"
        )
    by_query = scores.groupby(results["qid"])
    centred = scores - by_query.transform("mean")
    alike = by_query.transform("min") == by_query.transform("max")
    return (centred / by_query.transform("std", ddof=0)).mask(alike, 0.0)
