"""The embedded test collection: its documents, and the promises its topics and judgements make."""

import re
import subprocess
import sys

import pandas as pd
import pytest

from pyterrier_inpars.demo.collection import StdlibDocs, _documents

# Words too common to give a name away.
STOP_WORDS = frozenset("all and are for from get how not out set the was who with".split())


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {doc["docno"]: doc["text"] for doc in StdlibDocs().get_corpus_iter()}


@pytest.fixture(scope="module")
def topics() -> pd.DataFrame:
    return StdlibDocs().get_topics()


@pytest.fixture(scope="module")
def qrels() -> pd.DataFrame:
    return StdlibDocs().get_qrels()


def words(text: str) -> set[str]:
    """Split at everything but letters and digits, and at camel case; fold the plural."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", text)
    whole = re.findall(r"[^\W_]+", text)
    folded = {re.sub(r"(?<=[a-z]{2}[^s])s$", "", part.lower()) for part in parts + whole}
    return {word for word in folded if len(word) >= 3} - STOP_WORDS


def test_words():
    assert words("TestCase.raises") == {"test", "case", "testcase", "raise"}
    assert words("Are the HTTPServers from urllib2 a set?") >= {"http", "server", "urllib"}
    assert "the" not in words("the set")


def test_documents(texts):
    documents = list(StdlibDocs().get_corpus_iter())
    assert 4_000 <= len(documents) <= 8_000
    assert len(texts) == len(documents)
    assert [doc["docno"] for doc in documents] == sorted(texts)
    for docno, text in texts.items():
        assert not re.search(r"\s", docno)
        assert text.startswith(f"{docno}: ")
        assert len(text.split()) >= 5
        assert text == " ".join(text.split())
    bodies = {text.removeprefix(f"{docno}: ") for docno, text in texts.items()}
    assert len(bodies) == len(documents)


@pytest.mark.parametrize(
    ("docno", "phrase"),
    [
        ("str.split", "substrings"),
        ("str.maketrans", "translation table"),
        ("str.replace", "substring"),
        ("open", "stream"),
        ("os.path.join", "pathname"),
        ("json.dumps", "JSON"),
        ("itertools.chain", "iterables"),
        ("collections.deque", "endpoints"),
        ("array.array.append", "end of the array"),
        ("datetime.datetime.astimezone", "local time"),
        ("pathlib.Path.mkdir", "directory"),
        ("random.shuffle", "in place"),
        ("xml.etree.ElementTree.indent", "Indent"),
        ("unittest.mock.patch", "decorator"),
        ("logging.handlers.TimedRotatingFileHandler", "rotating"),
        ("calendar.month", "multi-line"),
        ("csv", "CSV"),
    ],
)
def test_well_known_documents(texts, docno, phrase):
    assert phrase in texts[docno]


@pytest.mark.parametrize(
    "docno",
    ["builtins.str.split", "json.decoder.JSONDecoder", "posixpath.join", "str.__init__", "io.open"],
)
def test_left_out(texts, docno):
    assert docno not in texts


def test_corpus_iter_repeats_and_shares_nothing():
    first = list(StdlibDocs().get_corpus_iter())
    first[0]["text"] = "changed"
    second = list(StdlibDocs().get_corpus_iter())
    assert second[0] != first[0]
    assert second[1:] == first[1:]


def test_reading_is_silent_and_light():
    program = """
import sys, warnings
from pyterrier_inpars.demo.collection import StdlibDocs
filters = list(warnings.filters)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert next(StdlibDocs().get_corpus_iter())
assert not caught, caught
assert warnings.filters == filters
assert not {"torch", "transformers", "antigravity", "this", "tkinter"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_what_other_packages_put_there_is_left_out(monkeypatch):
    def shout(self):
        """Say something that no standard library says."""

    monkeypatch.setattr("logging.Logger.shout", shout, raising=False)
    _documents.cache_clear()
    try:
        assert "logging.Logger.shout" not in _documents()
        assert "logging.Logger.info" in _documents()
    finally:
        _documents.cache_clear()


def test_topics(topics):
    assert list(topics.columns) == ["qid", "query"]
    assert len(topics) >= 60
    assert topics["qid"].is_unique
    assert topics["query"].is_unique
    assert topics["query"].str.split().str.len().between(4, 14).all()
    assert all(type(value) is str for value in topics.to_numpy().flat)


def test_qrels(topics, qrels):
    assert list(qrels.columns) == ["qid", "docno", "label"]
    assert qrels["label"].dtype == int
    assert set(qrels["label"]) == {0, 1, 2}
    assert set(qrels["qid"]) == set(topics["qid"])
    assert not qrels.duplicated(["qid", "docno"]).any()
    assert not qrels["docno"].str.contains(r"\s").any()
    assert (qrels[qrels["label"] > 0].groupby("qid").size() <= 25).all()


def test_every_topic_is_answered(topics, qrels, texts):
    answers = qrels[(qrels["label"] == 2) & qrels["docno"].isin(list(texts))]
    assert set(answers["qid"]) == set(topics["qid"])


def test_no_topic_names_what_it_looks_for(topics, qrels):
    queries = dict(zip(topics["qid"], topics["query"], strict=True))
    shared = {
        (row.qid, row.docno): common
        for row in qrels[qrels["label"] == 2].itertuples()
        if (common := words(".".join(row.docno.split(".")[-2:])) & words(queries[row.qid]))
    }
    assert not shared


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="no variants"):
        StdlibDocs().get_topics("dev")
    with pytest.raises(ValueError, match="no variants"):
        StdlibDocs().get_qrels("dev")
