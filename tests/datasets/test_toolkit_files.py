"""The toolkit's files: what is read is what was written, and what cannot be read is named."""

import csv
import gzip
import json
import math
import re
import warnings

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyterrier_inpars import datasets
from pyterrier_inpars.datasets.toolkit_files import (
    read_pairs,
    read_queries,
    read_run,
    read_triples,
    write_qrels,
    write_queries,
    write_run,
    write_triples,
)

AWKWARD = st.text(
    st.sampled_from(list("ab \t\n\r\"',{}\\\u2028\x85é漢\U0001f600")) | st.characters(codec="utf-8")
)


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("formats")


# ---- queries


def test_both_generations_of_names_are_read(tmp_path):
    path = lines(
        tmp_path / "q.jsonl",
        {"doc_id": "007", "doc_text": "one", "question": "q one", "log_probs": [-1, -2.0, -6]},
        {"doc_id": 7, "text": "two", "query": "q two", "prompt_text": "p", "log_probs": None},
        {"doc_id": "007", "doc_text": "one", "question": "q three", "log_probs": [], "extra": {}},
        {"doc_id": "007", "text": "new", "doc_text": "old", "query": "q", "score": -9},
        {"doc_id": "x", "query": "no text", "fewshot_examples": [3, "004"]},
    )
    first, second, third, fourth, fifth = read_queries(path)
    assert first == {
        "qid": "007-1",
        "query": "q one",
        "docno": "007",
        "text": "one",
        "log_probs": [-1.0, -2.0, -6.0],
        "score": -3.0,
    }
    assert second == {
        "qid": "7-1",
        "query": "q two",
        "docno": "7",
        "text": "two",
        "prompt_text": "p",
    }
    assert third["qid"] == "007-2" and third["extra"] == {} and "score" not in third
    assert fourth["qid"] == "007-3" and fourth["text"] == "new" and fourth["doc_text"] == "old"
    assert fourth["score"] == -9.0
    assert fifth["fewshot_examples"] == ["3", "004"] and "text" not in fifth


def test_a_score_in_the_file_is_kept(tmp_path):
    path = lines(
        tmp_path / "q.jsonl", {"doc_id": "d", "query": "q", "log_probs": [-1], "score": 0.25}
    )
    assert next(read_queries(path))["score"] == 0.25


def test_blank_queries_give_no_row_but_count(tmp_path):
    """The toolkit numbers topics by file line, yet skips lines without a query."""
    records = [{"doc_id": "d", "text": "t", "query": query} for query in ["a", "", " \n", "b"]]
    rows = list(read_queries(lines(tmp_path / "q.jsonl", *records)))
    assert [(row["qid"], row["query"]) for row in rows] == [("d-1", "a"), ("d-4", "b")]


def test_qids_of_the_file_are_kept_and_unique(tmp_path):
    record = {"doc_id": "d", "query": "q", "qid": "mine"}
    path = lines(tmp_path / "q.jsonl", record, {"doc_id": "d", "query": "q"})
    assert [row["qid"] for row in read_queries(path)] == ["mine", "d-2"]
    with pytest.raises(ValueError, match="q.jsonl, line 3: duplicate qid 'mine'"):
        list(read_queries(lines(path, record, {"doc_id": "d", "query": "q"}, record)))


def test_reading_is_streamed(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"doc_id": "d", "query": "q"}\nnot json\n')
    rows = read_queries(path)
    assert next(rows)["qid"] == "d-1"
    with pytest.raises(ValueError, match="line 2"):
        next(rows)


