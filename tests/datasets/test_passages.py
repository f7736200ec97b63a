"""Long documents: passages as a collection, in round trip and mining, against plain loops."""

import json

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_inpars import NegativeMiner, PassagesToDocuments, RoundTripFilter, datasets
from pyterrier_inpars._passages import document_of, passages_by_document

SLIDING = datasets.sliding(length=4, stride=2)
DOCUMENTS = st.integers(0, 4)
PASSAGES = st.tuples(DOCUMENTS, st.integers(0, 12)).map(lambda pair: f"d{pair[0]}%p{pair[1]}")
RANKINGS = st.lists(st.lists(PASSAGES, unique=True, max_size=15), min_size=1, max_size=4)


def corpus_file(folder, texts):
    lines = [json.dumps({"docno": docno, "text": text}) for docno, text in texts.items()]
    (folder / "corpus.jsonl").write_text("".join(line + "\n" for line in lines))
    return datasets.Files(folder / "corpus.jsonl")


def text_of(passage):
    return f"text {passage}"


def retriever(rankings):
    """Fixed rankings of passages with their texts, by qid, best first."""
    rows = [
        (f"q{i}", docno, rank, -float(rank), text_of(docno))
        for i, ranking in enumerate(rankings)
        for rank, docno in enumerate(ranking)
    ]
    columns = ["qid", "docno", "rank", "score", "text"]
    return pt.Transformer.from_df(pd.DataFrame(rows, columns=columns))


def queries(sources):
    rows = [(f"q{i}", f"query {i}", docno, text_of(docno)) for i, docno in enumerate(sources)]
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text"])


def by_document(ranking):
    """The best passage of each document, in the order of the ranking."""
    best = {}
    for passage in ranking:
        best.setdefault(passage.split("%p")[0], passage)
    return best


class TestDocnos:
    @pytest.mark.parametrize(
        ("docno", "document"),
        [
            ("d1%p0", "d1"),
            ("d1%p12", "d1"),
            ("a%p3%p4", "a%p3"),
            ("a\nb%p0", "a\nb"),
            ("d1", "d1"),
            ("d1%p", "d1%p"),
            ("d1%px", "d1%px"),
            ("d1%p\u0663", "d1%p\u0663"),
            ("%p1", "%p1"),
            ("100%pure", "100%pure"),
            ("", ""),
        ],
    )
    def test_document_of_a_passage(self, docno, document):
        assert document_of(docno) == document
        assert passages_by_document([docno]) == ({document: docno} if document != docno else {})

    @given(st.text(min_size=1), st.integers(0))
    def test_any_docno(self, docno, number):
        assert document_of(f"{docno}%p{number}") == docno


