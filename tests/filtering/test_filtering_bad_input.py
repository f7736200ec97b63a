"""Bad input of the filters."""

import re

import numpy as np
import pandas as pd
import pytest
from bad_input import (
    CORPUS,
    LONG,
    NAN,
    NO_FRACTION,
    NO_NUMBER,
    NO_STRING,
    NOT_ONE_OR_MORE,
    NOT_ZERO_OR_MORE,
    WORDS,
    Error,
    bm25_over_corpus,
    gives,
    is_no_string,
    queries,
    rows,
)

from pyterrier_inpars import (
    CopyFilter,
    DuplicateFilter,
    FalseNegativeFilter,
    LengthFilter,
    RoundTripFilter,
    ScoreFilter,
)

pisa = pytest.importorskip("pyterrier_pisa")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bm25(tmp_path_factory):
    return bm25_over_corpus(tmp_path_factory.mktemp("index"))


@pytest.mark.parametrize(
    "changes, kept",
    rows(
        *is_no_string("qid"),
        *NO_NUMBER,
        *(({"score": missing}, ["q1"]) for missing in (None, NAN, pd.NaT)),
        ({"score": 5}, ["q2"]),
        ({"score": "5"}, ["q2"]),
        ({"score": float("inf")}, ["q2"]),
        ({"score": -float("inf")}, ["q1"]),
        ({"score": -1.0}, ["q1"]),
        ({"qid": "q0", "score": -1.0}, ["q0"]),
    ),
)
def test_score_filter(changes, kept):
    gives(lambda: ScoreFilter(1)(queries(**changes))["qid"].to_list(), kept)


@pytest.mark.parametrize(
    "changes, kept",
    rows(
        *is_no_string("query"),
        ({"query": ""}, ["q1"]),
        ({"query": " \n"}, ["q1"]),
        ({"query": "x"}, ["q1"]),
        ({"query": "\u2028 a \x85 b \t c"}, ["q1", "q2"]),
        ({"query": LONG}, ["q1"]),
        ({"query": "日本語の文書"}, ["q1", "q2"]),
        ({"query": "日本。？"}, ["q1"]),
    ),
)
def test_length_filter(changes, kept):
    gives(lambda: LengthFilter(3, 100)(queries(**changes))["qid"].to_list(), kept)


@pytest.mark.parametrize(
    "value, kept",
    rows(
        *((v, Error("log_probs must be a list, but is")) for v in (7, "-1 -1 -1", b"x")),
        *((v, ["q1"]) for v in (None, NAN)),
        ([], ["q1"]),
        (np.array([-1.0] * 3), ["q1", "q2"]),
        ((-1.0, -1.0, -1.0), ["q1", "q2"]),
    ),
)
def test_length_filter_in_tokens(value, kept):
    changed = queries().astype(object)
    changed.at[1, "log_probs"] = value
    gives(lambda: LengthFilter(0, min_tokens=3)(changed)["qid"].to_list(), kept)


@pytest.mark.parametrize(
    "changes, kept",
    rows(
        *is_no_string("query"),
        *is_no_string("text"),
        ({"query": ""}, ["q2"]),
        ({"query": "?!"}, ["q2"]),
        ({"query": CORPUS[2]["text"].upper() + "?"}, []),
        ({"query": WORDS[0][:2]}, ["q2"]),
        ({"text": ""}, ["q2"]),
        ({"text": "a\n" + CORPUS[2]["text"].replace(" ", "\n") + " b"}, []),
    ),
)
def test_copy_filter(changes, kept):
    gives(lambda: CopyFilter()(queries(**changes))["qid"].to_list(), kept)


@pytest.mark.parametrize(
    "changes, kept",
    rows(
        *is_no_string("query"),
        ({"query": "  " + CORPUS[1]["text"].upper() + "\n"}, ["q1"]),
        ({"query": CORPUS[1]["text"] + "?"}, ["q1", "q2"]),
    ),
)
def test_duplicate_filter(changes, kept):
    gives(lambda: DuplicateFilter()(queries(**changes))["qid"].to_list(), kept)


@pytest.mark.parametrize(
    "changes, kept",
    rows(
        *is_no_string("qid"),
        *is_no_string("query"),
        *is_no_string("docno"),
        ({"qid": "q1"}, Error("duplicate qid 'q1'")),
        ({"query": ""}, ["q1"]),
        ({"query": "\x00 \u202e ?"}, ["q1"]),
        ({"query": "x"}, ["q1"]),
        ({"query": CORPUS[2]["text"]}, ["q1", "q2"]),
        ({"query": "\n".join(CORPUS[2]["text"].split())}, ["q1", "q2"]),
        ({"query": f"#combine({CORPUS[2]['text']}) AND NOT *"}, ["q1", "q2"]),
        ({"query": '"' + CORPUS[2]["text"].replace(" ", '"~3 +') + "^2"}, ["q1", "q2"]),
        ({"docno": "unknown"}, ["q1"]),
        ({"docno": "2"}, ["q1"]),
    ),
)
def test_round_trip(bm25, changes, kept):
    gives(lambda: RoundTripFilter(bm25, 1)(queries(**changes))["qid"].to_list(), kept)


EXAMPLES = pd.DataFrame(
    {"qid": ["a", "a", "b", "b"], "label": [1, 0, 1, 0], "score": [3.0, 1.0, 3.0, 4.0]}
)


@pytest.mark.parametrize(
    "column, value, kept",
    [
        ("score", 0.0, [0, 1]),
        ("score", None, Error("score is not a number at qid 'b'")),
        ("score", "low", Error("score is not a number at qid 'b'.*'low'")),
        ("label", "0", [0, 1]),
        ("label", None, Error("label is not a number at qid 'b'")),
        ("label", "negative", Error("label is not a number at qid 'b'.*'negative'")),
        ("label", 0, [0, 1]),
        ("label", 0.0, [0, 1]),
        ("qid", "c", Error("qid 'c' has no positive")),
        ("qid", 7, Error(f"qid {NO_STRING} 7")),
        ("qid", ["b"], Error(f"qid {NO_STRING} .'b'.")),
    ],
)
def test_false_negative_filter(column, value, kept):
    examples = EXAMPLES.astype(object)
    examples.at[3, column] = value
    if column == "score" and value == 0.0:
        kept = [0, 1, 2, 3]
    gives(lambda: list(FalseNegativeFilter()(examples.assign(i=range(4)))["i"]), kept)


@pytest.mark.parametrize("value", NOT_ONE_OR_MORE)
@pytest.mark.parametrize(
    "make",
    [
        lambda bm25, k: ScoreFilter(k),
        lambda bm25, k: RoundTripFilter(bm25, k),
    ],
)
def test_a_number_that_must_be_one_or_more(bm25, make, value):
    gives(
        lambda: make(bm25, value),
        Error(f"whole number of at least 1, not {re.escape(repr(value))}"),
    )


@pytest.mark.parametrize("value", NOT_ZERO_OR_MORE)
def test_a_number_that_must_be_zero_or_more(value):
    for make in (lambda: LengthFilter(value),):
        gives(make, Error("must be a whole number of at least 0, not"))


@pytest.mark.parametrize("value", NO_FRACTION)
def test_numbers_with_a_fraction(value):
    gives(lambda: FalseNegativeFilter(value), Error("margin must be a number, not"))


def test_numbers_of_numpy_are_numbers():
    assert ScoreFilter(np.int64(1))(queries())["qid"].to_list() == ["q1"]
    assert FalseNegativeFilter(np.float32(0.5)).margin == 0.5
