"""Summarizes a comparison in one table, over all samples of documents; see _measure.py."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from _choice import Choice, p_of_taus
from _student import p_value
from _tables import show_rows


class Outcome(NamedTuple):
    """What a set of queries is like, chooses and teaches."""

    values: dict[str, float]
    choice: Choice | None
    student: pd.DataFrame
    """Frame ``qid, seed, alone, fused``; see `_student.Student.values`."""


class Summary:
    """A table with one row per set of queries: means over the samples, with their range.

    The p-values are against the first row. That of tau is of the bootstrap samples of all samples
    of documents; that of the student is of a paired t-test over topics, of the means over samples
    and trainings.

    Args:
        title: Name of the first column.
    """

    def __init__(self, title: str):
        self._title = title
        self._outcomes: dict[str, list[Outcome]] = {}

    def add(self, name: str, outcome: Outcome) -> None:
        """Adds the outcome of one sample of documents."""
        self._outcomes.setdefault(name, []).append(outcome)

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of the table."""
        first: tuple[np.ndarray, pd.Series] | None = None
        rows = []
        for name, outcomes in self._outcomes.items():
            row: dict[str, Any] = {self._title: name}
            for column in outcomes[0].values:
                row[column] = _range([found.values[column] for found in outcomes], ".2f")
            choices = [found.choice for found in outcomes if found.choice]
            taus = np.mean([choice.taus for choice in choices], axis=0)
            students = pd.concat([found.student for found in outcomes])
            by_topic = students.groupby("qid")["alone"].mean()
            first = first or (taus, by_topic)
            alone = [found.student["alone"].mean() for found in outcomes]
            row |= {
                "tau": _range([choice.tau for choice in choices], ".2f"),
                "p tau": "" if first[0] is taus else f"{p_of_taus(taus, first[0]):.1g}",
                "gain": _range([choice.gain for choice in choices], "+.1%"),
                "student": _range(alone, ".3f"),
                "p student": p_value(by_topic, first[1]),
            }
            rows.append(row)
        return rows

    def show(self, arguments: argparse.Namespace) -> None:
        """Prints the table."""
        seeds = " and ".join(map(str, arguments.seed))
        print(f"\nIn short: {arguments.collection.name}, seed {seeds}\n")
        show_rows(self.rows())


def _range(values: list[float], form: str) -> str:
    """Returns the mean, with the range of several values."""
    mean = f"{np.mean(values):{form}}"
    if len(values) < 2:
        return mean
    return f"{mean} ({min(values):{form}} to {max(values):{form}})"
