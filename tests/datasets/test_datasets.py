"""Collections from files and ir_datasets, sampling, few-shot examples: against plain oracles."""

import csv
import gzip
import io
import itertools
import json
import math
import weakref
from collections import Counter
from typing import NamedTuple

import ir_datasets
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyterrier_inpars import NegativeMiner
from pyterrier_inpars.datasets import (
    BeirFolder,
    Collection,
    Files,
    IrDatasets,
    TextLoader,
    collection,
    judged_pairs,
    read_corpus,
    read_qrels,
    read_topics,
    sample,
)
from pyterrier_inpars.demo.collection import StdlibDocs

quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Anything that a file in UTF-8 can hold; csv refuses NUL before Python 3.11.
strings = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
ids = st.one_of(strings.filter(bool), st.sampled_from(["007", "1e5", "NA", "null", "-1", "1_0"]))
rows = st.lists(st.tuples(ids, strings), unique_by=lambda row: row[0], max_size=8)

MOJIBAKE = "the userâ€™s guide"  # an apostrophe, read as Windows-1252


def written(path, text, bom=False):
    """The file with that text, gzipped if its name says so."""
    data = text.encode("utf-8-sig" if bom else "utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def table(header, rows, separator=","):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator).writerows([header, *rows])
    return text.getvalue()


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def documents(*pairs):
    return [{"docno": docno, "text": text} for docno, text in pairs]


@pytest.fixture
def folder(tmp_path):
    """A collection in BEIR's layout, with ids that a number parser would spoil."""
    corpus = [
        {"_id": "007", "title": "Bond", "text": "a spy", "metadata": {}},
        {"_id": "1e5", "title": "", "text": "many words"},
        {"_id": "NA", "text": "sodium"},
        {"_id": "null", "title": "None", "text": ""},
    ]
    queries = [{"_id": q, "text": t} for q, t in [("1", "one"), ("01", MOJIBAKE), ("3", "three")]]
    written(tmp_path / "corpus.jsonl.gz", lines(corpus))
    written(tmp_path / "queries.jsonl", lines(queries))
    (tmp_path / "qrels").mkdir()
    head = "query-id\tcorpus-id\tscore\n"
    test = head + "01\tNA\t2\n1\t007\t1\n1\t1e5\t0\n1\tgone\t1\n"
    written(tmp_path / "qrels" / "test.tsv", test)
    written(tmp_path / "qrels" / "train.tsv", head + "3\t007\t1\n")
    return tmp_path


class TestReadCorpus:
    @quick
    @given(
        rows=rows,
        kind=st.sampled_from(["csv", "tsv"]),
        packed=st.booleans(),
        bom=st.booleans(),
    )
    def test_tables(self, tmp_path, rows, kind, packed, bom):
        """What the csv module writes is read as it was, but for white space around the text."""
        text = table(["doc_id", "text"], rows, "," if kind == "csv" else "\t")
        path = written(tmp_path / f"corpus.{kind}{'.gz' if packed else ''}", text, bom)
        assert list(read_corpus(path)) == documents(*((d, t.strip()) for d, t in rows))

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
            ("c.csv", "id,text,id\n1,x,2\n", "line 1: two columns have one name: id, text, id"),
            ("c.csv", "id,text\n,x\n", "line 2: id must be a string or a whole number, not ''"),
            ("c.csv", 'id,text\n1,"x\n', "c.csv, line 2: unexpected end of data"),
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
        with pytest.raises(ValueError, match="c.csv cannot be read: 'utf-8' codec"):
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
            header = ["query_id", "text"]
            written(path, table(header, rows, "," if kind == "csv" else "\t"))
        topics = read_topics(path)
        assert list(topics.columns) == ["qid", "query"]
        assert list(topics.itertuples(index=False, name=None)) == rows

    def test_without_a_header(self, tmp_path):
        """The toolkit's ``--queries`` and Pyserini's topics have none."""
        path = written(tmp_path / "t.tsv", "007\tdry martini\nNA\tsodium\n")
        expected = [("007", "dry martini"), ("NA", "sodium")]
        assert list(read_topics(path).itertuples(index=False, name=None)) == expected

    def test_columns_by_argument(self, tmp_path):
        path = written(tmp_path / "t.tsv", "key\twords\n007\tdry martini\n")
        topics = read_topics(path, qid="key", query="words")
        assert topics.to_dict("list") == {"qid": ["007"], "query": ["dry martini"]}

    def test_bad_files(self, tmp_path):
        with pytest.raises(ValueError, match="t.tsv, line 2: the qid '1' stands twice"):
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

    def test_empty(self, tmp_path):
        qrels = read_qrels(written(tmp_path / "q.tsv", ""))
        assert list(qrels.columns) == ["qid", "docno", "label"]

    @pytest.mark.parametrize(
        "text", ["1 0 a x\n", "1\ta\t1\n1\ta\tx\n", "1 0\n", "1\ta\t1\n1\ta\n"]
    )
    def test_bad_lines(self, tmp_path, text):
        number = len(text.splitlines())
        with pytest.raises(ValueError, match=f"q.tsv, line {number}: .* is no judgement"):
            read_qrels(written(tmp_path / "q.tsv", text))


class TestBeirFolder:
    def test_documents_again_and_again(self, folder):
        expected = documents(
            ("007", "Bond a spy"), ("1e5", "many words"), ("NA", "sodium"), ("null", "None")
        )
        dataset = BeirFolder(folder)
        stream = dataset.get_corpus_iter()
        next(stream)
        assert list(dataset.get_corpus_iter(verbose=True)) == expected
        assert list(stream) == expected[1:]

    def test_topics_are_those_of_the_split(self, folder):
        dataset = BeirFolder(folder)
        assert dataset.get_topics().to_dict("list") == {
            "qid": ["1", "01"],
            "query": ["one", MOJIBAKE],
        }
        assert dataset.get_topics("train").to_dict("list") == {"qid": ["3"], "query": ["three"]}
        assert list(dataset.get_qrels()["docno"]) == ["NA", "007", "1e5", "gone"]
        topics, qrels = dataset.get_topicsqrels("train")
        assert set(topics["qid"]) == set(qrels["qid"]) == {"3"}

    def test_unjudged(self, folder):
        for path in (folder / "qrels").iterdir():
            path.unlink()
        with pytest.raises(FileNotFoundError, match=r"test.tsv; splits: none"):
            BeirFolder(folder).get_topics()
        (folder / "qrels").rmdir()
        assert list(BeirFolder(folder).get_topics()["qid"]) == ["1", "01", "3"]

    def test_missing_files(self, folder, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no .*dev.tsv; splits: test, train"):
            BeirFolder(folder).get_qrels("dev")
        with pytest.raises(FileNotFoundError, match=r"neither .*corpus.jsonl nor corpus.jsonl.gz"):
            BeirFolder(tmp_path / "qrels")


class TestFiles:
    @pytest.fixture
    def files(self, tmp_path):
        corpus = table(["key", "body"], [["007", "a spy"], ["1e5", MOJIBAKE]])
        return Files(
            written(tmp_path / "corpus.csv.gz", corpus),
            written(tmp_path / "topics.tsv", "01\tspies\n"),
            written(tmp_path / "qrels.txt", "01 0 007 1\n"),
            docno="key",
            text="body",
        )

    def test_dataset(self, files):
        assert list(files.get_corpus_iter()) == documents(("007", "a spy"), ("1e5", MOJIBAKE))
        assert files.get_topics().to_dict("list") == {"qid": ["01"], "query": ["spies"]}
        assert files.get_qrels().to_dict("list") == {"qid": ["01"], "docno": ["007"], "label": [1]}

    def test_errors(self, files, tmp_path):
        with pytest.raises(ValueError, match="has no variants, so none is called 'dev'"):
            files.get_topics("dev")
        alone = Files(files.corpus)
        with pytest.raises(ValueError, match=r"Files\('.*corpus.csv.gz'\) has no qrels: .*qrels="):
            alone.get_qrels()
        with pytest.raises(FileNotFoundError, match="no file .*nothing.csv"):
            Files(tmp_path / "nothing.csv")
        with pytest.raises(ValueError, match="must end in"):
            Files(tmp_path / "qrels.txt")


class TestTexts:
    """A collection where PyTerrier takes a dataset, or an index, or texts."""

    def test_get_text(self, folder):
        loader = pt.text.get_text(BeirFolder(folder), "text")
        inp = pd.DataFrame(
            {"docno": ["NA", "007", "NA"], "text": "old", "rank": [0, 1, 2]}, [3, 3, 9]
        )
        out = loader(inp)
        assert out.to_dict("list") == {
            "docno": ["NA", "007", "NA"],
            "text": ["sodium", "Bond a spy", "sodium"],
            "rank": [0, 1, 2],
        }
        assert list(inp["text"]) == ["old"] * 3
        assert list(loader(inp.iloc[:0]).columns) == ["docno", "text", "rank"]

    def test_missing_documents_are_named(self, folder):
        loader = BeirFolder(folder).text_loader()
        with pytest.raises(ValueError, match="does not have 2 of 3 documents, such as '7'"):
            loader(pd.DataFrame({"docno": ["7", "007", "8"]}))
        with pytest.raises(ValueError, match="has a field 'text' only, not 'title'"):
            pt.text.get_text(BeirFolder(folder), "title")

    def test_cutoff_comes_first(self, folder):
        loader = BeirFolder(folder).text_loader()
        inp = pd.DataFrame(
            {"qid": "1", "docno": ["NA", "gone"], "score": [2.0, 1.0], "rank": [0, 1]}
        )
        assert list((loader % 1).compile()(inp)["text"]) == ["sodium"]

    def test_mining_and_indexing(self, folder, tmp_path):
        pisa = pytest.importorskip("pyterrier_pisa")
        dataset = BeirFolder(folder)
        index = pisa.PisaIndex(str(tmp_path / "index"), text_field="text")
        index.index(dataset.get_corpus_iter())
        queries = pd.DataFrame(
            [["q", "spy words sodium", "007", "Bond a spy"]],
            columns=["qid", "query", "docno", "text"],
        )
        mined = NegativeMiner(index.bm25(), num_negatives=2, texts=dataset)(queries)
        negatives = dict(zip(mined["docno"], mined["text"], strict=True))
        assert negatives == {"007": "Bond a spy", "1e5": "many words", "NA": "sodium"}
        loader = pt.text.get_text(dataset, "text")
        again = NegativeMiner(index.bm25(), num_negatives=2, texts=loader)(queries)
        assert again.to_dict() == mined.to_dict()


class Stub(Collection):
    def documents(self):
        yield from [("d1", "text"), ("d2", "text")]

    def texts(self, docnos):
        return dict.fromkeys(docnos, "text")

    def _name(self):
        return "stub"


TestTextLoader = pt.testing.transformer_test_class(lambda: TextLoader(Stub()))


class TestFixText:
    def test_only_when_asked(self, folder):
        (folder / "corpus.jsonl.gz").unlink()
        written(folder / "corpus.jsonl", lines([{"_id": "1", "title": MOJIBAKE, "text": "x"}]))
        for fix, apostrophe in [(False, "â€™"), (True, "'")]:
            dataset = collection(folder, fix_text=fix)
            (document,) = dataset.get_corpus_iter()
            assert document["text"] == f"the user{apostrophe}s guide x"
            assert dataset.get_topics()["query"][1] == f"the user{apostrophe}s guide"
            loaded = dataset.text_loader()(pd.DataFrame({"docno": ["1"]}))
            assert loaded["text"][0] == document["text"]
            assert repr(dataset).endswith(", fix_text=True)" if fix else "')")


class TitledDoc(NamedTuple):
    doc_id: str
    title: str
    text: str

    def default_text(self):
        return f"{self.title} {self.text}"


class TrecLikeQuery(NamedTuple):
    query_id: str
    title: str
    description: str

    def default_text(self):
        return self.title


class Docs(ir_datasets.formats.BaseDocs):
    found = [TitledDoc("007", "Bond", "a spy"), TitledDoc("1e5", "", "words")]

    def docs_iter(self):
        return iter(self.found)

    def docs_cls(self):
        return TitledDoc

    def docs_lang(self):
        return "en"

    def docs_store(self):
        return self

    def get_many_iter(self, wanted):
        return (doc for doc in self.found if doc.doc_id in wanted)


class Queries(ir_datasets.formats.BaseQueries):
    def queries_iter(self):
        return iter([TrecLikeQuery("01", "spies", "who is a spy?")])

    def queries_cls(self):
        return TrecLikeQuery


class Qrels(ir_datasets.formats.BaseQrels):
    def qrels_iter(self):
        return iter([ir_datasets.formats.GenericQrel("01", "007", 2)])


@pytest.fixture(scope="module")
def name():
    """A collection registered with ir_datasets, as another package would register it."""
    name = "inpars-test-collection"
    ir_datasets.registry.register(name, ir_datasets.Dataset(Docs(), Queries(), Qrels()))
    return name


@pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")
class TestIrDatasets:
    @pytest.mark.parametrize("prefix", ["", "irds:"])
    def test_dataset(self, name, prefix):
        dataset = collection(prefix + name)
        assert list(dataset.get_corpus_iter()) == documents(("007", "Bond a spy"), ("1e5", "words"))
        assert list(dataset.get_corpus_iter()) == list(dataset.get_corpus_iter())
        assert dataset.get_topics().to_dict("list") == {"qid": ["01"], "query": ["spies"]}
        assert list(dataset.get_topics("description")["query"]) == ["who is a spy?"]
        assert dataset.get_qrels()[["qid", "docno", "label"]].to_dict("list") == {
            "qid": ["01"],
            "docno": ["007"],
            "label": [2],
        }
        assert dataset.get_corpus_lang() == "en"
        loaded = pt.text.get_text(dataset, "text")(pd.DataFrame({"docno": ["1e5", "007"]}))
        assert list(loaded["text"]) == ["words", "Bond a spy"]

    def test_judged_pairs(self, name):
        (pair,) = judged_pairs(collection(name)).to_dict("records")
        assert pair == {"qid": "01", "query": "spies", "docno": "007", "text": "Bond a spy"}


class TestCollection:
    def test_paths(self, folder, tmp_path):
        assert isinstance(collection(folder), BeirFolder)
        assert isinstance(collection(str(folder), source="pyserini"), BeirFolder)
        path = written(tmp_path / "c.csv", table(["doc_id", "text"], [["007", "a spy"]]))
        assert list(collection(str(path)).get_corpus_iter()) == documents(("007", "a spy"))

    @pytest.mark.parametrize(
        ("name", "irds"),
        [
            ("nfcorpus", "beir/nfcorpus/test"),
            ("cqadupstack-tex", "beir/cqadupstack/tex"),
            ("beir/nfcorpus/dev", "beir/nfcorpus/dev"),
            ("vaswani", "vaswani"),
        ],
    )
    def test_names(self, name, irds):
        dataset = collection(name)
        assert isinstance(dataset, IrDatasets)
        assert dataset.name == irds

    def test_unknown(self):
        message = "'corpsu.csv' is no file or folder, none that ir_datasets knows, and no BEIR "
        with pytest.raises(ValueError, match=message):
            collection("corpsu.csv")
        with pytest.raises(ValueError, match="irds does not have 'bioasq'"):
            collection("bioasq")
        with pytest.raises(ValueError, match="'ir_datasets' or 'pyserini', not 'hub'"):
            collection("nfcorpus", source="hub")


class TestSample:
    @quick
    @given(size=st.integers(0, 30), n=st.integers(0, 35), seed=st.integers(0, 100))
    def test_a_part_in_order(self, size, n, seed):
        drawn = sample(iter(range(size)), n, seed)
        assert len(drawn) == min(n, size)
        assert drawn == sorted(set(drawn))
        assert set(drawn) <= set(range(size))
        assert drawn == sample(range(size), n, seed)
        assert set(drawn) <= set(sample(range(size), n + 1, seed))

    def test_seed(self):
        assert len({tuple(sample(range(100), 5, seed)) for seed in range(20)}) == 20

    @pytest.mark.parametrize(("size", "n"), [(6, 2), (6, 4), (5, 1)])
    def test_uniform(self, size, n):
        """Every subset as often as any other: Pearson's statistic is within 5 deviations."""
        subsets = list(itertools.combinations(range(size), n))
        draws = 200 * len(subsets)
        counts = Counter(tuple(sample(range(size), n, seed)) for seed in range(draws))
        statistic = sum((counts[subset] - 200) ** 2 / 200 for subset in subsets)
        freedom = len(subsets) - 1
        assert statistic < freedom + 5 * math.sqrt(2 * freedom)

    def test_memory(self):
        class Document:
            pass

        alive = weakref.WeakSet()
        most = 0

        def stream():
            nonlocal most
            for _ in range(200):
                document = Document()
                alive.add(document)
                most = max(most, len(alive))
                yield document

        assert len(sample(stream(), 10)) == 10
        assert most <= 10 + 2  # the one before, which this generator and sample() still hold

    def test_nothing_is_read_for_nothing(self):
        stream = iter(range(3))
        assert sample(stream, 0) == []
        assert next(stream) == 0

    @pytest.mark.parametrize("n", [-1, 1.5, True, None])
    def test_bad_n(self, n):
        with pytest.raises(ValueError, match="n must be a whole number of at least 0"):
            sample([], n)


class TestJudgedPairs:
    def test_folder(self, folder):
        pairs = judged_pairs(BeirFolder(folder))
        assert pairs.to_dict("split")["data"] == [
            ["01", MOJIBAKE, "NA", "sodium"],
            ["1", "one", "007", "Bond a spy"],
        ]
        assert list(pairs.columns) == ["qid", "query", "docno", "text"]
        assert list(judged_pairs(BeirFolder(folder), min_label=2)["docno"]) == ["NA"]

    def test_other_topics(self, folder):
        dataset = BeirFolder(folder)
        train = judged_pairs(
            dataset, topics=dataset.get_topics("train"), qrels=dataset.get_qrels("train")
        )
        assert train.to_dict("split")["data"] == [["3", "three", "007", "Bond a spy"]]

    def test_any_dataset(self):
        """The demo collection, whose judgements name documents that this Python may lack."""
        dataset = StdlibDocs()
        texts = {d["docno"]: d["text"] for d in dataset.get_corpus_iter()}
        queries = dataset.get_topics().set_index("qid")["query"]
        expected = [
            [row.qid, queries[row.qid], row.docno, texts[row.docno]]
            for row in dataset.get_qrels().itertuples()
            if row.label >= 2 and row.docno in texts
        ]
        assert judged_pairs(dataset, min_label=2).to_dict("split")["data"] == expected

        few = judged_pairs(dataset, min_label=2, max_pairs=20, seed=3).to_dict("split")["data"]
        assert 15 <= len(few) <= 20
        assert [row for row in expected if row in few] == few
        assert few == judged_pairs(dataset, min_label=2, max_pairs=20, seed=3).to_numpy().tolist()
        assert few != judged_pairs(dataset, min_label=2, max_pairs=20, seed=4).to_numpy().tolist()

    def test_judged_twice(self, folder):
        qrels = BeirFolder(folder).get_qrels()
        pairs = judged_pairs(BeirFolder(folder), qrels=pd.concat([qrels, qrels]))
        assert len(pairs) == 2

    def test_errors(self, folder):
        dataset = BeirFolder(folder)
        with pytest.raises(ValueError, match="no document judged 3 or more for any of 2 topics"):
            judged_pairs(dataset, min_label=3)
        with pytest.raises(ValueError, match="topics of .* have no query, only qid, title: give t"):
            judged_pairs(dataset, topics=pd.DataFrame({"qid": ["1"], "title": ["x"]}))
        with pytest.raises(ValueError, match="docno must be a string, but is 7"):
            judged_pairs(dataset, qrels=pd.DataFrame({"qid": ["1"], "docno": [7], "label": [1]}))
        with pytest.raises(
            ValueError, match="max_pairs must be a whole number of at least 1, not 0"
        ):
            judged_pairs(dataset, max_pairs=0)
