"""Bad files, topics and judgements."""

import gzip
import re

import numpy as np
import pandas as pd
import pytest
from bad_input import (
    ANY,
    CORPUS,
    HALF,
    MISSING,
    NO_STRING,
    NOT_ZERO_OR_MORE,
    TWO,
    Error,
    frame,
    gives,
    ours,
    queries,
    quick,
    rows,
)
from hypothesis import given
from hypothesis import strategies as st

from pyterrier_inpars import datasets
from pyterrier_inpars.datasets import exports, toolkit_files

ANSWER = ', "answer": "a"'
EXAMPLE = '{"query_id": 1, "query": "q", "doc_id": 2, "document": "d"%s}'
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
    toolkit_files.read_queries: [
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
        (QUERY % ', "qid": "a"' * 2, "line 2: duplicate qid 'a'"),
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
    toolkit_files.read_fewshot: [
        ("", "is empty"),
        ("{}\n", "line 1: lacks query_id, query, doc_id, document"),
        ('{"query_id": 1, "query": null, "doc_id": 2, "document": "d"}', "query must be a string"),
        ('{"query_id": 1.5, "query": "q", "doc_id": 2, "document": "d"}', "query_id must be a str"),
        (
            r'{"query_id": 1, "query": "\ud800", "doc_id": 2, "document": "d"}',
            [("1", "?", "2", "d")],
        ),
        (EXAMPLE % ANSWER, [("1", "q", "2", "d", "a")]),
        (EXAMPLE % ', "answer": null', "answer must be a string"),
        (EXAMPLE % "" + "\n" + EXAMPLE % ANSWER, "line 2: has an answer, which the lines before"),
        (EXAMPLE % ANSWER + "\n" + EXAMPLE % "", "line 2: lacks answer"),
    ],
    toolkit_files.read_triples: [
        ("", "t.tsv: is empty"),
        ("q\tp\n", "line 1: must have 3 columns.*but has 2"),
        ("q\tp\tn\n\nq\tp\tn\tx\n", "line 3: must have 3 columns.*but has 4"),
        ('q\t"p\n', "line 1: is not TSV"),
        ('q\t"p\tn\n', [("1", "q", "d1", '"p', 1), ("1", "q", "d2", "n", 0)]),
        ('q\t"p"x\tn\n', [("1", "q", "d1", '"p"x', 1), ("1", "q", "d2", "n", 0)]),
        ("q\té\tn\n".encode("latin-1"), "line 1: is not TSV in UTF-8"),
        (b"q\t\xed\xa0\x80\tn\n", "line 1: is not TSV in UTF-8"),
        ("q\tp\tn\n".encode("utf-16"), "is not TSV in UTF-8"),
        ("\ufeffq\tp\tn\r\n", [("1", "q", "d1", "p", 1), ("1", "q", "d2", "n", 0)]),
        ('q\tp"x\tn\0', [("1", "q", "d1", 'p"x', 1), ("1", "q", "d2", "n\0", 0)]),
    ],
    toolkit_files.read_pairs: [
        ("q\tp\t2\n", "line 1: label must be 0 or 1, not '2'"),
        ("q\tp\t1.0\n", "label must be 0 or 1, not '1.0'"),
        ("q\tp\t\n", "label must be 0 or 1, not ''"),
        ("q\tp\t 1 \n", [("1", "q", "d1", "p", 1)]),
        ("q\tp\t\x1c1\n", [("1", "q", "d1", "p", 1)]),
    ],
    toolkit_files.read_run: [
        ("", "is empty"),
        ("1 Q0 d 1 2\n", "line 1: must be `qid Q0 docno rank score tag`, not"),
        ("1 Q0 d 1 2 x y\n", "line 1: must be"),
        ("1 Q0 d 1 high x\n", "line 1: must be.*could not convert"),
        ("1 Q0 d 1 nan x\n", "line 1: must be.*the score is NaN"),
        ("1 Q0 é 1 2 x\n".encode("latin-1"), "line 1: must be"),
        ("1 Q0 d 1 2 x\n".encode("utf-16"), "line 1: must be"),
        ("1 Q0 d 1 2 x\n1 Q0 e 2 1 x\n1 Q0 d 3 0 x\n", "duplicate docno 'd' for qid '1'"),
        ("\ufeff1 Q0 d 1 2 x\n", [("1", "d", 2.0, 0)]),
        ("1\tQ0\tNA\t1\t2\tx\r\n\n", [("1", "NA", 2.0, 0)]),
    ],
    datasets.read_qrels: [
        ("1 d\n", "line 1: b'1 d' is not a judgement"),
        ("1 0 d 1.0\n", "is not a judgement"),
        ("1 0 d 1\n1 0 d 0\n", "docno 'd' has two different labels for qid '1'"),
        ("1 0 d 1\n1 0 d 1\n", [("1", "d", 1)]),
        ("1 0 d x\n", "is not a judgement: expected `qid 0 docno label`.* integer label"),
        ("1 Q0 d 0 2.5 bm25\n", "is not a judgement"),
        ("1 0 d 1 x\n", "is not a judgement"),
        ("1 0 d " + "9" * 30, "is not a judgement"),
        ("1 0 d " + "9" * 5_000, "is not a judgement"),
        ("\t\t1\n", "line 1: .* is not a judgement"),
        ("1\td\t1\n\t\t1\n", "line 2: .* is not a judgement"),
        ("1 0 é 1\n".encode("latin-1"), "line 1: .* is not a judgement"),
        ("1 0 d 1\n".encode("utf-16"), "line 1: .* is not a judgement"),
        ("", []),
        ("query-id\tcorpus-id\tscore\n", []),
        ("\ufeff01 0 d -1\r\n\r\n", [("01", "d", -1)]),
        ("query-id\tcorpus-id\tscore\n1 a\td\t2", [("1 a", "d", 2)]),
    ],
    datasets.read_corpus: [
        ("", []),
        (
            '{"x": 1}\n',
            "line 1: no column docno or doc_id or _id or id, only x: name the column with doc",
        ),
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
            "line 2: duplicate qid '1'",
        ),
        ('{"qid": 1, "query": ["a"]}', "query must be a string, not"),
        (r'{"qid": 1, "query": "\udc00"}', [("1", "?")]),
    ],
}