class TestSliding:
    @given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 9))
    def test_windows(self, words, length, stride):
        """Against a plain loop, for documents and for results; the rest as pt.text.sliding."""
        length = max(length, stride)
        text = [f"w{i}" for i in range(words)]
        windows = [text[:length]]
        while (len(windows) - 1) * stride + length < words:
            start = len(windows) * stride
            windows.append(text[start : start + length])
        frame = pd.DataFrame({"docno": ["d"], "text": [" ".join(text)]})
        results = frame.assign(qid="1", query="q", score=1.0, rank=0)
        for inp in (frame, results):
            out = datasets.sliding(length, stride)(inp)
            assert out["text"].tolist() == [" ".join(window) for window in windows]
            assert out["docno"].tolist() == [f"d%p{i}" for i in range(len(windows))]
        theirs = pt.text.sliding("text", length=length, stride=stride, prepend_attr=None)(frame)
        assert out["text"].tolist()[: len(theirs)] == theirs["text"].str.strip().tolist()
        assert len(out) - len(theirs) in (0, 1)

    def test_pt_text_sliding_loses_the_end(self):
        """As the documentation says; without it, `sliding` is not needed."""
        frame = pd.DataFrame({"docno": ["d"], "text": ["v w x y z"]})
        theirs = pt.text.sliding("text", length=4, stride=2, prepend_attr=None)(frame)
        assert theirs["text"].tolist() == ["v w x y"]
        assert SLIDING(frame)["text"].tolist() == ["v w x y", "x y z"]

    def test_another_column(self):
        frame = pd.DataFrame({"docno": ["d"], "body": ["a b c"]})
        assert datasets.sliding(2, 2, "body")(frame)["body"].tolist() == ["a b", "c"]

    def test_other_columns_are_copied(self):
        """Whatever their names, and in an empty frame too; pt.text.sliding renames and drops."""
        vector = np.ones(2)
        frame = pd.DataFrame({"docno": ["d", "e"], "text": ["a b c d e", ""], "rank": [0, 1]})
        frame = frame.assign(**{"my column": ["x", None], "_vec": [vector, vector]})
        out = SLIDING(frame.set_index(pd.Index([7, 7])))
        assert list(out) == list(SLIDING(frame.head(0))) == list(frame)
        assert out["docno"].tolist() == ["d%p0", "d%p1", "e%p0"]
        assert out["rank"].tolist() == [0, 0, 1] and out["_vec"][1] is vector
        assert out.index.tolist() == [0, 1, 2]
        rows = frame[["docno", "text"]].to_dict("records")
        assert SLIDING.transform_iter(iter(rows)) == out[["docno", "text"]].to_dict("records")

    def test_repr(self):
        assert repr(SLIDING) == "datasets.sliding(4, 2)"
        assert repr(datasets.sliding(4, 2, "body")) == "datasets.sliding(4, 2, 'body')"

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"text": None}, "text must be a string, but is None .* at docno 'd'"),
            ({"docno": 1}, "docno must be a string, but is 1"),
        ],
    )
    def test_bad_values(self, change, error):
        frame = pd.DataFrame({"docno": ["d"], "text": ["a"]}).astype(object)
        with pytest.raises(ValueError, match=error):
            SLIDING(frame.assign(**change))
        with pytest.raises(pt.validate.InputValidationError, match="text"):
            SLIDING(frame[["docno"]])

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"length": 0}, "length must be a whole number of at least 1, not 0"),
            ({"stride": 1.5}, "stride must be .*, not 1.5"),
            ({"length": 4, "stride": 5}, "stride must be at most length, which is 4, not 5"),
        ],
    )
    def test_bad_input(self, options, error):
        with pytest.raises(ValueError, match=error):
            datasets.sliding(**options)
        with pytest.raises(TypeError, match=r"name of one column, not \['title', 'text'\]"):
            datasets.sliding(text_field=["title", "text"])


