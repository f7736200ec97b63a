"""Bad systems and synthetic queries: the errors of compare, select, agreement and pseudo_qrels."""

import re

import pandas as pd
import pyterrier as pt
import pytest
from bad_input import MISSING, NO_STRING, Error, gives
from ir_measures import alpha_nDCG
from noisy_systems import Noisy, qrels_of, queries, topics_of

from pyterrier_inpars import evaluation

QUERIES = queries()
GOOD = Noisy(0.5)


def broken(topics):
    raise KeyError("index is closed")


def changed(**columns):
    return pt.apply.generic(lambda topics: GOOD(topics).assign(**columns))


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
        *(
            ({"a": GOOD, "b": changed(**changes)}, {}, Error(f"results of the system 'b' {reason}"))
            for changes, reason in [
                ({"score": float("nan")}, "are invalid: score is not a number at qid 'q0'"),
                ({"score": "high"}, "are invalid: score is not a number .* got 'high'"),
                ({"qid": 1}, f"are invalid: qid {NO_STRING} 1"),
                ({"docno": 1}, f"are invalid: docno {NO_STRING} 1"),
                ({"docno": "d1"}, "have docno 'd1' twice for qid 'q0': .*max_passage"),
            ]
        ),
        (
            {"a": GOOD, "b": pt.apply.generic(lambda topics: GOOD(topics).assign(qid="x")[:1])},
            {},
            Error("are for other queries, such as qid 'x': .* such as 'q0'"),
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
    gives(lambda: call([GOOD, Noisy(1)], given), expected)


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"baseline": 1}, Error("baseline must be a number from 0 to 0, not 1")),
        ({"baseline": "bm25"}, Error("baseline must be a whole number of at least 0, not 'bm25'")),
        *(
            ({"qrels": qrels_of(QUERIES).assign(label=label)}, Error(f"label {reason}"))
            for label, reason in [
                (0.5, "must be a whole number, but is 0.5 at qid 'q0', docno 'd0'"),
                (float("inf"), "must be a whole number, but is inf"),
                (float("nan"), "is not a number at qid 'q0', docno 'd0'"),
                ("relevant", "is not a number"),
            ]
        ),
        ({"confidence": 95}, Error("confidence must be above 0 and below 1")),
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


MEASURES = [
    ("P", Error("the measure P needs other parameters .invalid param cutoff.: .*P @ 10")),
    (alpha_nDCG @ 10, Error("no installed package computes the measure alpha_nDCG@10")),
    ("nDCG@@10", Error("a measure must be one of ir_measures.*'nDCG@@10'", TypeError)),
    (10, Error("a measure must be one of ir_measures.*10", TypeError)),
    (None, Error("a measure must be one of ir_measures.*None", TypeError)),
]


@pytest.mark.parametrize("measure, expected", MEASURES)
@pytest.mark.parametrize("call", ["compare", "select", "agreement"])
def test_measures_are_checked_before_a_system_runs(call, measure, expected):
    systems = {"a": Noisy(0.5), "b": Noisy(1)}
    name = "measures" if call == "compare" else "measure"
    gives(lambda: CALLS[call](systems, QUERIES, **{name: measure}), expected)
    assert [system.calls for system in systems.values()] == [0, 0]


def test_no_measures():
    gives(lambda: evaluation.compare([GOOD], QUERIES, []), Error("measures is empty"))


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"baseline": 2}, Error("baseline must be a number from 0 to 1")),
        ({"alpha": 0}, Error("alpha must be above 0 and below 1")),
        ({"correction": "none at all"}, Error("correction must be one of statsmodels.*'none at")),
    ],
)
def test_options_of_agreement_are_checked_before_a_system_runs(options, expected):
    systems = [Noisy(0.5), Noisy(1)]
    gives(lambda: CALLS["agreement"](systems, QUERIES, **options), expected)
    assert [system.calls for system in systems] == [0, 0]


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"qid": 1}, Error(f"qid {NO_STRING} 1")),
        ({"query": None}, Error(f"query {NO_STRING} None")),
        ({"qid": "q0"}, Error("topic 'q0' occurs twice")),
    ],
)
def test_human_topics(changes, expected):
    topics = topics_of(QUERIES).assign(**changes)
    systems = [GOOD, Noisy(1)]
    gives(
        lambda: evaluation.agreement(systems, QUERIES, topics, qrels_of(QUERIES)),
        expected,
    )


def test_agreement_of_one_system():
    gives(lambda: CALLS["agreement"]([GOOD], QUERIES), Error("needs two systems or more, not 1"))


@pytest.mark.parametrize(
    "values, expected",
    [
        ([1, 2], Error("a DataFrame is needed", TypeError)),
        (
            pd.DataFrame([["high", 1]], columns=["a", "b"]),
            Error("values of 'a' are not all finite"),
        ),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), Error("two columns are called 'a'")),
    ],
)
def test_values(values, expected):
    good = pd.DataFrame([[1.0, 2.0]], columns=["a", "b"])
    gives(lambda: evaluation.agreement_of_values(values, good), expected)
    gives(lambda: evaluation.agreement_of_values(good, values), expected)
