"""HTML of what a notebook shows: cards of facts, tables, histograms and curves.

The HTML has no script and loads nothing. Text has the colour of its surroundings, and areas are
transparent or of medium brightness, so that it can be read on a light and on a dark page.
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

MAX_CELL = 300
"""Number of characters after which the text of a cell is cut."""
MAX_BARS = 30
"""Largest number of bars of a histogram."""
WIDTH, HEIGHT, TOP = 480, 110, 8
"""Size of the area of a figure, and the room above it."""
BLUE = "#4a8cc7"

_STYLE = """<style>
div.inpars{font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;max-width:60em;
 border:1px solid rgba(128,128,128,.4);border-radius:6px;padding:10px 14px;margin:6px 0}
div.inpars .title{font-weight:600;font-size:14px;margin:0 0 6px;overflow-wrap:anywhere}
div.inpars .part{overflow-x:auto;margin:8px 0 0}
div.inpars table{border-collapse:collapse;margin:0;font-size:inherit;color:inherit}
div.inpars caption,div.inpars .label{caption-side:top;text-align:start;padding:0 0 3px;
 color:inherit;opacity:.75}
div.inpars.inpars th,div.inpars.inpars td{text-align:start;vertical-align:top;
 padding:2px 14px 2px 0;unicode-bidi:plaintext;overflow-wrap:anywhere}
div.inpars .facts th{font-weight:400;opacity:.75;white-space:nowrap}
div.inpars .rows thead th{font-weight:600;border-bottom:1px solid rgba(128,128,128,.6);
 overflow-wrap:normal}
div.inpars .rows td{border-bottom:1px solid rgba(128,128,128,.25);min-width:3em}
div.inpars.inpars .number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
div.inpars.inpars pre{white-space:pre-wrap;overflow-wrap:anywhere;word-break:normal;
 font-family:ui-monospace,monospace;max-height:20em;overflow-y:auto;
 margin:0;padding:6px 8px;font-size:12px;color:inherit;border-radius:4px;
 background:rgba(128,128,128,.12)}
