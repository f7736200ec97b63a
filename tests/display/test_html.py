"""Tests of the HTML that notebooks show: every text is escaped, and nothing is loaded or run."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyterrier_inpars import CopyFilter
from pyterrier_inpars import _html as html

NASTY = '<script>alert(1)</script> & "quoted" \ud800'
TAGS = {"div", "style", "table", "caption", "thead", "tbody", "tr", "th", "td", "pre"}
TAGS |= {"svg", "title", "g", "rect", "text", "path"}


class Page(HTMLParser):
    """Reads HTML: the text of each cell, the tags, and whether each one is closed."""

    def __init__(self, source):
        super().__init__()
        self.cells, self.tags, self.attributes, self.open, self.shown = [], set(), [], [], ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.shown += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


def test_everything_is_escaped_and_nothing_runs():
    frame = pd.DataFrame([[NASTY]], columns=pd.Index([NASTY], dtype=object), dtype=object)
    page = Page(
        html.card(
            NASTY,
            NASTY,
            html.facts({NASTY: NASTY, "none": None, "count": 1234}),
            html.table(frame, caption=NASTY),
            html.histogram([1, 2, 2, 9], NASTY),
            html.preformatted(NASTY, label=NASTY),
        )
    )
    assert page.tags <= TAGS
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "href"]
    assert page.shown.count("<script>alert(1)</script>") == 11
    assert page.shown.encode() and "1,234" in page.cells and "none" not in page.cells


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), min_size=1))
def test_cells_show_the_texts(texts):
    page = Page(html.table(pd.DataFrame({"query": texts})))
    assert page.cells == ["query", *texts]


@pytest.mark.parametrize(
    "value, shown",
    [
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (-2.0, "-2"),
        (123456.7, "123,457"),
        (float("inf"), "inf"),
        (float("nan"), ""),
        (None, ""),
        (pd.NA, ""),
        (True, "True"),
        ([-0.5, -1.25, -3, 4, 5], "[-0.5, -1.25, -3, 4, …]"),
        (np.array([1.5]), "[1.5]"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
def test_values(value, shown):
    frame = pd.DataFrame({"value": pd.Series([value], dtype=object)})
    assert Page(html.table(frame)).cells == ["value", shown]


def test_numbers_are_right_aligned():
    page = html.table(pd.DataFrame({"a": [1.5], "b": ["x"]}))
    assert page.count('class="number"') == 2


@pytest.mark.parametrize(
    ("values", "cells"),
    [
        ([0.3825, 0.444, 0.0], ["0.3825", "0.4440", "0.0000"]),
        ([0.05484, 0.0065831, 1.44e-05, np.nan], ["0.0548", "0.0066", "1.44e-05", ""]),
        ([1.0, 0.897], ["1.000", "0.897"]),
        ([12345.6, 2.5, -np.inf], ["12,346", "2.5", "-inf"]),
        ([3.0, 1200.0, np.nan], ["3", "1,200", ""]),
    ],
)
def test_fractions_of_a_column_have_equally_many_decimals(values, cells):
    for dtype in (float, "Float64"):
        frame = pd.DataFrame({"value": pd.Series(values, dtype=dtype)})
        assert Page(html.table(frame)).cells == ["value", *cells]


def test_empty_and_duplicate_columns():
    assert Page(html.table(pd.DataFrame({"a": []}))).cells == ["a"]
    frame = pd.DataFrame([[1, "x"]], columns=["a", "a"])
    assert Page(html.table(frame)).cells == ["a", "a", "1", "x"]


numbers = st.lists(
    st.one_of(
        st.integers(-(10**9), 10**9),
        st.floats(-1e9, 1e9),
        st.sampled_from([float("nan"), float("inf")]),
    )
)


@given(numbers)
def test_histogram_shows_all_numbers(values):
    page = html.histogram(values, "length")
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        assert page == ""
        return
    assert f"{len(finite):,} values from" in Page(page).shown
    assert 1 <= page.count("<rect") <= html.MAX_BARS + 1


def test_small_whole_numbers_have_a_bar_each():
    page = html.histogram([3, 4, 4, 7], "length (words)")
    assert page.count("<rect") == 5  # 3, 4, 5, 6, 7
    assert "Histogram of length (words): 4 values from 3 to 7, median 4" in page


def test_curve():
    page = html.curve([0, 5, 10, 12], [0.5, np.nan, 0.25, np.nan], "loss <by step>")
    assert page.count("<circle") == 2 and Page(page).shown
    assert "loss &lt;by step&gt;: 0.5 at 0, 0.25 at 10; lowest 0.25, highest 0.5" in page
    assert ">12</text>" in page
    assert html.curve([0, 5], [1.0, np.nan], "loss") == ""
    assert "nan" not in html.curve([1, 2], [3, 3], "constant")


def test_empty_parts_are_left_out():
    assert html.card("x", "", html.Html("")).count('class="part"') == 0


def test_schematic_can_be_switched_off(monkeypatch):
    assert "CopyFilter" in html.schematic(CopyFilter())
    monkeypatch.setenv("PYTERRIER_DISABLE_NOTEBOOK_SCHEMATIC", "1")
    assert html.schematic(CopyFilter()) == ""


def test_what_cannot_be_drawn_has_no_schematic():
    assert html.schematic(object()) == ""
