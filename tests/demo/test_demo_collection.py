"""Documents, topics and judgements of the demo collection."""

import re
import subprocess
import sys

import pandas as pd
import pytest

from pyterrier_inpars.demo.collection import StdlibDocs, _documents

# Words too common to reveal a name.
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
    """Splits at camel case and at everything but letters and digits; folds plurals."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", text)
    whole = re.findall(r"[^\W_]+", text)
    folded = {re.sub(r"(?<=[a-z]{2}[^s])s$", "", part.lower()) for part in parts + whole}
    return {word for word in folded if len(word) >= 3} - STOP_WORDS


def test_words_of_a_name_are_split_and_folded():
    assert words("TestCase.raises") == {"test", "case", "testcase", "raise"}
    assert words("Are the HTTPServers from urllib2 a set?") >= {"http", "server", "urllib"}
    assert "the" not in words("the set")


def test_documents_are_unique_sorted_and_on_one_line(texts):
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
def test_well_known_objects_are_documents(texts, docno, phrase):
    assert phrase in texts[docno]


@pytest.mark.parametrize(
    "docno",
    ["builtins.str.split", "json.decoder.JSONDecoder", "posixpath.join", "str.__init__", "io.open"],
)
def test_private_and_duplicate_names_are_excluded(texts, docno):
    assert docno not in texts


def test_corpus_iter_yields_new_equal_dicts_each_time():
    first = list(StdlibDocs().get_corpus_iter())
    first[0]["text"] = "changed"
    second = list(StdlibDocs().get_corpus_iter())
    assert second[0] != first[0]
    assert second[1:] == first[1:]


def test_reading_prints_nothing_and_imports_no_heavy_package():
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


def test_attributes_added_by_other_packages_are_excluded(monkeypatch):
    def shout(self):
        """Says something that the standard library does not say."""

    monkeypatch.setattr("logging.Logger.shout", shout, raising=False)
    _documents.cache_clear()
    try:
        assert "logging.Logger.shout" not in _documents()
        assert "logging.Logger.info" in _documents()
    finally:
        _documents.cache_clear()


def test_topics_are_unique_queries_of_a_few_words(topics):
    assert list(topics.columns) == ["qid", "query"]
    assert len(topics) >= 60
    assert topics["qid"].is_unique
    assert topics["query"].is_unique
    assert topics["query"].str.split().str.len().between(4, 14).all()
    assert all(type(value) is str for value in topics.to_numpy().flat)


def test_qrels_have_three_labels_and_every_topic(topics, qrels):
    assert list(qrels.columns) == ["qid", "docno", "label"]
    assert qrels["label"].dtype == int
    assert set(qrels["label"]) == {0, 1, 2}
    assert set(qrels["qid"]) == set(topics["qid"])
    assert not qrels.duplicated(["qid", "docno"]).any()
    assert not qrels["docno"].str.contains(r"\s").any()
    assert (qrels[qrels["label"] > 0].groupby("qid").size() <= 25).all()


def test_every_topic_has_an_answer_in_the_corpus(topics, qrels, texts):
    answers = qrels[(qrels["label"] == 2) & qrels["docno"].isin(list(texts))]
    assert set(answers["qid"]) == set(topics["qid"])


def test_no_topic_contains_the_name_of_its_answer(topics, qrels):
    queries = dict(zip(topics["qid"], topics["query"], strict=True))
    shared = {
        (row.qid, row.docno): common
        for row in qrels[qrels["label"] == 2].itertuples()
        if (common := words(".".join(row.docno.split(".")[-2:])) & words(queries[row.qid]))
    }
    assert not shared


def test_a_variant_raises_an_error():
    with pytest.raises(ValueError, match="no variants"):
        StdlibDocs().get_topics("dev")
    with pytest.raises(ValueError, match="no variants"):
        StdlibDocs().get_qrels("dev")
