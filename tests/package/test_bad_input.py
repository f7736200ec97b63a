"""What a user may get wrong, as a table: each input, and the error or the result that it gives.

An error must be one that this package raises, with the offending value in it (see ``gives``);
a result is compared whole.
"""

import gzip
import json
import re
import shutil
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny
import tiny_llm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyterrier_inpars
from pyterrier_inpars import (
    CopyFilter,
    CrossEncoder,
    DuplicateFilter,
    FalseNegativeFilter,
    FewShotPrompt,
    LengthFilter,
    MonoT5,
    NegativeMiner,
    Prompt,
    QueryGenerator,
    QueryLikelihood,
    RerankTop,
    RoundTripFilter,
    ScoreFilter,
    StaticPrompt,
    SyntheticQueries,
    cli,
    datasets,
    evaluation,
    load_prompt,
)
from pyterrier_inpars._retrieval import retrieve
from pyterrier_inpars.datasets import toolkit_files as formats
from pyterrier_inpars.rerankers import load_reranker
from pyterrier_inpars.training.examples import check_examples

pisa = pytest.importorskip("pyterrier_pisa")
pytestmark = pytest.mark.usefixtures("one_thread")

OURS = (str(Path(pyterrier_inpars.__file__).parent), pt.validate.__file__)
NAN = float("nan")
HALF = "a \ud800 b"  # a lone surrogate, as JSON can hold
MISSING = pt.validate.InputValidationError


@dataclass
class Error:
    """An error that is expected: part of its message, as a regular expression, and its type."""

    message: str
    type: type = ValueError


def gives(call, expected):
    """Checks that a call gives a result, or an error that was raised in this package."""
    if not isinstance(expected, Error):
        assert call() == expected
        return
    with pytest.raises(expected.type, match=f"(?s){expected.message}") as caught:
        call()
    where = traceback.extract_tb(caught.tb)[-1].filename
    assert where.startswith(OURS) or isinstance(caught.value, OSError), where


def rows(*cases):
    """Parameters of a test, each with a short name."""
    return [
        case if hasattr(case, "values") else pytest.param(*case, id=ascii(case[0])[:40])
        for case in cases
    ]


def frame(*records, **columns):
    return pd.DataFrame(list(records), dtype=object) if records else pd.DataFrame(columns)


# ---- documents

PROMPT = StaticPrompt("Document: {document}\nQuery:")
PLAIN = {"docno": "d1", "text": "the noise of the receiver"}
NO_STRING = "must be a string, but is"


@pytest.fixture(scope="session")
def llm(tmp_path_factory):
    return tiny_llm.save(tmp_path_factory.mktemp("llm"), "llama")


@pytest.fixture(scope="module")
def generator(llm):
    return QueryGenerator(
        llm,
        prompt=PROMPT,
        max_doc_tokens=40,
        max_new_tokens=4,
        dtype="float32",
        device="cpu",
        keep_prompt=True,
    )


TEXTS = rows(
    # a text, and what the model is shown of it: None is no query
    (None, Error(f"text {NO_STRING}.*docno 'd2': convert it with str")),
    (NAN, Error(f"text {NO_STRING} nan .float.")),
    (pd.NA, Error(f"text {NO_STRING}.*docno 'd2'")),
    (pd.NaT, Error(f"text {NO_STRING}.*docno 'd2'")),
    (7, Error(f"text {NO_STRING} 7 .int. at docno 'd2'")),
    (1.5, Error(f"text {NO_STRING} 1.5 .float.")),
    (True, Error(f"text {NO_STRING} True .bool.")),
    (b"noise", Error(f"text {NO_STRING} b'noise' .bytes.")),
    (["noise"], Error(rf"text {NO_STRING} \['noise'\] .list.")),
    ({"en": "noise"}, Error(f"text {NO_STRING} {{'en': 'noise'}} .dict.")),
    (HALF, Error(r"text holds '\\ud800', half of a character, at docno 'd2': repair it")),
    ("\udfff", Error(r"text holds '\\udfff', half of a character")),
    ("", None),
    (" \t\r\n", None),
    ("\u2028\x85\u3000\x1c", None),
    ("the\x00noise\x07 \x1b[31m", "the\x00noise\x07 \x1b[31m"),
    ("😀 👩‍👩‍👧 e\u0301", "😀 👩‍👩‍👧 e\u0301"),
    ("the\nnoise\r\nof\u2028the\x0bgain", "the noise of the gain"),
    ("{document} {query} {} {0} {x!r}", "{document} {query} {} {0} {x!r}"),
    ("a\nQuery: b\nDocument: c", "a Query: b Document: c"),
    ("<eos> <bos> <pad>", "<eos> <bos> <pad>"),
    ("\u202eעברית \u202dعربي", "\u202eעברית \u202dعربي"),
    (np.str_("the gain"), "the gain"),
    ("a" * 40, "a" * 40),
    pytest.param(("a" + " " * 9) * 1_000_000, " ".join("a" * 40), id="10 MB"),
    pytest.param("a" * 1_000_000, "a" * 40, id="a word of 1 MB"),
    pytest.param(b"a" * 10_000_000, Error(r"b'aaa[^']{,200} .bytes. at"), id="10 MB of bytes"),
)


@pytest.mark.parametrize("text, shown", TEXTS)
def test_text_of_a_document(generator, text, shown):
    documents = frame(PLAIN, {"docno": "d2", "text": text})
    both = [PLAIN["text"]] + [shown] * (shown is not None)
    expected = shown if isinstance(shown, Error) else list(map(PROMPT.build, both))
    gives(lambda: list(generator(documents)["prompt_text"]), expected)


@pytest.mark.parametrize("text, shown", TEXTS[:-3])
def test_text_of_a_document_in_a_stream(generator, tmp_path, text, shown):
    """What is stored is the text as it came, and what was stored before an error stays."""
    queries = SyntheticQueries(tmp_path / "queries", shard_size=1)
    documents = [{**PLAIN, "docno": f"p{i}"} for i in range(100)] + [{"docno": "d2", "text": text}]
    if isinstance(shown, Error):
        gives(lambda: (generator >> queries).index(iter(documents)), shown)
        (generator >> queries).index(iter(documents[:100]))
        assert len(queries) == 100
    else:
        stored = (generator >> queries).index(iter(documents)).get_results()
        assert list(stored["text"][100:]) == [text] * (shown is not None)


@pytest.mark.parametrize(
    "docno, qid",
    rows(
        # a docno, and the qid of the query written for it
        (None, Error(f"docno {NO_STRING}.*at row 1: convert it")),
        (NAN, Error(f"docno {NO_STRING} nan")),
        (7, Error(f"docno {NO_STRING} 7 .int.")),
        (7.0, Error(f"docno {NO_STRING} 7.0 .float.")),
        (True, Error(f"docno {NO_STRING} True")),
        (b"d", Error(f"docno {NO_STRING} b'd'")),
        (("d", 2), Error(rf"docno {NO_STRING} \('d', 2\) .tuple.")),
        ("\udc80", Error(r"docno holds '\\udc80', half of a character, at row 1")),
        ("007", "007-1"),
        ("7.0", "7.0-1"),
        ("1e5", "1e5-1"),
        ("-0", "-0-1"),
        ("nan", "nan-1"),
        ("None", "None-1"),
        ("", "-1"),
        (" a b ", " a b -1"),
        ("a\tb\n", "a\tb\n-1"),
        ("{document}", "{document}-1"),
        ("doc/1?x=y&z#é😀", "doc/1?x=y&z#é😀-1"),
        ("d1-1", "d1-1-1"),
    ),
)
def test_docno_of_a_document(generator, docno, qid):
    documents = frame(PLAIN, {"docno": docno, "text": "the gain"})
    gives(
        lambda: generator(documents)["qid"].to_list(),
        qid if isinstance(qid, Error) else ["d1-1", qid],
    )


