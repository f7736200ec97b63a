"""Paired t-tests of systems, and the correction of their p-values."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def paired_p_value(values: ArrayLike, baseline: ArrayLike) -> float:
    """Returns the p-value of a paired t-test; NaN where no query differs, or of fewer than two."""
    from scipy.stats import ttest_rel

    values, baseline = np.asarray(values, float), np.asarray(baseline, float)
    if len(values) < 2 or np.array_equal(values, baseline):
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all differences are nearly the same
        return float(ttest_rel(values, baseline).pvalue)


def corrected_p_values(
    p_values: ArrayLike, method: str, alpha: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """Corrects p-values for the number of tests, with those that are not NaN.

    Args:
        p_values: The p-values; NaN where there was no test.
        method: Name in ``statsmodels.stats.multitest.multipletests``.
        alpha: Level of significance.

    Returns:
        Which hypotheses are rejected, and the corrected p-values: NaN stays NaN.
    """
    from statsmodels.stats.multitest import multipletests

    corrected = np.array(p_values, dtype=float)
    rejected = np.zeros(len(corrected), dtype=bool)
    if (tested := ~np.isnan(corrected)).any():
        rejected[tested], corrected[tested], *_ = multipletests(corrected[tested], alpha, method)
    return rejected, corrected


def check_correction(method: str) -> None:
    """Checks the name of a method.

    Raises:
        ValueError: It is unknown.
    """
    try:
        corrected_p_values([1.0], method)
    except ValueError as error:
        raise ValueError(
            f"correction must be one of statsmodels, such as 'holm', not {method!r:.200}: {error}"
        ) from None
