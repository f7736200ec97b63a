"""Documents, topics and judgements from files: against plain oracles."""

import csv
import gzip
import re

import pytest
from collection_files import documents, lines, table, written
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pyterrier_inpars.datasets import (
    read_corpus,
    read_qrels,
    read_topics,
)
from pyterrier_inpars.datasets._rows import table_rows

quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Anything that a file in UTF-8 can hold; csv refuses NUL before Python 3.11.
strings = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
ids = st.one_of(
    strings.filter(str.strip), st.sampled_from(["007", "1e5", "NA", "null", "-1", "1_0", " d1 "])
)
rows = st.lists(st.tuples(ids, strings), unique_by=lambda row: row[0].strip(), max_size=8)


def readable(rows, delimiter):
    """Whether no text has lines that look like rows, which the reader refuses."""
    return not any(delimiter in text and re.search(r"[\r\n]", text) for _, text in rows)


class TestReadCorpus:
    @quick
    @given(
        rows=rows,
        kind=st.sampled_from(["csv", "tsv"]),
        packed=st.booleans(),
        bom=st.booleans(),
    )
    def test_tables(self, tmp_path, rows, kind, packed, bom):
        """What the csv module writes is read as it was, but for white space around id and text."""
        delimiter = "," if kind == "csv" else "\t"
        assume(readable(rows, delimiter))
        text = table(["doc_id", "text"], rows, delimiter)
        path = written(tmp_path / f"corpus.{kind}{'.gz' if packed else ''}", text, bom)
        assert list(read_corpus(path)) == documents(*((d.strip(), t.strip()) for d, t in rows))

    @quick
    @given(rows=rows, titles=st.lists(strings, min_size=8, max_size=8), packed=st.booleans())
    def test_json(self, tmp_path, rows, titles, packed):
        records = [
            {"title": title, "_id": d, "text": t}
            for (d, t), title in zip(rows, titles, strict=False)
        ]
        path = written(tmp_path / f"corpus.jsonl{'.gz' if packed else ''}", lines(records))
        expected = [
            (d, (title + " " + t if title else t).strip())
            for (d, t), title in zip(rows, titles, strict=False)
        ]
        assert list(read_corpus(path)) == documents(*expected)

    def test_whole_numbers_are_their_digits(self, tmp_path):
        path = written(tmp_path / "c.jsonl", lines([{"id": 12345678901234567890, "text": "x"}]))
        assert list(read_corpus(path)) == documents(("12345678901234567890", "x"))

    def test_half_a_character_is_no_text(self, tmp_path):
        """A frame cannot hold it, and it would end a run of days."""
        path = written(tmp_path / "c.jsonl", lines([{"id": "a", "text": "x \ud83d y"}]))
        assert list(read_corpus(path)) == documents(("a", "x ? y"))

    def test_long_cells(self, tmp_path):
        long = "word " * 100_000
        path = written(tmp_path / "c.csv", table(["docno", "text"], [["a", long]]))
        assert list(read_corpus(path)) == documents(("a", long.strip()))

    @pytest.mark.parametrize(
        ("header", "row", "expected"),
        [
            (["docno", "text"], ["a", "b"], ("a", "b")),
            (["text", "id", "docno"], ["b", "0", "a"], ("a", "b")),
            (["id", "contents", "title"], ["a", "b", "c"], ("a", "b")),
            (["_id", "title", "text"], ["a", "c", "b"], ("a", "c b")),
            (["_id", "title", "text"], ["a", "", "b"], ("a", "b")),
        ],
    )
    def test_columns(self, tmp_path, header, row, expected):
        path = written(tmp_path / "c.csv", table(header, [row]))
        assert list(read_corpus(path)) == documents(expected)

    def test_without_a_header(self, tmp_path):
        """MS MARCO's ``collection.tsv`` has none, and its quotation marks are text."""
        path = written(tmp_path / "c.tsv", '0\t"The presence\n1\tThe gain"\n2\t"a ""b"" c"\n')
        expected = documents(("0", '"The presence'), ("1", 'The gain"'), ("2", '"a ""b"" c"'))
        assert list(read_corpus(path)) == expected

    @pytest.mark.parametrize(("kind", "delimiter"), [("csv", ","), ("tsv", "\t")])
    def test_columns_by_position(self, tmp_path, kind, delimiter):
        """MS MARCO's documents: id, address, title and body, without a header."""
        rows = [["D1", "http://a", "One", "the body"], ["D2", "http://b", "", "more"]]
        text = table(rows[0], rows[1:], delimiter)
        path = written(tmp_path / f"c.{kind}", text)
        expected = documents(("D1", "One the body"), ("D2", "more"))
        assert list(read_corpus(path, docno=0, text=[2, 3])) == expected
        with pytest.raises(ValueError, match="line 1: no column 4, only 0, 1, 2, 3"):
            list(read_corpus(path, docno=0, text=4))

    @pytest.mark.parametrize("name", ["c.csv", "c.jsonl"])
    def test_text_of_several_columns(self, tmp_path, name):
        records = [
            {"id": "a", "title": "T", "abstract": "A", "body": "B"},
            {"id": "b", "title": "", "abstract": "C", "body": "D"},
        ]
        text = lines(records) if name == "c.jsonl" else table(records[0], map(dict.values, records))
        path = written(tmp_path / name, text)
        found = read_corpus(path, text=["title", "body", "abstract"])
        assert list(found) == documents(("a", "T B A"), ("b", "D C"))
        with pytest.raises(ValueError, match="line . ?: no column bdy|no column bdy"):
            list(read_corpus(path, text=["title", "bdy"]))

    @pytest.mark.parametrize("name", ["C.JSONL.GZ", "c.Jsonl.gz", "C.JSONL"])
    def test_suffixes_in_upper_case(self, tmp_path, name):
        data = lines([{"id": "a", "text": "b"}]).encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.lower()[-1] == "z" else data)
        assert list(read_corpus(tmp_path / name)) == documents(("a", "b"))

    def test_home_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        written(tmp_path / "c.csv", "id,text\na,b\n")
        written(tmp_path / "t.tsv", "1\tq\n")
        written(tmp_path / "qrels", "1 0 a 1\n")
        assert list(read_corpus("~/c.csv")) == documents(("a", "b"))
        assert len(read_topics("~/t.tsv")) == len(read_qrels("~/qrels")) == 1

    @pytest.mark.parametrize("name", ["c.csv", "c.tsv"])
    def test_white_space_around_header_and_ids(self, tmp_path, name):
        text = " text , docno \nhello, d1 \n"
        text = text if name == "c.csv" else text.replace(",", "\t")
        assert list(read_corpus(written(tmp_path / name, text))) == documents(("d1", "hello"))

    def test_columns_by_argument(self, tmp_path):
        path = written(tmp_path / "c.csv", table(["key", "title", "id"], [["a", "b", "c"]]))
        assert list(read_corpus(path, docno="key", text="title")) == documents(("a", "b"))
        with pytest.raises(ValueError, match="no column nokey, only key, title, id"):
            list(read_corpus(path, docno="nokey", text="title"))

    @pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.jsonl", "c.jsonl.gz"])
    def test_empty(self, tmp_path, name):
        assert list(read_corpus(written(tmp_path / name, ""))) == []

    def test_header_only(self, tmp_path):
        assert list(read_corpus(written(tmp_path / "c.csv", "doc_id,text\n"))) == []

    def test_streams(self, tmp_path):
        """The first document is there before the last line is read."""
        path = written(tmp_path / "c.jsonl", lines([{"id": "a", "text": "b"}]) + "broken")
        stream = read_corpus(path)
        assert next(stream) == {"docno": "a", "text": "b"}
        with pytest.raises(
            ValueError, match=r"c.jsonl, line 2: is not JSON in UTF-8: Expecting value"
        ):
            next(stream)

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            (
                "c.csv",
                "key,body\n1,x\n",
                "line 2: no column docno or doc_id or _id or id, only key",
            ),
            ("c.csv", "id,body\n1,x\n", "no column text or .*, only id, body: .* text=..."),
            ("c.csv", 'id,text\n1,"a\nb"\n2\n', "line 4: 1 cells, but the columns are id, text"),
            ("c.csv", "id,text\n1,x,y\n", "line 2: 3 cells"),
            ("c.csv", "id,text,id\n1,x,2\n", "line 1: duplicate column name: id, text, id"),
            ("c.csv", "id,text\n,x\n", "line 2: id must be a string or a whole number, not ''"),
            ("c.tsv", "pid\tpassage\n1\tx\n", "no column docno .*, only pid, passage: .*docno=..."),
            ("c.tsv", "ID\tText\n1\tx\n", "no column docno or .*, only ID, Text"),
            ("c.csv", "id,text\n \t,x\n", "line 2: id must be a string or a whole number, not ''"),
            ("c.jsonl", '{"id": " ", "text": "x"}', "line 1: id must be a string .*, not ' '"),
            ("c.csv", "id,text\n1,a\n2,b\n 1,c\n", "c.csv, line 4: duplicate docno '1'"),
            ("c.jsonl", '{"id": 1, "text": "a"}\n' * 2, "c.jsonl, line 2: duplicate docno '1'"),
            ("c.tsv", "1\ta\n1\tb\n", "c.tsv, line 2: duplicate docno '1'"),
            ("c.csv", 'id,text\n1,"a\n2,b"\n3,c\n', "line 3: a quotation mark joins 2 lines that"),
            ("c.tsv", 'id\ttext\n1\t"a\n2\tb"\n', "line 3: a quotation mark joins 2 lines that"),
            ("c.csv", 'id,text\n1,"x\n', "c.csv, line 2: is not CSV .*: unexpected end of data"),
            ("c.tsv", 'id\ttext\n1\t"a" b\n', "c.tsv, line 2: "),
            (
                "c.jsonl",
                '{"id": "1", "text": "x"}\n\n{"id": "2"}\n',
                "line 3: text must be .* None",
            ),
            ("c.jsonl", '{"id": "1", "text": "x"}\n{"text": "x"}\n', "line 2: id must be .* None"),
            ("c.jsonl", '{"id": 1.5, "text": "x"}\n', "line 1: id must be .* not 1.5"),
            ("c.jsonl", '{"id": true, "text": "x"}\n', "line 1: id must be .* not True"),
            ("c.jsonl", '{"id": "1", "text": 7}\n', "line 1: text must be a string, not 7"),
            ("c.jsonl", '{"id": "1", "text": "", "title": 7}\n', "line 1: title must be a string"),
            ("c.jsonl", '["id"]\n', "line 1: must be a JSON object, not"),
            ("c.json", '[\n{"id": "1"}\n]\n', "line 1: is not JSON"),
            ("c.txt", "x", "must end in one of .csv, .tsv, .jsonl, .json, or in one of them and"),
        ],
    )
    def test_bad_files(self, tmp_path, name, text, message):
        with pytest.raises(ValueError, match=message):
            list(read_corpus(written(tmp_path / name, text)))

    def test_unreadable_bytes(self, tmp_path):
        path = tmp_path / "c.csv"
        path.write_bytes("id,text\n1,é\n".encode("latin-1"))
        with pytest.raises(
            ValueError, match="c.csv, line 2: is not CSV in UTF-8 .*: 'utf-8' codec"
        ):
            list(read_corpus(path))
        cut = tmp_path / "c.jsonl.gz"
        cut.write_bytes(gzip.compress(lines([{"id": "1", "text": "x"}]).encode())[:-12])
        with pytest.raises(ValueError, match="c.jsonl.gz: is damaged after line 0"):
            list(read_corpus(cut))