SUFFIX = {toolkit_files.read_triples: "t.tsv", toolkit_files.read_pairs: "t.tsv"}


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
    ("docno,docno,text\n", "duplicate column name"),
    ("a,b\n1,2\n", "no column docno or doc_id"),
    ('docno,text\n1,"a\n', "line 2"),
    ('docno,text\n1,"a"b\n', "line 2"),
    ("docno,text\n,a\n", "docno must be a string or a whole number, not ''"),
    ("docno,text\n1,é\n".encode("latin-1"), "c.csv, line 2: is not CSV in UTF-8"),
    ("docno,text\n1,a\n".encode("utf-16"), "c.csv, line 1: is not CSV in UTF-8"),
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
        (lambda p: toolkit_files.write_queries([{"query": "a"}], p), Error("row 1 .*lacks docno")),
        (lambda p: toolkit_files.write_queries([], p), Error("no queries to write to ")),
        (
            lambda p: exports.write_parquet(queries().assign(n=2**70), p),
            Error("the values of 'n' have no common type"),
        ),
        (
            lambda p: toolkit_files.write_queries([{"docno": 1, "query": "a"}], p),
            Error("docno must be a s"),
        ),
        (
            lambda p: toolkit_files.write_queries([{"docno": "1", "query": " "}], p),
            Error("row 1 .*: the query is blank"),
        ),
        (
            lambda p: toolkit_files.write_queries([{"docno": "1", "query": HALF}], p),
            Error("cannot write row 1"),
        ),
        (
            lambda p: toolkit_files.write_queries([{"docno": "1", "query": "a", "x": object()}], p),
            Error("cannot write row 1.*cannot be written as JSON"),
        ),
        (
            lambda p: toolkit_files.write_run(queries(), p),
            Error("missing_columns=.'rank'", MISSING),
        ),
        (
            lambda p: toolkit_files.write_run(queries(score=None).assign(rank=0), p),
            Error("score is not a number at qid 'q2'"),
        ),
        (
            lambda p: toolkit_files.write_run(queries(docno="a b").assign(rank=0), p),
            Error("cannot hold the ids 'q2' and 'a b'"),
        ),
        (
            lambda p: toolkit_files.write_run(queries(qid="").assign(rank=0), p),
            Error("cannot hold the ids ''"),
        ),
        (
            lambda p: toolkit_files.write_run(queries(qid=7).assign(rank=0), p),
            Error(f"qid {NO_STRING} 7"),
        ),
        (
            lambda p: toolkit_files.write_run(queries(docno=HALF).assign(rank=0), p),
            Error("docno contains"),
        ),
        (lambda p: toolkit_files.write_triples(TWO, p), Error("missing_columns", MISSING)),
        (
            lambda p: toolkit_files.write_triples(queries(label=2), p),
            Error("label must be 1 .* not 2"),
        ),
        (
            lambda p: toolkit_files.write_triples(queries(label=1), p),
            Error("no example has label 0"),
        ),
        (lambda p: toolkit_files.write_triples(queries().iloc[:0], p), Error("no examples")),
        (lambda p: toolkit_files.write_triples(queries(text=HALF), p), Error("text contains")),
    ],
)
def test_what_cannot_be_written_leaves_no_file(tmp_path, write, error):
    gives(lambda: write(tmp_path / "out"), error)
    assert list(tmp_path.iterdir()) == []


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


