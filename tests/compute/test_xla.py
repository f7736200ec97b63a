"""Padding and weights for XLA, tested on the CPU; `devices/xla.sh` runs them on XLA."""

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyterrier_inpars._compute import xla
from pyterrier_inpars._compute.xla import (
    full_batch,
    on_xla,
    padded_length,
    tie_weights,
    weights_on_cpu,
)
from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]

XLA, OTHERS = torch.device("xla:0"), [torch.device(name) for name in ("cpu", "cuda:0", "mps")]
CLASSES = [MonoT5, CrossEncoder, BiEncoder]
LIMIT = 100
LENGTHS = {32, 64, LIMIT}


@pytest.fixture
def as_on_xla(monkeypatch):
    """Pads batches on the CPU as on XLA."""

    def switch(on: bool = True) -> None:
        monkeypatch.setattr(xla, "on_xla", lambda device: on)

    return switch


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[type, str]:
    """Networks without dropout for at least ``LIMIT`` tokens."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models")
    tokenizer = tiny.bert_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LIMIT,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.1,
    )
    BertModel(config).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    bert = str(folder / "bert")
    t5 = tiny.tiny_t5(folder / "t5", dropout=0.0)
    return {MonoT5: t5, CrossEncoder: bert, BiEncoder: bert}


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.__name__)
def make(request, models):
    def make(**options):
        options = {"dtype": "float32", "device": "cpu", "max_length": LIMIT, **options}
        return request.param(models[request.param], **options)

    return make


def make_examples(lengths: list[int], seed: int = 0) -> pd.DataFrame:
    """Examples with texts of the given lengths: per query a positive and one to three negatives."""
    rng = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        qid, first = (rows[-1][0], False) if rows else (0, True)
        if rows and sum(row[0] == qid for row in rows) == 2 + qid % 3:
            qid, first = qid + 1, True
        text = " ".join(rng.choice(tiny.WORDS, length))
        query = f"what is {tiny.WORDS[qid % 8]}" + " of the river" * (qid % 4)
        rows.append((qid, query, f"d{len(rows)}", text, int(first)))
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "label"])
    return frame.astype({"qid": str})


EXAMPLES = make_examples([3, 120, 1, 0, 12, 40, 7, 25, 60, 5, 33, 2, 18, 90, 9, 15, 70, 4, 8, 30])


def shapes_of(reranker) -> list[tuple[int, ...]]:
    """Shapes of the following inputs of the encoder."""
    found = []

    def note(module, args, options):
        ids = (options or args[0])["input_ids"]
        found.append(tuple(ids.shape))

    network = reranker.network
    encoder = network.encoder if isinstance(reranker, MonoT5) else network[0]
    encoder.register_forward_pre_hook(note, with_kwargs=True)
    return found


class TestLengths:
    @given(st.data(), st.integers(8, 5000))
    def test_rule(self, data, limit):
        tokens = data.draw(st.integers(1, limit))
        lengths = [n for n in (32, 64, 128, 256, 512, 1024, 2048, 4096) if n < limit] + [limit]
        assert padded_length(tokens, limit, XLA) == min(n for n in lengths if n >= tokens)
        assert [padded_length(tokens, limit, device) for device in OTHERS] == [tokens] * 3

    def test_few(self):
        lengths = {padded_length(tokens, 512, XLA) for tokens in range(1, 513)}
        assert lengths == {32, 64, 128, 256, 512}

    def test_no_limit(self):
        assert padded_length(1025, np.inf, XLA) == 2048

    def test_full_batch(self):
        assert full_batch([7, 5], 4, XLA) == [7, 5, 5, 5]
        assert full_batch("ab", 2, XLA) == ["a", "b"]
        assert [full_batch([7, 5], 4, device) for device in OTHERS] == [[7, 5]] * 3

    def test_on_xla(self):
        assert on_xla(XLA) and not any(map(on_xla, OTHERS))


class TestScores:
    def test_do_not_change(self, make, as_on_xla):
        reranker = make(batch_size=6)
        shapes = shapes_of(reranker)
        expected = reranker(EXAMPLES)["score"]
        plain = set(shapes)
        shapes.clear()
        as_on_xla()
        found = reranker(EXAMPLES)["score"]
        assert expected.nunique() > 15
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert {rows for rows, _ in shapes} == {6}, "a batch is not full"
        assert {tokens for _, tokens in shapes} <= LENGTHS
        assert len(plain) > len(set(shapes)) > 1
        assert len({rows for rows, _ in plain}) > 1, "there was nothing to fill"

    @pytest.mark.parametrize("rows", [1, 2])
    def test_fewer_rows_than_a_batch(self, make, as_on_xla, rows):
        reranker = make(batch_size=4)
        some = EXAMPLES.iloc[5 : 5 + rows]
        expected = reranker(some)["score"]
        as_on_xla()
        np.testing.assert_allclose(reranker(some)["score"], expected, atol=1e-5)

    def test_the_limit_is_a_length(self, make, as_on_xla):
        as_on_xla()
        reranker = make(max_length=40)
        shapes = shapes_of(reranker)
        reranker(EXAMPLES)
        assert max(tokens for _, tokens in shapes) == 40


class TestTraining:
    @pytest.mark.parametrize(
        ("cls", "loss"),
        [
            (MonoT5, "pointwise"),
            (MonoT5, "listwise"),
            (MonoT5, "pairwise"),
            (MonoT5, "margin_mse"),
            (MonoT5, "distillation"),
            (CrossEncoder, "listwise"),
            (CrossEncoder, "pointwise"),
            (CrossEncoder, "distillation"),
            (BiEncoder, "in_batch"),
            (BiEncoder, "margin_mse"),
        ],
    )
    def test_losses_do_not_change(self, models, as_on_xla, cls, loss):
        examples = EXAMPLES.assign(score=np.arange(len(EXAMPLES)) * 7 % 11 / 2.0)
        training = {
            "max_steps": 3,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
        }
        losses = []
        for on in (False, True):
            as_on_xla(on)
            reranker = cls(
                models[cls],
                training=training | {"loss": loss},
                max_length=LIMIT,
                dtype="float32",
                device="cpu",
            )
            shapes = shapes_of(reranker)
            reranker.fit(examples)
            losses.append([entry["loss"] for entry in reranker.history if "loss" in entry])
        assert len(set(losses[0])) == 3
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
        assert {tokens for _, tokens in shapes} <= LENGTHS
        if cls is MonoT5:  # sentence-transformers counts the rows itself
            assert {rows for rows, _ in shapes} == {2 if loss == "pointwise" else 2 * 4}


class TestWeights:
    @pytest.fixture
    def network(self, models):
        return MonoT5(models[MonoT5], device="cpu").network

    def test_on_cpu(self, network, as_on_xla):
        """Copies with the same sharing, and afterwards the original tensors."""
        as_on_xla()
        network.register_buffer("steps", torch.arange(3))
        network.lm_head.weight.requires_grad_(False)
        own = dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers())
        with pytest.raises(KeyboardInterrupt), weights_on_cpu(network):
            copies = dict(network.named_parameters(remove_duplicate=False))
            copies |= dict(network.named_buffers())
            assert copies.keys() == own.keys()
            for name, copy in copies.items():
                assert copy is not own[name]
                assert torch.equal(copy, own[name]) and type(copy) is type(own[name])
                assert copy.requires_grad == own[name].requires_grad
            assert network.lm_head.weight is network.shared.weight
            raise KeyboardInterrupt
        for name, tensor in own.items():
            assert network.get_parameter(name) is tensor if name != "steps" else True
        assert network.steps is own["steps"]

    def test_stay_elsewhere(self, network):
        own = list(network.parameters())
        with weights_on_cpu(network):
            assert all(a is b for a, b in zip(network.parameters(), own, strict=True))

    def test_tied_again(self, network):
        """After `to` on XLA, each layer has new parameters."""
        for part in list(network.modules()):
            for name, weight in list(part._parameters.items()):
                if weight is not None:
                    part._parameters[name] = torch.nn.Parameter(weight.detach().clone())
        assert network.lm_head.weight is not network.shared.weight
        tie_weights(network)
        assert network.lm_head.weight is network.shared.weight
        assert network.encoder.embed_tokens.weight is network.shared.weight

    def test_saved_alike(self, make, as_on_xla, tmp_path):
        from safetensors.torch import load_file

        reranker = make()
        plain = load_file(reranker.save(tmp_path / "plain") / "model.safetensors")
        as_on_xla()
        found = load_file(reranker.save(tmp_path / "as on XLA") / "model.safetensors")
        assert found.keys() == plain.keys()
        assert all(torch.equal(found[name], plain[name]) for name in plain)