class TestReadTopics:
    @quick
    @given(rows=rows, kind=st.sampled_from(["csv", "tsv", "jsonl"]))
    def test_as_written(self, tmp_path, rows, kind):
        path = tmp_path / f"topics.{kind}"
        if kind == "jsonl":
            written(path, lines([{"_id": qid, "text": query} for qid, query in rows]))
        else:
            delimiter = "," if kind == "csv" else "\t"
            assume(readable(rows, delimiter))
            written(path, table(["query_id", "text"], rows, delimiter))
            rows = [(qid.strip(), query) for qid, query in rows]
        topics = read_topics(path)
        assert list(topics.columns) == ["qid", "query"]
        assert list(topics.itertuples(index=False, name=None)) == rows

    def test_without_a_header(self, tmp_path):
        """The toolkit's ``--queries`` and Pyserini's topics have none."""
        path = written(tmp_path / "t.tsv", "007\tdry martini\nNA\tsodium\n")
        expected = [("007", "dry martini"), ("NA", "sodium")]
        assert list(read_topics(path).itertuples(index=False, name=None)) == expected

    def test_quotation_marks_without_a_header_are_text(self, tmp_path):
        path = written(tmp_path / "t.tsv", '1\t"foo bar\n2\tbaz"\n3\t"qux"\n')
        assert list(read_topics(path)["query"]) == ['"foo bar', 'baz"', '"qux"']

    def test_several_lines_with_a_header(self, tmp_path):
        """A quoted cell may have several lines, unless each of them looks like a row."""
        path = written(tmp_path / "t.csv", 'qid,query\n1,"foo, bar\nis, this"\n2,x\n')
        assert list(read_topics(path)["query"]) == ["foo, bar\nis, this", "x"]
        path = written(tmp_path / "t.tsv", 'qid\tquery\n1\t"foo bar\n2\tbaz"\n3\tqux\n')
        with pytest.raises(ValueError, match="t.tsv, line 3: a quotation mark joins 2 lines"):
            read_topics(path)

    def test_columns_by_argument(self, tmp_path):
        path = written(tmp_path / "t.tsv", "key\twords\n007\tdry martini\n")
        topics = read_topics(path, qid="key", query="words")
        assert topics.to_dict("list") == {"qid": ["007"], "query": ["dry martini"]}

    def test_bad_files(self, tmp_path):
        with pytest.raises(ValueError, match="t.tsv, line 2: duplicate qid '1'"):
            read_topics(written(tmp_path / "t.tsv", "1\ta\n1\tb\n"))
        with pytest.raises(ValueError, match="no column qid or query_id or _id or id, only a, b"):
            read_topics(written(tmp_path / "t.csv", "a,b\n1,2\n"))
        with pytest.raises(ValueError, match="line 2: no column qid .* only a, b, c"):
            read_topics(written(tmp_path / "t.tsv", "a\tb\tc\n1\t2\t3\n"))