COLUMNS = ["qid", "query", "docno", "text", "score", "log_probs", "finish_reason", "prompt_text"]
TWO = pd.DataFrame([PLAIN, {"docno": "d2", "text": "the gain"}])


@pytest.mark.parametrize(
    "documents, columns",
    [
        pytest.param(
            pd.DataFrame(), Error("missing_columns=.'docno', 'text'.", MISSING), id="empty"
        ),
        pytest.param(TWO[["text"]], Error("missing_columns=.'docno'.", MISSING), id="no docno"),
        pytest.param(TWO[["docno"]], Error("missing_columns=.'text'.", MISSING), id="no text"),
        pytest.param(
            TWO.rename(columns=str.upper), Error("missing_columns=.'docno'", MISSING), id="upper"
        ),
        pytest.param(
            TWO.set_axis([("docno", 1), ("text", 2)], axis=1),
            Error("missing_columns=.'docno'", MISSING),
            id="columns that are tuples",
        ),
        pytest.param(
            pd.concat([TWO, TWO[["text"]]], axis=1),
            Error("two columns are called 'text': rename or drop one"),
            id="text twice",
        ),
        pytest.param(
            TWO.assign(a=1, b=2).set_axis(["docno", "text", "a", "a"], axis=1),
            Error("two columns are called 'a'"),
            id="another column twice",
        ),
        pytest.param(TWO.iloc[:0], COLUMNS, id="no rows"),
        pytest.param(TWO.set_axis([3, 3]), COLUMNS, id="index doubled"),
        pytest.param(TWO.set_index(["docno", "text"], drop=False), COLUMNS, id="index of columns"),
        pytest.param(TWO.astype("category"), COLUMNS, id="categories"),
        pytest.param(TWO.astype("string"), COLUMNS, id="string dtype"),
        pytest.param(TWO.astype(object), COLUMNS, id="object dtype"),
        pytest.param(TWO.assign(**{"": 0}), [*COLUMNS[:4], "", *COLUMNS[4:]], id="nameless"),
        pytest.param(
            TWO.set_axis(["docno", "text"], axis=1).assign(x=0).rename(columns={"x": 7}),
            [*COLUMNS[:4], 7, *COLUMNS[4:]],
            id="a number for a column",
        ),
        pytest.param(
            TWO.assign(qid="old", query="old", score=9, log_probs=8), COLUMNS, id="results' columns"
        ),
    ],
)
def test_frames_of_documents(generator, documents, columns):
    gives(lambda: list(generator(documents).columns), columns)
    if not isinstance(columns, Error) and len(documents):
        written = generator(documents)
        assert written[["qid", "query"]].equals(generator(TWO)[["qid", "query"]])


SAME = "qid 'd1-1' came before: does the corpus hold document 'd1' twice"


@pytest.mark.parametrize(
    "corpus, stored",
    [
        pytest.param([], [], id="empty"),
        pytest.param([PLAIN], ["d1-1"], id="one"),
        pytest.param([{"text": "a"}], Error("missing_columns=.'docno'", MISSING), id="no docno"),
        pytest.param([{"docno": "a"}], Error("missing_columns=.'text'", MISSING), id="no text"),
        pytest.param([{}], Error("missing_columns", MISSING), id="empty documents"),
        pytest.param(
            [PLAIN, {"docno": "d2"}], Error(f"text {NO_STRING} nan.*'d2'"), id="one without text"
        ),
        pytest.param(
            [PLAIN, {"text": "a"}], Error(f"docno {NO_STRING} nan.*row 1"), id="one without docno"
        ),
        pytest.param(["a", "b"], Error("missing_columns", MISSING), id="texts alone"),
        pytest.param([PLAIN, PLAIN], Error(SAME), id="same docno and text"),
        pytest.param([PLAIN, {**PLAIN, "text": "the gain"}], Error(SAME), id="same docno"),
        pytest.param([PLAIN, {**PLAIN, "docno": "d2"}], ["d1-1", "d2-1"], id="same text"),
        pytest.param([{**PLAIN, "text": " "}] * 2, [], id="same docno, no text"),
    ],
)
def test_corpora(generator, tmp_path, corpus, stored):
    queries = SyntheticQueries(tmp_path / "queries")
    gives(lambda: list((generator >> queries).index(iter(corpus)).get_topics()["qid"]), stored)
    if isinstance(stored, list):
        assert list(queries.get_results().columns[:4]) == ["qid", "query", "docno", "text"]


# ---- synthetic queries, filters and examples

WORDS = [a + b + c for a in ("bal", "cor") for b in ("da", "fu", "ki") for c in ("ne", "rop", "st")]
CORPUS = [
    {"docno": f"d{i}", "text": " ".join(WORDS[(i * j + i) % 18] for j in range(1, 8))}
    for i in range(40)
]
LONG = " ".join(WORDS[i % 18] for i in range(5_000))


@pytest.fixture(scope="module")
def bm25(tmp_path_factory):
    index = pisa.PisaIndex(str(tmp_path_factory.mktemp("index") / "pisa"), text_field="text")
    index.index(CORPUS)
    return index.bm25()


def queries(**changes):
    """Queries q1 and q2, the words of d1 and d2; of the columns named, q2 has these values."""
    two = frame(*({"qid": f"q{i}", "query": CORPUS[i]["text"], **CORPUS[i], "score": float(-i),
                   "log_probs": [-1.0] * 7, "label": 2 - i} for i in (1, 2)))  # fmt: skip
    for column, value in changes.items():
        two[column] = pd.Series([two[column][0], value], dtype=object)
    return two


def is_no_string(column):
    at = "docno 'd2'" if column == "qid" else "qid 'q2'"
    return rows(
        *(
            ({column: value}, Error(f"{column} {NO_STRING} .*{at}"))
            for value in (None, 7, b"x", ["x"])
        ),
        ({column: HALF}, Error(rf"{column} holds '\\ud800'.*{at}")),
    )


NO_NUMBER = rows(
    *(
        ({"score": value}, Error("score is not a number at qid 'q2'.*but .*: score it or drop"))
        for value in (None, NAN, "", "high", b"x", [1.0], {}, pd.NaT)
    )
)


@pytest.mark.parametrize(
    "changes, kept",
    rows(
        *is_no_string("qid"),
        *NO_NUMBER,
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
        ({"query": "日本語の文書"}, ["q1"]),
    ),
)
def test_length_filter(changes, kept):
    gives(lambda: LengthFilter(3, 100)(queries(**changes))["qid"].to_list(), kept)


@pytest.mark.parametrize(
    "value, kept",
    rows(
        *((v, Error("log_probs must be a list, but is")) for v in (None, NAN, 7, "-1 -1 -1", b"x")),
        ([], ["q1"]),
        (np.array([-1.0] * 3), ["q1", "q2"]),
        ((-1.0, -1.0, -1.0), ["q1", "q2"]),
    ),
)
def test_length_filter_in_tokens(value, kept):
    changed = queries(log_probs=None)
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
        ({"qid": "q1"}, Error("qid 'q1' stands twice")),
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


@pytest.mark.parametrize(
    "changes, labels",
    rows(
        *is_no_string("qid"),
        *is_no_string("docno"),
        *is_no_string("text"),
        *is_no_string("query"),
        ({"qid": "q1"}, Error("qid 'q1' stands twice")),
        ({"query": ""}, [1, 0]),
        ({"query": LONG}, [1, 0, 1, 0]),
        ({"text": ""}, [1, 0, 1, 0]),
        ({"docno": "unknown", "text": "x"}, [1, 0, 1, 0]),
    ),
)
def test_mining(bm25, changes, labels):
    miner = NegativeMiner(bm25, depth=10, texts=lambda: iter(CORPUS))
    gives(lambda: miner(queries(**changes))["label"].to_list(), labels)


