"""Bad input of the miner."""

import re

import pytest
from bad_input import (
    CORPUS,
    HALF,
    LONG,
    NOT_ONE_OR_MORE,
    NOT_ZERO_OR_MORE,
    Error,
    Finds,
    bm25_over_corpus,
    gives,
    is_no_string,
    queries,
    rows,
)

from pyterrier_inpars import NegativeMiner

pisa = pytest.importorskip("pyterrier_pisa")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bm25(tmp_path_factory):
    return bm25_over_corpus(tmp_path_factory.mktemp("index"))


@pytest.mark.parametrize(
    "changes, labels",
    rows(
        *is_no_string("qid"),
        *is_no_string("docno"),
        *is_no_string("text"),
        *is_no_string("query"),
        ({"qid": "q1"}, Error("duplicate qid 'q1'")),
        (
            {"qid": "q1", "query": CORPUS[1]["text"], "docno": "d1"},
            Error("duplicate docno 'd1' for qid 'q1': give each positive once"),
        ),
        ({"query": ""}, [1, 0]),
        ({"query": LONG}, [1, 0, 1, 0]),
        ({"text": ""}, [1, 0, 1, 0]),
        ({"docno": "unknown", "text": "x"}, [1, 0, 1, 0]),
    ),
)
def test_mining(bm25, changes, labels):
    miner = NegativeMiner(bm25, depth=10, texts=lambda: iter(CORPUS))
    gives(lambda: miner(queries(**changes))["label"].to_list(), labels)


@pytest.mark.parametrize(
    "texts, mined",
    [
        pytest.param(lambda: iter([]), 0, id="no documents"),
        pytest.param(lambda: ({**d, "text": None} for d in CORPUS), 0, id="None"),
        pytest.param(lambda: ({**d, "text": 7} for d in CORPUS), 0, id="numbers"),
        pytest.param(lambda: ({**d, "text": ""} for d in CORPUS), 4, id="empty texts"),
        pytest.param(
            lambda: ({**d, "text": HALF} for d in CORPUS),
            Error("text contains the lone surrogate"),
            id="half",
        ),
        pytest.param(
            lambda: ({"text": "a"} for _ in "ab"), Error("dicts with docno"), id="no docno"
        ),
        pytest.param(lambda: ({"docno": i} for i in range(3)), Error("docno, a string"), id="int"),
        pytest.param(
            lambda: ({"docno": d["docno"]} for d in CORPUS),
            Error("no column 'text', only docno"),
            id="no text",
        ),
        pytest.param(lambda: iter(["a"]), Error("must yield .* as dicts.*'a'"), id="strings"),
        pytest.param(
            lambda: None, Error("an iterator over documents, not None", TypeError), id="none"
        ),
        pytest.param(
            Finds(("d5",), columns=["docno"]), Error("no column 'text', only docno"), id="loader"
        ),
        pytest.param(
            Finds(("x",), columns=["text"]), Error("no column 'docno', only text"), id="loader 2"
        ),
        pytest.param(
            Finds(None), Error("must return a DataFrame, not None", TypeError), id="loader of None"
        ),
        pytest.param(CORPUS, Error("texts must be a text loader", TypeError), id="a list"),
        pytest.param(
            "corpus.jsonl",
            Error("texts must be a text loader.*not 'corpus", TypeError),
            id="a path",
        ),
        pytest.param(
            None, Error("no column 'text', only docno.*set texts= to a text loader"), id="nothing"
        ),
    ],
)
def test_odd_sources_of_texts(bm25, texts, mined):
    gives(lambda: len(NegativeMiner(bm25, depth=10, texts=texts)(queries())), mined)


@pytest.mark.parametrize("value", NOT_ONE_OR_MORE)
@pytest.mark.parametrize(
    "make",
    [
        lambda bm25, k: NegativeMiner(bm25, num_negatives=k),
        lambda bm25, k: NegativeMiner(bm25, depth=k),
        lambda bm25, k: NegativeMiner(bm25, batch_size=k),
    ],
)
def test_a_number_that_must_be_one_or_more(bm25, make, value):
    gives(
        lambda: make(bm25, value),
        Error(f"whole number of at least 1, not {re.escape(repr(value))}"),
    )


@pytest.mark.parametrize("value", NOT_ZERO_OR_MORE)
def test_a_number_that_must_be_zero_or_more(bm25, value):
    for make in (
        lambda: NegativeMiner(bm25, seed=value),
        lambda: NegativeMiner(bm25, skip=value),
    ):
        gives(make, Error("must be a whole number of at least 0, not"))


@pytest.mark.parametrize(
    "options, error",
    rows(
        (
            {"relative_margin": 1.5},
            Error("relative_margin must be at least 0 and at most 1, not 1.5"),
        ),
        ({"relative_margin": "5%"}, Error("relative_margin must be a number, not '5%'")),
        ({"random_share": -0.1}, Error("random_share must be at least 0 and at most 1, not -0.1")),
        ({"min_score": float("nan")}, Error("min_score must be a number, not nan")),
        ({"max_score": None, "min_score": "1"}, Error("min_score must be a number, not '1'")),
        ({"min_score": 2, "max_score": 1}, Error("min_score must be at most max_score.* 1, not 2")),
        ({"sampling_strategy": "best"}, Error("must be 'random' or 'top', not 'best'")),
        ({"random_share": 1}, Error("draws from all documents, but None cannot list them: set")),
        ({"random_share": 1, "texts": Finds()}, Error(r"but Finds\(\) cannot list them")),
    ),
)
def test_options(bm25, options, error):
    gives(lambda: NegativeMiner(bm25, **options), error)


def test_lists_of_retrievers(bm25):
    gives(lambda: NegativeMiner([]), Error("a retriever or a list of some, not an empty list"))
    gives(
        lambda: NegativeMiner([bm25, "bm25"]),
        Error("must be a PyTerrier transformer, not 'bm25'", TypeError),
    )


def test_results_without_scores():
    ranks = Finds(("q1", "d3", 0), ("q2", "d3", 0))
    miner = NegativeMiner(ranks, texts=lambda: iter(CORPUS), min_score=1)
    gives(lambda: miner(queries()), Error(r"Finds\(\) returns no column 'score', which min_score"))