class TestReadQrels:
    @pytest.mark.parametrize(
        "text",
        [
            "query-id\tcorpus-id\tscore\n01\tNA\t2\nq x\t1e5\t-1\n",
            "01\tNA\t2\r\n\r\nq x\t1e5\t-1\r\n",
        ],
    )
    def test_beir(self, tmp_path, text):
        qrels = read_qrels(written(tmp_path / "test.tsv", text, bom=True))
        assert list(qrels.itertuples(index=False, name=None)) == [
            ("01", "NA", 2),
            ("q x", "1e5", -1),
        ]
        assert qrels["label"].dtype == "int64"

    def test_trec(self, tmp_path):
        qrels = read_qrels(written(tmp_path / "q.txt", "01 0 NA 2\n02  Q0\t007 -1\n"))
        assert qrels.to_dict("list") == {
            "qid": ["01", "02"],
            "docno": ["NA", "007"],
            "label": [2, -1],
        }

    @pytest.mark.parametrize("form", ["{} 0 {} {}\n", "{}\t{}\t{}\n"])
    def test_judged_twice(self, tmp_path, form):
        """The same label twice is one judgement; two labels are an error, in either order."""
        same = [("1", "d1", 1), ("2", "d1", 0), ("1", "d1", 1)]
        path = written(tmp_path / "q", "".join(form.format(*row) for row in same))
        assert list(read_qrels(path).itertuples(index=False, name=None)) == same[:2]
        for labels in ((0, 1), (1, 0)):
            text = "".join(form.format("1", "d1", label) for label in labels)
            with pytest.raises(ValueError, match="q: docno 'd1' has two different .* qid '1'"):
                read_qrels(written(path, text))

    def test_empty(self, tmp_path):
        qrels = read_qrels(written(tmp_path / "q.tsv", ""))
        assert list(qrels.columns) == ["qid", "docno", "label"]

    @pytest.mark.parametrize(
        "text",
        [
            *("1 0 a x\n", "1\ta\t1\n1\ta\tx\n", "1 0\n", "1\ta\t1\n1\ta\n"),
            *("1\ta\t1.0\n", "1\ta\t-1e0\n", "1\ta\tnan\n"),
        ],
    )
    def test_bad_lines(self, tmp_path, text):
        number = len(text.splitlines())
        with pytest.raises(ValueError, match=f"q.tsv, line {number}: .* is not a judgement"):
            read_qrels(written(tmp_path / "q.tsv", text))


