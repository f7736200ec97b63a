"""Dense retrieval with a bi-encoder: against brute force, the reranker and pyterrier_dr."""

import copy
import pickle

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny
import tiny_llm
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from tiny_training import QUICK

from pyterrier_inpars import BiEncoder, NegativeMiner, RoundTripFilter, VectorPRF
from pyterrier_inpars.training._finite import NotFiniteError

dr = pytest.importorskip("pyterrier_dr", reason="needs the extra dense")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The inplace keyword"),
]
WORDS = tiny.WORDS[:18]
QUERIES = pd.DataFrame(
    {"qid": ["1", "2", "3"], "query": ["what is apple", "river stone", "the field of iris"]}
)


@pytest.fixture(scope="module")
def corpus() -> list[dict[str, str]]:
    rng = np.random.default_rng(1)
    return [
        {"docno": f"d{i}", "title": rng.choice(WORDS), "text": " ".join(rng.choice(WORDS, length))}
        for i, length in enumerate(rng.integers(1, 40, 120))
    ]


@pytest.fixture
def encoder(models):
    return lambda **options: BiEncoder(models[BiEncoder], dtype="float32", device="cpu", **options)


def flex(path, encoder, corpus):
    """An index of a corpus, as the documentation builds it."""
    index = dr.FlexIndex(str(path), verbose=False)
    (encoder.doc_encoder() >> index).index(iter(corpus))
    return index


def reranked(encoder, queries, corpus):
    """The ranking of the reranker over the whole collection."""
    pairs = queries.merge(pd.DataFrame(corpus), how="cross")
    return encoder(pairs).sort_values(["qid", "rank"]).reset_index(drop=True)


OPTIONS = [
    {},
    {"query_prompt": "what is ", "doc_prompt": "a good "},
    {"text_field": ["title", "text"], "max_length": 12},
    {"pooling": "cls", "vector_cache": 50},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "plain")
def test_the_ranking_of_the_reranker_over_the_collection(tmp_path, encoder, corpus, options):
    model = encoder(**options)
    index = flex(tmp_path / "flex", model, corpus)
    expected = reranked(model, QUERIES, corpus)
    for retriever in (index.retriever(), index.torch_retriever()):
        found = (model.query_encoder() >> retriever)(QUERIES)
        assert len(found) == len(expected)
        found = found.merge(expected, on=["qid", "docno"], suffixes=("", "_reranked"))
        np.testing.assert_allclose(found["score"], found["score_reranked"], atol=1e-6)
        by_rank = found.sort_values(["qid", "rank_reranked"])["score"].to_numpy().reshape(3, -1)
        assert (np.diff(by_rank, axis=1) <= 2e-6).all()


def test_stored_vectors_rerank(tmp_path, encoder, corpus):
    model = encoder()
    index = flex(tmp_path / "flex", model, corpus)
    expected = reranked(model, QUERIES, corpus[:15])
    out = (model.query_encoder() >> index.scorer())(expected.drop(columns=["score", "rank"]))
    both = out.merge(expected, on=["qid", "docno"])
    assert len(both) == len(expected)
    np.testing.assert_allclose(both["score_x"], both["score_y"], atol=1e-6)
    assert (both["rank_x"] == both["rank_y"]).all()


