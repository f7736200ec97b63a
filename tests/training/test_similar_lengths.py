"""A batch that is computed in parts of similar length, against the batch as a whole."""

import numpy as np
import pytest
import tiny
import torch
from tiny_training import QUICK, make_examples, shapes_of

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder
from pyterrier_inpars.training import _similar_lengths
from pyterrier_inpars.training._similar_lengths import compute_by_length

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head"),
]
CLASSES = {BiEncoder: "sentence_embedding", CrossEncoder: "scores"}
LENGTHS = [9, 1, 25, 3, 3, 14, 1, 30, 2, 22]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"), 0.0)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(_similar_lengths, "CPU_TOKENS", 32)


def network_of(cls: type, path: str) -> tuple[torch.nn.Module, list[tuple[int, ...]]]:
    """A network in training mode, and the shapes of its inputs from now on."""
    reranker = cls(path, dtype="float32", device="cpu")
    return reranker.network.train(), shapes_of(reranker)


def batch_of(network: torch.nn.Module, cls: type, lengths: list[int] = LENGTHS) -> dict:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(tiny.WORDS, length)) for length in lengths]
    return network.preprocess([("what", t) for t in texts] if cls is CrossEncoder else texts)


def output_and_gradients(network: torch.nn.Module, batch: dict, name: str) -> list[torch.Tensor]:
    network.zero_grad()
    output = network(dict(batch))[name]
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    (output * weights).sum().backward()
    return [output, *(w.grad.clone() for w in network.parameters() if w.grad is not None)]


@pytest.mark.parametrize("cls", CLASSES)
def test_same_outputs_and_gradients_with_less_padding(cls, path, small_parts):
    network, shapes = network_of(cls, path)
    batch = batch_of(network, cls)
    expected = output_and_gradients(network, batch, CLASSES[cls])
    (whole,) = shapes
    shapes.clear()
    compute_by_length(network)
    found = output_and_gradients(network, batch, CLASSES[cls])
    assert len(found) == len(expected) > 5
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert len(shapes) > 3
    assert sum(rows for rows, _ in shapes) == whole[0]
    assert all(rows == 1 or rows * tokens <= 32 for rows, tokens in shapes)
    assert sum(rows * tokens for rows, tokens in shapes) < 0.7 * whole[0] * whole[1]


def test_the_whole_batch_in_eval_mode_with_padding_on_the_left_and_with_an_empty_text(
    path, small_parts
):
    network, shapes = network_of(BiEncoder, path)
    compute_by_length(network)
    batch = batch_of(network, BiEncoder)
    left = {name: value.flip(1) for name, value in batch.items() if torch.is_tensor(value)}
    empty = {
        name: torch.cat([value, torch.zeros_like(value[:1])]) if torch.is_tensor(value) else value
        for name, value in batch.items()
    }
    network(left)
    network(empty)
    network.eval()
    network(dict(batch))
    size, tokens = batch["input_ids"].shape
    assert shapes == [(size, tokens), (size + 1, tokens), (size, tokens)]


def test_a_training_computes_by_length_and_restores_the_network(path, small_parts):
    examples = make_examples(4, 3, 0, "pair")
    examples["text"] = [
        " ".join(np.resize(tiny.WORDS, 1 + 5 * (i % 4))) for i in range(len(examples))
    ]
    examples["score"] = np.linspace(0, 1, len(examples))
    options = QUICK | {"loss": "distillation", "per_device_train_batch_size": 2, "held_out": 0}
    reranker = BiEncoder(path, dtype="float32", device="cpu", training=options)
    shapes = shapes_of(reranker)
    reranker.fit(examples)
    assert {rows for rows, tokens in shapes if tokens > 16} == {1}  # of 8 texts in a batch
    assert "forward" not in vars(reranker.network)