class TestTableRows:
    @quick
    @given(
        text=st.text(st.sampled_from('ab ,"\r\n'), max_size=30),
        delimiter=st.sampled_from([",", "\t"]),
    )
    def test_rows_are_those_of_the_csv_module(self, tmp_path, text, delimiter):
        """Line ends in and between fields included."""
        path = tmp_path / "table"
        path.write_bytes(text.encode())
        try:
            with open(path, encoding="utf-8", newline="") as file:
                expected = [
                    row for row in csv.reader(file, delimiter=delimiter, strict=True) if row
                ]
        except csv.Error:
            with pytest.raises(ValueError, match="with quotes doubled inside quoted fields"):
                list(table_rows(path, delimiter, may_be_empty=True))
        else:
            try:
                found = [row for _, row in table_rows(path, delimiter, may_be_empty=True)]
            except ValueError as error:
                assert "lines that look like rows" in str(error)
                assert any(re.search(r"[\r\n]", cell) for row in expected for cell in row)
            else:
                assert found == expected

    def test_two_files_of_long_fields_at_once(self, tmp_path):
        """The limit of the csv module is global, and is the caller's whenever the caller runs."""
        before = csv.field_size_limit(1_000)
        try:
            long = "word " * 100_000
            paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
            for path in paths:
                written(path, table(["docno", "text"], [["1", long], ["2", long]]))
            for pair in zip(*map(read_corpus, paths), strict=True):
                assert [document["text"] for document in pair] == [long.strip()] * 2
                assert csv.field_size_limit() == 1_000
        finally:
            csv.field_size_limit(before)
