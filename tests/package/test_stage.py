"""Stage: validation, empty input, repr; and the checks of frames and numbers."""

import importlib
import inspect
import pkgutil
import re

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

import pyterrier_inpars
from pyterrier_inpars._arguments import finite, one_of, positive_int
from pyterrier_inpars._stage import Stage, check_strings, input_modes, is_missing


class Keep(Stage):
    def __init__(self, k, least=1, most=None, *, field="text"):
        self.k, self.least, self.most, self.field = k, least, most, field

    def _required_columns(self):
        return ["docno", self.field]

    def _output_columns(self, columns):
        return [*columns, "kept"]

    def _transform(self, inp):
        assert len(inp) and list(inp.index) == list(range(len(inp)))
        return inp.assign(kept=True)


class Bare(Stage):
    def _required_columns(self):
        return []


class Options(Stage):
    def __init__(self, name, *, k=1, **options):
        self.name, self.k, self._options = name, k, options

    def _required_columns(self):
        return []


FRAME = pd.DataFrame({"docno": ["a", "b"], "text": ["x", "y"]}, index=[7, 7])


@pytest.mark.parametrize(
    "stage, text",
    [
        (Keep(3), "Keep(3)"),
        (Keep(3, 1, None), "Keep(3)"),
        (Keep(3, 2), "Keep(3, 2)"),
        (Keep(3, most=8), "Keep(3, most=8)"),
        (Keep(3, field="body"), "Keep(3, field='body')"),
        (Keep(FRAME), "Keep(<2 rows>)"),
        (Bare(), "Bare()"),
        (Options("x"), "Options('x')"),
        (Options("x", dtype="int8", k=2), "Options('x', k=2, dtype='int8')"),
    ],
)
def test_repr_rebuilds_the_stage(stage, text):
    assert repr(stage) == text


def test_keyword_options_survive_inspection():
    stage = Options("x", dtype="int8")
    assert repr(pt.inspect.transformer_apply_attributes(stage, k=2)) == (
        "Options('x', k=2, dtype='int8')"
    )


def test_columns_are_checked_before_the_shortcut_for_no_rows():
    with pytest.raises(pt.validate.InputValidationError, match="'body'"):
        Keep(1, field="body")(FRAME.iloc[:0])
    assert pt.inspect.transformer_inputs(Keep(1)) == [["docno", "text"]]
    assert pt.inspect.transformer_outputs(Keep(1), ["docno", "text", "x"])[-2:] == ["x", "kept"]


def test_no_rows_and_no_records_pass_through():
    assert list(Keep(1)(FRAME.iloc[:0]).columns) == ["docno", "text", "kept"]
    assert Keep(1)([]) == []
    assert list(Keep(1)(FRAME).columns) == list(Keep(1)(FRAME.iloc[:0]).columns)


def test_records_are_transformed_as_a_frame():
    assert Keep(1)(FRAME.to_dict("records")) == Keep(1)(FRAME).to_dict("records")


@pytest.mark.parametrize("value", [None, float("nan"), 7, b"x", ["x"]])
def test_a_value_that_is_not_a_string_is_named(value):
    frame = pd.DataFrame({"docno": ["a", "b"], "text": ["x", value]})
    with pytest.raises(ValueError, match="text must be a string.*docno 'b'"):
        check_strings(frame, "docno", "text")
    with pytest.raises(ValueError, match="docno must be a string.*row 0"):
        check_strings(pd.DataFrame({"docno": [value]}), "docno")


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", None, True])
def test_numbers_out_of_range(value):
    with pytest.raises(ValueError, match=r"k must be a whole number of at least 1, not"):
        positive_int("k", value)
    assert positive_int("k", 4) == 4


@pytest.mark.parametrize(
    "bounds, inside, outside, shown",
    [
        ({"above": 0}, [1e-9, 7], [0, -1], "above 0"),
        ({"least": 0}, [0, 7], [-1e-9], "at least 0"),
        ({"below": 1}, [-7, 0.999], [1, 2], "below 1"),
        ({"most": 0.5}, [-7, 0.5], [0.51], "at most 0.5"),
        ({"above": 0, "most": 1}, [0.1, 1], [0, 1.1], "above 0 and at most 1"),
    ],
)
def test_numbers_within_bounds(bounds, inside, outside, shown):
    assert [finite("x", value, **bounds) for value in inside] == inside
    for value in outside:
        with pytest.raises(ValueError, match=re.escape(f"x must be {shown}, not {value!r}")):
            finite("x", value, **bounds)
    for value in (float("nan"), float("inf"), "1", None, True):
        with pytest.raises(ValueError, match="x must be a number, not"):
            finite("x", value, **bounds)


@pytest.mark.parametrize("value", ["c", "", None, 3, ["a"]])
def test_a_name_of_a_choice(value):
    assert one_of("x", "b", ("a", "b")) == "b"
    with pytest.raises(ValueError, match=re.escape(f"x must be 'a' or 'b', not {value!r}")):
        one_of("x", value, ("a", "b"))


def test_sets_of_columns_begin_with_the_largest():
    assert input_modes(["a"], ["b"], ["c"]) == [["b", "a", "c"], ["b", "a"], ["a"]]
    assert input_modes(["a", "b"], ["a", "b"]) == [["a", "b"]]


def stages():
    """All classes of stages of the package, by name."""
    for module in pkgutil.walk_packages(pyterrier_inpars.__path__, "pyterrier_inpars."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, waiting = {}, [Stage]
    while waiting:
        waiting += (children := waiting.pop().__subclasses__())
        found |= {c.__name__: c for c in children if c.__module__.startswith("pyterrier_inpars.")}
    return found


def test_the_counts_of_workers_are_all_counts():
    """Each attribute that counts over all calls is among those that `distributed` adds."""
    counts = {}
    for name, stage in stages().items():
        attributes = inspect.cleandoc(stage.__doc__).partition("Attributes:")[2]
        public = re.findall(r"^ {4}(\w+): Number of", attributes.partition("\nRaises")[0], re.M)
        own = {count for count in public if not isinstance(getattr(stage, count, None), property)}
        counts[name] = own - set(stage._counters)
    assert len(counts) > 20 and not any(counts.values()), counts


@pytest.mark.parametrize("value", [float("nan"), np.float32("nan"), pd.NA, pd.NaT])
def test_what_pandas_sets_is_missing(value):
    assert is_missing(value)


@pytest.mark.parametrize("value", [None, 0, 10**400, -(10**400), float("inf"), True, "nan", []])
def test_other_values_are_not_missing(value):
    assert not is_missing(value)