@pytest.mark.parametrize(
    "second, message",
    [
        ('{"query": "q"}', "line 3: lacks doc_id"),
        ('{"doc_id": null, "query": "q"}', "line 3: lacks doc_id"),
        ('{"doc_id": 1.0, "query": "q"}', r"line 3: doc_id must be a string .*not 1\.0"),
        ('{"doc_id": true, "query": "q"}', "line 3: doc_id must be a string .*not True"),
        ('{"doc_id": "", "query": "q"}', "line 3: doc_id must be a string .*not ''"),
        ('{"doc_id": ["d"], "query": "q"}', "line 3: doc_id must be"),
        ('{"doc_id": "d", "qid": 0.5, "query": "q"}', r"line 3: qid must be .*not 0\.5"),
        ('{"doc_id": "d"}', "line 3: lacks query and question"),
        ('{"doc_id": "d", "query": 3}', "line 3: query must be a string, not 3"),
        ('{"doc_id": "d", "query": "q", "text": 3}', "line 3: text must be a string, not 3"),
        ('{"doc_id": "d", "query": "q", "log_probs": -1}', "line 3: log_probs must be numbers"),
        ('{"doc_id": "d", "query": "q", "log_probs": ["1"]}', "line 3: log_probs must be numbers"),
        ('{"doc_id": "d", "query": "q", "log_probs": [true]}', "line 3: log_probs must be numbers"),
        ('{"doc_id": "d", "query": "q", "score": "1"}', "line 3: score must be numbers"),
        ('{"doc_id": "d", "query": "q", "fewshot_examples": [1.5]}', "line 3: fewshot_examples"),
        ('["d"]', "line 3: must be a JSON object"),
        ('{"doc_id": "d"', "line 3: is not JSON"),
        ('{"doc_id": "\xff", "query": "q"}', "line 3: is not JSON in UTF-8"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path, second, message):
    path = tmp_path / "queries.jsonl"
    path.write_bytes(b'{"doc_id": "d", "query": "q"}\n\n' + second.encode("latin-1") + b"\n")
    with pytest.raises(ValueError, match=f"queries.jsonl, {message}"):
        list(read_queries(path))


@pytest.mark.parametrize(
    "read, line",
    [
        (lambda path: list(read_queries(path)), b'{"doc_id": "%d", "query": "q"}\n'),
        (read_triples, b"query\tpositive\tnegative %d\n"),
        (read_pairs, b"query\tpassage %d\t1\n"),
    ],
)
def test_empty_missing_and_damaged_files(tmp_path, read, line):
    path = tmp_path / "file"
    for content in (b"", b"\n\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="file: is empty"):
            read(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(tmp_path / "nowhere")
    damaged = tmp_path / "damaged.gz"
    content = gzip.compress(b"".join(line % i for i in range(2_000)))
    damaged.write_bytes(content)
    assert len(read(damaged)) >= 2_000
    for harm in (content[:-9], content[:-8] + bytes(8), b"no gzip"):
        damaged.write_bytes(harm)
        with pytest.raises(ValueError, match=r"damaged.gz: is damaged after line \d+"):
            read(damaged)


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "qid": st.uuids().map(str),
            "query": AWKWARD.filter(str.strip),
            "docno": AWKWARD.filter(str.strip),
            "text": AWKWARD,
        },
        optional={
            "log_probs": st.lists(st.floats(-50, 0), min_size=1),
            "prompt_text": AWKWARD,
            "fewshot_examples": st.lists(AWKWARD.filter(str.strip)),
            "finish_reason": st.sampled_from(["stop", "length"]),
            "title": AWKWARD,
        },
    ).map(
        lambda row: row | {"score": np.mean(row["log_probs"]).item()} if "log_probs" in row else row
    ),
    min_size=1,
    unique_by=lambda row: row["qid"],
)


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz"])
@given(rows=ROWS)
def test_queries_come_back_as_they_were_written(folder, name, rows):
    write_queries(iter(rows), folder / name)
    assert list(read_queries(folder / name)) == rows


@given(rows=ROWS)
def test_what_is_written_is_the_toolkits_form(folder, rows):
    write_queries(rows, folder / "form.jsonl")
    written = [json.loads(line) for line in (folder / "form.jsonl").read_bytes().split(b"\n")[:-1]]
    for row, record in zip(rows, written, strict=True):
        asked = ["doc_id", "text", "query", "log_probs", "prompt_text", "fewshot_examples"]
        row = dict(row, doc_id=row["docno"])
        assert {name: record.get(name) for name in asked} == {name: row.get(name) for name in asked}
        assert list(record)[:3] == asked[:3]


def test_a_frame_is_written_without_what_it_misses(tmp_path):
    frame = pd.DataFrame(
        {
            "qid": ["a", "b"],
            "query": ["x", "y"],
            "docno": ["1", "2"],
            "text": ["t", "u"],
            "score": [np.float32(0.5), None],
            "log_probs": [np.array([-0.5, -1.5]), None],
            "label": [1, 0],
        }
    )
    write_queries(frame, tmp_path / "new" / "q.jsonl.gz")
    with gzip.open(tmp_path / "new" / "q.jsonl.gz") as file:
        first, second = map(json.loads, file)
    assert first["score"] == 0.5 and first["log_probs"] == [-0.5, -1.5] and first["label"] == 1
    assert list(second) == ["doc_id", "text", "query", "qid", "label"]


@pytest.mark.parametrize(
    "row, message",
    [
        ({"docno": "d"}, r"row 2 \(qid None\) lacks query"),
        ({"query": "q", "qid": "7"}, r"row 2 \(qid '7'\) lacks docno"),
        ({"query": None, "docno": "d"}, "lacks query"),
        ({"query": "q", "docno": 7}, "docno must be a string, not 7"),
        ({"query": "q", "docno": "d", "text": 7}, "text must be a string, not 7"),
        ({"query": "q", "docno": "d", "qid": 7}, "qid must be a string, not 7"),
        ({"query": "q\ud800", "docno": "d"}, "cannot write row 2"),
        ({"query": "q", "docno": "d", "extra": {1}}, "cannot write row 2"),
        ({"query": "q", "docno": "d", "extra": [math.nan]}, "cannot write row 2"),
        ({"query": "q", "docno": " "}, r"row 2 \(qid None\): doc_id must be a string .* not ' '"),
        ({"query": "q", "docno": "d", "qid": ""}, "row 2 .*: qid must be a string .* not ''"),
        ({"query": "q", "docno": "d", "qid": "1"}, "row 2 .*: duplicate qid '1'"),
        ({"query": "q", "docno": "d", "score": "1"}, "row 2 .*: score must be numbers"),
        ({"query": "q", "docno": "d", "score": math.inf}, "cannot write row 2"),
        ({"query": "q", "docno": "d", "log_probs": -1}, "row 2 .*: log_probs must be numbers"),
        ({"query": "q", "docno": "d", "fewshot_examples": "1"}, "row 2 .*: fewshot_examples must"),
        ({"query": "q", "docno": "d", "fewshot_examples": [""]}, "row 2 .*: fewshot_examples must"),
    ],
)
def test_a_row_that_cannot_be_written_leaves_what_was_there(tmp_path, row, message):
    path = tmp_path / "q.jsonl"
    path.write_text("before")
    with pytest.raises(ValueError, match=message):
        write_queries([{"qid": "1", "query": "q", "docno": "d"}, row], path)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


# ---- triples and pairs


def examples(*rows):
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "label"])


