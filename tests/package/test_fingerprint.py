"""Descriptions of functions in settings: the same in every process, without addresses."""

import functools
import operator
import re
import subprocess
import sys
import weakref

import pytest

from pyterrier_inpars._fingerprint import describe_function


def last(text, separator):
    return text.rpartition(separator)[2]


class After:
    """The text after a marker; counts its calls."""

    def __init__(self, marker):
        self.marker, self.calls = marker, 0

    def __call__(self, text):
        self.calls += 1
        return text.partition(self.marker)[2]

    def first(self, text):
        return text.partition(self.marker)[0]


class Unhashable(After):
    __hash__ = None


def after(marker, known=frozenset({"a", "b", "c", "d"})):
    return lambda text: text.partition(marker)[2] if text not in {"x", "y", "z"} | known else ""


def logged(function):
    @functools.wraps(function)
    def call(text):
        return function(text)

    return call


def containing_itself(marker):
    found = After([marker])
    found.marker.append(found.marker)
    return found


PAIRS = {  # two functions that differ, made anew by each call
    "lambdas": lambda: (lambda text: text.lower(), lambda text: text.upper()),
    "constants": lambda: (lambda text: text[:1], lambda text: text[:2]),
    "closures": lambda: (after("Query:"), after("Q:")),
    "partials": lambda: (functools.partial(last, separator=":"), functools.partial(last, "x")),
    "objects": lambda: (After("Query:"), After("Q:")),
    "methods": lambda: (After("Query:").first, After("Q:").first),
    "patterns": lambda: (re.compile("a").findall, re.compile("b").findall),
    "built-in": lambda: (str.lower, str.upper),
    "wrapped": lambda: (logged(lambda text: text.lower()), logged(lambda text: text.upper())),
    "cached": lambda: (functools.cache(after("Query:")), functools.cache(after("Q:"))),
    "several kinds of keys": lambda: (After({1: "a", "b": 2}), After({1: "a", "b": 3})),
    "keys that are no strings": lambda: (After({("a", 1): 2}), After({("a", 2): 2})),
    "contain themselves": lambda: (containing_itself("a"), containing_itself("b")),
    "of no hash": lambda: (Unhashable("Query:"), Unhashable("Q:")),
    "bytes patterns": lambda: (After(re.compile(b"a")), After(re.compile(b"b"))),
    "methods of strings": lambda: ("a".split, "b".split),
    "itemgetters": lambda: (operator.itemgetter(0), operator.itemgetter(1)),
}


@pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS)
def test_functions_are_told_apart_and_recognized(make):
    first, second = map(describe_function, make())
    assert first != second
    assert [first, second] == list(map(describe_function, make()))
    assert "0x" not in str(first)


def test_descriptions_are_the_same_in_another_process():
    code = (
        f"import sys; sys.path.insert(0, {str(sys.path[0])!r}); import test_fingerprint as t\n"
        "print([list(map(t.describe_function, make())) for make in t.PAIRS.values()])"
    )
    here = __file__.rpartition("test_fingerprint")[0]
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True
    )
    assert eval(found.stdout) == [list(map(describe_function, make())) for make in PAIRS.values()]


def test_a_state_that_changes_is_that_of_the_first_time():
    function = After("Query:")
    before = describe_function(function)
    function("Query: a")
    assert describe_function(function) == before


def test_a_function_is_named():
    assert describe_function(last)["function"] == f"{__name__}.last"
    assert describe_function(functools.partial(last))["function"] == f"{__name__}.last"
    assert describe_function(str.lower)["function"] == "builtins.str.lower"
    assert describe_function("a".split)["function"] == "builtins.str.split"
    assert describe_function(Unhashable("a"))["function"] == f"{__name__}.Unhashable"


def test_a_variable_without_a_value_yet():
    def make(number):
        def function(text):
            return later if number else None

        found = describe_function(function)
        later = number
        return found

    assert make(1)["hash"] == make(1)["hash"] != make(2)["hash"]


def test_a_function_that_calls_itself():
    def make(step):
        def function(text):
            return function(text[step:]) if text else ""

        return describe_function(function)

    assert make(1) == make(1) != make(2)


def test_functions_are_not_kept():
    function = After("Query:")
    describe_function(function)
    gone = weakref.ref(function)
    del function
    assert gone() is None
    assert len({describe_function(After(str(i)))["hash"] for i in range(9)}) == 9
