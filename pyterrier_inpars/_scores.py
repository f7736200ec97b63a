"""Scores of several systems on one scale."""

import numpy as np
import pandas as pd


def z_scores(scores: np.ndarray, groups: pd.Series) -> np.ndarray:
    """Standardizes scores to mean 0 and standard deviation 1 within each group.

    Args:
        scores: Scores, (rows,).
        groups: Group of each row, such as the qid.

    Returns:
        Array of (rows,), float64; 0 where all scores of a group are equal.
    """
    by_group = pd.Series(scores, dtype=float).groupby(groups.to_numpy())
    centred = scores - by_group.transform("mean")
    equal = by_group.transform("min") == by_group.transform("max")
    return (centred / by_group.transform("std", ddof=0)).mask(equal, 0.0).to_numpy()
