"""Queries of any form, and retrievers that give odd results."""

import numpy as np
import pyterrier as pt
import pytest
from bad_input import (
    CORPUS,
    LONG,
    NAN,
    WORDS,
    Error,
    Finds,
    bm25_over_corpus,
    frame,
    gives,
    queries,
    rows,
)

from pyterrier_inpars import NegativeMiner, RoundTripFilter
from pyterrier_inpars._retrieval import retrieve

pisa = pytest.importorskip("pyterrier_pisa")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bm25(tmp_path_factory):
    return bm25_over_corpus(tmp_path_factory.mktemp("index"))


@pytest.mark.parametrize(
    "query, same",
    rows(
        ("x", ""),
        (WORDS[0], WORDS[0]),
        (f"{WORDS[0]}\x00{WORDS[1]}", f"{WORDS[0]} {WORDS[1]}"),
        (f"+{WORDS[0]} -{WORDS[1]}^9", f"{WORDS[0]} {WORDS[1]} 9"),
        (f"{WORDS[0]}:{WORDS[1]}~2 && || !", f"{WORDS[0]} {WORDS[1]} 2"),
        (f"😀{WORDS[0]}\u202e", WORDS[0]),
        (LONG, " ".join(WORDS)),
    ),
)
def test_queries_of_any_form_are_searched(bm25, query, same):
    """PISA finds the same for a query as for its words, in the same order."""
    hits = dict(retrieve(bm25, frame({"qid": "q", "query": query}), 10))
    plain = dict(retrieve(bm25, frame({"qid": "q", "query": same}), 10))
    found = [list(h["docno"]) for h in hits.values()]
    if query is LONG:  # whose words do not all stand in it as often
        assert len(found[0]) == 10
    else:
        assert found == [list(h["docno"]) for h in plain.values()]


SCORED = ("qid", "docno", "score")


@pytest.mark.parametrize(
    "retriever, kept, negatives",
    [
        # kept by the round trip; docnos of the negatives that the miner draws from all ranks
        pytest.param(Finds(), [], [], id="nothing"),
        pytest.param(Finds(columns=()), [], [], id="nothing, no columns"),
        pytest.param(Finds(("q1", "d1", 0)), ["q1"], [], id="fewer than asked"),
        pytest.param(
            Finds(("q1", "other", 0), ("q1", "d1", 1)), [], [], id="a docno of no collection"
        ),
        pytest.param(
            Finds(("q1", "d1", 0), ("q1", "d1", 0), ("q1", "d5", 1), ("q1", "d5", 1)),
            ["q1"],
            ["d5"],
            id="rows doubled",
        ),
        pytest.param(
            Finds(("q1", "d5", 1), ("q1", "d1", 0), ("q2", "d2", 0)),
            ["q1", "q2"],
            ["d5"],
            id="rows in disorder",
        ),
        pytest.param(
            Finds(("q1", "d5", "1"), ("q1", "d1", "0")), ["q1"], ["d5"], id="ranks as text"
        ),
        pytest.param(
            Finds(("q1", "d5", -np.inf), ("q1", "d1", np.inf), columns=SCORED),
            ["q1"],
            ["d5"],
            id="infinite scores",
        ),
        pytest.param(Finds(("q1", "d1", -7)), ["q1"], [], id="a rank below 0"),
        *(
            pytest.param(
                Finds(*found, columns=columns), Error(message, kind), None, id=message[:40]
            )
            for found, columns, message, kind in [
                (
                    [("q1", "d1", "first")],
                    Finds().columns,
                    "rank is not a number.*'first'",
                    ValueError,
                ),
                ([("q1", "d1", NAN)], Finds().columns, "rank is not a number.*q1.*d1", ValueError),
                ([("q1", "d1", None)], SCORED, "score is not a number", ValueError),
                (
                    [("q1", 7, 0)],
                    Finds().columns,
                    "docnos of the ret.* strings, not int",
                    ValueError,
                ),
                ([("q1", None, 0)], Finds().columns, "docnos .* strings, not mixed", ValueError),
                (
                    [("q1", 7, 0), ("q1", "d1", 1)],
                    Finds().columns,
                    "strings, not mixed-i",
                    ValueError,
                ),
                ([(1, "d1", 0)], Finds().columns, "returned an unknown qid: .*1", ValueError),
                ([("q9", "d1", 0)], Finds().columns, "returned an unknown qid: 'q9'", ValueError),
                ([("q1", "d1")], ("qid", "docno"), "have no score, only qid, docno", ValueError),
                ([("q1", 0)], ("qid", "rank"), "have no docno, only qid, rank", ValueError),
                (
                    [("q1", "d1", "d1", 0)],
                    ("qid", "docno", "docno", "rank"),
                    "two columns",
                    ValueError,
                ),
                ([None], (), "must return a DataFrame, not None", TypeError),
                ([[]], (), r"must return a DataFrame, not \[\]", TypeError),
                (["d1"], (), "must return a DataFrame, not 'd1'", TypeError),
            ]
        ),
    ],
)
def test_odd_retrievers(retriever, kept, negatives):
    gives(lambda: RoundTripFilter(retriever, 1)(queries())["qid"].to_list(), kept)
    miner = NegativeMiner(retriever, texts=lambda: iter(CORPUS))
    expected = kept if negatives is None else negatives
    gives(lambda: miner(queries()).query("label == 0")["docno"].to_list(), expected)


def test_an_error_of_the_retriever_itself_comes_through():
    def fail(results):
        raise RuntimeError("the engine is down")

    failing = pt.apply.generic(fail)
    with pytest.raises(RuntimeError, match="the engine is down"):
        RoundTripFilter(failing)(queries())
