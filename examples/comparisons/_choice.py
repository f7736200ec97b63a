"""Measures how well queries choose a system; see _measure.py."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import ttest_rel

from pyterrier_inpars import evaluation

SAMPLES = 1_000
"""Number of bootstrap samples of the queries."""


class Choice(NamedTuple):
    """How well queries choose a system."""

    tau: float
    taus: np.ndarray
    """tau on bootstrap samples of the queries."""
    gain: float
    p_gain: float | None
    """None if the baseline is chosen."""


class Choices(NamedTuple):
    """What a part of a run's queries chooses, in two ways."""

    queries: int
    bm25: float
    source: Choice | None
    """With the source documents as the only relevant ones."""
    hard: int
    similar: Choice | None
    """As effectiveness.md recommends: by queries that do not overlap with their document, and with
    similar documents."""


def choice_of(values: pd.DataFrame, human: pd.DataFrame) -> Choice | None:
    """Returns how well synthetic queries choose a system; None without queries.

    Args:
        values: nDCG@10 by synthetic query (row) and system (column).
        human: The same by human topic. The first system is the baseline.
    """
    if values.empty:
        return None
    found = evaluation.agreement_of_values(values, human)
    baseline = human.columns[0]
    same = found.chosen == baseline
    p_gain = None if same else ttest_rel(human[found.chosen], human[baseline]).pvalue
    return Choice(found.kendall_tau, bootstrap_taus(values, human), found.relative_gain, p_gain)


def bootstrap_taus(synthetic: pd.DataFrame, human: pd.DataFrame) -> np.ndarray:
    """Returns tau on samples of the synthetic queries, drawn with replacement."""
    rng = np.random.default_rng(0)
    rows, means = synthetic.to_numpy(), human.mean().to_numpy()
    return np.array(
        [
            evaluation.kendall_tau(rows[rng.integers(len(rows), size=len(rows))].mean(0), means)
            for _ in range(SAMPLES)
        ]
    )


def p_of_taus(one: np.ndarray, other: np.ndarray) -> float:
    """Returns p of a two-sided bootstrap test that two taus are equal."""
    differences = one - other
    differences = differences[~np.isnan(differences)]  # tau is NaN where all systems are equal
    fewer = min((differences >= 0).sum(), (differences <= 0).sum())
    return min(1.0, 2 * (fewer + 1) / (len(differences) + 1))


def columns_of(found: Choices, first: Choices) -> dict[str, Any]:
    """Returns the columns of a table for choices, with p-values against the first ones."""
    return {
        "choose with": found.queries,
        "BM25": found.bm25,
        **_columns("source", found.source, first.source),
        "hard": found.hard,
        **_columns("similar", found.similar, first.similar),
    }


def _columns(title: str, choice: Choice | None, first: Choice | None) -> dict[str, str]:
    if choice is None:
        return {}
    low, high = np.nanquantile(choice.taus, [0.025, 0.975])
    same = first is None or choice is first
    p_gain = "" if choice.p_gain is None else f", p={choice.p_gain:.1g}"
    return {
        f"tau, {title}": f"{choice.tau:.2f} ({low:.2f} to {high:.2f})",
        f"p tau, {title}": "" if same else f"{p_of_taus(choice.taus, first.taus):.1g}",
        f"gain, {title}": f"{choice.gain:+.1%}{p_gain}",
    }
