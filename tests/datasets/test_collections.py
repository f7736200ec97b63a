"""Collections from files and ir_datasets: documents, topics, judgements, texts."""

from typing import NamedTuple

import ir_datasets
import pandas as pd
import pyterrier as pt
import pytest
from collection_files import MOJIBAKE, documents, lines, table, written

from pyterrier_inpars import NegativeMiner
from pyterrier_inpars.datasets import (
    BeirFolder,
    Collection,
    Files,
    IrDatasets,
    TextLoader,
    collection,
    judged_pairs,
)


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
        with pytest.raises(FileNotFoundError, match=r"test.tsv does not exist; splits: none"):
            BeirFolder(folder).get_topics()
        (folder / "qrels").rmdir()
        assert list(BeirFolder(folder).get_topics()["qid"]) == ["1", "01", "3"]

    def test_missing_files(self, folder, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"dev.tsv does not exist; splits: test, train"):
            BeirFolder(folder).get_qrels("dev")
        with pytest.raises(
            FileNotFoundError, match=r"neither .*corpus.jsonl nor corpus.jsonl.gz exists"
        ):
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

    def test_a_docno_twice(self, tmp_path):
        dataset = Files(written(tmp_path / "c.csv", "id,text\n1,a\n2,b\n1,c\n"))
        for read in (
            lambda: list(dataset.get_corpus_iter()),
            lambda: dataset.texts({"2"}),
            lambda: dataset.text_loader()(pd.DataFrame({"docno": ["1"]})),
        ):
            with pytest.raises(ValueError, match="c.csv, line 4: duplicate docno '1'"):
                read()

    def test_paths_in_the_home_folder(self, folder, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        path = written(tmp_path / "c.csv", "id,text\n1,a\n")
        assert Files("~/c.csv").corpus == collection("~/c.csv").corpus == path
        monkeypatch.setenv("HOME", str(folder.parent))
        for found in (BeirFolder(f"~/{folder.name}"), collection(f"~/{folder.name}")):
            assert found.path == folder

    def test_errors(self, files, tmp_path):
        with pytest.raises(ValueError, match="has no variants, but variant 'dev' was requested"):
            files.get_topics("dev")
        alone = Files(files.corpus)
        with pytest.raises(ValueError, match=r"Files\('.*corpus.csv.gz'\) has no qrels: .*qrels="):
            alone.get_qrels()
        with pytest.raises(FileNotFoundError, match="the file .*nothing.csv does not exist"):
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
        with pytest.raises(ValueError, match="lacks 2 of 3 documents, such as '7'"):
            loader(pd.DataFrame({"docno": ["7", "007", "8"]}))
        with pytest.raises(ValueError, match="has only the field 'text', not 'title'"):
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


class FieldDoc(NamedTuple):
    doc_id: str
    head: str
    body: str


class FieldDocs(Docs):
    found = [FieldDoc("1", "Bond", "a spy")]

    def docs_cls(self):
        return FieldDoc


class FieldQuery(NamedTuple):
    query_id: str
    words: str


class FieldQueries(ir_datasets.formats.BaseQueries):
    def queries_iter(self):
        return iter([FieldQuery("01", "spies")])

    def queries_cls(self):
        return FieldQuery


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


@pytest.fixture(scope="module")
def named_fields():
    """A collection without a default text."""
    name = "inpars-test-fields"
    ir_datasets.registry.register(name, ir_datasets.Dataset(FieldDocs(), FieldQueries()))
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

    def test_fields_by_name(self, named_fields):
        """The error of documents or topics without a default text names their fields."""
        dataset = collection(named_fields)
        with pytest.raises(ValueError, match="no text in 'text'; their fields are doc_id, head, b"):
            list(dataset.get_corpus_iter())
        with pytest.raises(ValueError, match=r"fields are query_id, words: .*get_topics\('title'"):
            dataset.get_topics()
        assert list(dataset.get_topics("words")["query"]) == ["spies"]
        for text, expected in [("body", "a spy"), (["head", "body"], "Bond a spy")]:
            dataset = IrDatasets(named_fields, text=text)
            assert list(dataset.get_corpus_iter()) == documents(("1", expected))
            assert dataset.texts({"1"}) == {"1": expected}

    def test_judged_pairs(self, name):
        (pair,) = judged_pairs(collection(name)).to_dict("records")
        assert pair == {"qid": "01", "query": "spies", "docno": "007", "text": "Bond a spy"}