class TestPassages:
    TEXTS = {"d1": "a b c d e f g h", "d2": "one two", "d3": "v w x y z"}

    @pytest.fixture
    def passages(self, tmp_path):
        return datasets.Passages(corpus_file(tmp_path, self.TEXTS), SLIDING)

    def test_they_are_those_of_the_passager(self, passages):
        found = {document["docno"]: document["text"] for document in passages.get_corpus_iter()}
        frame = pd.DataFrame(self.TEXTS.items(), columns=["docno", "text"])
        expected = SLIDING(frame)
        assert found == dict(zip(expected["docno"], expected["text"], strict=True))
        assert found["d1%p1"] == "c d e f" and found["d2%p0"] == "one two"

    def test_texts_are_loaded_by_docno(self, passages, monkeypatch):
        frame = pd.DataFrame({"docno": ["d1%p2", "d2%p0", "d1%p0"]})
        split = []
        original = type(passages)._split
        monkeypatch.setattr(
            type(passages), "_split", lambda self, rows: split.extend(rows) or original(self, rows)
        )
        out = passages.text_loader()(frame)
        assert out["text"].tolist() == ["e f g h", "one two", "a b c d"]
        assert {document["docno"] for document in split} == {"d1", "d2"}

    def test_a_missing_passage(self, passages):
        with pytest.raises(ValueError, match="lacks 1 of 2 documents, such as 'd1%p9'"):
            passages.text_loader()(pd.DataFrame({"docno": ["d1%p0", "d1%p9"]}))

    def test_topics_and_judgements_are_those_of_the_documents(self, tmp_path):
        (tmp_path / "topics.tsv").write_text("1\tsome words\n")
        (tmp_path / "qrels.txt").write_text("1 0 d1 1\n")
        corpus_file(tmp_path, self.TEXTS)
        files = [tmp_path / name for name in ("corpus.jsonl", "topics.tsv", "qrels.txt")]
        dataset = datasets.Files(*files)
        passages = datasets.Passages(dataset, SLIDING)
        pd.testing.assert_frame_equal(passages.get_topics(), dataset.get_topics())
        pd.testing.assert_frame_equal(passages.get_qrels(), dataset.get_qrels())
        assert repr(dataset) in repr(passages)

    def test_bad_input(self, passages):
        with pytest.raises(TypeError, match=r"datasets.Files\(path\)"):
            datasets.Passages([], SLIDING)
        with pytest.raises(TypeError, match="datasets.sliding"):
            datasets.Passages(passages.collection, 100)
        docnos = pt.apply.generic(lambda frame: frame[["docno"]])
        with pytest.raises(ValueError, match="have no text, only docno: documents have"):
            list(datasets.Passages(passages.collection, docnos).get_corpus_iter())

    def test_documents_whose_docno_looks_like_a_passage(self, tmp_path):
        texts = {"a%p1": "a b c d e", "a": "x"}
        passages = datasets.Passages(corpus_file(tmp_path, texts), SLIDING)
        found = {document["docno"]: document["text"] for document in passages.get_corpus_iter()}
        assert found == {"a%p1%p0": "a b c d", "a%p1%p1": "c d e", "a%p0": "x"}
        loaded = passages.text_loader()(pd.DataFrame({"docno": list(found)}))
        assert loaded["text"].tolist() == list(found.values())


class TestPassagesToDocuments:
    @given(st.lists(st.one_of(PASSAGES, DOCUMENTS.map("d{}".format)), max_size=8))
    def test_only_the_docno_changes(self, sources):
        frame = queries(sources).assign(score=1.0)
        out = PassagesToDocuments()(frame)
        assert out["docno"].tolist() == [docno.split("%p")[0] for docno in sources]
        if sources:
            pd.testing.assert_frame_equal(out.drop(columns="docno"), frame.drop(columns="docno"))

    def test_a_stream(self):
        rows = queries(["d1%p3", "d2"]).to_dict("records")
        assert [row["docno"] for row in PassagesToDocuments().transform_iter(rows)] == ["d1", "d2"]

    def test_bad_input(self):
        with pytest.raises(ValueError, match="docno must be a string, but is 1"):
            PassagesToDocuments()(queries(["d1"]).assign(docno=1))
        with pytest.raises(pt.validate.InputValidationError):
            PassagesToDocuments()(pd.DataFrame({"docno": ["d1"]}))

    def test_it_is_drawn_before_filters(self, monkeypatch):
        monkeypatch.setattr(pt.documentation, "url_for_class", lambda _: None)
        pipeline = PassagesToDocuments() >> RoundTripFilter(pt.Transformer.identity())
        pipeline = pipeline >> NegativeMiner(pt.Transformer.identity())
        drawn = pt.schematic.draw(pipeline).split("</style>")[-1]
        assert "input-validation-error" not in drawn


@settings(max_examples=60, deadline=None)
@given(RANKINGS, st.integers(1, 4), st.data())
@pytest.mark.filterwarnings("ignore:the retriever returned at most")
def test_round_trip_by_document(rankings, k, data):
    """A query is kept if any passage of its document makes the document one of the top k."""
    sources = data.draw(st.lists(PASSAGES, min_size=len(rankings), max_size=len(rankings)))
    pipeline = PassagesToDocuments() >> RoundTripFilter(
        retriever(rankings) >> pt.text.max_passage(), k
    )
    kept = pipeline(queries(sources))
    expected = [
        f"q{i}"
        for i, (source, ranking) in enumerate(zip(sources, rankings, strict=True))
        if source.split("%p")[0] in list(by_document(ranking))[:k]
    ]
    assert kept["qid"].tolist() == expected
    assert kept["text"].tolist() == [text_of(sources[int(qid[1:])]) for qid in expected]


