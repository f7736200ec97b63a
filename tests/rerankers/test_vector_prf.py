"""VectorPRF and the vector cache: against the vectors of sentence-transformers, in plain loops."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch
from sentence_transformers import SentenceTransformer

from pyterrier_inpars import BiEncoder, ScoreFusion, VectorPRF
from pyterrier_inpars.rerankers import _vector_cache


@pytest.fixture
def encoder(models):
    fixed = {"dtype": "float32", "device": "cpu"}
    return lambda **options: BiEncoder(models[BiEncoder], **fixed | options)


@pytest.fixture
def counted(monkeypatch):
    """Texts that a bi-encoder encodes."""
    encode, texts = BiEncoder._encode, []

    def noted(self, task, given, prompt):
        texts.extend(given)
        return encode(self, task, given, prompt)

    monkeypatch.setattr(BiEncoder, "_encode", noted)
    return texts


@pytest.mark.parametrize(("k", "weight"), [(1, 1.0), (2, 0.5), (100, 2.0)])
def test_scores(frame, encoder, models, k, weight):
    network = SentenceTransformer(models[BiEncoder], device="cpu")
    vector = lambda text: network.encode(text, normalize_embeddings=True)  # noqa: E731
    expected = []
    for row in frame.itertuples():
        results = frame[frame["qid"] == row.qid].sort_values("score", ascending=False)
        feedback = np.mean([vector(text) for text in results["text"][:k]], axis=0)
        query = vector(row.query) + weight * feedback
        expected.append(query @ vector(row.text) / np.linalg.norm(query))
    out = VectorPRF(encoder(), k, weight)(frame)
    np.testing.assert_allclose(out["score"], expected, atol=1e-5)
    pd.testing.assert_frame_equal(out.drop(columns=["score", "rank"]), frame[list(out)[:-2]])
    for _, rows in out.groupby("qid"):
        assert list(rows.sort_values("rank")["score"]) == sorted(rows["score"], reverse=True)


def test_no_weight_gives_the_scores_of_the_encoder(frame, encoder):
    out = VectorPRF(encoder(), weight=0)(frame)
    np.testing.assert_allclose(out["score"], encoder()(frame)["score"], atol=1e-6)


def test_a_pipeline_in_fusion_encodes_each_text_once(frame, encoder, counted):
    cached = encoder(vector_cache=100)
    fused = ScoreFusion(cached)
    pipeline = ScoreFusion([fused >> VectorPRF(cached), cached])
    out = pipeline(frame)
    assert sorted(counted) == sorted([*set(frame["text"]), *set(frame["query"])])
    uncached = encoder()
    plain = ScoreFusion([ScoreFusion(uncached) >> VectorPRF(uncached), uncached])
    np.testing.assert_allclose(out["score"], plain(frame)["score"], atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "auto"])
def test_vectors_are_kept_from_call_to_call_in_every_dtype(frame, encoder, counted, dtype):
    cached = encoder(vector_cache=100, dtype=dtype)
    first = cached(frame)
    pd.testing.assert_frame_equal(cached(frame), first)
    cached.encode(list(frame["text"]))
    cached.doc_encoder()(frame[["docno", "text"]])
    cached.query_encoder()(frame[["qid", "query"]])
    assert sorted(counted) == sorted([*set(frame["text"]), *set(frame["query"])])


def test_vectors_of_other_weights_and_lengths_are_dropped(frame, encoder):
    cached = encoder(vector_cache=100)
    first = cached(frame)["score"]
    cached.set_parameter("max_length", 8)
    np.testing.assert_array_equal(cached(frame)["score"], encoder(max_length=8)(frame)["score"])
    cached.set_parameter("max_length", None)
    np.testing.assert_array_equal(cached(frame)["score"], first)
    for weight in cached.network.parameters():
        weight.data = weight.data * 1.1
    changed = cached(frame)["score"]
    assert not np.allclose(changed, first)
    cached.vector_cache = 0
    np.testing.assert_array_equal(cached(frame)["score"], changed)


def test_the_oldest_vectors_are_dropped(encoder, counted):
    cached = encoder(vector_cache=2)
    for text in ["a", "b", "a", "c", "b", "a"]:
        cached.encode([text])
    assert counted == ["a", "b", "c", "a"]
    assert (
        len(cached.encode(["x", "y", "z", "x"])) == 4 and len(cached._caches["document"]._kept) == 2
    )


def test_copies_have_an_empty_cache(encoder):
    cached = encoder(vector_cache=10)
    cached.encode(["a"])
    for other in (copy.deepcopy(cached), pickle.loads(pickle.dumps(cached))):
        assert not other._caches["document"]._kept
        np.testing.assert_array_equal(other.encode(["a"]), cached.encode(["a"]))


def test_the_state_of_weights(encoder):
    """It changes with each weight, its signs and order, by whatever writes to it."""

    def changed(before, after):
        return {n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}

    network = encoder().network
    weights = [*network.parameters()]
    before = _vector_cache.weights_state(network)
    assert before == _vector_cache.weights_state(network)
    for number, weight in enumerate(weights):
        weight.data = weight.data + 0.01
        after = _vector_cache.weights_state(network)
        assert changed(before, after) == {number}
        before = after
    weight = weights[0]
    for other in (-weight.data, weight.data.flip(0)):
        weight.data = other
        after = _vector_cache.weights_state(network)
        assert changed(before, after) == {0}
        before = after
    with torch.no_grad():
        weight[-1, -1] += 1.0  # a single number
    after = _vector_cache.weights_state(network)
    assert changed(before, after) == {0}


class OnMps(torch.Tensor):
    """A tensor without float64, as those of Apple's MPS are, until it is copied to the CPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        found = super().__torch_function__(func, types, args, kwargs or {})
        if func is torch.Tensor.cpu:
            return found.as_subclass(torch.Tensor)
        if isinstance(found, torch.Tensor) and found.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return found


def test_the_state_of_weights_on_a_device_without_float64():
    """Also of weights in half precision; and it is that of the CPU."""
    kinds = [torch.float32, torch.bfloat16, torch.float32]
    weights = [
        torch.randn(size, 3, dtype=dtype) for size, dtype in zip((9, 5, 1), kinds, strict=True)
    ]

    def state(kind):
        own = [torch.nn.Parameter(weight).as_subclass(kind) for weight in weights]
        return [
            row[2:] for row in _vector_cache.weights_state(SimpleNamespace(parameters=lambda: own))
        ]

    assert state(OnMps) == state(torch.Tensor)
    with pytest.raises(TypeError, match="float64"):
        weights[0].as_subclass(OnMps).double()


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_an_optimizer_changes_the_state_of_weights(encoder, options):
    """A fused step is not counted by PyTorch, but changes the numbers that are read."""
    network = encoder().network
    for weight in network.parameters():
        weight.grad = torch.randn_like(weight)
    before = _vector_cache.weights_state(network)
    torch.optim.AdamW(network.parameters(), lr=1e-6, **options).step()
    after = _vector_cache.weights_state(network)
    assert all(a != b for a, b in zip(after, before, strict=True))


def test_columns(frame, encoder):
    stage = VectorPRF(encoder())
    assert "score" in pt.inspect.transformer_inputs(stage)[0]
    assert list(stage(frame[:0].assign(score=1.0)))[-2:] == ["score", "rank"]
