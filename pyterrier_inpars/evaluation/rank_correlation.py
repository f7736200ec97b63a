"""Rank correlation of two orders of systems."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyterrier_inpars._measures import comparable


def kendall_tau(estimated: Sequence[float], true: Sequence[float]) -> float:
    """Returns Kendall's tau-b of two lists of values, with tied values taken into account.

    Values are compared at nine decimals, because equal means differ in their last digits.

    Args:
        estimated: Value of each system on synthetic queries.
        true: Value of each system on human topics, in the same order of systems.

    Returns:
        1 for equal orders, -1 for opposite ones; NaN if all values of a list are equal.

    Raises:
        ValueError: The lists differ in length, have fewer than two values, or a value that is not
            a finite number.
    """
    from scipy.stats import kendalltau

    return float(kendalltau(*_checked(estimated, true)).statistic)


def tau_ap(estimated: Sequence[float], true: Sequence[float]) -> float:
    """Returns the AP correlation of two lists of values (Yilmaz et al., SIGIR 2008).

    It weighs the top of the estimated order more than Kendall's tau does: the best system counts in
    every position below it. Tied values count as if they were ordered at random: the result is the
    expectation over all orders of the ties. Values are compared at nine decimals.

    Args:
        estimated: Value of each system on synthetic queries.
        true: Value of each system on human topics, in the same order of systems.

    Returns:
        1 for equal orders, -1 for opposite ones; 0 is the expectation of a random order.

    Raises:
        ValueError: As in `kendall_tau`.
    """
    ours, truth = _checked(estimated, true)
    total = 0.0
    for value in np.unique(ours):
        above, tied = truth[ours > value], truth[ours == value]
        # Mean number of systems above the tied ones that are truly better; a true tie counts half.
        difference = above[:, None] - tied[None, :]
        better = ((difference > 0) + 0.5 * (difference == 0)).sum() / len(tied)
        # Each of the systems before a system within its tie is better with probability one half.
        for before in range(len(tied)):
            if len(above) + before:
                total += (better + before / 2) / (len(above) + before)
    return float(2 * total / (len(truth) - 1) - 1)


def _checked(estimated: Sequence[float], true: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    lists = comparable(np.asarray(estimated, float)), comparable(np.asarray(true, float))
    if lists[0].shape != lists[1].shape or lists[0].ndim != 1 or lists[0].size < 2:
        raise ValueError(
            "two lists of values of the same systems are needed, two systems or more, not "
            f"{len(estimated)} and {len(true)} values"
        )
    if not (np.isfinite(lists[0]).all() and np.isfinite(lists[1]).all()):
        raise ValueError("each system needs a finite value: drop systems that have none")
    return lists
