"""Bad systems and synthetic queries: the errors of compare, select, agreement and pseudo_qrels."""

import re

import pandas as pd
import pyterrier as pt
import pytest
from bad_input import MISSING, NO_STRING, Error, gives
from noisy_systems import Noisy, qrels_of, queries, topics_of

from pyterrier_inpars import evaluation

QUERIES = queries()
GOOD = Noisy(0.5)


def broken(topics):
    raise KeyError("index is closed")


CALLS = {
    "compare": evaluation.compare,
    "select": evaluation.select,
    "pseudo_qrels": evaluation.pseudo_qrels,
    "agreement": lambda systems, given, **options: evaluation.agreement(
        systems, given, topics_of(QUERIES), qrels_of(QUERIES), **options
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    "systems, options, expected",
    [
        ([], {}, Error("a list of one system or more")),
        (GOOD, {}, Error("a list of one system or more")),
        ([GOOD, "bm25"], {}, Error("system 1 must be a transformer.*'bm25'", TypeError)),
        ([GOOD, GOOD], {}, Error("2 systems are called .*Noisy.*give names=")),
        ([GOOD, GOOD], {"names": ["a"]}, Error("2 systems and 1 names")),
        (
            {"a": GOOD, "b": pt.apply.generic(broken)},
            {},
            Error("the system 'b' failed: .*index is closed", RuntimeError),
        ),
        (
            {"a": GOOD, "b": pt.apply.generic(lambda topics: None)},
            {},
            Error("the system 'b' failed: .*must return a DataFrame", RuntimeError),
        ),
        (
            {"a": GOOD, "b": pt.apply.generic(lambda topics: GOOD(topics)[:0])},
            {},
            Error("the system 'b' returned nothing for 60 queries"),
        ),
        (
            {"a": GOOD, "b": pt.apply.generic(lambda topics: topics)},
            {},
            Error("the system 'b' have no docno, score, only qid, query"),
        ),
    ],
)
def test_systems(call, systems, options, expected):
    gives(lambda: call(systems, QUERIES, **options), expected)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    "given, expected",
    [
        (QUERIES[:0], Error("there are no queries.*a filter may have dropped all")),
        (QUERIES.drop(columns="docno"), Error("missing_columns=.'docno'", MISSING)),
        (QUERIES.assign(qid=1), Error(f"qid {NO_STRING} 1")),
        (QUERIES.assign(query=None), Error(f"query {NO_STRING} None")),
        (QUERIES.assign(query="?!"), Error("no query has a word")),
        (QUERIES.assign(qid="q"), Error("qid 'q' has two queries, .'word number 0', ")),
        ("queries.jsonl", Error("a DataFrame is needed", TypeError)),
    ],
)
def test_queries(call, given, expected):
    gives(lambda: call([GOOD], given), expected)


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"baseline": 1}, Error("baseline must be a number from 0 to 0, not 1")),
        ({"confidence": 95}, Error("confidence must be between 0 and 1")),
        ({"by_type": True}, Error("missing_columns=.'type'", MISSING)),
        ({"perquery": True}, Error("unknown option 'perquery'", TypeError)),
        (
            {"qrels": qrels_of(QUERIES).assign(qid="x")},
            Error("judge none of the queries"),
        ),
        ({"qrels": qrels_of(QUERIES).drop(columns="label")}, Error("'label'", MISSING)),
        ({"qrels": qrels_of(QUERIES).assign(docno=3)}, Error(f"docno {NO_STRING} 3")),
    ],
)
def test_options_of_compare(options, expected):
    given = QUERIES.drop(columns="type")
    gives(lambda: evaluation.compare([GOOD], given, **options), expected)


@pytest.mark.parametrize("alpha", [0, 1, "0.05", None])
def test_alpha(alpha):
    expected = Error(f"alpha must be .*{re.escape(repr(alpha))}")
    gives(lambda: evaluation.select([GOOD], QUERIES, alpha=alpha), expected)


def test_a_frame_of_results_has_one_set_of_topics():
    results = GOOD(topics_of(QUERIES))
    with pytest.raises(TypeError, match="'b' is a frame of results.*agreement_of_values"):
        CALLS["agreement"]({"a": GOOD, "b": results}, QUERIES)


def test_topics_without_judgements():
    with pytest.raises(ValueError, match="the qrels judge none of the topics"):
        evaluation.agreement(
            {"a": GOOD, "b": Noisy(1)}, QUERIES, topics_of(QUERIES), qrels_of(queries(8, "x"))
        )


def test_overlap_needs_text():
    gives(lambda: evaluation.overlap(QUERIES.drop(columns="text")), Error("'text'", MISSING))
    gives(lambda: evaluation.overlap(pd.DataFrame(QUERIES[:0])), Error("there are no queries"))