class Finds(pt.Transformer):
    """A retriever or text loader that gives the same for any input."""

    schematic = {"label": "Finds", "help_url": None}

    def __init__(self, *found, columns=("qid", "docno", "rank")):
        self.found = found
        self.columns = columns

    def transform(self, inp):
        if len(self.found) == 1 and not isinstance(self.found[0], tuple):
            return self.found[0]
        return pd.DataFrame(list(self.found), columns=list(self.columns))

    def __repr__(self):
        return "Finds()"


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
                ([("q1", 7, 0)], Finds().columns, "docnos .* must be strings, not int", ValueError),
                ([("q1", None, 0)], Finds().columns, "docnos .* strings, not mixed", ValueError),
                (
                    [("q1", 7, 0), ("q1", "d1", 1)],
                    Finds().columns,
                    "strings, not mixed-i",
                    ValueError,
                ),
                ([(1, "d1", 0)], Finds().columns, "gave a qid not asked: .*1", ValueError),
                ([("q9", "d1", 0)], Finds().columns, "gave a qid not asked: 'q9'", ValueError),
                ([("q1", "d1")], ("qid", "docno"), "have no score, only qid, docno", ValueError),
                ([("q1", 0)], ("qid", "rank"), "have no docno, only qid, rank", ValueError),
                (
                    [("q1", "d1", "d1", 0)],
                    ("qid", "docno", "docno", "rank"),
                    "two columns",
                    ValueError,
                ),
                ([None], (), "must give a DataFrame, not None", TypeError),
                ([[]], (), r"must give a DataFrame, not \[\]", TypeError),
                (["d1"], (), "must give a DataFrame, not 'd1'", TypeError),
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


@pytest.mark.parametrize(
    "texts, mined",
    [
        pytest.param(lambda: iter([]), 0, id="no documents"),
        pytest.param(lambda: ({**d, "text": None} for d in CORPUS), 0, id="None"),
        pytest.param(lambda: ({**d, "text": 7} for d in CORPUS), 0, id="numbers"),
        pytest.param(lambda: ({**d, "text": ""} for d in CORPUS), 4, id="empty texts"),
        pytest.param(
            lambda: ({**d, "text": HALF} for d in CORPUS), Error("text holds '.*ud800'"), id="half"
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
        pytest.param(lambda: iter(["a"]), Error("must give documents as dicts.*'a'"), id="strings"),
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
            Finds(None), Error("must give a DataFrame, not None", TypeError), id="loader of None"
        ),
        pytest.param(CORPUS, Error("texts must be a text loader", TypeError), id="a list"),
        pytest.param(
            "corpus.jsonl",
            Error("texts must be a text loader.*not 'corpus", TypeError),
            id="a path",
        ),
        pytest.param(
            None, Error("no column 'text', only docno.*give the miner texts="), id="nothing"
        ),
    ],
)
def test_odd_sources_of_texts(bm25, texts, mined):
    gives(lambda: len(NegativeMiner(bm25, depth=10, texts=texts)(queries())), mined)


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


STAGES = {
    "ScoreFilter": lambda bm25: ScoreFilter(1),
    "LengthFilter": lambda bm25: LengthFilter(0, min_tokens=1),
    "CopyFilter": lambda bm25: CopyFilter(),
    "DuplicateFilter": lambda bm25: DuplicateFilter(),
    "RoundTripFilter": lambda bm25: RoundTripFilter(bm25),
    "NegativeMiner": lambda bm25: NegativeMiner(bm25, texts=lambda: iter(CORPUS)),
    "FalseNegativeFilter": lambda bm25: FalseNegativeFilter(),
    "JudgedOnly": lambda bm25: evaluation.JudgedOnly(queries()[["qid", "docno"]]),
}


@pytest.mark.parametrize("stage", STAGES)
def test_frames_of_any_stage(bm25, stage):
    stage = STAGES[stage](bm25)
    two = queries().assign(qid="q") if isinstance(stage, FalseNegativeFilter) else queries()
    gives(lambda: stage(pd.DataFrame()), Error("missing_columns", MISSING))
    gives(lambda: stage(pd.concat([two, two], axis=1)), Error("two columns are called 'qid'"))
    gives(lambda: stage(two.assign(x=0, y=0).rename(columns={"y": "x"})), Error("are called 'x'"))
    assert list(stage(two.iloc[:0]).columns) == list(stage(two).columns)
    wanted = stage(two)
    assert list(wanted.index) == list(range(len(wanted)))
    for odd in (
        two.set_axis([5, 5]),
        two.set_index(["qid", "docno"], drop=False),
        two.rename(columns={"text": "text"}).assign(**{"Ünï {x}": 1}).drop(columns="Ünï {x}"),
        two.astype({"query": "string", "docno": "string", "text": "string"}),
        two.astype({"query": "category", "docno": "category", "text": "category"}),
    ):
        found = stage(odd)
        for column in wanted:
            assert list(found[column]) == list(wanted[column])


@pytest.mark.parametrize(
    "changes, error",
    rows(
        *is_no_string("qid"),
        *is_no_string("query"),
        *is_no_string("docno"),
        *is_no_string("text"),
        ({"label": None}, Error("label must be 1 .relevant. or 0 .negative., not None")),
        ({"label": "0"}, Error("label must be 1 .* not '0'")),
        ({"label": 0.5}, Error("label must be 1 .* not 0.5")),
        ({"label": 2}, Error("label must be 1 .* not 2")),
    ),
)
def test_training_examples(changes, error):
    gives(lambda: check_examples(queries(**changes), "text"), error)


def test_training_examples_that_are_none():
    gives(lambda: check_examples(queries().iloc[:0], "text"), Error("no examples to train on"))
    gives(lambda: check_examples(queries(label=0)[1:], "text"), Error("no example has label 1"))
    doubled = pd.concat([queries(), queries()], axis=1)
    gives(lambda: check_examples(doubled, "text"), Error("two columns are called 'qid'"))


# ---- numbers


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", None, NAN, [], 2.0])
@pytest.mark.parametrize(
    "make",
    [
        lambda bm25, k: ScoreFilter(k),
        lambda bm25, k: RoundTripFilter(bm25, k),
        lambda bm25, k: NegativeMiner(bm25, num_negatives=k),
        lambda bm25, k: NegativeMiner(bm25, depth=k),
        lambda bm25, k: NegativeMiner(bm25, batch_size=k),
        lambda bm25, k: RerankTop(bm25, k),
        lambda bm25, k: QueryGenerator("m", num_queries=k, temperature=1.0),
        lambda bm25, k: QueryGenerator("m", max_doc_tokens=k),
        lambda bm25, k: QueryGenerator("m", max_new_tokens=k),
        lambda bm25, k: FewShotPrompt(queries(), num_examples=k),
        lambda bm25, k: SyntheticQueries("q", shard_size=k),
        lambda bm25, k: evaluation.measures(k),
    ],
)
def test_a_number_that_must_be_one_or_more(bm25, make, value):
    gives(
        lambda: make(bm25, value),
        Error(f"whole number of at least 1, not {re.escape(repr(value))}"),
    )


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", NAN, []])
@pytest.mark.parametrize("name", ["max_prompt_tokens", "batch_size"])
def test_a_limit_that_may_be_none(name, value):
    error = Error(f"{name} must be a whole number of at least 1, not")
    gives(lambda: QueryGenerator("m", **{name: value}), error)
    assert QueryGenerator("m", **{name: None})


@pytest.mark.parametrize("value", [-1, 1.5, True, "3", NAN, None, []])
def test_seeds(bm25, value):
    for make in (
        lambda: NegativeMiner(bm25, seed=value),
        lambda: QueryGenerator("m", seed=value),
        lambda: FewShotPrompt(queries(), num_examples=1, seed=value),
        lambda: datasets.sample(CORPUS, 3, value),
        lambda: NegativeMiner(bm25, skip=value),
        lambda: LengthFilter(value),
        lambda: datasets.sample(CORPUS, value),
    ):
        gives(make, Error("must be a whole number of at least 0, not"))