def test_vectors_are_those_of_sentence_transformers(encoder, models, corpus):
    oracle = SentenceTransformer(models[BiEncoder], device="cpu")
    documents = pd.DataFrame(corpus)
    out = encoder(batch_size=7).doc_encoder()(documents)
    pd.testing.assert_frame_equal(out.drop(columns="doc_vec"), documents)
    vectors = np.stack(out["doc_vec"])
    assert vectors.dtype == np.float32 and vectors.shape == (120, 32)
    expected = oracle.encode(documents["text"].tolist(), normalize_embeddings=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    queries = encoder().query_encoder()(QUERIES)
    expected = oracle.encode(QUERIES["query"].tolist(), normalize_embeddings=True)
    np.testing.assert_allclose(np.stack(queries["query_vec"]), expected, atol=1e-6)


def test_a_saved_bi_encoder_in_pyterrier_dr(tmp_path, encoder, corpus):
    """pyterrier_dr does not normalize, unless a checkpoint does: its index compares by cosine."""
    path = encoder(max_length=20).save(tmp_path / "checkpoint")
    theirs = dr.SBertBiEncoder(str(path), device="cpu")
    ours = BiEncoder(path, dtype="float32", device="cpu")
    found = []
    for model in (theirs, ours):
        index = dr.FlexIndex(str(tmp_path / type(model).__module__), sim_fn="cos", verbose=False)
        (model.doc_encoder() >> index).index(iter(corpus))
        found.append((model.query_encoder() >> index.retriever(num_results=120))(QUERIES))
    both = found[0].merge(found[1], on=["qid", "docno"])
    assert len(both) == 3 * len(corpus)
    np.testing.assert_allclose(both["score_x"], both["score_y"], atol=1e-6)


def test_a_language_model(tmp_path, corpus):
    path = tiny_llm.save(tmp_path / "llm", "gemma3")
    model = BiEncoder(path, pooling="lasttoken", query_prompt="query: ", dtype="float32")
    index = flex(tmp_path / "flex", model, corpus[:20])
    found = (model.query_encoder() >> index.retriever())(QUERIES)
    expected = reranked(model, QUERIES, corpus[:20])
    both = found.merge(expected, on=["qid", "docno"])
    np.testing.assert_allclose(both["score_x"], both["score_y"], atol=1e-5)


@pytest.mark.parametrize("adapter", [False, True])
def test_encoders_follow_a_training(tmp_path, encoder, corpus, examples, adapter):
    """Those that were made before it, too."""
    model = encoder()
    queries, documents = model.query_encoder(), model.doc_encoder()
    before = np.stack(queries(QUERIES)["query_vec"])
    untrained = repr(queries)
    model.training = QUICK | {"adapter": adapter, "learning_rate": 1e-2}
    model.fit(examples)
    after = np.stack(queries(QUERIES)["query_vec"])
    assert not np.allclose(before, after, atol=1e-4)
    np.testing.assert_array_equal(after, model.encode(QUERIES["query"].tolist(), "query"))
    index = dr.FlexIndex(str(tmp_path / "flex"), verbose=False)
    (documents >> index).index(iter(corpus))
    found = (queries >> index.retriever())(QUERIES)
    both = found.merge(reranked(model, QUERIES, corpus), on=["qid", "docno"])
    np.testing.assert_allclose(both["score_x"], both["score_y"], atol=1e-6)
    assert untrained == f"{encoder()!r}.query_encoder()" != repr(queries)


def test_long_and_short_documents_are_in_different_batches(encoder, corpus):
    """Also where they alternate in the stream, which arrives in large parts."""
    model = encoder(batch_size=10)
    shapes = []
    model.network[0].register_forward_hook(
        lambda module, args, output: shapes.append(tuple(output["input_ids"].shape))
    )
    texts = [f"{WORDS[i % 18]} {'stone ' * (i % 2 * 15)}{i}" for i in range(200)]
    stream = [{"docno": f"d{i}", "text": text} for i, text in enumerate(texts)]
    parts = []

    class Sink(pt.Indexer):
        def index(self, inp):
            parts.extend(inp)

    (model.doc_encoder() >> Sink()).index(iter(stream))
    assert [document["docno"] for document in parts] == [d["docno"] for d in stream]
    assert sum(tokens for _, tokens in shapes[10:]) < 0.5 * sum(tokens for _, tokens in shapes[:10])
    np.testing.assert_allclose(
        np.stack([document["doc_vec"] for document in parts]),
        model.encode(texts),
        atol=1e-6,
    )


def test_the_source_document_is_found_and_never_a_negative(tmp_path, encoder, corpus):
    """Round trip and mining with the encoder's own index."""
    model = encoder()
    dense = model.query_encoder() >> flex(tmp_path / "flex", model, corpus).retriever()
    documents = pd.DataFrame(corpus[:30])
    queries = documents.assign(qid=documents["docno"] + "-1", query=documents["text"])
    expected = {}
    for qid, results in reranked(model, queries[["qid", "query"]], corpus).groupby("qid"):
        expected[qid] = results["docno"].tolist()
    for k in (1, 3):
        kept = RoundTripFilter(dense, k=k)(queries)
        assert kept["qid"].tolist() == [
            qid
            for qid, docno in zip(queries["qid"], queries["docno"], strict=True)
            if docno in expected[qid][:k]
        ]
    options = {"num_negatives": 2, "depth": 20, "sampling_strategy": "top"}
    miner = NegativeMiner(dense, texts=lambda: iter(corpus), **options)
    examples = miner(queries)
    texts = {document["docno"]: document["text"] for document in corpus}
    for qid, rows in examples.groupby("qid"):
        source = qid.removesuffix("-1")
        top = [d for d in expected[qid][:20] if texts[d] != texts[source]][:2]
        assert rows.loc[rows["label"] == 0, "docno"].tolist() == top


def test_pyterrier_dr_feedback_is_vector_prf(tmp_path, encoder, corpus):
    model = encoder()
    index = flex(tmp_path / "flex", model, corpus)
    top = model.query_encoder() >> index.retriever(num_results=120)
    prf = dr.VectorPrf(alpha=1.0, beta=1.0, k=3)
    found = (top >> index.vec_loader() >> prf >> index.retriever(num_results=120))(QUERIES)
    first = reranked(model, QUERIES, corpus)
    expected = VectorPRF(model, k=3)(first)
    both = found.merge(expected, on=["qid", "docno"])
    norms = (both["score_x"] / both["score_y"]).groupby(both["qid"]).agg(["min", "max"])
    np.testing.assert_allclose(norms["min"], norms["max"], rtol=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(["apple", "stone river", "", "the " * 50]), max_size=8))
