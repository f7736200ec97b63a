"""Fusion of the scores of a first stage and a reranker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars._stage import as_numbers, check_strings, finite
from pyterrier_inpars.rerankers._wrapper import RerankerWrapper


class ScoreFusion(RerankerWrapper):
    """Reranks by score fusion: a weighted sum of z-scored first-stage and reranker scores.

    Each of the two scores is standardized to mean 0 and standard deviation 1 (z-score) over the
    documents of a query, which makes their scales comparable. If all scores of a query are equal,
    their z-scores are 0::

        bm25 % 100 >> text >> ScoreFusion(BiEncoder(model))

    Requires the columns ``qid``, ``docno``, ``score`` (number) and those of the reranker. Each
    ``docno`` may occur once per ``qid``. Returns the columns and the row order of the reranker,
    with new ``score`` and ``rank``.

    Args:
        reranker: Transformer that scores results, or a pipeline that ends with one. Documents that
            it drops are missing from the output, too.
        weights: Weights of the first-stage score and of the reranker score.

    Raises:
        ValueError: The weights are not two finite numbers, a score is not a finite number, or a
            document occurs twice for a query.
    """

    schematic = {"label": "ScoreFusion", "help_url": None}
    _own_columns = ("qid", "docno", "score")

    def __init__(self, reranker: pt.Transformer, weights: tuple[float, float] = (1.0, 1.0)):
        self.reranker = reranker
        if not isinstance(weights, Sequence) or len(weights) != 2:
            raise ValueError(f"weights must be two numbers, not {weights!r}")
        self.weights = tuple(finite("weights", weight) for weight in weights)

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        keys = ["qid", "docno"]
        check_strings(inp, *keys)
        if (duplicate := inp.duplicated(keys)).any():
            qid, docno = inp.loc[duplicate.idxmax(), keys]
            raise ValueError(f"duplicate docno {docno!r} for qid {qid!r}: drop one of the rows")
        first = inp[keys].assign(first=_z_scores(inp))
        out = self.reranker.transform(inp).reset_index(drop=True)
        own = _z_scores(out)
        first = out[keys].merge(first, on=keys, how="left", validate="one_to_one")["first"]
        total = self.weights[0] * first + self.weights[1] * own
        out = out.drop(columns=["score", "rank"], errors="ignore")
        return pt.model.add_ranks(out.assign(score=total))


def _z_scores(results: pd.DataFrame) -> pd.Series:
    """Standardizes scores to mean 0 and standard deviation 1 within each query."""
    scores = pd.Series(as_numbers(results, "score"), index=results.index)
    if (infinite := np.isinf(scores)).any():
        row = results.loc[infinite.idxmax()]
        raise ValueError(
            f"score must be a finite number, but is {row['score']!r} at qid {row['qid']!r}, docno "
            f"{row['docno']!r}: drop the row"
        )
    by_query = scores.groupby(results["qid"])
    centred = scores - by_query.transform("mean")
    equal = by_query.transform("min") == by_query.transform("max")
    return (centred / by_query.transform("std", ddof=0)).mask(equal, 0.0)