@pytest.mark.parametrize("value", ["3", None, [], NAN, True, float("inf"), 1j])
def test_numbers_with_a_fraction(value):
    gives(lambda: FalseNegativeFilter(value), Error("margin must be a number, not"))
    gives(
        lambda: QueryGenerator("m", temperature=value), Error("temperature must be a number, not")
    )
    gives(lambda: QueryGenerator("m", top_p=value), Error("top_p must be a number, not"))


def test_numbers_of_numpy_are_numbers(bm25):
    assert ScoreFilter(np.int64(1))(queries())["qid"].to_list() == ["q1"]
    assert FalseNegativeFilter(np.float32(0.5)).margin == 0.5
    assert datasets.sample(CORPUS, np.int8(3), np.uint8(1)) == datasets.sample(CORPUS, 3, 1)


# ---- prompts


@pytest.mark.parametrize(
    "template, error",
    rows(
        ("", "{document} once, but this one holds it 0 times"),
        ("no field", "holds it 0 times: 'no field'"),
        ("{Document}", "holds it 0 times"),
        ("{ document }", "holds it 0 times"),
        ("{query}", "holds it 0 times"),
        ("{document} {document}", "holds it 2 times"),
        ("{query}: {document}", "{query} must come after {document}"),
        ("\ud800{document}", r"must not hold '\\ud800', half of a character"),
        (None, "must be text that holds {document}, not None"),
        (7, "must be text that holds {document}, not 7"),
        (b"{document}", "must be text that holds {document}, not b'"),
    ),
)
def test_templates(template, error):
    error = Error(error.replace("{", r"\{"))
    gives(lambda: StaticPrompt(template), error)
    if template is not None:  # which stands for the one that ships
        gives(lambda: FewShotPrompt(queries(), num_examples=1, template=template), error)


@pytest.mark.parametrize(
    "content, error",
    rows(
        ("", "must map names to prompts, but holds NoneType"),
        ("- a\n", "must map names to prompts, but holds list"),
        ("text", "must map names to prompts, but holds str"),
        ("7", "must map names to prompts, but holds int"),
        ("!!set {p}", "must map names to prompts, but holds set"),
        ("p: [", "is not YAML"),
        ("p:\n\t- a", "is not YAML"),
        ("p: 1\n---\np: 2", "is not YAML"),
        ("? [a]\n: b", "is not YAML"),
        ("p: {<<: 3}", "is not YAML"),
        ("p: 2020-99-99", "is not YAML: month must be in"),
        ("p: !!int ''", "is not YAML"),
        ("p: !!float x", "is not YAML"),
        ("p: !!bool x", "is not YAML"),
        ("p: !!timestamp x", "is not YAML"),
        ("p: " + "9" * 5000, "is not YAML"),
        ("[" * 20_000, "is not YAML"),
        ("p: \0", "is not YAML"),
        ("p: é".encode("latin-1"), "p.yaml is not text in UTF-8"),
        ("p: a".encode("utf-16"), "p.yaml is not text in UTF-8"),
        ("p: !!python/object/apply:os.abort []", "is not YAML: could not determine a constr"),
        ("q: {mode: static}", "no prompt 'p' in .*p.yaml; there are: q"),
        ("1: 2", "no prompt 'p' in .*; there are: 1"),
        ("p:", "must have a mode .* but is None"),
        ("p: text", "must have a mode .* but is 'text'"),
        ("p: [a]", r"must have a mode .* but is \['a'\]"),
        ("p: {mode: other, template: '{document}'}", "must have a mode"),
        ("p: {mode: static}", "must have a mode"),
        ("p: {mode: static, template: 3}", "must have a mode"),
        ("p: {mode: static, template: [x]}", "must have a mode"),
        ("p: {mode: static, template: x}", "holds it 0 times"),
        ('p: {mode: static, template: "\\udc00{document}"}', "half of a character"),
        ("p: {mode: dynamic, template: '{document}{query}'}", "give examples="),
        ("p: &p [*p]", "must have a mode"),
    ),
)
def test_yaml(tmp_path, content, error):
    path = tmp_path / "p.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    gives(lambda: Prompt.load(path, "p"), Error(error))


def test_yaml_that_grows_is_not_written_out(tmp_path):
    """Nine levels of nine aliases each are short in memory and endless in an error."""
    levels = ["l0: &l0 [x]"] + [
        f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 10)
    ]
    (tmp_path / "p.yaml").write_text("\n".join([*levels, "p: *l9"]))
    with pytest.raises(ValueError, match="must have a mode") as caught:
        Prompt.load(tmp_path / "p.yaml", "p")
    assert len(str(caught.value)) < 2_000_000


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: load_prompt("other"), Error("there is no prompt 'other'; there are: three-shot")),
        (lambda: load_prompt("three-shot", examples=TWO), Error("static and takes no examples")),
        (lambda: load_prompt("few-shot"), Error("shows examples: give examples=")),
        (lambda: Prompt.load("nowhere.yaml", "p"), Error("nowhere.yaml", FileNotFoundError)),
        (
            lambda: QueryGenerator("m", prompt="{document}"),
            Error("there is no prompt '{document}'"),
        ),
        (
            lambda: QueryGenerator("m", prompt=None),
            Error("or the name of one, not None", TypeError),
        ),
        (lambda: QueryGenerator("m", prompt=7), Error("or the name of one, not 7", TypeError)),
        (
            lambda: QueryGenerator("m", prompt=b"x"),
            Error("or the name of one, not b'x'", TypeError),
        ),
        (lambda: QueryGenerator(), Error("either a model or a backend")),
        (lambda: FewShotPrompt(None), Error("a DataFrame is needed, not None", TypeError)),
        (lambda: FewShotPrompt([PLAIN]), Error(r"a DataFrame is needed, not \[", TypeError)),
        (lambda: FewShotPrompt(TWO), Error("missing_columns=.'query'.", MISSING)),
        (lambda: FewShotPrompt(queries()), Error("num_examples is 3, but there are 2 examples")),
        (lambda: FewShotPrompt(queries().iloc[:0], num_examples=1), Error("there are 0 examples")),
        (lambda: FewShotPrompt(queries(query=None)), Error(f"query {NO_STRING} None.*'q2'")),
        (lambda: FewShotPrompt(queries(text=7)), Error(f"text {NO_STRING} 7.*'q2'")),
        (lambda: FewShotPrompt(queries(qid=7)), Error(f"qid {NO_STRING} 7")),
        (lambda: FewShotPrompt(queries(text=HALF)), Error("text holds .*half of a character")),
        (
            lambda: FewShotPrompt(pd.concat([queries(), queries()], axis=1)),
            Error("two columns are called 'qid'"),
        ),
        (
            lambda: FewShotPrompt(queries(), num_examples=1, template="{document}"),
            Error(r"must hold \{query\} once"),
        ),
        (
            lambda: FewShotPrompt(queries(), num_examples=1, template="{document}{query}{query}"),
            Error(r"must hold \{query\} once"),
        ),
    ],
)
def test_prompts(call, error):
    gives(call, error)


# ---- models


@pytest.fixture(scope="module")
def models(tmp_path_factory, llm):
    """Paths by a word for what is wrong with each."""
    home = tmp_path_factory.mktemp("models")
    (home / "empty folder").mkdir()
    (home / "a file").write_text("x")
    (home / "garbage.gguf").write_text("x")
    changes = {
        "no weights": lambda folder: (folder / "model.safetensors").unlink(),
        "no tokenizer": lambda folder: [file.unlink() for file in folder.glob("token*")],
        "no JSON": lambda folder: (folder / "config.json").write_text("{"),
        "no type": lambda folder: (folder / "config.json").write_text("{}"),
    }
    for name, change in changes.items():
        shutil.copytree(llm, home / name)
        change(home / name)
    return {
        **{path.name: str(path) for path in home.iterdir()},
        "nowhere": str(home / "nowhere"),
        "nowhere.gguf": str(home / "nowhere.gguf"),
        "unknown name": "nobody/nothing",
        "T5": tiny.tiny_t5(home / "T5"),
        "LLM": llm,
    }