def test_a_frame_keeps_its_rows(models, texts):
    """Any texts, in order, with the other columns unchanged; an empty frame gets the column."""
    model = BiEncoder(models[BiEncoder], dtype="float32", device="cpu", batch_size=3)
    frame = pd.DataFrame({"docno": [f"d{i}" for i in range(len(texts))], "text": texts, "n": 1})
    frame.index = range(5, 5 + len(frame))
    out = model.doc_encoder()(frame)
    assert list(out) == ["docno", "text", "n", "doc_vec"]
    pd.testing.assert_frame_equal(
        out[["docno", "text", "n"]], frame.reset_index(drop=True), check_dtype=bool(texts)
    )
    if texts:
        np.testing.assert_allclose(np.stack(out["doc_vec"]), model.encode(texts), atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(np.stack(out["doc_vec"]), axis=1), 1, atol=1e-6)


def test_encoders_of_one_object_are_equal(encoder):
    model = encoder()
    assert model.query_encoder() == model.query_encoder()
    assert hash(model.doc_encoder()) == hash(model.doc_encoder())
    assert model.query_encoder() != model.doc_encoder()
    assert model.query_encoder() != encoder().query_encoder()


def test_copies(encoder):
    for model in (encoder(), encoder(vector_cache=10)):
        first = model.query_encoder()
        expected = np.stack(first(QUERIES)["query_vec"])
        for other in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
            np.testing.assert_array_equal(np.stack(other(QUERIES)["query_vec"]), expected)


def test_schematic(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(pt.documentation, "url_for_class", lambda _: None)  # looked up on the web
    model = encoder()
    index = dr.FlexIndex(str(tmp_path / "flex"))
    for pipeline, columns in [
        (model.query_encoder() >> index.retriever(), ["qid", "query"]),
        (model.doc_encoder(), ["docno", "text"]),
    ]:
        drawn = pt.schematic.draw(pipeline, input_columns=columns)
        assert "input-validation-error" not in drawn.split("</style>")[-1]
    pipeline = model.query_encoder() >> index.retriever()
    assert pt.inspect.transformer_inputs(pipeline)[0] == ["qid", "query"]


class TestBadInput:
    def test_columns(self, encoder):
        with pytest.raises(pt.validate.InputValidationError, match="query"):
            encoder().query_encoder()(pd.DataFrame({"qid": ["1"]}))
        with pytest.raises(pt.validate.InputValidationError, match="title"):
            model = encoder(text_field=["title", "text"])
            model.doc_encoder()(pd.DataFrame({"docno": ["1"], "text": ["a"]}))

    def test_a_text_that_is_not_a_string(self, encoder):
        frame = pd.DataFrame({"docno": ["d1", "d2"], "text": ["a", None]})
        with pytest.raises(ValueError, match="text must be a string.*docno 'd2'"):
            encoder().doc_encoder()(frame)

    def test_weights_that_are_not_finite(self, encoder):
        model = encoder()
        for weight in model.network.parameters():
            weight.data.fill_(float("nan"))
        with pytest.raises(NotFiniteError, match="not finite for docno 'd1'.*dtype"):
            model.doc_encoder()(pd.DataFrame({"docno": ["d1"], "text": ["apple"]}))