class Twice(Judged):
    """A collection with one docno for two documents."""

    def documents(self):
        return iter([("d1", "a"), ("d2", "b"), ("d1", "c")])

    def __repr__(self):
        return "judged"


def pairs(**options):
    return datasets.judged_pairs(Judged(), **options)["docno"].to_list()


@pytest.mark.parametrize(
    "call, expected",
    [
        (pairs, ["d1"]),
        (lambda: pairs(qrels=QRELS.assign(label="1")), ["d1"]),
        (lambda: pairs(qrels=QRELS.assign(label=1.0)), ["d1"]),
        (lambda: pairs(qrels=QRELS.assign(label=None)), Error("label is not a number at qid '1'")),
        (lambda: pairs(qrels=QRELS.assign(label=0)), Error("no document with label 1 or higher")),
        (lambda: pairs(qrels=QRELS.assign(qid=1)), Error(f"qid {NO_STRING} ")),
        (
            lambda: pairs(qrels=pd.concat([QRELS, QRELS.assign(label=0)])),
            Error("docno 'd1' has two different labels for qid '1'"),
        ),
        (lambda: pairs(qrels=pd.concat([QRELS, QRELS])), ["d1"]),
        (lambda: pairs(topics=TOPICS.assign(qid="1")), Error("duplicate qid '1'")),
        (lambda: datasets.judged_pairs(Twice()), Error("judged: duplicate docno 'd1'")),
        (
            lambda: Twice().text_loader()(frame({"docno": "d1"})),
            Error("judged: duplicate docno 'd1'"),
        ),
        (
            lambda: pairs(qrels=QRELS.assign(docno="other")),
            Error("no document with label 1 or higher"),
        ),
        (lambda: pairs(topics=TOPICS.assign(query=None)), Error(f"query {NO_STRING}")),
        (
            lambda: pairs(topics=TWO),
            Error("the topics of .* lack qid, query; they have only docno, text"),
        ),
        (lambda: pairs(max_pairs=0), Error("max_pairs must be a whole number of at least 1")),
        (
            lambda: Judged().text_loader()(frame({"docno": "no"})),
            Error("lacks 1 of 1 documents, such as 'no'"),
        ),
        (lambda: Judged().text_loader()(frame({"docno": 7})), Error(f"docno {NO_STRING} 7")),
        (lambda: Judged().text_loader()(frame({"docno": None})), Error(f"docno {NO_STRING}")),
        (lambda: Judged().text_loader("title"), Error("has only the field 'text', not 'title'")),
        (lambda: list(Judged().text_loader()(frame({"docno": "d1"}))["text"]), [CORPUS[1]["text"]]),
    ],
)
def test_topics_and_judgements(call, expected):
    gives(call, expected)


@pytest.mark.parametrize("value", NOT_ZERO_OR_MORE)
def test_a_number_that_must_be_zero_or_more(value):
    for make in (
        lambda: datasets.sample(CORPUS, 3, value),
        lambda: datasets.sample(CORPUS, value),
    ):
        gives(make, Error("must be a whole number of at least 0, not"))


def test_numbers_of_numpy_are_numbers():
    assert datasets.sample(CORPUS, np.int8(3), np.uint8(1)) == datasets.sample(CORPUS, 3, 1)


@quick
@given(st.lists(st.fixed_dictionaries({"qid": ANY, "docno": ANY, "score": ANY}), max_size=4))
def test_any_run_comes_back_or_is_refused(tmp_path, records):
    results = frame(*records, columns=None) if records else FOUND.iloc[:0]
    path = tmp_path / "run"
    path.unlink(missing_ok=True)
    written = ours(lambda: toolkit_files.write_run(results.assign(rank=0), path) or True)
    assert path.exists() == bool(written)
    if written and records:
        run = ours(lambda: toolkit_files.read_run(path))
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
