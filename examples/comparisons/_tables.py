"""Prints tables in reStructuredText."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from _measure import Bench


def show(bench: Bench, title: str, rows: list[dict[str, Any]]) -> None:
    """Prints a table of a sample of documents in reStructuredText."""
    print(
        f"\n{title} {bench.arguments.collection.name}, {len(bench.sample)} documents, "
        f"seed {bench.seed}, {len(bench.systems)} systems\n"
    )
    print("\n".join(as_rst(pd.DataFrame(rows))), flush=True)


def as_rst(table: pd.DataFrame) -> Iterator[str]:
    """Yields the lines of a simple table of reStructuredText."""
    rows = [list(table), *([cell(value) for value in row] for row in table.to_numpy(object))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    yield from (rule, lines[0], rule, *lines[1:], rule)


def cell(value: Any) -> str:
    """Returns a value as text: numbers with three significant places."""
    if value is None or value != value:
        return ".."
    if isinstance(value, float):
        return f"{value:.3g}" if value >= 1 else f"{value:.3f}"
    return str(value) or ".."