BROKEN = ["empty folder", "a file", "no weights", "no JSON", "no type", "nowhere", "unknown name"]


@pytest.mark.parametrize("name", [*BROKEN, "no tokenizer", "garbage.gguf", "nowhere.gguf", "T5"])
def test_no_language_model(models, name):
    error = Error(
        "no causal language model can be loaded from .*give a name on the Hugging Face hub"
    )
    gives(lambda: QueryGenerator(models[name])(TWO), error)
    gives(lambda: QueryLikelihood(models[name])(queries()), error)


@pytest.mark.parametrize("name", [*BROKEN, "LLM"])
def test_no_reranker(models, name):
    error = Error("cannot load the model .*give the name of a model", OSError)
    gives(lambda: MonoT5(models[name])(queries()), error)
    gives(lambda: CrossEncoder(models[name])(queries()), error)
    if name == "LLM":
        error = Error("is a LlamaForCausalLM, which is no reranker")
    if name != "no weights":  # which are not looked at yet
        gives(lambda: load_reranker(models[name]), error)


def test_a_tokenizer_without_newline_or_chat_template(tmp_path, generator):
    """Words alone: a query ends at the limit, and a prompt's lines are read as its words."""
    from transformers import AutoModelForCausalLM, GPT2Config

    words = tiny.bert_tokenizer()
    words.save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=len(words), n_embd=32, n_layer=1, n_head=2, n_positions=64,
                        bos_token_id=None, eos_token_id=None)  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert words.chat_template is None
    written = QueryGenerator(
        str(tmp_path), prompt=PROMPT, max_new_tokens=4, dtype="float32", device="cpu"
    )(TWO)
    assert list(written["finish_reason"]) == ["length"] * len(written)
    assert all(len(log_probs) == 4 for log_probs in written["log_probs"])


# ---- files

QUERY = '{"doc_id": "1", "query": "q"%s}\n'
ROW = {"qid": "1-1", "query": "q", "docno": "1"}


def of(reader):
    """The rows that a reader gives, as tuples, or records where it yields those."""

    def read(path):
        found = reader(path)
        if isinstance(found, pd.DataFrame):
            return list(found.itertuples(index=False, name=None))
        return list(found)

    return read


FILES = {
    formats.read_queries: [
        ("", "q.jsonl: is empty"),
        ("\n\n", "is empty"),
        ("[1]\n", "line 1: must be a JSON object, not .1."),
        ("null\n", "must be a JSON object, not None"),
        ("{}\n", "line 1: lacks doc_id and docno"),
        ('{"doc_id": "1"}\n', "line 1: lacks query and question"),
        (QUERY % "" + "{", "line 2: is not JSON in UTF-8"),
        (QUERY % "" * 2 + "x", "line 3: is not JSON"),
        (QUERY % "" + QUERY.strip() % "" + QUERY % "", "line 2: is not JSON.*Extra data"),
        (QUERY % (', "x": ' + "[" * 99_999), "line 1: is not JSON"),
        (QUERY % (', "x": ' + "9" * 5_000), "line 1: is not JSON"),
        ((QUERY % "").encode("utf-16"), "line 1: is not JSON in UTF-8"),
        (QUERY.replace("q", "é").encode("latin-1"), "line 1: is not JSON in UTF-8"),
        ('{"doc_id": 1.0, "query": "q"}', "doc_id must be a string or a whole number, not 1.0"),
        ('{"doc_id": true, "query": "q"}', "a whole number, not True"),
        ('{"doc_id": "", "query": "q"}', "a whole number, not ''"),
        ('{"doc_id": "1", "query": ["q"]}', "query must be a string, not"),
        (QUERY % ', "text": 7', "text must be a string, not 7"),
        (QUERY % ', "log_probs": "x"', "log_probs must be numbers, not 'x'"),
        (QUERY % ', "log_probs": [null]', "log_probs must be numbers"),
        (QUERY % ', "log_probs": [NaN]', "log_probs must be numbers"),
        (QUERY % ', "score": NaN', "score must be numbers, not .nan."),
        (QUERY % ', "score": 1e999', "score must be numbers, not .inf."),
        (QUERY % (', "score": ' + "9" * 400), "score must be numbers"),
        (QUERY % ', "fewshot_examples": "12"', "fewshot_examples must be a list, not '12'"),
        (QUERY % ', "fewshot_examples": [1.5]', "fewshot_examples must be a string or a whole"),
        (QUERY % ', "qid": "a"' * 2, "line 2: qid 'a' came before"),
        ("\ufeff" + QUERY % "", [ROW]),
        (QUERY.strip() % "" + "\r\n\r\n", [ROW]),
        ('{"doc_id": 1, "query": "q", "text": null}', [ROW]),
        ('{"doc_id": 2, "doc_id": 1, "query": "q"}', [ROW]),
        ('{"doc_id": "007", "query": " "}', []),
        (QUERY % r', "x": "\ud800 \ud83d\ude00"', [{**ROW, "x": "? 😀"}]),
        (r'{"doc_id": "\udc00", "query": "q"}', [{"qid": "?-1", "query": "q", "docno": "?"}]),
        (b'{"doc_id": "1", "query": "q", "x": "\xed\xa0\x80"}', [{**ROW, "x": "?"}]),
        (QUERY % ', "x": "\u2028\\u0000"', [{**ROW, "x": "\u2028\0"}]),
    ],
    formats.read_fewshot: [
        ("", "is empty"),
        ("{}\n", "line 1: lacks query_id, query, doc_id, document"),
        ('{"query_id": 1, "query": null, "doc_id": 2, "document": "d"}', "query must be a string"),
        ('{"query_id": 1.5, "query": "q", "doc_id": 2, "document": "d"}', "query_id must be a str"),
        (
            r'{"query_id": 1, "query": "\ud800", "doc_id": 2, "document": "d"}',
            [("1", "?", "2", "d")],
        ),
    ],
    formats.read_triples: [
        ("", "t.tsv: is empty"),
        ("q\tp\n", "line 1: must have 3 columns.*but has 2"),
        ("q\tp\tn\n\nq\tp\tn\tx\n", "line 3: must have 3 columns.*but has 4"),
        ('q\t"p\tn\n', "is not TSV"),
        ('q\t"p"x\tn\n', "is not TSV"),
        ("q\té\tn\n".encode("latin-1"), "line 1: is not TSV in UTF-8"),
        (b"q\t\xed\xa0\x80\tn\n", "line 1: is not TSV in UTF-8"),
        ("q\tp\tn\n".encode("utf-16"), "is not TSV in UTF-8"),
        ("\ufeffq\tp\tn\r\n", [("1", "q", "d1", "p", 1), ("1", "q", "d2", "n", 0)]),
        ('q\tp"x\tn\0', [("1", "q", "d1", 'p"x', 1), ("1", "q", "d2", "n\0", 0)]),
    ],
    formats.read_pairs: [
        ("q\tp\t2\n", "line 1: label must be 0 or 1, not '2'"),
        ("q\tp\t1.0\n", "label must be 0 or 1, not '1.0'"),
        ("q\tp\t\n", "label must be 0 or 1, not ''"),
        ("q\tp\t 1 \n", [("1", "q", "d1", "p", 1)]),
        ("q\tp\t\x1c1\n", [("1", "q", "d1", "p", 1)]),
    ],
    formats.read_run: [
        ("", "is empty"),
        ("1 Q0 d 1 2\n", "line 1: must be `qid Q0 docno rank score name`, not"),
        ("1 Q0 d 1 2 x y\n", "line 1: must be"),
        ("1 Q0 d 1 high x\n", "line 1: must be.*could not convert"),
        ("1 Q0 d 1 nan x\n", "line 1: must be.*the score is not a number"),
        ("1 Q0 é 1 2 x\n".encode("latin-1"), "line 1: must be"),
        ("1 Q0 d 1 2 x\n".encode("utf-16"), "line 1: must be"),
        ("1 Q0 d 1 2 x\n1 Q0 e 2 1 x\n1 Q0 d 3 0 x\n", "document 'd' stands twice for qid '1'"),
        ("\ufeff1 Q0 d 1 2 x\n", [("1", "d", 2.0, 0)]),
        ("1\tQ0\tNA\t1\t2\tx\r\n\n", [("1", "NA", 2.0, 0)]),
    ],
    datasets.read_qrels: [
        ("1 d\n", "line 1: b'1 d' is no judgement"),
        ("1 0 d 1.0\n", "is no judgement"),
        ("1 0 d x\n", "is no judgement: a qid, a docno and a whole number"),
        ("1 Q0 d 0 2.5 bm25\n", "is no judgement"),
        ("1 0 d 1 x\n", "is no judgement"),
        ("1 0 d " + "9" * 30, "is no judgement"),
        ("1 0 d " + "9" * 5_000, "is no judgement"),
        (
            "\t\t1\n",
            [],
        ),
        ("1\td\t1\n\t\t1\n", "line 2: .* is no judgement"),
        ("1 0 é 1\n".encode("latin-1"), "line 1: .* is no judgement"),
        ("1 0 d 1\n".encode("utf-16"), "line 1: .* is no judgement"),
        ("", []),
        ("query-id\tcorpus-id\tscore\n", []),
        ("\ufeff01 0 d -1\r\n\r\n", [("01", "d", -1)]),
        ("query-id\tcorpus-id\tscore\n1 a\td\t2", [("1 a", "d", 2)]),
    ],
    datasets.read_corpus: [
        ("", []),
        ('{"x": 1}\n', "line 1: no column docno or doc_id or _id or id, only x: say which"),
        ('{"id": 1}\n', "line 1: no column text or contents"),
        ('{"id": 1, "text": null}', "line 1: text must be a string, not None"),
        ('{"id": 1, "text": "a"}\n{"text": "b"}', "line 2: id must be a string or a whole number"),
        ('{"id": 1, "text": "a", "title": 7}', "title must be a string, not 7"),
        (r'{"id": "\ud800", "text": "\ud800 a"}', [{"docno": "?", "text": "? a"}]),
        ('{"id": 1, "text": " a\\n"}', [{"docno": "1", "text": "a"}]),
    ],
    datasets.read_topics: [
        (
            '{"qid": 1, "query": "a"}\n{"qid": "1", "query": "b"}',
            "line 2: the qid '1' stands twice",
        ),
        ('{"qid": 1, "query": ["a"]}', "query must be a string, not"),
        (r'{"qid": 1, "query": "\udc00"}', [("1", "?")]),
    ],
}
SUFFIX = {formats.read_triples: "t.tsv", formats.read_pairs: "t.tsv"}