@settings(max_examples=60, deadline=None)
@given(RANKINGS, st.integers(1, 3), st.data())
@pytest.mark.filterwarnings("ignore:the retriever returned at most")
def test_negatives_by_document(rankings, num_negatives, data):
    """The best passage of each other document, in the order of the documents."""
    sources = data.draw(st.lists(PASSAGES, min_size=len(rankings), max_size=len(rankings)))
    miner = NegativeMiner(
        retriever(rankings) >> pt.text.max_passage(),
        num_negatives=num_negatives,
        sampling_strategy="top",
    )
    examples = (PassagesToDocuments() >> miner)(queries(sources))
    expected = []
    for i, (source, ranking) in enumerate(zip(sources, rankings, strict=True)):
        own = source.split("%p")[0]
        best = by_document(ranking)
        others = [(d, text_of(best[d]), 0) for d in best if d != own][:num_negatives]
        rows = [(own, text_of(source), 1), *others] if others else []
        expected += [(f"q{i}", *row) for row in rows]
    found = examples[["qid", "docno", "text", "label"]].itertuples(index=False, name=None)
    assert list(found) == expected


@settings(max_examples=60, deadline=None)
@given(RANKINGS, st.integers(1, 3), st.sampled_from(["top", "random"]), st.data())
@pytest.mark.filterwarnings("ignore:the retriever returned at most")
def test_negatives_by_passage(rankings, num_negatives, strategy, data):
    """Without documents in between, no passage of the source document is a negative either."""
    sources = data.draw(st.lists(PASSAGES, min_size=len(rankings), max_size=len(rankings)))
    options = {"num_negatives": num_negatives, "sampling_strategy": strategy}
    examples = NegativeMiner(retriever(rankings), **options)(queries(sources))
    for i, (source, ranking) in enumerate(zip(sources, rankings, strict=True)):
        own = source.split("%p")[0]
        others = [docno for docno in ranking if docno.split("%p")[0] != own]
        rows = examples[(examples["qid"] == f"q{i}") & (examples["label"] == 0)]
        assert len(rows) == min(num_negatives, len(others))
        assert set(rows["docno"]) <= set(others)
        if strategy == "top":
            assert rows["docno"].tolist() == others[:num_negatives]


def test_no_random_negative_is_a_passage_of_the_source_document():
    corpus = [{"docno": f"d{i % 3}%p{i // 3}", "text": f"w{i}"} for i in range(30)]
    options = {"num_negatives": 20, "random_share": 1.0, "texts": lambda: iter(corpus)}
    ranking = [corpus[1]["docno"], corpus[2]["docno"]]
    examples = NegativeMiner(retriever([ranking]), depth=2, **options)(queries(["d0%p4"]))
    documents = {document_of(docno) for docno in examples["docno"][1:]}
    assert len(examples) > 10 and documents == {"d1", "d2"}


@pytest.mark.parametrize("stage", [RoundTripFilter, NegativeMiner])
@pytest.mark.filterwarnings("ignore:the retriever returned at most")
class TestPassagesAgainstDocuments:
    """Docnos that never match would drop all queries, or make the source document a negative."""

    def test_queries_for_passages(self, stage):
        documents = retriever([["d2", "d1"]])
        with pytest.raises(ValueError, match=r"'d1', but .* 'd1%p7': put PassagesToDocuments\(\)"):
            stage(documents)(queries(["d1%p7"]))

    def test_results_of_passages(self, stage):
        passages = retriever([["d2%p3", "d1%p4"]])
        with pytest.raises(ValueError, match=r"'d1%p4', but .* 'd1': .* pt.text.max_passage\(\)"):
            stage(passages)(queries(["d1"]))

    def test_docnos_that_only_look_alike(self, stage):
        """A collection may have both as documents."""
        both = retriever([["d1", "d2", "d1%p4"]])
        stage(both)(queries(["d1"]))
        stage(both)(queries(["d1%p4"]))
