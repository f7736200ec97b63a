"""NegativeMiner: against an oracle of the documented rule, and invariants."""

import random
from hashlib import sha256

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_inpars._retrieval import clean
from pyterrier_inpars.filtering import FalseNegativeFilter
from pyterrier_inpars.mining import NegativeMiner
from pyterrier_inpars.rerankers import BiEncoder

EXAMPLES = ["qid", "query", "docno", "text", "label"]
WORDS = [
    a + b + c for a in ("bal", "cor", "dim") for b in ("da", "fu", "ki") for c in ("ne", "rop")
]


def results(rankings, texts=None):
    """A retriever with fixed rankings (qid to docnos, best first) and, optionally, texts."""
    rows = [(qid, d, rank) for qid, docnos in rankings.items() for rank, d in enumerate(docnos)]
    table = pd.DataFrame(rows, columns=["qid", "docno", "rank"])
    if texts is not None:
        table["text"] = [texts.get(d) for d in table["docno"]]
    retriever = pt.Transformer.from_df(table)
    retriever.schematic = {"label": "Rankings", "help_url": None}  # otherwise looked up on the web
    return retriever


def frame(rows):
    """Synthetic queries from (docno, text), with an additional column."""
    data = [(f"q{i}", f"query {i}?", *row, -1.0) for i, row in enumerate(rows)]
    return pd.DataFrame(
        data, columns=["qid", "query", "docno", "text", "score"], index=[3] * len(rows)
    )


def fold(text):
    return text.casefold().split()


def oracle(queries, rankings, texts, num_negatives, depth, skip, seed):
    """The documented rule of the draws."""
    examples = []
    for query in queries.to_dict("records"):
        ranking = rankings.get(query["qid"], [])[:depth][skip:]
        number = int(sha256(f"{seed} {query['qid']}".encode()).hexdigest(), 16)
        negatives = []
        for place in np.random.default_rng(number).permutation(len(ranking)):
            docno = ranking[place]
            if docno == query["docno"] or docno not in texts:
                continue
            if fold(texts[docno]) != fold(query["text"]) and len(negatives) < num_negatives:
                negatives.append(docno)
        if negatives:
            examples.append([query[c] for c in EXAMPLES[:4]] + [1])
            examples += [[query["qid"], query["query"], d, texts[d], 0] for d in negatives]
    return examples


class Loader(pt.Transformer):
    """Adds texts to a frame of docnos, None if unknown, and records what it loaded."""

    def __init__(self, texts, column="text"):
        self.texts = texts
        self.column = column
        self.loaded = []
        self.calls = 0

    def transform(self, inp):
        pt.validate.columns(inp, includes=["docno"])
        self.loaded += list(inp["docno"])
        self.calls += 1
        return inp.assign(**{self.column: [self.texts.get(d) for d in inp["docno"]]})


class Corpus:
    """A collection with the interface of PyTerrier's datasets."""

    def __init__(self, texts):
        self.texts = texts
        self.scans = 0

    def get_corpus_iter(self, verbose=True):
        self.scans += 1
        assert not verbose
        for docno, text in self.texts.items():
            yield {"docno": docno, "text": text}


DOCNOS = [f"d{i}" for i in range(14)]
SMALL = st.fixed_dictionaries(
    {
        "rankings": st.dictionaries(
            st.integers(0, 5).map(lambda i: f"q{i}"),
            st.lists(st.sampled_from(DOCNOS), unique=True, max_size=14),
            max_size=6,
        ),
        # few distinct texts; some documents have none
        "texts": st.dictionaries(
            st.sampled_from(DOCNOS), st.sampled_from(["Ab c", " ab  C", "other", "", "x"])
        ),
        "sources": st.lists(
            st.tuples(st.sampled_from(DOCNOS), st.sampled_from(["ab c", "x", "y"]))
        ),
        "num_negatives": st.integers(1, 4),
        "depth": st.integers(1, 15),
        "skip": st.sampled_from([0, 0, 1, 2, 5]),
        "seed": st.integers(0, 3),
    }
)