@pytest.mark.parametrize(
    "reader, content, expected",
    [
        pytest.param(reader, content, expected, id=f"{reader.__name__} {ascii(content)[:40]}")
        for reader, cases in FILES.items()
        for content, expected in cases
    ],
)
def test_files(tmp_path, reader, content, expected):
    path = tmp_path / SUFFIX.get(reader, "q.jsonl")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    expected = Error(expected) if isinstance(expected, str) else expected
    gives(lambda: of(reader)(path), expected)


@pytest.mark.parametrize("reader", FILES, ids=lambda reader: reader.__name__)
def test_files_that_are_not_what_their_name_says(tmp_path, reader):
    name = SUFFIX.get(reader, "q.jsonl")
    gives(lambda: of(reader)(tmp_path / name), Error(re.escape(name), FileNotFoundError))
    (tmp_path / name).mkdir()
    gives(lambda: of(reader)(tmp_path / name), Error(re.escape(name), IsADirectoryError))
    packed = gzip.compress("".join(f"line {i} {i * i}\n" for i in range(9_999)).encode())
    for content in (b"plain", packed[:-99], packed[:40] + b"?" * 99 + packed[200:], b""):
        (tmp_path / f"{name}.gz").write_bytes(content)
        try:
            assert of(reader)(tmp_path / f"{name}.gz") == []  # an empty file may be a collection
        except ValueError as error:
            assert str(tmp_path / f"{name}.gz") in str(error)


TABLES = [
    ("docno,text\n1\n", "c.csv, line 2: 1 cells, but the columns are docno, text"),
    ("docno,text\n1,a,b\n", "line 2: 3 cells"),
    ("docno,docno,text\n", "two columns have one name"),
    ("a,b\n1,2\n", "no column docno or doc_id"),
    ('docno,text\n1,"a\n', "line 2"),
    ('docno,text\n1,"a"b\n', "line 2"),
    ("docno,text\n,a\n", "docno must be a string or a whole number, not ''"),
    ("docno,text\n1,é\n".encode("latin-1"), "c.csv cannot be read"),
    ("docno,text\n1,a\n".encode("utf-16"), "c.csv cannot be read"),
    ("", []),
    ("docno,text\n", []),
    ("\ufeffdocno,text\r\n007,a\r\n", [{"docno": "007", "text": "a"}]),
    ('docno,text\n1e5,"a\n""b"""\n', [{"docno": "1e5", "text": 'a\n"b"'}]),
    ("docno,text\nNA,\n", [{"docno": "NA", "text": ""}]),
]


@pytest.mark.parametrize("content, expected", rows(*TABLES))
def test_tables(tmp_path, content, expected):
    path = tmp_path / "c.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    expected = Error(expected) if isinstance(expected, str) else expected
    gives(lambda: list(datasets.read_corpus(path)), expected)


@pytest.mark.parametrize(
    "write, error",
    [
        (lambda p: formats.write_queries([{"query": "a"}], p), Error("row 1 .*lacks docno")),
        (
            lambda p: formats.write_queries([{"docno": 1, "query": "a"}], p),
            Error("docno must be a s"),
        ),
        (
            lambda p: formats.write_queries([{"docno": "1", "query": HALF}], p),
            Error("cannot write row 1"),
        ),
        (
            lambda p: formats.write_queries([{"docno": "1", "query": "a", "x": object()}], p),
            Error("cannot write row 1.*cannot be written as JSON"),
        ),
        (lambda p: formats.write_run(queries(), p), Error("missing_columns=.'rank'", MISSING)),
        (
            lambda p: formats.write_run(queries(score=None).assign(rank=0), p),
            Error("score is not a number at qid 'q2'"),
        ),
        (
            lambda p: formats.write_run(queries(docno="a b").assign(rank=0), p),
            Error("cannot hold the ids 'q2' and 'a b'"),
        ),
        (
            lambda p: formats.write_run(queries(qid="").assign(rank=0), p),
            Error("cannot hold the ids ''"),
        ),
        (
            lambda p: formats.write_run(queries(qid=7).assign(rank=0), p),
            Error(f"qid {NO_STRING} 7"),
        ),
        (lambda p: formats.write_run(queries(docno=HALF).assign(rank=0), p), Error("docno holds")),
        (lambda p: formats.write_triples(TWO, p), Error("missing_columns", MISSING)),
        (lambda p: formats.write_triples(queries(label=2), p), Error("label must be 1 .* not 2")),
        (lambda p: formats.write_triples(queries(label=1), p), Error("no example has label 0")),
        (lambda p: formats.write_triples(queries().iloc[:0], p), Error("no examples")),
        (lambda p: formats.write_triples(queries(text=HALF), p), Error("text holds")),
    ],
)
def test_what_cannot_be_written_leaves_no_file(tmp_path, write, error):
    gives(lambda: write(tmp_path / "out"), error)
    assert list(tmp_path.iterdir()) == []


