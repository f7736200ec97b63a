"""Weights in bfloat16 for as long as a network scores."""

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder as Oracle
from sentence_transformers import SentenceTransformer
from tiny_training import QUICK, make_examples, models, plain_models  # noqa: F401

from pyterrier_inpars import BiEncoder, CrossEncoder
from pyterrier_inpars._compute.lower_precision import converted_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*without a scoring head")
BFLOAT16 = {"dtype": torch.bfloat16}
TEXTS = ["stone river", "cloud " * 20, "", "what is a good field", "grape"]


def tensors(network):
    return {
        name: (id(value), value._version, value.dtype)
        for name, value in network.state_dict(keep_vars=True).items()
    }


def test_vectors_of_sentence_transformers_in_bfloat16(models, tmp_path):  # noqa: F811
    """As near to float32 as those, in unit vectors, and no weight has changed afterwards."""
    ours = BiEncoder(models[BiEncoder], dtype="bfloat16", device="cpu")
    path = str(ours.save(tmp_path / "model"))
    before = tensors(ours.network)
    found = ours.encode(TEXTS)
    assert tensors(ours.network) == before and found.dtype == np.float32
    exact = SentenceTransformer(path, device="cpu").encode(TEXTS)
    theirs = SentenceTransformer(path, device="cpu", model_kwargs=BFLOAT16).encode(TEXTS)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    assert 1e-4 < np.abs(found - exact).max() < max(1.5 * np.abs(theirs - exact).max(), 0.02)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)


def test_the_head_stays_in_float32(models, tmp_path):  # noqa: F811
    """Scores are not rounded to bfloat16, and close to those in float32."""
    ours = CrossEncoder(models[CrossEncoder], dtype="bfloat16", device="cpu")
    path = str(ours.save(tmp_path / "model"))
    (head,) = ours._heads(ours.network)
    seen = []
    hook = head.register_forward_hook(lambda layer, args, output: seen.append(layer.weight.dtype))
    pairs = [("what is a stone", text) for text in TEXTS]
    found = ours._score(*map(list, zip(*pairs, strict=True)))
    hook.remove()
    assert seen and set(seen) == {torch.float32}
    assert (torch.tensor(found).bfloat16().float().numpy() != found).any()
    exact = Oracle(path, device="cpu", activation_fn=torch.nn.Identity()).predict(pairs)
    np.testing.assert_allclose(found, exact, atol=0.05)


def test_an_error_restores_the_weights():
    """Shared weights are converted once; other dtypes and kept layers stay."""
    linear, other = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4, dtype=torch.float64)
    tied, kept = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)
    tied.weight = linear.weight
    network = torch.nn.ModuleList([linear, other, tied, kept, torch.nn.Embedding(3, 4)])
    before = tensors(network)
    with pytest.raises(KeyError), converted_weights(network, torch.bfloat16, keep=[kept]):
        assert linear.weight is tied.weight and linear.weight.dtype == torch.bfloat16
        assert (other.weight.dtype, kept.weight.dtype) == (torch.float64, torch.float32)
        assert network[4](torch.tensor([1])).dtype == torch.bfloat16
        assert kept(linear(torch.zeros(1, 4, dtype=torch.bfloat16))).dtype == torch.float32
        raise KeyError
    assert tensors(network) == before


@pytest.mark.parametrize("cls", [CrossEncoder, BiEncoder])
def test_training_keeps_float32_weights(models, cls, tmp_path):  # noqa: F811
    """Also one that scores held-out queries; what is saved scores the same."""
    examples = make_examples(8, 2, 0, "pair")
    training = QUICK | {"held_out": 0.3}
    trained = cls(models[cls], dtype="bfloat16", device="cpu", training=training).fit(examples)
    assert {weight.dtype for weight in trained.network.parameters()} == {torch.float32}
    loaded = cls(trained.save(tmp_path / "model"), dtype="bfloat16", device="cpu")
    np.testing.assert_array_equal(trained(examples)["score"], loaded(examples)["score"])