@settings(max_examples=100, deadline=None)
@given(SMALL, st.integers(1, 3), st.sampled_from(["results", "loader", "corpus", "function"]))
def test_oracle(case, batch_size, source):
    """For every source of texts and several batch sizes."""
    rankings, texts = case["rankings"], case["texts"]
    case["depth"] += case["skip"]
    queries = frame(case["sources"][:6])
    draw = {name: case[name] for name in ("num_negatives", "depth", "skip", "seed")}
    given_texts = {
        "results": None,
        "loader": Loader(texts),
        "corpus": Corpus(texts),
        "function": lambda: Corpus(texts).get_corpus_iter(verbose=False),
    }
    retriever = results(rankings, texts if source == "results" else None)
    miner = NegativeMiner(retriever, texts=given_texts[source], batch_size=batch_size, **draw)
    out = miner(queries)
    expected = oracle(queries, rankings, texts, **draw)
    assert out.values.tolist() == expected
    assert list(out.columns) == EXAMPLES
    assert list(out.index) == list(range(len(out)))
    assert out["label"].dtype == ("int64" if len(queries) else object)
    assert miner.seen == len(queries)
    assert miner.dropped == len(queries) - out["qid"].nunique()
    for qid, group in out.groupby("qid"):
        written_for = queries[queries["qid"] == qid].iloc[0]
        negatives = group[group["label"] == 0]
        assert list(group["label"]) == [1] + [0] * len(negatives)
        assert 1 <= len(negatives) <= case["num_negatives"]
        assert negatives["docno"].is_unique
        assert written_for["docno"] not in set(negatives["docno"])
        assert all(fold(text) != fold(written_for["text"]) for text in negatives["text"])


@pytest.fixture(scope="module")
def docs():
    rng = random.Random(4)
    texts = {f"d{i}": " ".join(rng.choices(WORDS, k=8)) for i in range(300)}
    texts["d7"] = " " + texts["d6"].upper()  # the same text as another
    return texts


@pytest.fixture(scope="module")
def bm25(docs, tmp_path_factory):
    pisa = pytest.importorskip("pyterrier_pisa")
    index = pisa.PisaIndex(str(tmp_path_factory.mktemp("mining") / "index"), text_field="text")
    index.index({"docno": docno, "text": text} for docno, text in docs.items())
    return index.bm25()


@pytest.fixture(scope="module")
def queries(docs):
    rng = random.Random(5)
    rows = []
    for docno in [*rng.sample(list(docs)[8:], 60), "d6"]:
        words = rng.sample(docs[docno].lower().split(), 3)
        query = rng.choice(['"{} {}" {}?', "#combine({} {}) {}^2", "what's {}: {}* +{}"])
        rows.append((f"{docno}_0", query.format(*words), docno, docs[docno], rng.random()))
    return pd.DataFrame(rows, columns=[*EXAMPLES[:4], "score"])


def by_qid(examples):
    return {qid: group.values.tolist() for qid, group in examples.groupby("qid")}