# ---- topics and judgements

TOPICS = pd.DataFrame({"qid": ["1", "2"], "query": ["a", "b"]})
QRELS = pd.DataFrame({"qid": ["1"], "docno": ["d1"], "label": [1]})
FOUND = pd.DataFrame({"qid": ["1", "1"], "docno": ["d1", "d2"], "score": [2.0, 1.0]})


class Judged(datasets.Collection):
    def documents(self):
        return ((d["docno"], d["text"]) for d in CORPUS)

    def get_topics(self):
        return TOPICS

    def get_qrels(self):
        return QRELS

    def _name(self):
        return "judged"


def pairs(**options):
    return datasets.judged_pairs(Judged(), **options)["docno"].to_list()


@pytest.mark.parametrize(
    "call, expected",
    [
        (
            lambda: evaluation.exclude_fewshot_topics(TOPICS, "queries.jsonl"),
            Error("give SyntheticQueries, a Prompt or a frame", TypeError),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics(TOPICS, [{"qid": "1"}]),
            Error("give SyntheticQueries", TypeError),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics(TOPICS, None),
            Error("give SyntheticQueries.*not None", TypeError),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics(TOPICS, TWO),
            Error("a frame of qid or query", TypeError),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics([], PROMPT),
            Error("a DataFrame is needed", TypeError),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics(TWO, PROMPT),
            Error("missing_columns=.'qid'", MISSING),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics(TOPICS.assign(qid=[1, 2]), TOPICS),
            Error(f"qid {NO_STRING} 1"),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics(TOPICS, TOPICS.assign(qid=[1, 2])),
            Error(f"qid {NO_STRING} 1"),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics(TOPICS, TOPICS),
            Error("shown each of the 2 topics"),
        ),
        (lambda: list(evaluation.exclude_fewshot_topics(TOPICS, TOPICS[:1])["qid"]), ["2"]),
        (
            lambda: list(
                evaluation.exclude_fewshot_topics(TOPICS.set_axis([7, 7]), TOPICS[:1])["qid"]
            ),
            ["2"],
        ),
        (lambda: list(evaluation.exclude_fewshot_topics(TOPICS, TOPICS[:0])["qid"]), ["1", "2"]),
        (lambda: list(evaluation.exclude_fewshot_topics(TOPICS, PROMPT)["qid"]), ["1", "2"]),
        (lambda: evaluation.JudgedOnly(None), Error("a DataFrame is needed", TypeError)),
        (lambda: evaluation.JudgedOnly(TOPICS), Error("missing_columns=.'docno'", MISSING)),
        (lambda: evaluation.JudgedOnly(QRELS.assign(qid=1)), Error(f"qid {NO_STRING} ")),
        (lambda: evaluation.JudgedOnly(QRELS.assign(docno=None)), Error(f"docno {NO_STRING}")),
        (lambda: evaluation.JudgedOnly(pd.concat([QRELS, QRELS], axis=1)), Error("two columns")),
        (lambda: list(evaluation.JudgedOnly(QRELS)(FOUND)["docno"]), ["d1"]),
        (lambda: list(evaluation.JudgedOnly(QRELS[:0])(FOUND)["docno"]), []),
        (lambda: list(evaluation.JudgedOnly(QRELS.astype("category"))(FOUND)["docno"]), ["d1"]),
        (
            lambda: evaluation.JudgedOnly(QRELS)(FOUND.assign(score=None)),
            Error("score is not a number at qid '1'"),
        ),
        (lambda: evaluation.JudgedOnly(QRELS)(FOUND.assign(qid=1)), Error(f"qid {NO_STRING} ")),
        (lambda: evaluation.JudgedOnly(QRELS)(TOPICS), Error("missing_columns", MISSING)),
        (pairs, ["d1"]),
        (lambda: pairs(qrels=QRELS.assign(label="1")), ["d1"]),
        (lambda: pairs(qrels=QRELS.assign(label=1.0)), ["d1"]),
        (lambda: pairs(qrels=QRELS.assign(label=None)), Error("label is not a number at qid '1'")),
        (lambda: pairs(qrels=QRELS.assign(label=0)), Error("no document judged 1 or more")),
        (lambda: pairs(qrels=QRELS.assign(qid=1)), Error(f"qid {NO_STRING} ")),
        (lambda: pairs(qrels=QRELS.assign(docno="other")), Error("no document judged 1 or more")),
        (lambda: pairs(topics=TOPICS.assign(query=None)), Error(f"query {NO_STRING}")),
        (lambda: pairs(topics=TWO), Error("the topics of .* have no qid, query, only docno, text")),
        (lambda: pairs(max_pairs=0), Error("max_pairs must be a whole number of at least 1")),
        (
            lambda: Judged().text_loader()(frame({"docno": "no"})),
            Error("does not have 1 of 1 documents, such as 'no'"),
        ),
        (lambda: Judged().text_loader()(frame({"docno": 7})), Error(f"docno {NO_STRING} 7")),
        (lambda: Judged().text_loader()(frame({"docno": None})), Error(f"docno {NO_STRING}")),
        (lambda: Judged().text_loader("title"), Error("has a field 'text' only, not 'title'")),
        (lambda: list(Judged().text_loader()(frame({"docno": "d1"}))["text"]), [CORPUS[1]["text"]]),
    ],
)
def test_topics_and_judgements(call, expected):
    gives(call, expected)


# ---- command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory, llm):
    """Files for the commands; ``{name}`` in an argument is the path of one."""
    home = tmp_path_factory.mktemp("cli")
    contents = {
        "corpus.jsonl": "".join(json.dumps(document) + "\n" for document in CORPUS),
        "queries.jsonl": '{"doc_id": "d1", "text": "a", "query": "a b c", "score": -1}\n',
        "half.jsonl": r'{"doc_id": "d1", "text": "a", "query": "a b \ud800", "score": -1}' + "\n",
        "unscored.jsonl": '{"doc_id": "d1", "text": "a", "query": "a b c"}\n',
        "blank.jsonl": '{"doc_id": "d1", "text": "a", "query": " "}\n',
        "empty.jsonl": "",
        "bad.jsonl": "{}\n",
        "run": "1 Q0 d1 0 1.0 x\n1 Q0 d2 1 0.5 x\n",
        "nan.run": "1 Q0 d1 0 nan x\n",
        "qrels": "1 0 d1 1\n",
        "huge.qrels": "1 0 d1 " + "9" * 30,
        "topics.tsv": "1\tnoise\n",
        "prompt.txt": "no field",
        "list.yaml": "- a\n",
    }
    for name, content in contents.items():
        (home / name).write_text(content)
    (home / "latin.txt").write_bytes("é {document}".encode("latin-1"))
    paths = {name: str(home / name) for name in [*contents, "latin.txt", "new", "nowhere"]}
    return paths | {"llm": llm}


GENERATE = "generate --base_model {llm} --prompt zero-shot --dataset {corpus.jsonl} --output {new}"
FILTER = "filter --filter_strategy scores --output {new}"
TRIP = "filter --filter_strategy round_trip --output {new} --input {queries.jsonl}"
EVALUATE = "evaluate --run {run} --qrels {qrels}"


