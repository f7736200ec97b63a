"""`Chart`: a matplotlib figure with an alternative text, and the kinds of charts of the report.

A chart is drawn without pyplot, so it needs no display and changes no state of matplotlib. As SVG
its text has the color of its surroundings, and its areas are of medium brightness, so that it can
be read on a light page, on a dark one, and in grey. Series differ in shape, not in color alone.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from pyterrier_inpars import _html

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the figures of a report need matplotlib: pip install 'pyterrier_inpars[report]'"
    ) from error

WIDTH = 340
"""Width of a chart in points: a phone shows it at its size, a desktop enlarged."""
INK = "#1b1b1b"
"""Color of text and axes, which SVG replaces by the color of the surroundings."""
MUTED = "#858585"
FILL = "#3f80bf"
"""Color of areas; lines on them have the color of text."""
SMALL = 10
"""Size of the smaller text in points."""
STEPS = (1, 2, 5, 10)
"""Distances of the numbers at an axis, times a power of ten."""
LABEL_LENGTH = 24
"""Number of characters of the name of a bar; longer names are cut in the middle."""

_STYLE: Any = {
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 1.0,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": False,
    "font.size": 11,
    "hatch.linewidth": 1.0,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a query may contain dollar signs
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": SMALL,
    "xtick.major.size": 0,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": SMALL,
    "ytick.major.size": 0,
}
_NO_DATES = {"Date": None, "Creator": None, "Format": None, "Type": None}


class Chart(Figure):
    """A matplotlib figure with an alternative text. A notebook shows it as SVG.

    Args:
        alt: Alternative text: what the figure shows, in words.
        height: Height in points.

    Attributes:
        alt: Alternative text.
    """

    def __init__(self, alt: str = "", height: float = 165, **options: Any):
        options = {"dpi": 72, "layout": "constrained", **options}
        options.setdefault("figsize", (WIDTH / 72, height / 72))
        super().__init__(**options)
        self.alt = alt

    def add_rows(self, names: Iterable[str], **options: Any) -> np.ndarray:
        """Adds axes below each other, with their titles, and returns them."""
        titles = list(names)
        grid = self.subplots(len(titles), 1, squeeze=False, **options)[:, 0]
        for axes, title in zip(grid, titles, strict=True):
            axes.set_title(_cut(title, 44), loc="left", fontsize=11)
        self.get_layout_engine().set(hspace=0.08)  # type: ignore[union-attr, call-arg]
        return grid

    def to_svg(self) -> str:
        """Returns the figure as an SVG element for HTML, without fonts, scripts or links."""
        out = io.StringIO()
        salt = sha256(self.alt.encode("utf-8", "replace")).hexdigest()[:12]
        with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
            self.savefig(out, format="svg", transparent=True, metadata=_NO_DATES)
        _, _, svg = out.getvalue().partition("<svg ")
        _, _, body = svg.partition(">")
        for pattern, new in (
            (r"<defs>\s*<style.*?</style>\s*</defs>", ""),  # would apply to the whole page
            (r'<g id="[^"]*"', "<g"),  # ids are unique in a page
            (r"font(-family)?: (?=[^;\"]*sans-serif)[^;\"]*?(\d+(\.\d+)?px)?[^;\"]*;? ?", _font),
            (re.escape(INK), "currentColor"),
            (r"\s*\n\s*", " "),
        ):
            body = re.sub(pattern, new, body, flags=re.DOTALL)  # type: ignore[call-overload]
        width, height = (round(72 * float(inches), 2) for inches in self.get_size_inches())
        alt = _html.text(self.alt)
        return (
            f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{alt}" '
            f'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
            f"<title>{alt}</title>{body}"
        )

    def _repr_html_(self) -> str:
        return f'<div style="max-width:{1.6 * WIDTH:.0f}px">{self.to_svg()}</div>'


def _font(found: re.Match[str]) -> str:
    """Keeps the size of a font; the family is that of the page."""
    return f"font-size: {found[2]}; " if found[2] else ""


def styled(draw: Any) -> Any:
    """Decorates a function that returns a chart: it draws in the style of this module."""

    @functools.wraps(draw)
    def wrapper(*args: Any, **options: Any) -> Chart:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **options)

    return wrapper


@styled
def histogram(
    values: np.ndarray,
    xlabel: str,
    what: str,
    *,
    ylabel: str = "queries",
    limits: tuple[float, float] | None = None,
) -> Chart:
    """Draws a histogram with its median.

    Args:
        values: At least one number.
        xlabel: Label of the axis, with the unit.
        what: Beginning of the alternative text: ``"Words per query"``.
        ylabel: What is counted.
        limits: Lowest and highest possible value, for an axis of all possible values.
    """
    most, least, median = values.max(), values.min(), float(np.median(values))
    chart = Chart(
        f"Histogram. {what}: {len(values):,} values from {short(least)} to {short(most)}, median "
        f"{short(median)}."
    )
    axes = chart.add_subplot()
    shown = _without_tail(values)
    if above := int((values > shown.max()).sum()):
        xlabel += f"; {above:,} above {short(shown.max())} are not drawn"
    edges = _edges(shown) if limits is None else np.linspace(*limits, 21)
    _draw_histogram(axes, shown, edges, median)
    if limits is not None:
        axes.set_xlim(limits)
    whole = bool((shown == shown.round()).all()) and limits is None
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=whole, steps=STEPS))
    axes.set_xlabel(xlabel)
    _counts_axis(axes, ylabel)
    return chart


def _without_tail(values: np.ndarray) -> np.ndarray:
    """Returns the values without a long tail of few, which would hide the others."""
    limit = np.quantile(values, 0.99)
    return values[values <= limit] if values.max() > 2 * limit > 0 else values


def _edges(values: np.ndarray) -> np.ndarray:
    """Returns the edges of bars; few whole numbers have a bar each, few values wide bars."""
    if (values == values.round()).all():
        return _html.bins(values)
    number = int(np.clip(2 * np.sqrt(len(values)), 8, _html.MAX_BARS))
    return np.histogram_bin_edges(values, number)


def _draw_histogram(axes: Axes, values: np.ndarray, edges: np.ndarray, median: float) -> None:
    counts, edges = np.histogram(values, edges)
    axes.bar(
        edges[:-1],
        counts,
        width=np.diff(edges) * 0.92,
        align="edge",
        color=FILL,
        clip_on=False,
    )
    axes.axvline(median, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), clip_on=False)
    right = median > (edges[0] + edges[-1]) / 2
    axes.annotate(
        f"median {short(median)}",
        (median, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if right else 5, 3),
        textcoords="offset points",
        ha="right" if right else "left",
        fontsize=SMALL,
    )


def _counts_axis(axes: Axes, ylabel: str) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylabel(ylabel)


@styled
def bars(
    values: Mapping[str, float], what: str, notes: Sequence[str], *, whole: float | None = None
) -> Chart:
    """Draws a horizontal bar for each name, with its note at the end.

    Args:
        values: Lengths of the bars by their names.
        what: Beginning of the alternative text.
        notes: Texts at the end of the bars.
        whole: Length of the axis; None for that of the longest bar.
    """
    names = [_cut(name) for name in values]
    listed = "; ".join(f"{name}: {note}" for name, note in zip(names, notes, strict=True))
    chart = Chart(f"Bars. {what}: {listed}.", height=30 + 22 * len(names))
    axes = chart.add_subplot()
    lengths = np.array(list(values.values()), dtype=float)
    axes.barh(range(len(names)), lengths, height=0.68, color=FILL, clip_on=False)
    limit = whole or max(lengths.max(), 1e-9)
    for row, (length, note) in enumerate(zip(lengths, notes, strict=True)):
        axes.annotate(
            note,
            (length, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            annotation_clip=False,
        )
    longest = max(map(len, notes))
    axes.set_xlim(0, limit * (1 + 0.028 * longest))
    _named_rows(axes, names)
    return chart


def _named_rows(axes: Axes, names: Sequence[str]) -> None:
    """Writes names at the rows of an axis, the first one on top."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])