def test_pisa(bm25, docs, queries):
    out = NegativeMiner(bm25, num_negatives=5, depth=100, texts=Corpus(docs))(queries)
    assert len(out) == 6 * len(queries)
    assert out["label"].tolist() == [1, 0, 0, 0, 0, 0] * len(queries)
    positives = out[out["label"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(positives[EXAMPLES[:4]], queries[EXAMPLES[:4]])
    assert out["query"].tolist() == [query for query in queries["query"] for _ in range(6)]
    assert [docs[docno] for docno in out["docno"]] == out["text"].tolist()
    assert "d7" not in set(out[out["qid"] == "d6_0"]["docno"])


def test_negatives_depend_on_the_query_alone(bm25, docs, queries):
    def mine(inp, **settings):
        miner = NegativeMiner(bm25, num_negatives=3, depth=80, texts=Corpus(docs), **settings)
        return by_qid(miner(inp))

    expected = mine(queries)
    assert mine(queries.sample(frac=1, random_state=1)) == expected
    assert mine(queries, batch_size=7) == expected
    some = queries[20:30]
    assert mine(some) == {qid: expected[qid] for qid in some["qid"]}
    others = mine(queries, seed=1)
    assert sum(others[qid] != expected[qid] for qid in expected) > 55
    renamed = mine(queries.assign(qid=queries["qid"] + "1"))
    assert sum(renamed[qid + "1"][1][2:] != expected[qid][1][2:] for qid in expected) > 50


def test_window(docs):
    """Draws come from all ranks of the window; the source document counts as a rank."""
    ranking = list(docs)[20:60]
    retriever = results({"q0": ranking}, docs)
    queries = frame([(ranking[12], docs[ranking[12]])])
    out = NegativeMiner(retriever, num_negatives=50, skip=10, depth=30)(queries)
    assert set(out.loc[out["label"] == 0, "docno"]) == set(ranking[10:30]) - {ranking[12]}
    short = NegativeMiner(results({"q0": ["d1", "d2"]}, {"d1": "a", "d2": "b"}), skip=2)
    assert len(short(frame([("d0", "x")]))) == 0 and short.dropped == 1


def test_a_retriever_that_ends_with_a_reranker(bm25, docs, queries, tmp_path):
    """The window counts the reranker's ranks, and the examples have its texts."""
    import tiny

    encoder = BiEncoder(tiny.tiny_bert(tmp_path), dtype="float32")
    text = pt.apply.text(lambda row: docs[row["docno"]])
    pipeline = (bm25 % 20 >> text >> encoder).compile()  # fusion changes ties at rank 20
    miner = NegativeMiner(pipeline, num_negatives=3, skip=2, depth=5)
    out = miner(queries)
    ranking = pipeline(queries[["qid", "query"]].assign(query=queries["query"].map(clean)))
    ranking = ranking.sort_values(["qid", "rank"]).groupby("qid")["docno"].agg(list)
    first = bm25(queries[["qid", "query"]].assign(query=queries["query"].map(clean)))
    first = first.sort_values(["qid", "rank"]).groupby("qid")["docno"].agg(list)
    moved = 0
    for query in queries.itertuples():
        window = [d for d in ranking[query.qid][2:5] if d != query.docno]
        found = out[(out["qid"] == query.qid) & (out["label"] == 0)]
        assert set(found["docno"]) == {d for d in window if fold(docs[d]) != fold(query.text)}
        assert [docs[d] for d in found["docno"]] == found["text"].tolist()
        moved += set(first[query.qid][2:5]) != set(ranking[query.qid][2:5])
    assert moved > 30


def test_miner_teacher_and_false_negative_filter(bm25, docs, queries):
    """As a pipeline over frames and records; the remaining examples keep their order."""
    miner = NegativeMiner(bm25, num_negatives=6, depth=60, texts=Loader(docs))
    teacher = pt.apply.doc_score(lambda row: len(set(row["text"]) & set(row["query"])))
    mined = miner(queries)
    out = (miner >> teacher >> FalseNegativeFilter(1))(queries)
    best = {query.qid: len(set(query.text) & set(query.query)) for query in queries.itertuples()}
    shared = [len(set(t) & set(q)) for t, q in zip(mined["text"], mined["query"], strict=True)]
    low = mined[(mined["label"] == 0) & (np.array(shared) < mined["qid"].map(best) - 1)]
    assert 0 < len(low) < 5 * len(queries)
    assert list(out.loc[out["label"] == 0, "docno"]) == list(low["docno"])
    assert list(out.loc[out["label"] == 1, "qid"]) == list(low["qid"].unique())
    pipeline = miner >> teacher >> FalseNegativeFilter(1)
    streamed = pd.DataFrame(pipeline.transform_iter(queries.to_dict("records")))
    pd.testing.assert_frame_equal(streamed[EXAMPLES], out[EXAMPLES])


def test_records_give_the_same_examples_as_a_frame(bm25, docs, queries):
    miner = NegativeMiner(bm25, texts=Loader(docs))
    streamed = miner.transform_iter(queries[:30].to_dict("records"))
    streamed += miner.transform_iter([]) + miner.transform_iter(queries[30:].to_dict("records"))
    assert streamed == NegativeMiner(bm25, texts=Loader(docs))(queries).to_dict("records")
    assert miner.seen == len(queries)


def test_draws_are_uniform():
    ranking = [f"d{i}" for i in range(10)]
    texts = {docno: docno for docno in ranking}
    qids = [f"q{i}" for i in range(2000)]
    queries = pd.DataFrame({"qid": qids, "query": qids, "docno": "d3", "text": "d3"})
    out = NegativeMiner(results(dict.fromkeys(qids, ranking), texts))(queries)
    counts = out[out["label"] == 0]["docno"].value_counts()
    assert set(counts.index) == set(texts) - {"d3"}
    # 2,000 draws among 9: mean 222, standard deviation 14
    assert counts.min() > 165 and counts.max() < 280


def test_depth_bounds_the_draws():
    ranking = [f"d{i}" for i in range(50)]
    retriever = results({"q0": ranking}, {docno: docno for docno in ranking})
    out = NegativeMiner(retriever, num_negatives=9, depth=4)(frame([("d1", "d1")]))
    assert out["docno"].tolist()[0] == "d1"
    assert sorted(out["docno"][1:]) == ["d0", "d2", "d3"]


def test_texts_are_fetched_only_for_documents_drawn():
    ranking = [f"d{i}" for i in range(1000)]
    loader, corpus = (kind({docno: docno for docno in ranking}) for kind in (Loader, Corpus))
    queries = frame([("d0", "d0"), ("d1", "d1")])
    retriever = results(dict.fromkeys(queries["qid"], ranking))
    NegativeMiner(retriever, num_negatives=3, texts=loader)(queries)
    assert 2 * 3 <= len(loader.loaded) <= 2 * 4 and loader.calls == 1
    NegativeMiner(retriever, num_negatives=3, texts=corpus)(queries)
    assert corpus.scans == 1


def test_a_docno_twice_in_the_collection_is_an_error():
    corpus = [{"docno": docno, "text": f"text {i}"} for i, docno in enumerate(["d0", "d1", "d1"])]
    miner = NegativeMiner(results({"q0": ["d0", "d1"]}), texts=lambda: iter(corpus))
    with pytest.raises(ValueError, match="duplicate docno 'd1'"):
        miner(frame([("d0", "text 0")]))


def test_draws_continue_past_inadmissible_documents():
    """Of 990 documents, 989 have the source's text or none; the miner finds the other."""
    ranking = [f"d{i}" for i in range(990)]
    texts = {f"d{i}": "The same  text" for i in range(500)} | {"d777": "another"}
    loader = Loader(texts)
    miner = NegativeMiner(results({"q0": ranking}), num_negatives=2, texts=loader)
    out = miner(frame([("d0", "the SAME text")]))
    assert out["docno"].tolist() == ["d0", "d777"]
    assert miner.without_text == 489
    alone = NegativeMiner(results({"q0": ranking}), texts=Loader({}))
    assert len(alone(frame([("d0", "x")]))) == 0
    assert (alone.seen, alone.dropped, alone.without_text) == (1, 1, 989)


def test_loader_is_not_called_without_draws():
    loader = Loader({})
    miner = NegativeMiner(results({"q0": ["d0"]}), texts=loader)
    out = miner(frame([("d0", "only the source is found"), ("d1", "nothing is found")]))
    assert list(out.columns) == EXAMPLES and len(out) == 0
    assert loader.calls == 0
    assert (miner.seen, miner.dropped) == (2, 2)


def test_texts_override_those_of_the_results():
    retriever = results({"q0": ["d1"]}, {"d1": "cut sh"})
    assert NegativeMiner(retriever)(frame([("d0", "a")]))["text"][1] == "cut sh"
    whole = NegativeMiner(retriever, texts=Loader({"d1": "cut short"}))
    assert whole(frame([("d0", "a")]))["text"][1] == "cut short"


def test_other_text_field():
    queries = frame([("d0", "a")]).rename(columns={"text": "body"})
    miner = NegativeMiner(
        results({"q0": ["d1"]}), texts=Loader({"d1": "b"}, "body"), text_field="body"
    )
    out = miner(queries)
    assert list(out.columns) == ["qid", "query", "docno", "body", "label"]
    assert out["body"].tolist() == ["a", "b"]


def split(text):
    """A title, the first word, and the rest."""
    title, _, rest = text.partition(" ")
    return {"title": title, "body": rest}


@pytest.mark.parametrize("source", ["results", "loader", "corpus"])
def test_several_text_fields_give_the_negatives_of_the_joined_text(docs, source):
    """Copies are found in the joined texts, as with one field; the examples have all fields."""
    rankings = {f"q{i}": list(docs)[:40] for i in range(8)}
    queries = frame([(f"d{i}", docs[f"d{i}"]) for i in range(8)])  # d7 has the text of d6
    expected = NegativeMiner(results(rankings, docs), num_negatives=39, depth=40)(queries)
    fields = pd.DataFrame([split(text) for text in queries["text"]], index=queries.index)
    queries = pd.concat([queries.drop(columns="text"), fields], axis="columns")
    documents = [{"docno": docno, **split(text)} for docno, text in docs.items()]
    documents[6]["body"], documents[6]["title"] = docs["d6"], None
    loader = pt.apply.generic(
        lambda inp: inp.merge(pd.DataFrame(documents), on="docno"), transform_outputs=lambda c: c
    )
    retriever = results(rankings)
    miner = NegativeMiner(
        retriever >> loader if source == "results" else retriever,
        texts={"results": None, "loader": loader, "corpus": lambda: iter(documents)}[source],
        text_field=["title", "body"],
        num_negatives=39,
        depth=40,
    )
    out = miner(queries)
    assert list(out.columns) == ["qid", "query", "docno", "title", "body", "label"]
    assert list(out["docno"]) == list(expected["docno"]) and len(out) == 8 * 39 + 6
    joined = out["title"].fillna("") + " " + out["body"]
    assert [fold(text) for text in joined] == [fold(text) for text in expected["text"]]


@pytest.mark.parametrize(
    "texts", [None, Loader({}, "body"), lambda: [{"docno": "d1", "body": "b"}]]
)
def test_missing_texts(texts):
    miner = NegativeMiner(results({"q0": ["d1"]}), texts=texts)
    with pytest.raises(
        ValueError, match=r"no column 'text'.*texts=.*pt.text.get_text\(dataset, 'text'"
    ):
        miner(frame([("d0", "a")]))


@pytest.mark.parametrize("name", ["num_negatives", "depth", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_numbers(name, value):
    with pytest.raises(
        ValueError, match=f"{name} must be a whole number of at least 1, not {value}"
    ):
        NegativeMiner(results({}), **{name: value})


def test_invalid_arguments():
    with pytest.raises(ValueError, match="seed must be a whole number of at least 0"):
        NegativeMiner(results({}), seed=-1)
    with pytest.raises(ValueError, match="skip must be a whole number of at least 0, not -1"):
        NegativeMiner(results({}), skip=-1)
    with pytest.raises(ValueError, match="skip must be below depth, which is 10, not 10"):
        NegativeMiner(results({}), depth=10, skip=10)
    with pytest.raises(TypeError, match="retriever must be a PyTerrier transformer, not None"):
        NegativeMiner(None)
    once_only = iter([{"docno": "d1", "text": "b"}])
    with pytest.raises(TypeError, match="texts must be a text loader, a collection"):
        NegativeMiner(results({}), texts=once_only)


def test_invalid_frames():
    miner = NegativeMiner(results({"q0": ["d1"]}, {"d1": "b"}))
    queries = frame([("d0", "a"), ("d0", "a")])
    for column in ("qid", "query", "docno", "text"):
        with pytest.raises(pt.validate.InputValidationError, match=f"'{column}'"):
            miner(queries.drop(columns=column))
        broken = pd.Series([queries[column].iloc[0], None], dtype=object).values
        with pytest.raises(ValueError, match=f"{column} must be a string"):
            miner(queries.assign(**{column: broken}))
    with pytest.raises(ValueError, match="duplicate qid 'q0'"):
        miner(queries.assign(qid="q0"))


def test_empty_frame():
    miner = NegativeMiner(results({}))
    assert list(miner(frame([])).columns) == EXAMPLES
    assert miner.transform_iter([]) == []
    assert (miner.seen, miner.dropped) == (0, 0)


def test_inspection(bm25):
    miner = NegativeMiner(bm25, num_negatives=2, seed=4)
    assert repr(miner) == f"NegativeMiner({bm25!r}, num_negatives=2, seed=4)"
    assert pt.inspect.transformer_inputs(miner) == [["qid", "query", "docno", "text"]]
    outputs = pt.inspect.transformer_outputs(miner, ["qid", "query", "docno", "text", "score"])
    assert outputs == EXAMPLES
    names = [attribute.name for attribute in pt.inspect.transformer_attributes(miner)]
    assert names == [
        *("retriever", "num_negatives", "depth", "skip", "sampling_strategy"),
        *("min_score", "max_score", "relative_margin", "random_share", "seed", "texts"),
        *("batch_size", "text_field", "verbose"),
    ]
    again = pt.inspect.transformer_apply_attributes(miner, seed=5)
    assert again.seed == 5 and again.num_negatives == 2 and again.retriever is bm25
    assert pt.inspect.subtransformers(miner) == {"retriever": bm25}


def test_progress(bm25, docs, queries, capfd):
    NegativeMiner(bm25, texts=lambda: Corpus(docs).get_corpus_iter(False))(queries)
    assert "retrieving" not in capfd.readouterr().err
    NegativeMiner(bm25, texts=Loader(docs), verbose=True)(queries)
    assert "retrieving" in capfd.readouterr().err


TestNegativeMiner = pt.testing.transformer_test_class(lambda: NegativeMiner(results({})))


def test_a_retriever_that_returns_fewer_documents_than_depth_gives_one_warning(recwarn):
    texts = {f"d{i}": f"text {i}" for i in range(6)}
    queries = frame([("d0", "text 0"), ("d1", "text 1")])
    retriever = results({"q0": list(texts), "q1": ["d2"]}, texts)
    miner = NegativeMiner(retriever)
    with pytest.warns(UserWarning, match="at most 6 documents for a query, fewer than depth=1000"):
        miner(queries)
    recwarn.clear()
    miner(queries)
    NegativeMiner(retriever, depth=6)(queries)
    assert not [w for w in recwarn if "documents for a query" in str(w.message)]
