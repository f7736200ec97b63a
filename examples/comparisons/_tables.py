"""Prints tables in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from effectiveness import markdown

if TYPE_CHECKING:
    from _measure import Bench


def show(bench: Bench, title: str, rows: list[dict[str, Any]]) -> None:
    """Prints a table of a sample of documents."""
    print(
        f"\n{title} {bench.arguments.collection.name}, {len(bench.sample)} documents, "
        f"seed {bench.seed}, {len(bench.systems)} systems\n"
    )
    show_rows(rows)


def show_rows(rows: list[dict[str, Any]]) -> None:
    """Prints a table."""
    print("\n".join(markdown(pd.DataFrame(rows).map(cell))), flush=True)


def cell(value: Any) -> str:
    """Returns a value as text: numbers with three significant places."""
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if value >= 1 else f"{value:.3f}"
    return str(value)
