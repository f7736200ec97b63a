"""Weights in bfloat16 for as long as a network scores."""

import numpy as np
import pytest
import tiny
import tiny_llm
import torch
import transformers
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
    table = torch.nn.Embedding(3, 4)
    network = torch.nn.ModuleList([linear, other, tied, kept, table])
    before = tensors(network)
    with pytest.raises(KeyError), converted_weights(network, torch.bfloat16, keep=[kept]):
        assert linear.weight is tied.weight and linear.weight.dtype == torch.bfloat16
        assert (other.weight.dtype, kept.weight.dtype) == (torch.float64, torch.float32)
        assert table(torch.tensor([1])).dtype == table.weight.dtype == torch.bfloat16
        assert kept(linear(torch.zeros(1, 4, dtype=torch.bfloat16))).dtype == torch.float32
        raise KeyError
    assert tensors(network) == before


FRAME = make_examples(6, 2, 0, "pair")
DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
}
"""Settings of microsoft/deberta-v3-base."""


@pytest.mark.parametrize(
    "kind, more, by_autocast",
    [
        ("deberta-v2", DEBERTA, False),  # reads the table of relative positions
        ("deberta", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, False),
        ("modernbert", {}, False),
        ("fnet", {}, True),  # whose Fourier transform refuses bfloat16
    ],
)
def test_every_encoder(kind, more, by_autocast, tmp_path):
    """Scores are near to those in float32, and a training validates."""
    path = tiny.tiny_classifier(tmp_path / "model", kind, 1, dropout=0.0, **more)
    exact = CrossEncoder(path, dtype="float32", device="cpu")(FRAME)["score"]
    ours = CrossEncoder(path, dtype="bfloat16", device="cpu", training=QUICK)
    found = ours(FRAME)["score"]
    assert np.corrcoef(exact, found)[0, 1] > 0.99
    assert ours._only_autocast is by_autocast
    assert ours.inputs == len(FRAME)
    if kind != "deberta":  # whose attention mask in transformers overflows under autocast
        assert ours.fit(FRAME, validation=FRAME, validation_qrels=FRAME).provenance["finished"]


@pytest.mark.parametrize("kind", ["opt", "biogpt"])
def test_language_models_that_name_their_positions(kind, tmp_path):
    """They call the table of positions with a keyword."""
    transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model(
            kind,
            vocab_size=400,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            word_embed_proj_dim=32,
            ffn_dim=64,
            intermediate_size=64,
        )
    ).save_pretrained(tmp_path)
    tiny_llm.tokenizer().save_pretrained(tmp_path)
    exact, found = (
        BiEncoder(tmp_path, dtype=dtype, device="cpu").encode(TEXTS[:2])
        for dtype in ("float32", "bfloat16")
    )
    assert (exact * found).sum(axis=1).min() > 0.99


@pytest.mark.parametrize("cls", [CrossEncoder, BiEncoder])
@pytest.mark.parametrize(
    "messages",
    [
        ["CUDA error: transient"],
        ["expected scalar type Float but found BFloat16", "of autocast"],
    ],
)
def test_an_error_changes_no_later_score(cls, messages, models, monkeypatch):  # noqa: F811
    """It is the first one, also where the computation under autocast fails too."""
    ours, whole = (cls(models[cls], dtype="bfloat16", device="cpu") for _ in range(2))
    left, forward = list(messages), type(ours.network).forward

    def broken(network, *args, **options):
        if left:
            raise RuntimeError(left.pop(0))
        return forward(network, *args, **options)

    monkeypatch.setattr(type(ours.network), "forward", broken)
    with pytest.raises(RuntimeError, match=messages[0]):
        ours(FRAME)
    assert not left
    np.testing.assert_array_equal(ours(FRAME)["score"], whole(FRAME)["score"])


def test_the_fingerprint_knows_autocast(tmp_path):
    """Before and after the first score, which is not counted."""
    path = tiny.tiny_classifier(tmp_path / "model", "fnet", 1, dropout=0.0)
    ours, other = (CrossEncoder(path, dtype="bfloat16", device="cpu") for _ in range(2))
    before = ours.scores_fingerprint()
    assert ours._only_autocast and ours.inputs == 0
    ours(FRAME)
    assert ours.scores_fingerprint() == before
    other._converts_weights = lambda: False
    assert other.scores_fingerprint() != before


def test_a_network_that_names_no_vocabulary(models, monkeypatch):  # noqa: F811
    """It computes with converted weights all the same."""
    ours, whole = (CrossEncoder(models[CrossEncoder], dtype="bfloat16") for _ in range(2))

    def unknown(self):
        raise NotImplementedError("not auto-handled")

    expected = whole(FRAME)["score"]
    monkeypatch.setattr(transformers.PreTrainedModel, "get_input_embeddings", unknown)
    monkeypatch.setattr(transformers.BertModel, "get_input_embeddings", unknown)
    np.testing.assert_allclose(ours(FRAME)["score"], expected, atol=0.05)
    assert ours._only_autocast is False


@pytest.mark.parametrize("cls", [CrossEncoder, BiEncoder])
def test_training_keeps_float32_weights(models, cls, tmp_path):  # noqa: F811
    """Also one that scores held-out queries; what is saved scores the same."""
    examples = make_examples(8, 2, 0, "pair")
    training = QUICK | {"held_out": 0.3}
    trained = cls(models[cls], dtype="bfloat16", device="cpu", training=training).fit(examples)
    assert {weight.dtype for weight in trained.network.parameters()} == {torch.float32}
    loaded = cls(trained.save(tmp_path / "model"), dtype="bfloat16", device="cpu")
    np.testing.assert_array_equal(trained(examples)["score"], loaded(examples)["score"])