def test_triples_become_examples(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text(
        'who\tthe man\tthe dog\nwho\tthe man\tthe cat\nwhy\t"say ""so"""\tthe dog\n'
        "who\tthe boy\tthe cat\n"
    )
    expected = examples(
        ("1", "who", "d1", "the man", 1),
        ("1", "who", "d2", "the dog", 0),
        ("1", "who", "d3", "the cat", 0),
        ("2", "why", "d4", 'say "so"', 1),
        ("2", "why", "d2", "the dog", 0),
        ("1", "who", "d5", "the boy", 1),
    )
    pd.testing.assert_frame_equal(read_triples(path), expected)


def test_a_source_document_that_the_toolkit_drew_as_its_own_negative_is_none(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("who\tthe man\tthe man\nwho\tthe man\tthe dog\nwhy\tthe dog\tthe man\n")
    with pytest.warns(UserWarning, match="t.tsv: 1 texts are both relevant and not"):
        found = read_triples(path)
    assert found[["query", "text", "label"]].values.tolist() == [
        ["who", "the man", 1],
        ["who", "the dog", 0],
        ["why", "the dog", 1],
        ["why", "the man", 0],
    ]


def test_documents_longer_than_the_csv_modules_limit(tmp_path):
    long = "word " * 100_000
    frame = examples(("1", "q", "d1", long, 1), ("1", "q", "d2", 'other"' + long, 0))
    before = csv.field_size_limit(1_000)
    write_triples(frame, tmp_path / "t.tsv")
    pd.testing.assert_frame_equal(read_triples(tmp_path / "t.tsv"), frame)
    assert csv.field_size_limit(before) == 1_000


def test_line_ends_of_other_systems_and_programs(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes(b'a\tb\rc\td\r\ne\t"f\n\ng"\th\n')
    assert read_triples(path)["text"].tolist() == ["b c", "d", "f\n\ng", "h"]


def test_quotation_marks_of_plain_text(tmp_path):
    """Lines that no csv module wrote, such as MS MARCO's: each is a row, and keeps its marks."""
    path = tmp_path / "t.tsv"
    path.write_text('who\t"the man\tthe dog\nwhy\tthe "cat"\tthe fox"\n"how\t"a b"\tc"\n')
    assert read_triples(path)[["query", "text"]].values.tolist() == [
        ["who", '"the man'],
        ["who", "the dog"],
        ["why", 'the "cat"'],
        ["why", 'the fox"'],
        ['"how', '"a b"'],
        ['"how', 'c"'],
    ]
    path.write_text('who\t"the man\t1\nwhy\tthe dog"\t0\n')
    assert read_pairs(path)["text"].tolist() == ['"the man', 'the dog"']


def test_a_quoted_cell_that_ends_behind_another_row(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text('a\tb\tc\nwho\t"the man\na\tb\tc\nend"\tthe dog\n')
    with pytest.raises(ValueError, match="t.tsv, line 2: .* not closed before the next row"):
        read_triples(path)


@pytest.mark.parametrize("name", ["t.tsv", "t.tsv.gz", "T.TSV.GZ"])
@given(
    st.lists(
        st.tuples(AWKWARD, st.lists(AWKWARD, min_size=1), st.lists(AWKWARD, min_size=1)), min_size=1
    )
)
def test_triples_come_back(folder, name, groups):
    """Every query with the pairs of its texts, apart from tabs and line ends."""
    rows = [
        (str(i), query, "", text, label)
        for i, (query, positives, negatives) in enumerate(groups)
        for label, texts in ((1, positives), (0, negatives))
        for text in texts
    ]

    def flat(text):
        return re.sub("[\t\r\n]+", " ", text)

    wanted = {}
    for query, positives, negatives in groups:
        for label, texts in ((0, negatives), (1, positives)):
            for text in texts:
                key = flat(query), flat(text)
                wanted[key] = max(label, wanted.get(key, 0))
    write_triples(examples(*rows), folder / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = read_triples(folder / name)
    got = {
        (q, t): label
        for q, t, label in zip(found["query"], found["text"], found["label"], strict=True)
    }
    assert got == wanted and len(found) == len(wanted)
    for key, name in (("query", "qid"), ("text", "docno")):
        assert found.groupby(key)[name].nunique().eq(1).all()
        assert found.groupby(name)[key].nunique().eq(1).all()


def test_one_triple_for_each_positive_with_each_negative_of_its_qid(tmp_path):
    frame = examples(
        ("1", "a", "x", "p", 1),
        ("2", "b", "x", "q", 1),
        ("1", "a", "x", "n", 0),
        ("1", "a", "x", "m", 0),
        ("1", "a", "x", "o", 1),
        ("2", "b", "x", "k", 0),
    )
    write_triples(frame, tmp_path / "t.tsv")
    assert (tmp_path / "t.tsv").read_text().splitlines() == [
        "a\tp\tn",
        "a\tp\tm",
        "b\tq\tk",
        "a\to\tn",
        "a\to\tm",
    ]


def test_examples_that_make_no_triples(tmp_path):
    path = tmp_path / "t.tsv"
    good = examples(("1", "a", "x", "p", 1), ("1", "a", "y", "n", 0), ("2", "b", "x", "p", 1))
    with pytest.warns(UserWarning, match="1 of 2 positives have no negative"):
        write_triples(good, path)
    for bad, message in [
        (good[:1], "label 0"),
        (good[:0], "no examples"),
        (good.assign(label=2), "label must be"),
        (good.assign(text=None), "text must be a string"),
        (good.assign(qid=1), "qid must be a string"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_triples(bad, tmp_path / "none.tsv")
    with pytest.raises(pt.validate.InputValidationError, match="qid"):
        write_triples(good.drop(columns="qid"), tmp_path / "none.tsv")
    assert list(tmp_path.iterdir()) == [path]


def test_pairs_become_examples(tmp_path):
    path = tmp_path / "p.tsv"
    path.write_text("who\tthe man\t1\nwho\tthe dog\t0\nwhy\tthe man\t1\n")
    expected = examples(
        ("1", "who", "d1", "the man", 1),
        ("1", "who", "d2", "the dog", 0),
        ("2", "why", "d1", "the man", 1),
    )
    pd.testing.assert_frame_equal(read_pairs(path), expected)


@pytest.mark.parametrize(
    "line, message",
    [
        ("who\tthe man", "line 2: must have 3 columns, query, passage, label, .* has 2"),
        ("who\tthe man\t1\tx", "line 2: must have 3 columns.* has 4"),
        ("who\tthe man\t2", "line 2: label must be 0 or 1, not '2'"),
        ("who\tthe man\t1.0", "line 2: label must be 0 or 1, not '1.0'"),
        ("who\tthe man\t", "line 2: label must be 0 or 1, not ''"),
        (
            'who\t"the man',
            "line 2: is not TSV: not 3 cells, and a quotation mark",
        ),
        ('who\t"the"man"', "line 2: is not TSV: not 3 cells"),
        ("who\tthe \xff\t1", "line 2: is not TSV in UTF-8"),
    ],
)
def test_a_row_of_another_form_is_named(tmp_path, line, message):
    path = tmp_path / "p.tsv"
    path.write_bytes(b"a\tb\t1\n" + line.encode("latin-1") + b"\n")
    with pytest.raises(ValueError, match=f"p.tsv, {message}"):
        read_pairs(path)
    if "label must" not in message and "4" not in message:
        with pytest.raises(ValueError, match="p.tsv, line 2"):
            read_triples(path)


# ---- runs

IDS = st.text(st.characters(codec="utf-8"), min_size=1).filter(
    lambda text: text.split() == [text] and text[0] != "\ufeff"
)
RUNS = st.lists(
    st.tuples(IDS, IDS, st.floats(allow_nan=False, width=32)),
    min_size=1,
    unique_by=lambda row: row[:2],
)


@given(RUNS)
def test_runs_come_back_as_they_were(folder, rows):
    results = pd.DataFrame(rows, columns=["qid", "docno", "score"])
    results = results.sort_values(["qid", "score"], ascending=[True, False], kind="stable")
    results["rank"] = results.groupby("qid").cumcount()
    write_run(results, folder / "a.run.gz", "name")
    found = read_run(folder / "a.run.gz").set_index(["qid", "docno"])
    expected = results.set_index(["qid", "docno"])
    assert found["score"].to_dict() == expected["score"].to_dict()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"docno": "a b"}, "cannot hold the ids '1' and 'a b'"),
        ({"docno": "d "}, "cannot hold the ids '1' and 'd '"),
        ({"qid": "\t1"}, r"cannot hold the ids '\\t1' and 'd'"),
        ({"qid": "\ufeff1"}, "cannot hold the ids '.ufeff1' and 'd'"),
        ({"qid": ""}, "cannot hold the ids '' and 'd'"),
        ({"rank": [math.nan]}, "rank is not a number at qid '1', docno 'd'"),
        ({"rank": [0.5]}, "rank must be a whole number, not 0.5, at qid '1', docno 'd'"),
        ({"score": math.nan}, "score is not a number"),
        ({"rank": [0, 1]}, "duplicate docno 'd' for qid '1'"),
    ],
)
def test_rows_that_a_run_cannot_hold(tmp_path, change, message):
    results = pd.DataFrame({"qid": "1", "docno": "d", "score": 1.0, "rank": [0]} | change)
    with pytest.raises(ValueError, match=message):
        write_run(results, tmp_path / "a.run")
    assert not list(tmp_path.iterdir())


def test_a_run_needs_a_name_and_rows(tmp_path):
    results = pd.DataFrame({"qid": ["1"], "docno": ["d"], "score": [1.0], "rank": [0]})
    for name in ("", "my run"):
        with pytest.raises(ValueError, match="without white space"):
            write_run(results, tmp_path / "a.run", name)
    with pytest.raises(ValueError, match="no results to write"):
        write_run(results[:0], tmp_path / "a.run")
    write_run(results.astype({"rank": float}), tmp_path / "a.run")
    assert (tmp_path / "a.run").read_text() == "1 Q0 d 0 1.0 pyterrier\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"docno": "a b"}, "a TREC file of judgements cannot hold the ids '1' and 'a b'"),
        ({"docno": 7}, "docno must be a string"),
        ({"label": [0.5]}, "label must be a whole number, not 0.5, at qid '1', docno 'd'"),
        ({"label": [0, 1]}, "duplicate docno 'd' for qid '1'"),
        ({"label": []}, "no judgements to write"),
    ],
)
def test_judgements_that_a_file_cannot_hold(tmp_path, change, message):
    qrels = pd.DataFrame({"qid": "1", "docno": "d", "label": [1]} | change)
    with pytest.raises(ValueError, match=message):
        write_qrels(qrels, tmp_path / "a.qrels")
    assert not list(tmp_path.iterdir())


def test_judgements_come_back_as_they_were(tmp_path):
    qrels = pd.DataFrame({"qid": ["1", "1"], "docno": ["a", '"b"'], "label": [3, 0]})
    write_qrels(qrels, tmp_path / "a.qrels")
    assert datasets.read_qrels(tmp_path / "a.qrels").to_dict() == qrels.to_dict()


@pytest.mark.parametrize("name", ["Q.JSONL.GZ", "q.jsonl.Bz2"])
def test_suffixes_in_upper_case_compress(tmp_path, monkeypatch, name):
    """Under the home folder, too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = [{"qid": "1", "query": "q", "docno": "d"}]
    write_queries(rows, f"~/{name}")
    assert not (tmp_path / name).read_bytes().startswith(b"{")
    assert list(read_queries(f"~/{name}")) == rows
