"""Lists for distillation: which of a teacher's lists to learn from, and the scale of its scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyterrier_inpars._arguments import finite, positive_int
from pyterrier_inpars._stage import Stage, as_finite_numbers, as_numbers, check_strings


class TeacherScores(Stage):
    """Drops lists that a teacher disagrees with, and clips and scales its scores.

    A list is a synthetic query with its source document and other candidates, as a miner gives
    them, after a teacher has scored it::

        lists = NegativeMiner(bm25, num_negatives=7, depth=8, texts=dataset) >> teacher
        BiEncoder(model, training="cadet").fit((lists >> TeacherScores())(queries))

    These are the steps of CADET (Tamber et al. 2025, arXiv 2505.19274, and the folder ``reranker``
    of its code), in this order:

    1. Lists whose source document the teacher ranks below ``max_source_rank`` are dropped: their
       query may not be about it. Equal scores count for the source document.
    2. Lists whose best score is below the ``min_percentile``-th percentile of all remaining scores
       are dropped.
    3. The remaining scores are clipped to the percentiles ``clip`` and scaled to 0 to ``scale``.

    The percentiles are those of the whole frame, so it needs all lists at once, and the output
    depends on all of them. Requires the columns ``qid``, ``docno`` (both str), ``label`` (1 for the
    source document) and ``score`` (number). Other columns and the order of rows stay.

    Args:
        max_source_rank: Lowest rank of the source document, counted from 1; ``None`` for any. The
            column ``label`` is only read for this.
        min_percentile: Percentile of all scores that the best score of a list must reach; ``None``
            for no limit.
        clip: Lower and upper percentile that scores are clipped to; ``None`` for no clipping.
        scale: Largest score after scaling, with 0 as the lowest; ``None`` to keep the teacher's
            scale, as margin-MSE may need.

    The counts below add up over all calls.

    Attributes:
        seen: Number of lists processed so far.
        dropped_by_rank: Number of lists dropped so far because of the rank of the source document.
        dropped_by_score: Number of lists dropped so far because of their best score.

    Raises:
        ValueError: A number is out of range; a score is not a finite number; a list has no source
            document (label 1); or all scores are equal, so that they cannot be scaled.
    """

    schematic = {"label": "TeacherScores", "help_url": None}
    _counters = ("seen", "dropped_by_rank", "dropped_by_score")

    def __init__(
        self,
        *,
        max_source_rank: int | None = 1,
        min_percentile: float | None = 25,
        clip: Sequence[float] | None = (1, 99),
        scale: float | None = 1.0,
    ):
        if max_source_rank is not None:
            positive_int("max_source_rank", max_source_rank)
        if min_percentile is not None:
            finite("min_percentile", min_percentile, least=0, most=100)
        if clip is not None:
            _check_clip(clip)
        if scale is not None:
            finite("scale", scale, above=0)
        self.max_source_rank = max_source_rank
        self.min_percentile = min_percentile
        self.clip = clip
        self.scale = scale
        self.seen = 0
        self.dropped_by_rank = 0
        self.dropped_by_score = 0

    def _drops(self) -> list[tuple[str, int, int]]:
        seen, by_rank, by_score = map(self._last, self._counters)
        name = type(self).__name__
        return [(f"{name}: rank", seen, by_rank), (f"{name}: score", seen - by_rank, by_score)]

    def _required_columns(self) -> list[str]:
        label = [] if self.max_source_rank is None else ["label"]
        return ["qid", "docno", *label, "score"]

    def _whole_frame(self) -> tuple[str, str] | None:
        return "lists", f"write {self!r}(scored), where scored is the frame of all scored lists"

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "qid", "docno")
        scores = pd.Series(as_finite_numbers(inp, "score"))
        kept = pd.Series(True, index=inp.index)
        lists = inp["qid"].nunique()
        if self.max_source_rank is not None:
            kept = _source_ranks(inp, scores) <= self.max_source_rank
        agreed = inp["qid"][kept].nunique()
        if self.min_percentile is not None and agreed:
            least = np.percentile(scores[kept], self.min_percentile)
            kept &= scores.groupby(inp["qid"]).transform("max") >= least
        remaining = inp["qid"][kept].nunique()
        self.seen += lists
        self.dropped_by_rank += lists - agreed
        self.dropped_by_score += agreed - remaining
        out = inp[kept].assign(score=self._scaled(scores[kept].to_numpy()))
        return out.reset_index(drop=True)

    def _scaled(self, scores: np.ndarray) -> np.ndarray:
        """Returns clipped and scaled scores."""
        if not len(scores):
            return scores
        low, high = np.percentile(scores, (0, 100) if self.clip is None else self.clip)
        scores = scores.clip(low, high)
        if self.scale is None:
            return scores
        if low == high:
            raise ValueError(
                f"the scores of the teacher are all {low}, so they cannot be scaled: score the "
                f"lists with another teacher"
            )
        return (scores - low) / (high - low) * self.scale


def _source_ranks(lists: pd.DataFrame, scores: pd.Series) -> pd.Series:
    """Returns for each row the rank of the best source document of its list.

    Raises:
        ValueError: A list has no source document.
    """
    source = as_numbers(lists, "label") > 0
    best = scores[source].groupby(lists["qid"][source]).max()
    least = lists["qid"].astype(object).map(best)  # of a categorical, the result would be one
    if (without := least.isna()).any():
        raise ValueError(
            f"qid {lists['qid'][without].iloc[0]!r} has no source document (label 1) to rank: pass "
            f"all documents of a query, or give max_source_rank=None"
        )
    return (scores > least).groupby(lists["qid"]).transform("sum") + 1


def _check_clip(clip: Any) -> None:
    if not isinstance(clip, list | tuple) or len(clip) != 2:
        raise ValueError(f"clip must be two percentiles, such as (1, 99), not {clip!r:.200}")
    low = finite("clip", clip[0], least=0, most=100)
    finite("clip", clip[1], above=low, most=100)
