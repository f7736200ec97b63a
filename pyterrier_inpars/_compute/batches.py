"""Batches of rows of similar length, which need little padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def batches_of_similar_length(
    lengths: Sequence[float], rows: int, tokens: float
) -> list[list[int]]:
    """Returns row numbers in batches of similar length.

    The longest rows come first, so that a lack of memory shows at once.

    Args:
        lengths: Tokens of each row.
        rows: Maximum number of rows of a batch.
        tokens: Maximum number of tokens of a batch, with padding; a longer row is its own batch.
    """
    order = np.argsort(-np.asarray(lengths, dtype=float), kind="stable").tolist()
    found: list[list[int]] = []
    start = 0
    while start < len(order):
        size = max(1, int(min(rows, tokens // max(1, lengths[order[start]]))))
        found.append(order[start : start + size])
        start += size
    return found