div.inpars svg{display:block;width:100%;max-width:32em;height:auto}
</style>"""


class Html(str):
    """A string that is HTML; every other string is text, which is escaped."""


def card(title: str, *parts: str) -> Html:
    """Returns a frame with a title.

    Args:
        title: Text of the title.
        *parts: What the frame holds: HTML of the functions here, or text, which becomes a
            paragraph. Empty parts are left out.
    """
    shown = "".join(
        f'<div class="part">{part if isinstance(part, Html) else text(part)}</div>'
        for part in parts
        if part
    )
    return Html(f'<div class="inpars">{_STYLE}<div class="title">{text(title)}</div>{shown}</div>')


def facts(mapping: Mapping[str, Any]) -> Html:
    """Returns a table of two columns, names and values; values that are None are left out."""
    rows = "".join(
        f'<tr><th scope="row">{text(name)}</th><td>{_shown(value)}</td></tr>'
        for name, value in mapping.items()
        if value is not None
    )
    return Html(f'<table class="facts"><tbody>{rows}</tbody></table>')


def table(frame: pd.DataFrame, caption: str = "") -> Html:
    """Returns the rows of a frame without its index; long texts are cut.

    The fractions of a column have equally many decimals.
    """
    numeric = [pd.api.types.is_numeric_dtype(frame.dtypes.iloc[i]) for i in range(frame.shape[1])]
    kinds = [' class="number"' if is_number else "" for is_number in numeric]
    columns = zip(kinds, map(str, frame.columns), strict=True)
    head = "".join(f'<th scope="col"{kind}>{text(name)}</th>' for kind, name in columns)
    cells = [_cells(frame.iloc[:, i]) for i in range(frame.shape[1])]
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in zip(*cells, strict=True)
    )
    title = f"<caption>{text(caption)}</caption>" if caption else ""
    return Html(
        f'<table class="rows">{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    )


def histogram(values: Iterable[float], label: str) -> Html:
    """Returns a histogram as SVG, with an alternative text; empty if there are no values.

    Args:
        values: Numbers; those that are not finite are left out.
        label: What they are, with the unit: ``"length of queries (words)"``.
    """
    numbers = np.array(list(values), dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return Html("")
    counts, edges = np.histogram(numbers, bins(numbers))
    left, step = 44, WIDTH / len(counts)
    bars = "".join(
        f'<rect x="{left + i * step:.1f}" y="{TOP + HEIGHT * (1 - count / counts.max()):.1f}" '
        f'width="{max(step - 1, 1):.1f}" height="{HEIGHT * count / counts.max():.1f}"/>'
        for i, count in enumerate(counts)
    )
    whole = bool((numbers == numbers.round()).all())
    ends = (numbers.min(), numbers.max()) if whole else (edges[0], edges[-1])
    alternative = (
        f"Histogram of {label}: {len(numbers):,} values from {number(numbers.min())} to "
        f"{number(numbers.max())}, median {number(float(np.median(numbers)))}"
    )
    texts = [
        _text_at(left - 6, TOP + 9, f"{counts.max():,}", to_the_left=True),
        _text_at(left - 6, TOP + HEIGHT, "0", to_the_left=True),
        _text_at(left, TOP + HEIGHT + 14, number(ends[0])),
        _text_at(left + WIDTH, TOP + HEIGHT + 14, number(ends[1]), to_the_left=True),
    ]
    axis = f'<path d="M{left} {TOP + HEIGHT}.5h{WIDTH}" stroke="currentColor"/>'
    return _drawing(label, alternative, left, f'<g fill="{BLUE}">{bars}</g>', texts, axis)


def curve(x: Iterable[float], y: Iterable[float], label: str) -> Html:
    """Returns a line with its points as SVG, with an alternative text; empty without two points.

    Args:
        x: Numbers in ascending order, such as steps; the axis spans all of them.
        y: Values; those that are not finite are left out.
        label: What the values are.
    """
    x = list(x)
    points = np.array([(a, b) for a, b in zip(x, y, strict=True) if np.isfinite(b)], dtype=float)
    if len(points) < 2:
        return Html("")
    left = 52
    low, high = points.min(axis=0), points.max(axis=0)
    low[0], high[0] = min(x), max(x)
    span = np.where(high > low, high - low, 1.0)
    places = (points - low) / span
    drawn = [
        (round(left + WIDTH * a, 1), round(TOP + HEIGHT * (1 - b), 1)) for a, b in places.tolist()
    ]
    line = " ".join(f"{a},{b}" for a, b in drawn)
    dots = "".join(f'<circle cx="{a}" cy="{b}" r="2.5"/>' for a, b in drawn)
    first, last = (number(value) for value in (points[0, 1], points[-1, 1]))
    ends = [number(value) for value in (low[0], high[0], low[1], high[1])]
    alternative = (
        f"{label}: {first} at {number(points[0, 0])}, {last} at {number(points[-1, 0])}; lowest "
        f"{ends[2]}, highest {ends[3]}"
    )
    marks = (
        f'<polyline points="{line}" fill="none" stroke="{BLUE}" stroke-width="1.5"/>'
        f'<g fill="{BLUE}">{dots}</g>'
    )
    texts = [
        _text_at(left - 8, TOP + 9, ends[3], to_the_left=True),
        _text_at(left - 8, TOP + HEIGHT, ends[2], to_the_left=True),
        _text_at(left, TOP + HEIGHT + 16, ends[0]),
        _text_at(left + WIDTH, TOP + HEIGHT + 16, ends[1], to_the_left=True),
    ]
    axis = f'<path d="M{left} {TOP + HEIGHT + 3}h{WIDTH}" stroke="currentColor" opacity=".5"/>'
    return _drawing(label, alternative, left, marks, texts, axis)


def _drawing(
    label: str, alternative: str, left: int, marks: str, texts: Iterable[str], axis: str
) -> Html:
    """Returns a figure as SVG, under its label.

    Args:
        label: What the figure shows.
        alternative: Alternative text.
        left: Room for texts on the left.
        marks: Its areas and lines.
        texts: Texts at its axes.
        axis: Its axis.
    """
    return Html(
        f'<div class="label">{text(label)}</div>'
        f'<svg viewBox="0 0 {left + WIDTH + 12} {TOP + HEIGHT + 20}" role="img" '
        f'aria-label="{text(alternative)}"><title>{text(alternative)}</title>{marks}'
        f'<g fill="currentColor" font-size="11">{"".join(texts)}</g>{axis}</svg>'
    )


def _text_at(x: int, y: int, shown: str, to_the_left: bool = False) -> str:
    anchor = ' text-anchor="end"' if to_the_left else ""
    return f'<text x="{x}" y="{y}"{anchor}>{shown}</text>'


def preformatted(shown: str, label: str = "") -> Html:
    """Returns a text with its line breaks, such as a prompt."""
    title = f'<div class="label">{text(label)}</div>' if label else ""
    return Html(f"{title}<pre>{text(shown)}</pre>")


def schematic(stage: pt.Transformer) -> Html:
    """Returns PyTerrier's drawing of a stage; empty if it is switched off or cannot be drawn.

    Unlike ``Transformer._repr_html_``, a failure does not warn, since a card follows.
    """
    if os.environ.get("PYTERRIER_DISABLE_NOTEBOOK_SCHEMATIC", "0") == "1":
        return Html("")
    try:
        return Html(pt.schematic.draw(stage, outer_class="repr_html"))
    except Exception:
        return Html("")


def text(value: str) -> str:
    """Returns a text for HTML: escaped, with a question mark for what UTF-8 cannot encode."""
    return html.escape(str(value).encode("utf-8", "replace").decode())


def number(value: float) -> str:
    """Returns a number with separators of thousands, and at most four significant digits."""
    if isinstance(value, Integral) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _cells(column: pd.Series) -> list[str]:
    """Returns the values of a column, escaped and cut; floats are aligned by their decimals."""
    if not pd.api.types.is_float_dtype(column):
        return [_shown(value) for value in column]
    values = column.to_numpy(float, na_value=np.nan)
    finite = values[np.isfinite(values)]
    if (finite == finite.round()).all():
        return [_shown(value) for value in values]
    decimals = int(np.clip(3 - np.floor(np.log10(np.abs(finite).max())), 0, 4))
    return [  # a p-value such as 1e-05 has its own digits
        f"{value:,.{decimals}f}"
        if value == 0 or 10.0 ** (1 - decimals) <= abs(value) < np.inf
        else _shown(value)
        for value in values
    ]


def _shown(value: Any) -> str:
    """Returns a value of a table, escaped and cut."""
    if isinstance(value, Html):
        return value
    if value is None or (isinstance(value, Real) and np.isnan(float(value))) or value is pd.NA:
        return ""
    if isinstance(value, Real) and not isinstance(value, bool) and np.isfinite(float(value)):
        return number(value)  # type: ignore[arg-type]
    if isinstance(value, list | tuple | np.ndarray):
        items = [str(_plain(item)) for item in value[:4]]
        value = f"[{', '.join(items + ['…'] * (len(value) > 4))}]"
    shown = str(value)
    return text(shown if len(shown) <= MAX_CELL else shown[: MAX_CELL - 1] + "…")


def _plain(item: Any) -> Any:
    return f"{item:.3g}" if isinstance(item, Real) and not isinstance(item, Integral) else item


def bins(numbers: np.ndarray) -> np.ndarray:
    """Returns the edges of bars; few whole numbers have a bar each."""
    least, most = numbers.min(), numbers.max()
    if (numbers == numbers.round()).all():
        width = max(1, int(np.ceil((most - least + 1) / MAX_BARS)))
        return np.arange(least, most + width + 1, width) - 0.5
    return np.linspace(least, most, MAX_BARS + 1)