@pytest.mark.parametrize(
    "arguments, code, message",
    rows(
        # click takes the last of an option that is given twice
        ("other", 2, "No such command 'other'"),
        ("generate", 2, "Missing option"),
        (f"{GENERATE} --nonsense 1", 2, "No such option"),
        (f"{GENERATE} --max_generations 0", 2, "Invalid value for '--max_generations'"),
        (f"{GENERATE} --max_generations 1.5", 2, "Invalid value for '--max_generations'"),
        (f"{GENERATE} --temperature hot", 2, "Invalid value for '--temperature'"),
        (f"{GENERATE} --temperature nan", 1, "temperature must be a number, not nan"),
        (f"{GENERATE} --temperature -1", 1, "temperature must be 0 .* not -1"),
        (f"{GENERATE} --seed -1", 1, "seed must be a whole number of at least 0"),
        (f"{GENERATE} --dataset {{nowhere}}", 1, "is no file or folder, none that ir_datasets"),
        (f"{GENERATE} --dataset {{bad.jsonl}}", 1, "bad.jsonl, line 1: no column docno"),
        (f"{GENERATE} --prompt other", 1, "there is no prompt 'other'"),
        (f"{GENERATE} --prompt {{prompt.txt}}", 1, "holds it 0 times: 'no field'"),
        (f"{GENERATE} --prompt {{latin.txt}}", 1, "latin.txt is not text in UTF-8"),
        (f"{GENERATE} --prompt {{list.yaml}}", 2, "--prompt_name is needed"),
        (f"{GENERATE} --prompt {{list.yaml}} --prompt_name x", 1, "must map names to prompts"),
        (f"{GENERATE} --prompt few-shot", 1, "has no topics: give it a file"),
        (f"{GENERATE} --base_model {{nowhere}}", 1, "no causal language model can be loaded"),
        (f"{GENERATE} --output {{corpus.jsonl}}", 1, "is there already"),
        (f"{FILTER} --input {{nowhere}}", 1, "No such file .*nowhere"),
        (f"{FILTER} --input {{bad.jsonl}}", 1, "bad.jsonl, line 1: lacks doc_id"),
        (f"{FILTER} --input {{empty.jsonl}}", 1, "empty.jsonl: is empty"),
        (f"{FILTER} --input {{blank.jsonl}}", 1, "blank.jsonl has no queries"),
        (f"{FILTER} --input {{unscored.jsonl}}", 1, "missing_columns=.'score'"),
        (f"{FILTER} --input {{half.jsonl}}", 0, "1 of 1 queries"),
        (f"{FILTER} --input {{queries.jsonl}} --keep_top_k 0", 2, "Invalid value for '--keep_top"),
        (f"{TRIP}", 2, "--dataset is needed"),
        (f"{TRIP} --dataset {{empty.jsonl}}", 1, "empty.jsonl has no documents to search"),
        ("triples --input {bad.jsonl} --dataset {corpus.jsonl} --output {new}", 1, "lacks doc_id"),
        ("train --output_dir {new}", 2, "either --triples or --pairs is needed"),
        ("train --triples {nowhere} --output_dir {new}", 1, "nowhere|cannot load"),
        ("rerank --model {llm} --input_run {run} --output_run {new}", 1, "which is no reranker"),
        (f"{EVALUATE} --run {{nowhere}}", 1, "No such file .*nowhere"),
        (f"{EVALUATE} --run {{nan.run}}", 1, "nan.run, line 1: must be .*not a number"),
        (f"{EVALUATE} --run {{qrels}}", 1, "qrels, line 1: must be `qid Q0 docno rank score name`"),
        (f"{EVALUATE} --qrels {{run}}", 1, "run, line 1: .* is no judgement"),
        (f"{EVALUATE} --qrels {{huge.qrels}}", 1, "huge.qrels, line 1: .* is no judgement"),
        (f"{EVALUATE} --qrels {{empty.jsonl}}", 1, "has no document for any topic"),
        (f"{EVALUATE} --relevance_threshold 0", 1, "relevance_threshold must be a whole number"),
        (f"{EVALUATE} --without {{queries.jsonl}}", 1, "has no fewshot_examples"),
    ),
)
def test_commands(folder, capfd, tmp_path, arguments, code, message):
    """One line on standard error, no traceback, no file left."""
    new = str(tmp_path / "new.jsonl")
    words = [
        re.sub(r"\{(.*?)\}", lambda m: {**folder, "new": new}[m[1]], w) for w in arguments.split()
    ]
    try:
        cli.main(words)
        ended = 0
    except SystemExit as end:
        ended = end.code
    out, err = capfd.readouterr()
    assert ended == code and "Traceback" not in err
    said = [line for line in err.splitlines() if line.startswith("pyterrier-inpars: ")]
    assert re.search(message, "".join(said or [out]))
    assert len(said) == (code != 0)
    assert (tmp_path / "new.jsonl").exists() == (code == 0)


def test_what_nobody_foresaw_is_one_line_too(folder, monkeypatch, capfd):
    def fail(path):
        raise AssertionError("impossible")

    monkeypatch.setattr(cli.formats, "read_run", fail)
    arguments = ["evaluate", "--run", "x", "--qrels", folder["qrels"]]
    for more in ([], ["--debug"]):
        with pytest.raises(SystemExit) as end:
            cli.main([*more, *arguments])
        assert end.value.code == 1
        *shown, last = capfd.readouterr().err.splitlines()
        assert last == "pyterrier-inpars: AssertionError: impossible (--debug shows where)"
        assert bool(shown) == bool(more)


# ---- the rest, by hypothesis

ANY = st.one_of(
    st.text(st.characters()),  # with lone surrogates
    st.sampled_from(["", " ", "{document}", "\0", "q\tp\tn", "NaN", "é" * 99]),
    st.none(),
    st.integers(),
    st.floats(),
    st.binary(max_size=3),
    st.booleans(),
)
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def ours(call):
    """The result of a call, or None if it gives an error of ours."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        assert where.startswith(OURS), where
        return None


ANY_ROWS = st.lists(
    st.fixed_dictionaries(
        {"qid": ANY, "query": ANY, "docno": ANY, "text": ANY, "score": ANY, "label": ANY}
    ),
    max_size=4,
)


@quick
@given(ANY_ROWS)
@pytest.mark.parametrize("stage", STAGES)
def test_any_values_through_any_stage(bm25, stage, records):
    """A stage gives an error of ours, or rows that it was given, or examples made of them."""
    stage = STAGES[stage](bm25)
    if isinstance(stage, LengthFilter):
        stage = LengthFilter(1)
    found = ours(lambda: stage(frame(*records) if records else queries().iloc[:0]))
    if found is not None and isinstance(stage, pyterrier_inpars.filtering.Filter):
        given_rows = [(r["qid"], r["query"], r["docno"], r["text"]) for r in records]
        for row in found[["qid", "query", "docno", "text"]].itertuples(index=False, name=None):
            assert any(
                all(a is b or a == b for a, b in zip(row, g, strict=True)) for g in given_rows
            )
    ours(lambda: stage(records))  # as a stream


@quick
@given(st.lists(st.fixed_dictionaries({"qid": ANY, "docno": ANY, "score": ANY}), max_size=4))
def test_any_run_comes_back_or_is_refused(tmp_path, records):
    results = frame(*records, columns=None) if records else FOUND.iloc[:0]
    path = tmp_path / "run"
    path.unlink(missing_ok=True)
    written = ours(lambda: formats.write_run(results.assign(rank=0), path) or True)
    assert path.exists() == bool(written)
    if written and records:
        run = ours(lambda: formats.read_run(path))
        wanted = sorted((r["qid"], r["docno"], float(r["score"])) for r in records)
        if run is None:
            assert len({row[:2] for row in wanted}) < len(wanted)
        else:
            assert (
                sorted(run[["qid", "docno", "score"]].itertuples(index=False, name=None)) == wanted
            )


@quick
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace")))
@pytest.mark.parametrize("reader", FILES, ids=lambda reader: reader.__name__)
def test_any_bytes_are_read_or_refused(tmp_path, reader, content):
    path = tmp_path / SUFFIX.get(reader, "q.jsonl")
    path.write_bytes(content)
    try:
        of(reader)(path)
    except ValueError as error:
        assert str(path) in str(error)