@styled
def intervals(
    means: Mapping[str, float], bounds: Mapping[str, tuple[float, float]], xlabel: str, what: str
) -> Chart:
    """Draws the mean of each name as a dot, with its interval where there is one."""
    names = [_cut(name) for name in means]
    listed = "; ".join(
        f"{name}: {short(means[full])}" for name, full in zip(names, means, strict=True)
    )
    chart = Chart(f"Means. {what}: {listed}.", height=56 + 30 * len(names))
    axes = chart.add_subplot()
    for row, (name, mean) in enumerate(means.items()):
        if name in bounds:
            axes.plot(bounds[name], [row, row], color=FILL, linewidth=3, clip_on=False)
        axes.plot([mean], [row], "o", color=INK, markersize=6, clip_on=False)
        axes.annotate(
            f"{mean:.3f}",
            (mean, row),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=SMALL,
            annotation_clip=False,
        )
    _named_rows(axes, names)
    axes.spines["bottom"].set_visible(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.margins(x=0.1, y=0.25)
    axes.set_xlabel(xlabel)
    return chart


@styled
def two_groups(
    rows: Mapping[str, tuple[np.ndarray, np.ndarray]],
    groups: tuple[str, str],
    xlabel: str,
    alt: str,
) -> Chart:
    """Draws two histograms over each other in each row: filled areas, and lines.

    Args:
        rows: Values of both groups by the name of the row.
        groups: Names of the groups.
        xlabel: Label of the axes, which have different scales.
        alt: Alternative text.
    """
    chart = Chart(alt, height=45 + 105 * len(rows))
    grid = chart.add_rows(rows)
    for axes, (filled, outlined) in zip(grid, rows.values(), strict=True):
        both = np.concatenate([filled, outlined])
        edges = np.histogram_bin_edges(both, 24)
        heights = [np.histogram(values, edges)[0] / len(values) for values in (filled, outlined)]
        axes.bar(
            edges[:-1],
            heights[0],
            width=np.diff(edges) * 0.92,
            align="edge",
            color=FILL,
            label=groups[0],
            clip_on=False,
        )
        axes.stairs(heights[1], edges, color=INK, linewidth=1.4, label=groups[1], clip_on=False)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    grid[0].legend(frameon=False, fontsize=SMALL, handlelength=1.2, borderpad=0)
    grid[-1].set_xlabel(xlabel)
    return chart


@styled
def curves(rows: Mapping[str, tuple[np.ndarray, np.ndarray]], xlabel: str, alt: str) -> Chart:
    """Draws a line in each row.

    Args:
        rows: x and y by the name of the row.
        xlabel: Label of the axis that the rows share.
        alt: Alternative text.
    """
    chart = Chart(alt, height=45 + 95 * len(rows))
    grid = chart.add_rows(rows, sharex=True)
    for axes, (x, y) in zip(grid, rows.values(), strict=True):
        few = len(x) <= 40
        axes.plot(x, y, color=FILL, linewidth=1.8, marker="o" if few else "", markersize=3.5)
        axes.yaxis.set_major_locator(MaxNLocator(3, steps=STEPS))
        axes.grid(axis="y", color=MUTED, linewidth=0.5, alpha=0.4)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    grid[-1].set_xlabel(xlabel)
    return chart


@styled
def gains(rows: Mapping[str, np.ndarray], ylabel: str, alt: str) -> Chart:
    """Draws differences in descending order in each row: above the line a gain, below it a loss.

    Args:
        rows: Differences by the name of the row.
        ylabel: Label of the axes.
        alt: Alternative text.
    """
    chart = Chart(alt, height=45 + 100 * len(rows))
    grid = chart.add_rows(rows, sharey=True)
    for axes, values in zip(grid, rows.values(), strict=True):
        ordered = np.sort(values)[::-1]
        edges = np.arange(len(ordered) + 1)
        for part, hatch in ((np.maximum(ordered, 0), None), (np.minimum(ordered, 0), "////")):
            if part.any():
                axes.stairs(
                    part,
                    edges,
                    fill=True,
                    facecolor=FILL if hatch is None else "none",
                    edgecolor=None if hatch is None else INK,
                    hatch=hatch,
                    linewidth=0 if hatch is None else 1.2,
                )
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        axes.set_xlim(0, len(ordered))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=STEPS))
    grid[-1].set_xlabel("queries, from the largest gain to the largest loss")
    chart.supylabel(ylabel, fontsize=11)
    return chart


def short(value: float) -> str:
    """Returns a number with at most three significant digits; whole ones with all digits."""
    return _html.number(value if float(value).is_integer() else float(f"{value:.3g}"))


def _cut(name: str, length: int = LABEL_LENGTH) -> str:
    """Returns a name on one line, cut in the middle if it is long."""
    name = " ".join(name.encode("utf-8", "replace").decode().split())
    if len(name) <= length:
        return name
    head = length // 2
    return f"{name[:head]}…{name[head + 1 - length :]}"
