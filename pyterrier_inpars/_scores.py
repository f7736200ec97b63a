"""Scores of several systems on one scale."""

import numpy as np
import pandas as pd

SPREAD = 1e-6
"""Scores of a query whose range is a smaller share of the largest one are those of no ranking."""
ROUNDING = 1e-12
"""Scores whose range is a smaller share of the largest one differ only by rounding in float64."""


def are_constant(lowest: pd.Series, highest: pd.Series, spread: float = SPREAD) -> pd.Series:
    """Returns for groups whether the range of their scores is at most this share of the largest.

    Groups with infinite scores are not constant.
    """
    width = highest - lowest
    return np.isfinite(width) & (width <= spread * np.maximum(lowest.abs(), highest.abs()))


def z_scores(scores: np.ndarray, groups: pd.Series) -> np.ndarray:
    """Standardizes scores to mean 0 and standard deviation 1 within each group.

    Args:
        scores: Scores, (rows,).
        groups: Group of each row, such as the qid.

    Returns:
        Array of (rows,), float64; 0 where all scores of a group are equal, up to `ROUNDING`.
    """
    values, groups = pd.Series(scores, dtype=float), groups.to_numpy()
    lowest, highest = (values.groupby(groups).transform(name) for name in ("min", "max"))
    # On a scale from 0 to 1, because squares of very small or large scores are not finite numbers.
    scaled = (values - lowest) / (highest - lowest)
    by_group = scaled.groupby(groups)
    found = (scaled - by_group.transform("mean")) / by_group.transform("std", ddof=0)
    return found.mask(are_constant(lowest, highest, ROUNDING), 0.0).to_numpy()
