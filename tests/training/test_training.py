import gc
import itertools
import json
import math
import random
import signal
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny
import torch
import transformers
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import BatchSampler
from transformers.modeling_layers import GradientCheckpointingLayer

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5
from pyterrier_inpars.training.examples import groups, hold_out
from pyterrier_inpars.training.memory import estimate_memory
from pyterrier_inpars.training.provenance import TRAINING_FILE, fingerprint
from pyterrier_inpars.training.recipes import RECIPES, divide
from pyterrier_inpars.training.trainer import _check_optimizer, _Shares

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a head for scores", "ignore:The inplace keyword"),
]

CLASSES = [MonoT5, CrossEncoder, BiEncoder]
NAMES, PLACES, FILLER = tiny.WORDS[:8], tiny.WORDS[10:18], tiny.WORDS[18:26]
QUICK = {
    "max_steps": 3,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
}


def build(folder: Path, dropout: float) -> dict[type, str]:
    bert = tiny.tiny_bert(folder / "bert", dropout)
    t5 = tiny.tiny_t5(folder / "t5", dropout=dropout)
    return {MonoT5: t5, CrossEncoder: bert, BiEncoder: bert}


@pytest.fixture(autouse=True)
def frozen():
    """Trainers collect garbage at the end: let them not go through every imported module."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[type, str]:
    return build(tmp_path_factory.mktemp("models"), dropout=0.1)


@pytest.fixture(scope="session")
def plain_models(tmp_path_factory) -> dict[type, str]:
    """Without dropout, so that a loss can be computed by hand."""
    return build(tmp_path_factory.mktemp("plain_models"), dropout=0.0)


def make_examples(num_queries: int, num_negatives: int, seed: int, rule: str) -> pd.DataFrame:
    """Examples of a rule that nothing but the labels tells.

    Rule "class": a document is relevant if it says one of four places, and not if it says one of
    the other four. Rule "pair": if it says the place that stands for the query's name, as north
    for apple.
    """
    rng = random.Random(seed)
    rows = []
    for i in range(num_queries):
        name = i % len(NAMES)
        if rule == "class":
            places = [rng.choice(PLACES[::2]), *rng.sample(PLACES[1::2], num_negatives)]
        else:
            others = [place for place in PLACES if place != PLACES[name]]
            places = [PLACES[name], *rng.sample(others, num_negatives)]
        for j, place in enumerate(places):
            text = [place, *rng.choices(FILLER, k=4)]
            rng.shuffle(text)
            query = f"what is {NAMES[name]}"
            rows.append((f"q{i}", query, f"d{i}.{j}", " ".join(text), int(j == 0)))
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "label"])


@pytest.fixture(scope="session")
def examples() -> pd.DataFrame:
    return make_examples(12, 2, 0, "pair")


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.__name__)
def cls(request) -> type:
    return request.param


@pytest.fixture
def make(cls, models):
    def make(training=None, **options):
        options = {"dtype": "float32", "device": "cpu", **options}
        return cls(models[cls], training=QUICK | (training or {}), **options)

    return make


def weights(reranker) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in reranker.network.parameters()])


def first_is_relevant(reranker, examples: pd.DataFrame) -> float:
    """Share of the queries whose best document is the relevant one."""
    out = reranker(examples)
    return out[out["rank"] == 0]["label"].mean()


class TestEveryReranker:
    def test_pipeline(self, make, examples):
        """Compose.fit gives its arguments by position; a fit on the frame alone does the same."""
        last, alone = make(), make()
        pipeline = pt.apply.text(lambda row: row["text"] + " cloud") >> last
        pipeline.fit(examples, None)
        assert alone.fit(examples.assign(text=examples["text"] + " cloud")) is alone
        assert torch.equal(weights(last), weights(alone))

    def test_seed(self, make, examples):
        first, again, other = (make(seed=seed).fit(examples) for seed in (0, 0, 1))
        assert torch.equal(weights(first), weights(again))
        assert not torch.allclose(weights(first), weights(other))

    def test_history(self, make, examples):
        reranker = make({"logging_steps": 1})
        assert (reranker.history, reranker.train_loss) == ([], None)
        reranker.fit(examples)
        losses = [entry["loss"] for entry in reranker.history if "loss" in entry]
        assert len(losses) == 3
        assert reranker.train_loss == pytest.approx(np.mean(losses), rel=1e-3)

    def test_fit_goes_on(self, make, examples):
        reranker = make()
        start = weights(reranker)
        once = weights(reranker.fit(examples))
        assert not torch.equal(start, once)
        steps = (weights(reranker.fit(examples)) - once).norm(), (once - start).norm()
        assert 0 < steps[0] < 2 * steps[1]
        loss = reranker.train_loss
        assert reranker.fit(examples).train_loss < loss

    def test_save_and_load(self, make, cls, examples, tmp_path):
        trained = make().fit(examples)
        expected = trained(examples)["score"]
        loaded = cls(trained.save(tmp_path / "checkpoint"), dtype="float32", device="cpu")
        np.testing.assert_array_equal(loaded(examples)["score"], expected)
        assert not np.allclose(make()(examples)["score"], expected), "training changed nothing"

    def test_leaves_the_network_ready(self, make, examples):
        """In float32, in eval mode, and free of the precision that it was trained in."""
        reranker = make(dtype="bfloat16").fit(examples)
        network = reranker.network
        assert not network._forward_hooks
        assert not any(module.training for module in network.modules())
        assert {weight.dtype for weight in network.parameters()} == {torch.float32}
        rounded, reranker.dtype = reranker(examples)["score"], "float32"
        exact = reranker(examples)["score"]
        assert 0 < np.abs(rounded - exact).max() < 0.1
        first = reranker.fit(examples).train_loss
        assert np.isfinite(first)

    def test_same_frame_in_another_form(self, make, examples):
        """Labels may be bools, and the index anything."""
        form = examples.astype({"label": bool}).set_index(examples.index[::-1])
        assert torch.equal(weights(make().fit(form)), weights(make().fit(examples)))

    def test_quiet(self, make, examples, capfd):
        reranker = make().fit(examples)
        reranker(examples)
        out, err = capfd.readouterr()
        assert out + err == ""
        make(verbose=True).fit(examples)
        assert "3/3" in capfd.readouterr().err
        assert transformers.utils.logging.is_progress_bar_enabled()

    def test_output_dir(self, make, examples, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        make().fit(examples)
        assert list(tmp_path.iterdir()) == [], "the temporary folder is left"
        make({"save_strategy": "steps", "save_steps": 2}, output_dir=tmp_path / "kept").fit(
            examples
        )
        assert (tmp_path / "kept" / "checkpoint-2").is_dir()

    def test_training_arguments_override(self, make, examples):
        reranker = make({"max_steps": -1, "num_train_epochs": 2, "logging_steps": 1})
        rates = [e["learning_rate"] for e in reranker.fit(examples).history if "loss" in e]
        assert reranker.history[-1]["epoch"] == 2 and max(rates) <= 1e-3
        with pytest.raises(TypeError, match="no_such_field"):
            make({"no_such_field": 1}).fit(examples)


class TestErrors:
    def test_missing_column(self, make, examples):
        for column in ("qid", "query", "docno", "text", "label"):
            with pytest.raises(pt.validate.InputValidationError, match=column):
                make().fit(examples.drop(columns=column))

    def test_empty_frame(self, make, examples):
        with pytest.raises(ValueError, match="no examples to train on"):
            make().fit(examples.head(0))

    def test_no_positive(self, make, examples):
        with pytest.raises(ValueError, match="no example has label 1"):
            make().fit(examples[examples["label"] == 0])

    def test_no_negative(self, make, cls, examples):
        positives = examples[examples["label"] == 1]
        if cls is BiEncoder:
            assert make().fit(positives).train_loss > 0
        else:
            with pytest.raises(ValueError, match="no example has label 0"):
                make().fit(positives)

    @pytest.mark.parametrize("label", [2, -1, 0.5, None, "1"])
    def test_label(self, make, examples, label):
        labels = examples["label"].astype(object)
        labels[4] = label
        with pytest.raises(ValueError, match="label must be 1 .* or 0"):
            make().fit(examples.assign(label=labels))

    def test_not_a_string(self, make, examples):
        texts = examples["text"].astype(object)
        texts[1] = np.nan
        with pytest.raises(ValueError, match="text must be a string.*'q0'.*'d0.1'"):
            make().fit(examples.assign(text=texts))

    def test_listwise_without_a_group(self, models, examples):
        apart = examples.assign(qid=examples["docno"])
        with pytest.raises(ValueError, match="no qid has a positive and a negative"):
            CrossEncoder(models[CrossEncoder]).fit(apart)


class TestLearning:
    """Networks that know nothing learn a rule from its labels, and judge documents not seen."""

    def check(self, reranker, rule: str, num_negatives: int) -> None:
        unseen = make_examples(64, 3, 1, rule)
        assert first_is_relevant(reranker, unseen) < 0.6
        reranker.fit(make_examples(160, num_negatives, 0, rule))
        assert first_is_relevant(reranker, unseen) > 0.95

    def test_monot5(self, models):
        training = {
            "learning_rate": 2e-3,
            "gradient_accumulation_steps": 1,
            "per_device_train_batch_size": 16,
            "num_train_epochs": 3,
        }
        reranker = MonoT5(models[MonoT5], dtype="float32", training=training)
        self.check(reranker, "class", num_negatives=3)

    @pytest.mark.parametrize("loss", ["listwise", "binary"])
    def test_cross_encoder(self, models, loss):
        training = {"learning_rate": 3e-3, "num_train_epochs": 4}
        reranker = CrossEncoder(models[CrossEncoder], dtype="float32", loss=loss, training=training)
        self.check(reranker, "class", num_negatives=3)

    def test_bi_encoder(self, models):
        training = {
            "learning_rate": 3e-3,
            "per_device_train_batch_size": 8,
            "num_train_epochs": 6,
        }
        reranker = BiEncoder(models[BiEncoder], dtype="float32", training=training)
        self.check(reranker, "pair", num_negatives=0)


class TestMonoT5:
    def test_first_loss_is_that_of_the_words(self, plain_models, examples):
        """The mean cross-entropy of the label's word and the end token, however it is batched."""
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        path = plain_models[MonoT5]
        tokenizer = AutoTokenizer.from_pretrained(path)
        network = AutoModelForSeq2SeqLM.from_pretrained(path).eval()
        losses = []
        for row in examples.itertuples():
            text = f"Query: {row.query} Document: {row.text} Relevant:"
            batch = tokenizer(text, return_tensors="pt")
            labels = tokenizer("true" if row.label else "false", return_tensors="pt")["input_ids"]
            with torch.no_grad():
                losses.append(network(**batch, labels=labels).loss.item())
        for batch_size, accumulation in [(36, 1), (6, 6)]:
            training = {
                "learning_rate": 0.0,
                "num_train_epochs": 1,
                "per_device_train_batch_size": batch_size,
                "gradient_accumulation_steps": accumulation,
            }
            reranker = MonoT5(path, dtype="float32", training=training)
            assert reranker.fit(examples).train_loss == pytest.approx(np.mean(losses), rel=1e-4)

    @pytest.mark.parametrize("kind", ["FLAN-T5", "mT5"])
    def test_kinds_train_as_they_score(self, examples, tmp_path, kind):
        """With their own template and words, which training moves the right way."""
        path = tiny.tiny_t5(tmp_path / "model", ("yes", "no"), 0.0, kind, label_score=-99.0)
        one = examples.head(2)
        training = {"max_steps": 1, "learning_rate": 0.0, "gradient_accumulation_steps": 1}
        reranker = MonoT5(path, dtype="float32", training=training).fit(one)
        assert reranker.train_loss == pytest.approx(self.loss(path, kind, one), rel=1e-4)
        reranker.training = training | {"learning_rate": 1e-3, "max_steps": 20}
        before = np.diff(reranker(one)["score"])
        trained = reranker.fit(one)
        assert np.diff(trained(one)["score"]) < before, "the relevant document did not gain"
        saved = trained.save(tmp_path / "saved")
        again = MonoT5(saved, dtype="float32")
        np.testing.assert_array_equal(again(examples)["score"], trained(examples)["score"])
        trained.training = training
        assert trained.fit(one).train_loss == pytest.approx(self.loss(saved, kind, one), rel=1e-4)

    def loss(self, path, kind: str, examples: pd.DataFrame) -> float:
        """The mean cross-entropy of the word and the end token after it, written out."""
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(path)
        network = AutoModelForSeq2SeqLM.from_pretrained(path).eval()
        templates = {
            "FLAN-T5": "Is the following passage relevant to the query?\nQuery: {}\nPassage: {}",
            "mT5": "Query: {} Document: {} Relevant:",
        }
        losses = []
        for row in examples.itertuples():
            ids = tokenizer(templates[kind].format(row.query, row.text), return_tensors="pt")
            word = tokenizer.get_vocab()["▁yes" if row.label else "▁no"]
            said = torch.tensor([[word, tokenizer.eos_token_id]])
            with torch.no_grad():
                losses.append(network(**ids, labels=said).loss.item())
        return float(np.mean(losses))

    def test_checkpoint_for_pyterrier_t5(self, models, examples, tmp_path):
        from pyterrier_t5 import MonoT5ReRanker

        trained = MonoT5(models[MonoT5], dtype="float32", training=QUICK).fit(examples)
        path = str(trained.save(tmp_path / "checkpoint"))
        oracle = MonoT5ReRanker(
            model=path, tok_model=path, batch_size=1, device="cpu", verbose=False
        )
        np.testing.assert_allclose(trained(examples)["score"], oracle(examples)["score"], atol=1e-5)


class TestCrossEncoder:
    def test_first_losses(self, plain_models, examples):
        """Listwise: the cross-entropy of the softmax over a positive and its negatives."""
        logits = CrossEncoder(plain_models[CrossEncoder], dtype="float32")(examples)[
            "score"
        ].to_numpy()
        groups = torch.tensor(logits).reshape(12, 3)
        expected = {
            "listwise": -groups.log_softmax(dim=1)[:, 0].mean().item(),
            "binary": torch.nn.functional.binary_cross_entropy_with_logits(
                torch.tensor(logits), torch.tensor(examples["label"].to_numpy(float))
            ).item(),
        }
        training = {"learning_rate": 0.0, "per_device_train_batch_size": 36}
        for loss, value in expected.items():
            reranker = CrossEncoder(
                plain_models[CrossEncoder], dtype="float32", loss=loss, training=training
            )
            assert reranker.fit(examples).train_loss == pytest.approx(value, rel=1e-4)

    def test_two_outputs_train_as_one(self, examples, tmp_path):
        """Binary cross-entropy of the log-odds is the two-way cross-entropy of the outputs."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        path = tiny.tiny_classifier(tmp_path / "model", "bert", 2, dropout=0.0)
        network = AutoModelForSequenceClassification.from_pretrained(path).eval()
        pairs = examples["query"].tolist(), examples["text"].tolist()
        batch = AutoTokenizer.from_pretrained(path)(*pairs, padding=True, return_tensors="pt")
        with torch.no_grad():
            loss = network(**batch, labels=torch.tensor(examples["label"].to_numpy())).loss
        still = {"learning_rate": 0.0, "per_device_train_batch_size": 36}
        reranker = CrossEncoder(path, dtype="float32", loss="binary", training=still)
        assert reranker.fit(examples).train_loss == pytest.approx(loss.item(), rel=1e-4)
        trained = CrossEncoder(path, dtype="float32", training=QUICK).fit(examples)
        saved = trained.save(tmp_path / "saved")
        logits = AutoModelForSequenceClassification.from_pretrained(saved).eval()(**batch).logits
        np.testing.assert_allclose(
            trained(examples)["score"], logits[:, 0].detach().numpy(), atol=1e-5
        )

    def test_uneven_groups(self, models, examples):
        """Groups of any size train; a qid without a negative is left out."""
        alone = examples[(examples["qid"] != "q3") | (examples["label"] == 1)]
        without = examples[examples["qid"] != "q3"]
        fitted = [
            CrossEncoder(models[CrossEncoder], dtype="float32", training=QUICK).fit(frame)
            for frame in (alone, without, examples.drop(index=[4, 7, 8]).drop(index=[5]))
        ]
        assert torch.equal(weights(fitted[0]), weights(fitted[1]))
        assert fitted[2].train_loss > 0

    def test_a_query_that_fills_the_input(self, models, examples):
        long = examples.assign(query="what is " * 100)
        for loss in ("listwise", "binary"):
            reranker = CrossEncoder(models[CrossEncoder], loss=loss, training=QUICK)
            assert np.isfinite(reranker.fit(long).train_loss)

    @pytest.mark.parametrize("loss", ["listwise", "binary"])
    def test_a_document_that_fills_the_input(self, models, examples, loss):
        """It is cut to what fits: the rest changes nothing."""
        text = examples["text"] + " cloud" * 30
        first, second = (
            CrossEncoder(models[CrossEncoder], loss=loss, dtype="float32", training=QUICK).fit(
                examples.assign(text=texts)
            )
            for texts in (text + " river", text + " stone")
        )
        assert torch.equal(weights(first), weights(second))

    def test_checkpoint_for_sentence_transformers(self, models, examples, tmp_path):
        from sentence_transformers import CrossEncoder as Oracle

        trained = CrossEncoder(models[CrossEncoder], dtype="float32", training=QUICK).fit(examples)
        oracle = Oracle(str(trained.save(tmp_path / "checkpoint")))
        pairs = list(zip(examples["query"], examples["text"], strict=True))
        np.testing.assert_allclose(oracle.predict(pairs), trained(examples)["score"], atol=1e-6)


class TestBiEncoder:
    def test_first_loss(self, plain_models):
        """The cross-entropy of the softmax over the scaled cosines with the batch's documents."""
        examples = make_examples(8, 2, 0, "pair")
        vectors = BiEncoder(plain_models[BiEncoder], dtype="float32").network.encode
        queries = vectors(examples["query"].tolist()[::3], normalize_embeddings=True)
        texts = vectors(examples["text"].tolist(), normalize_embeddings=True)
        cosines = torch.tensor(queries @ texts.T)
        expected = torch.nn.functional.cross_entropy(20 * cosines, torch.arange(8) * 3).item()
        training = {"learning_rate": 0.0, "per_device_train_batch_size": 8}
        reranker = BiEncoder(plain_models[BiEncoder], dtype="float32", training=training)
        assert examples["text"].is_unique
        assert reranker.fit(examples).train_loss == pytest.approx(expected, rel=1e-3)

    def test_uneven_negatives(self, models):
        """A query with fewer negatives repeats its own; one with none takes others'."""
        examples = make_examples(8, 2, 0, "pair")
        uneven = examples.drop(index=[2, 4, 5])
        by_hand = examples.copy()
        by_hand.loc[2, "text"] = by_hand.loc[1, "text"]
        by_hand.loc[[4, 5], "text"] = by_hand.loc[[1, 7], "text"].to_numpy()
        first, second = (
            BiEncoder(models[BiEncoder], dtype="float32", training=QUICK).fit(frame)
            for frame in (uneven, by_hand)
        )
        assert torch.equal(weights(first), weights(second))

    def test_prompts(self, models, tmp_path):
        """Training with a model's prompts is training on texts that begin with them."""
        examples = make_examples(8, 2, 0, "pair")
        plain = BiEncoder(models[BiEncoder], dtype="float32", training=QUICK)
        path = plain.save(tmp_path / "checkpoint")
        file = path / "config_sentence_transformers.json"
        config = json.loads(file.read_text())
        config["prompts"] = {"query": "about the ", "passage": "a text of "}
        file.write_text(json.dumps(config))
        prompted = BiEncoder(path, dtype="float32", training=QUICK).fit(examples)
        by_hand = examples.assign(
            query="about the " + examples["query"], text="a text of " + examples["text"]
        )
        assert torch.equal(weights(prompted), weights(plain.fit(by_hand)))

    def test_checkpoint_for_sentence_transformers(self, models, examples, tmp_path):
        from sentence_transformers import SentenceTransformer, util

        trained = BiEncoder(models[BiEncoder], dtype="float32", training=QUICK).fit(examples)
        oracle = SentenceTransformer(str(trained.save(tmp_path / "checkpoint")))
        vectors = (oracle.encode(examples[column].tolist()) for column in ("query", "text"))
        expected = util.pairwise_cos_sim(*vectors)
        np.testing.assert_allclose(trained(examples)["score"], expected, atol=1e-6)


def test_groups():
    rows = [("1", "a", "n1", 0), ("2", "b", "p2", 1), ("1", "a", "p1", 1), ("1", "a", "n2", 0)]
    rows += [("1", "a", "p3", 1), ("3", "c", "n3", 0)]
    frame = pd.DataFrame(rows, columns=["qid", "query", "body", "label"])
    assert groups(frame, "body") == [
        ("b", "p2", []),
        ("a", "p1", ["n1", "n2"]),
        ("a", "p3", ["n1", "n2"]),
    ]


class TestSettings:
    @given(
        st.sampled_from(["monot5", "cross_encoder"]), st.integers(1, 64), st.sampled_from([1, 2, 4])
    )
    def test_effective_batch(self, method, share, devices):
        size, steps = divide({"effective_batch": share * devices}, {}, method, devices)
        assert size * steps * devices == share * devices
        assert size <= 16

    @given(st.integers(1, 64), st.integers(1, 8), st.integers(2, 4))
    def test_shares(self, rows, size, processes):
        """What processes see together in a step is what one sees, but for what does not divide."""
        whole = BatchSampler(range(rows), size * processes, drop_last=False)
        shards = [
            BatchSamplerShard(_Shares(whole, range(rows), processes), processes, i, False, False)
            for i in range(processes)
        ]
        shared = [list(shard) for shard in shards]
        assert {len(batches) for batches in shared} == {len(shard) for shard in shards}
        for parts, batch in itertools.zip_longest(zip(*shared, strict=True), whole):
            left = len(batch) % processes
            assert sum(parts or [], []) == batch[: len(batch) - left]
            assert len({len(part) for part in parts or [[]]}) == 1

    @pytest.mark.parametrize("loss", ["pointwise", "listwise", "margin_mse"])
    def test_accumulated_in_the_same_order(self, cls, plain_models, loss):
        """Batches of like length are so by the step: however it is divided, it is the same."""
        if cls is BiEncoder and loss != "margin_mse":
            pytest.skip("in_batch losses depend on what is in a batch")
        examples = make_examples(60, 3, 0, "class")  # in other orders for batches of 4 than of 8
        examples["text"] += examples.index.to_series().map(lambda i: " cloud" * (i % 13))
        examples["score"] = examples["label"] / 2
        training = {"logging_steps": 1, "learning_rate": 1e-4}
        once, twice = (
            cls(plain_models[cls], loss=loss, dtype="float32", training=training | batch)
            for batch in (
                {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1},
                {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
            )
        )
        losses = [
            [entry["loss"] for entry in reranker.fit(examples).history if "loss" in entry]
            for reranker in (once, twice)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)

    def test_whatever_the_number_of_devices(self):
        recipe = RECIPES["inpars"]["monot5"]
        for devices in (1, 2, 4, 8, 16):
            for asked in ({}, {"per_device_train_batch_size": 4}):
                size, steps = divide(asked, recipe, "monot5", devices)
                assert size * steps * devices == 128
            assert math.prod(divide({}, {}, "monot5", devices)) * devices == 128
            assert math.prod(divide({}, {}, "cross_encoder", devices)) * devices == 16
            # in the terms of transformers: of one device
            asked = {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 3}
            assert divide(asked, recipe, "monot5", devices) == (5, 3)
            assert divide({}, {}, "bi_encoder", devices) == (32 // devices, 1)
            whole = {"effective_batch": 256}
            assert divide(whole, {}, "bi_encoder", devices) == (256 // devices, 1)
            in_four = whole | {"gradient_accumulation_steps": 4}
            for method in ("monot5", "bi_encoder"):
                assert divide(in_four, {}, method, devices) == (64 // devices, 4)
        assert divide({"per_device_train_batch_size": 36}, {}, "cross_encoder", 1) == (36, 1)

    def test_batches_that_do_not_divide(self):
        with pytest.raises(ValueError, match="128 cannot be shared by 3 devices"):
            divide({}, RECIPES["inpars"]["monot5"], "monot5", 3)
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            with pytest.raises(ValueError, match="100 is not made of"):
                divide({"effective_batch": 100, name: 7}, {}, "monot5", 1)

    def test_recipe(self, models, examples):
        """By name, in the terms of the paper; fields beside it go over it."""
        reranker = MonoT5(models[MonoT5], dtype="float32", training="inpars")
        reranker.training = {"recipe": "inpars", "max_steps": 2, "logging_steps": 1}
        reranker.fit(examples)
        told = reranker.provenance["settings"]
        assert told["recipe"] == "inpars"
        assert (told["effective_batch"], told["arguments"]["max_steps"]) == (128, 2)
        rates = [entry["learning_rate"] for entry in reranker.history if "loss" in entry]
        assert rates == [1e-3, 1e-3]
        assert reranker.provenance["batches"] == {"steps": 2, "effective_batch": 128, "seen": 72}
        light = CrossEncoder(models[CrossEncoder], training="inpars-light").fit(examples)
        assert light.provenance["settings"]["recipe"] == "inpars-light"
        with pytest.raises(ValueError, match="'inpars' trains a monot5, not a bi_encoder"):
            BiEncoder(models[BiEncoder], training="inpars").fit(examples)
        with pytest.raises(ValueError, match="no recipe 'inpards'.*inpars, inpars-light"):
            MonoT5(models[MonoT5], training="inpards").fit(examples)

    def test_recipe_is_those_settings(self, models, examples):
        short = {"recipe": "inpars", "max_steps": 2, "per_device_train_batch_size": 4}
        long = {
            "max_steps": 2,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 32,
        }
        first, second = (
            MonoT5(models[MonoT5], dtype="float32", training=training).fit(examples)
            for training in (short, long)
        )
        assert torch.equal(weights(first), weights(second))

    def test_seen(self, make, cls, examples, capfd):
        """Every example that a step reads is counted, the short last step of an epoch too."""
        reranker = make({"max_steps": 8, "per_device_train_batch_size": 5}, verbose=True)
        if cls is MonoT5:
            reads, batch = [], reranker._batch
            reranker._batch = lambda queries, texts: reads.extend(texts) or batch(queries, texts)
            reranker.fit(examples)
            assert len(reads) == reranker.provenance["batches"]["seen"] == 36
        else:
            assert reranker.fit(examples).provenance["batches"]["seen"] == 12 + 12 + 10
        assert "8 steps of 5 examples" in capfd.readouterr().err

    def test_half_precision_asked_for(self, make, examples):
        """What the fields ask for stands; the reranker's own dtype does not come on top."""
        fits = [
            make({"bf16": True}, dtype="float16"),
            make({"bf16": True}, dtype="bfloat16"),
            make(dtype="bfloat16"),
        ]
        first, *others = (weights(reranker.fit(examples)) for reranker in fits)
        assert all(torch.equal(first, other) for other in others)
        assert not torch.equal(first, weights(make().fit(examples)))

    def test_unknown_field(self, make, examples):
        with pytest.raises(TypeError, match="'learning_rat': did you mean 'learning_rate'"):
            make({"learning_rat": 1}).fit(examples)


def named(reranker) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in reranker.network.named_parameters()}


class TestLora:
    def test_trains_matrices_of_low_rank(self, make, cls, examples):
        """Added to each linear layer of the encoder; a new head is trained as ever."""
        reranker = make({"lora": {"r": 2}, "learning_rate": 1e-2})
        before = named(reranker)
        layers = dict(reranker.network.named_modules())
        after = named(reranker.fit(examples))
        assert after.keys() == before.keys()
        ranks = set()
        for name, weight in after.items():
            change = weight - before[name]
            layer = layers[name.rpartition(".")[0]]
            if "classifier" in name:
                assert change.abs().max() > 0
            elif name.endswith("weight") and type(layer) is torch.nn.Linear:
                ranks.add(int(torch.linalg.matrix_rank(change, rtol=1e-4)))
            else:
                assert torch.equal(weight, before[name]), f"{name} was trained"
        assert ranks <= {0, 1, 2} and 2 in ranks
        assert ("classifier.weight" in str(list(after))) == (cls is CrossEncoder)

    def test_merged_scores(self, make, examples, monkeypatch):
        from peft import LoraModel

        reranker, scores = make({"lora": True, "learning_rate": 1e-2}), []
        merge = LoraModel.merge_and_unload

        def score_and_merge(self, *args, **options):
            reranker.network.eval()
            scores.append(reranker(examples)["score"].to_numpy())
            return merge(self, *args, **options)

        monkeypatch.setattr(LoraModel, "merge_and_unload", score_and_merge)
        untrained = reranker(examples)["score"]
        merged = reranker.fit(examples)(examples)["score"]
        np.testing.assert_allclose(merged, scores[0], atol=1e-5)
        assert np.abs(merged - untrained).max() > 0.01

    def test_needs_no_peft_to_load(self, make, cls, examples, tmp_path, monkeypatch):
        trained = make({"lora": True}).fit(examples)
        path = trained.save(tmp_path / "saved")
        assert not list(path.rglob("adapter*"))
        monkeypatch.setitem(sys.modules, "peft", None)
        loaded = cls(path, dtype="float32", device="cpu", training=QUICK)
        np.testing.assert_array_equal(loaded(examples)["score"], trained(examples)["score"])
        loaded.fit(examples)
        loaded.training = {"lora": True}
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'pyterrier_inpars\[lora\]'"):
            loaded.fit(examples)

    def test_checkpoints_hold_what_is_trained(self, make, cls, examples, tmp_path):
        from safetensors import safe_open

        training = {"lora": {"r": 2}, "save_steps": 1, "learning_rate": 1e-2}
        trained = make(training, output_dir=tmp_path).fit(examples)
        for step in (1, 2, 3):
            with safe_open(tmp_path / f"checkpoint-{step}" / "model.safetensors", "pt") as file:
                names = set(file.keys())
            assert names and all("lora_" in name or "classifier" in name for name in names)
        told = trained.provenance["settings"]["lora"]
        assert told == {
            "r": 2, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"
        }  # fmt: skip
        assert "peft" in trained.provenance["versions"]
        assert "'r': 2" in (trained.save(tmp_path / "saved") / "README.md").read_text()

    def test_best_weights(self, make, examples):
        """Those of the best checkpoint are merged, not the last."""
        results = make_examples(16, 4, 1, "class")
        qrels = results[["qid", "docno", "label"]].assign(label=1 - results["label"])
        training = {"lora": True, "max_steps": 6, "learning_rate": 3e-2, "eval_steps": 1}
        reranker = make(training).fit(make_examples(24, 2, 0, "class"), None, results, qrels)
        values = [e["eval_nDCG@10"] for e in reranker.history if "eval_nDCG@10" in e]
        assert len(set(values)) > 1
        found = TestValidation().by_hand(reranker, results, qrels)
        assert found == pytest.approx(max(values), abs=1e-6)

    def test_all_weights_train_again(self, make, examples):
        """After a training with adapters, and after one that was stopped."""
        from transformers import Trainer

        class Stopped(Exception):
            pass

        def stopped(*_, **__):
            raise Stopped

        reranker = make({"lora": True})
        names = named(reranker).keys()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "training_step", stopped)
            with pytest.raises(Stopped):
                reranker.fit(examples)
        assert named(reranker).keys() == names
        whole = make()
        reranker.training = whole.training
        assert torch.equal(weights(reranker.fit(examples)), weights(whole.fit(examples)))

    def test_frozen_weights_stay_so(self, make, examples):
        reranker = make({"lora": True})
        next(reranker.network.parameters()).requires_grad_(False)
        reranker.fit(examples)
        first, *others = reranker.network.parameters()
        assert not first.requires_grad and all(weight.requires_grad for weight in others)

    def test_errors(self, make, examples):
        with pytest.raises(
            TypeError, match="lora has no field 'lora_alfa': did you mean 'lora_alpha'"
        ):
            make({"lora": {"lora_alfa": 4}}).fit(examples)
        with pytest.raises(TypeError, match="lora must be True or a dict .* not 16"):
            make({"lora": 16}).fit(examples)
        with pytest.raises(ValueError, match="no_such_layer"):
            make({"lora": {"target_modules": ["no_such_layer"]}}).fit(examples)
        assert torch.equal(
            weights(make({"lora": False}).fit(examples)), weights(make().fit(examples))
        )


class TestActivationCheckpointing:
    @pytest.mark.parametrize("more", [{}, {"lora": {"r": 2}}, {"held_out": 0.3, "eval_steps": 1}])
    def test_same_weights(self, make, cls, examples, more):
        """With layers run a second time, dropout and all; and only in that training."""
        calls = []

        def count(reranker) -> int:
            calls.clear()
            with warnings.catch_warnings():
                warnings.simplefilter("error", FutureWarning)
                reranker.fit(examples)
            return len(calls)

        whole, saving = make(more), make(more | {"activation_checkpointing": True})
        for reranker in (whole, saving):
            model = getattr(reranker.network, "transformers_model", reranker.network)
            layer = next(m for m in model.modules() if isinstance(m, GradientCheckpointingLayer))
            linear = next(m for m in layer.modules() if isinstance(m, torch.nn.Linear))
            linear.register_forward_hook(lambda *_: calls.append(1))
        hooks = len(model.get_input_embeddings()._forward_hooks)
        assert count(saving) > 1.3 * count(whole)
        assert saving.history[0]["loss"] == whole.history[0]["loss"]
        assert torch.equal(weights(saving), weights(whole))
        assert len(model.get_input_embeddings()._forward_hooks) == hooks
        saving.training = whole.training
        assert count(saving) == count(whole)


class TestOptimizer:
    @pytest.mark.parametrize("name", ["adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit"])
    def test_of_a_gpu(self, make, examples, name):
        with pytest.raises(ValueError, match=f"optim='{name}' .* device is 'cpu': .*'adamw_torch'"):
            make({"optim": name}).fit(examples)

    @pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
    def test_without_bitsandbytes(self):
        with pytest.raises(ModuleNotFoundError, match="adamw_bnb_8bit.*pip install bitsandbytes"):
            _check_optimizer("adamw_bnb_8bit", torch.device("cuda"))

    @pytest.mark.parametrize("name", ["adamw_torch", "sgd", "adafactor"])
    def test_of_every_device(self, make, examples, name):
        assert make({"optim": name}).fit(examples).train_loss > 0


class Killed(BaseException):
    pass


LONG = {
    "num_train_epochs": 3,
    "max_steps": -1,
    "per_device_train_batch_size": 5,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-3,
    "save_steps": 2,
    "logging_steps": 3,
}

SCRIPT = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {tests!r} + "/.."]
import torch
torch.set_num_threads(1)
import test_training
from transformers import Trainer
from pyterrier_inpars.rerankers import MonoT5

step = Trainer.training_step
def killed(self, *args, **options):
    if self.state.global_step == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args, **options)
Trainer.training_step = killed
reranker = MonoT5({model!r}, dtype="float32", device="cpu", output_dir={folder!r},
                  training=test_training.LONG)
reranker.fit(test_training.make_examples(12, 2, 0, "pair"))
"""


class TestResume:
    @pytest.fixture
    def stop(self, monkeypatch):
        """Stops a training before a step, or while the state of that step's checkpoint is saved."""
        from transformers import Trainer, TrainerState

        def stop(reranker, examples, step, saving=False):
            whole_step, whole_save = Trainer.training_step, TrainerState.save_to_json

            def training_step(self, *args, **options):
                if self.state.global_step == step and not saving:
                    raise Killed
                return whole_step(self, *args, **options)

            def save_to_json(self, path):
                whole_save(self, path)
                if self.global_step == step and saving:
                    content = Path(path).read_text()
                    Path(path).write_text(content[: len(content) // 2])
                    raise Killed

            with monkeypatch.context() as patch:
                patch.setattr(Trainer, "training_step", training_step)
                patch.setattr(TrainerState, "save_to_json", save_to_json)
                with pytest.raises(Killed):
                    reranker.fit(examples)

        return stop

    def check(self, found, expected):
        assert torch.equal(weights(found), weights(expected))
        assert found.train_loss == pytest.approx(expected.train_loss, rel=1e-6)
        losses = [[e["loss"] for e in r.history if "loss" in e] for r in (found, expected)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)

    @pytest.mark.slow
    def test_sigkill(self, models, examples, tmp_path):
        """A process that is killed, and this one that goes on with what it left."""
        folder, tests = tmp_path / "output", str(Path(__file__).parent)
        script = SCRIPT.format(tests=tests, model=models[MonoT5], folder=str(folder))
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert (folder / "checkpoint-10").is_dir()
        options = {"dtype": "float32", "device": "cpu", "training": LONG}
        whole = MonoT5(models[MonoT5], output_dir=tmp_path / "whole", **options).fit(examples)
        again = MonoT5(models[MonoT5], output_dir=str(folder), **options)
        steps, batch = [], again._batch
        again._batch = lambda queries, texts: steps.append(1) or batch(queries, texts)
        self.check(again.fit(examples), whole)
        assert len(steps) == 24 - 10, "it began anew"

    @pytest.mark.parametrize(
        "more",
        [
            {},
            {"held_out": 0.4, "eval_steps": 2, "patience": 4},
            {"held_out": 0.4, "eval_steps": 2, "lora": {"r": 2, "lora_dropout": 0.1}},
        ],
    )
    def test_goes_on(self, make, examples, tmp_path, stop, more):
        whole = make(LONG | more, output_dir=tmp_path / "whole").fit(examples)
        steps = whole.provenance["steps"]
        for step in (3, steps - 1):
            options = {"training": LONG | more, "output_dir": tmp_path / str(step)}
            stop(make(**options), examples, step)
            self.check(make(**options).fit(examples), whole)

    def test_half_a_checkpoint(self, make, examples, tmp_path, stop):
        whole = make(LONG, output_dir=tmp_path / "whole").fit(examples)
        folder = tmp_path / "stopped"
        stop(make(LONG, output_dir=folder), examples, 4, saving=True)
        assert (folder / "checkpoint-4").is_dir()
        again = make(LONG, output_dir=folder).fit(examples)
        self.check(again, whole)
        record = json.loads((folder / TRAINING_FILE).read_text())
        assert record == again.provenance
        assert record["settings"] == whole.provenance["settings"]

    def test_stopped_after_the_last_step(self, make, examples, tmp_path, monkeypatch):
        """In the middle of an epoch, where one more step would be possible."""
        from transformers import Trainer

        training = LONG | {"max_steps": 4, "per_device_train_batch_size": 2}
        options = {"training": training, "output_dir": tmp_path / "stopped"}
        whole = make(training, output_dir=tmp_path / "whole").fit(examples)

        def stopped(*_):
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_finalize_training", stopped)
            with pytest.raises(Killed):
                make(**options).fit(examples)
        self.check(make(**options).fit(examples), whole)

    def test_patience_goes_on(self, make, examples, tmp_path, stop):
        """What was counted before the stop counts."""
        still = {"learning_rate": 0.0, "max_steps": 9, "eval_steps": 1, "patience": 3}
        stop(make(still, output_dir=tmp_path), examples, 3)
        assert make(still, output_dir=tmp_path).fit(examples).provenance["steps"] == 4

    def test_other_validation(self, make, examples, tmp_path, stop):
        training = LONG | {"held_out": 0.4, "eval_steps": 2}
        stop(make(training, output_dir=tmp_path), examples, 3)
        train, held = hold_out(examples, 0.4, 0)
        other = held.assign(text=held["text"] + " more")
        with pytest.raises(ValueError, match="validation.sha256"):
            make(training, output_dir=tmp_path).fit(train, None, other, held)

    def test_other_data_or_settings(self, make, examples, tmp_path, stop):
        options = {"training": LONG, "output_dir": tmp_path}
        stop(make(**options), examples, 3)
        other = examples.copy()
        other.loc[7, "text"] += " more"
        trained = make().fit(examples)
        trained.training, trained.output_dir = options["training"] | QUICK, tmp_path
        with pytest.raises(ValueError, match="first_weights"):
            trained.fit(examples)
        for reranker, frame, told in (
            (make(**options), other, "examples.sha256"),
            (make(**options), examples.head(33), "examples.rows: was 36, is 33"),
            (make(**options), examples[::-1], "examples.sha256"),
            (make(**options | {"seed": 3}), examples, "seed: was 0, is 3"),
            (make(LONG | {"learning_rate": 0.1}, output_dir=tmp_path), examples, "learning_rate"),
            (make(LONG | {"lora": True}, output_dir=tmp_path), examples, "lora.r: was None, is 8"),
            (make(LONG | {"per_device_train_batch_size": 2}, output_dir=tmp_path), examples,
             "effective_batch: was 5, is 2"),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=f"(?s)other data or settings.*{told}"):
                reranker.fit(frame)
        loss = make(**options).fit(examples).train_loss
        assert loss == pytest.approx(make(LONG).fit(examples).train_loss, rel=1e-6)

    def test_finished(self, make, examples, tmp_path):
        options = {"output_dir": tmp_path / "output"}
        first = make(**options).fit(examples)
        with pytest.raises(FileExistsError, match="finished training.*overwrite_output_dir"):
            make(**options).fit(examples)
        again = make({"overwrite_output_dir": True}, **options).fit(examples)
        assert torch.equal(weights(first), weights(again))
        (tmp_path / "output" / TRAINING_FILE).unlink()
        with pytest.raises(FileExistsError, match="another training"):
            make(**options).fit(examples)


class TestValidation:
    def results(self) -> pd.DataFrame:
        return make_examples(16, 4, 1, "class")

    def by_hand(self, reranker, results, qrels) -> float:
        """nDCG@10 of lists no longer than ten with labels 0 and 1."""
        out = reranker(results).drop(columns="label").merge(qrels, on=["qid", "docno"])
        values = []
        for _, found in out.groupby("qid"):
            gains = found["label"] / np.log2(found["rank"] + 2)
            best = sum(1 / math.log2(rank + 2) for rank in range(found["label"].sum()))
            values.append(gains.sum() / best)
        return float(np.mean(values))

    def test_measures(self, make, cls, examples):
        """What is logged is the measure; what is kept are the weights that had the best."""
        results = self.results()
        qrels = results[["qid", "docno", "label"]].copy()
        qrels["label"] = 1 - qrels["label"]  # that training makes worse
        training = {"max_steps": 6, "learning_rate": 1e-2, "eval_steps": 1, "logging_steps": 1}
        reranker = make(training)
        reranker.fit(make_examples(24, 2, 0, "class"), None, results, qrels)
        values = [e["eval_nDCG@10"] for e in reranker.history if "eval_nDCG@10" in e]
        assert len(values) == 6 and len(set(values)) > 2
        assert self.by_hand(reranker, results, qrels) == pytest.approx(max(values), abs=1e-9)
        last = make(training | {"load_best_model_at_end": False})
        last.fit(make_examples(24, 2, 0, "class"), None, results, qrels)
        assert self.by_hand(last, results, qrels) == pytest.approx(values[-1], abs=1e-9)

    def test_does_not_disturb_training(self, make, examples):
        training = {"eval_steps": 1, "load_best_model_at_end": False}
        watched = make(training).fit(examples, None, self.results())
        assert torch.equal(weights(watched), weights(make().fit(examples)))

    def test_measure_by_name(self, make, examples):
        training = {"metric_for_best_model": "RR@10", "eval_strategy": "epoch"}
        reranker = make(training | {"max_steps": -1, "num_train_epochs": 2})
        reranker.fit(examples, None, self.results())
        assert sum("eval_RR@10" in entry for entry in reranker.history) == 2
        with pytest.raises(NameError, match="nonsense"):
            make({"metric_for_best_model": "nonsense@3"}).fit(examples, None, self.results())

    def test_patience(self, make, examples):
        still = {"learning_rate": 0.0, "max_steps": 9, "eval_steps": 1, "patience": 2}
        reranker = make(still).fit(examples, None, self.results())
        assert reranker.provenance["steps"] == 3, "the first is best, and two bring nothing more"

    def test_held_out(self, make, examples):
        """Without a validation frame, some queries are not trained on but measured on."""
        train, held = hold_out(examples, 0.25, 0)
        assert held["qid"].nunique() == 3 and not set(train["qid"]) & set(held["qid"])
        pd.testing.assert_frame_equal(pd.concat([train, held]).sort_index(), examples)
        assert set(hold_out(examples, 0.25, 1)[1]["qid"]) != set(held["qid"])
        first = make({"patience": 5, "held_out": 0.25}).fit(examples)
        second = make({"patience": 5}).fit(train, None, held)
        assert torch.equal(weights(first), weights(second))
        assert any("eval_nDCG@10" in entry for entry in first.history)

    @pytest.mark.parametrize("share", [0, 1, -0.1, 2])
    def test_share(self, examples, share):
        with pytest.raises(ValueError, match="between 0 and 1"):
            hold_out(examples, share, 0)

    def test_nothing_to_measure(self, make, examples):
        results = self.results()
        with pytest.raises(ValueError, match="validation needs labels"):
            make().fit(examples, None, results.drop(columns="label"))
        with pytest.raises(ValueError, match="no query of the validation has a relevant"):
            make().fit(examples, None, results.assign(label=0))
        with pytest.raises(pt.validate.InputValidationError, match="text"):
            make().fit(examples, None, results.drop(columns="text"))
        with pytest.raises(ValueError, match="no negatives"):
            make({"held_out": 0.5}).fit(examples[examples["label"] == 1])
        with pytest.raises(ValueError, match="eval_strategy='epoch' needs something"):
            make({"eval_strategy": "epoch"}).fit(examples)


class TestProvenance:
    def test_saved(self, make, cls, examples, tmp_path):
        from huggingface_hub import ModelCard

        secret = {name: f"secret {name}" for name in ("hub_token", "hub_model_id", "run_name")}
        reranker = make({"logging_steps": 1} | secret, output_dir=tmp_path / "secret-output")
        path = reranker.fit(examples).save(tmp_path / "saved")
        record = json.loads((path / TRAINING_FILE).read_text())
        assert record == reranker.provenance
        assert record["history"] == reranker.history and record["loss"] == reranker.train_loss
        assert record["settings"]["examples"] == fingerprint(examples) and record["finished"]
        assert record["settings"]["reranker"]["seed"] == 0
        assert record["settings"]["arguments"]["learning_rate"] == 1e-3
        assert record["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
        card = ModelCard.load(path / "README.md")
        assert card.data.library_name and cls.__name__ in card.text
        for file in ("README.md", TRAINING_FILE):
            text = (path / file).read_text()
            assert "secret" not in text and str(tmp_path) not in text

        loaded = cls(path, dtype="float32", device="cpu", training=QUICK)
        copy = loaded.save(tmp_path / "copy")
        assert json.loads((copy / TRAINING_FILE).read_text()) == record
        assert loaded.fit(examples).provenance["before"] == record
        assert loaded.provenance["settings"]["reranker"]["model"] == "saved"

    def test_untrained(self, make, tmp_path):
        path = make().save(tmp_path / "saved")
        assert not (path / TRAINING_FILE).exists()

    def test_fingerprint(self, examples):
        known = fingerprint(examples)
        assert known["rows"] == 36
        assert fingerprint(examples.assign(extra=1).set_index(examples.index[::-1])) == known
        assert fingerprint(examples.astype({"label": bool})) == known
        for column in ("qid", "query", "docno", "text"):
            other = examples.copy()
            other.loc[35, column] += "x"
            assert fingerprint(other)["sha256"] != known["sha256"]
        flipped = examples.assign(label=1 - examples["label"])
        for other in (flipped, examples.assign(score=0.5), examples[::-1], examples.head(35)):
            assert fingerprint(other)["sha256"] != known["sha256"]
        renamed = examples.rename(columns={"text": "body"})
        assert fingerprint(renamed, "body") == known


class Live(TorchDispatchMode):
    """The most bytes that were alive at once, of the tensors made meanwhile."""

    def __init__(self, network):
        super().__init__()
        weights = (x for w in network.parameters() for x in (w, w.grad) if x is not None)
        self.own = {tensor.untyped_storage()._cdata for tensor in weights}
        self.alive, self.most = {}, 0

    def __torch_dispatch__(self, function, types, args=(), options=None):
        out = function(*args, **(options or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.own:
                    self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {key: held for key, held in self.alive.items() if not held[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return out


@pytest.fixture(scope="session")
def networks(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("networks")
    return {
        "T5": tiny.tiny_t5(folder / "t5"),
        "FLAN-T5": tiny.tiny_t5(folder / "flan", ("yes", "no"), kind="FLAN-T5"),
        "bert": tiny.tiny_classifier(folder / "bert", "bert", 1),
        "deberta-v2": tiny.tiny_classifier(folder / "deberta", "deberta-v2", 1),
    }


class TestMemory:
    @pytest.mark.parametrize("checkpointing", [False, True])
    @pytest.mark.parametrize("lora", [None, {"r": 2}])
    @pytest.mark.parametrize("kind", ["T5", "FLAN-T5", "bert", "deberta-v2"])
    def test_against_a_network(self, networks, kind, lora, checkpointing):
        """The bytes of a real one: weights, gradients, states of AdamW, and what else is alive."""
        from peft import LoraConfig, LoraModel
        from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

        seq2seq = kind.endswith("T5")
        loader = AutoModelForSeq2SeqLM if seq2seq else AutoModelForSequenceClassification
        network = loader.from_pretrained(networks[kind]).train()
        if lora:
            LoraModel(network.base_model, LoraConfig(target_modules="all-linear", **lora), "one")
        if checkpointing:
            network.activation_checkpointing_enable()
        ids = torch.full((16, 32), 7)
        inputs = {"labels": torch.full((16, 2), 7)} if seq2seq else {}
        trained = [weight for weight in network.parameters() if weight.requires_grad]
        for weight in trained:
            weight.grad = torch.zeros_like(weight)
        with Live(network) as live:
            network(input_ids=ids, **inputs).logits.sum().backward()
        optimizer = torch.optim.AdamW(trained)
        optimizer.step()
        moments = [
            state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")
        ]
        memory = estimate_memory(
            networks[kind], 16, 32, lora=lora, activation_checkpointing=checkpointing
        )
        assert memory.weights == sum(weight.nbytes for weight in network.parameters())
        assert memory.gradients == sum(weight.nbytes for weight in trained)
        assert memory.optimizer == sum(moment.nbytes for moment in moments)
        assert 0.8 < memory.activations / live.most < 1.1
        total = memory.weights + 3 * memory.gradients + memory.activations
        assert memory.total == total and "total" in str(memory)

    def test_grows(self, networks):
        small, large = (estimate_memory(networks["T5"], batch, 24) for batch in (2, 8))
        assert 3 < large.activations / small.activations <= 4.1
        half = estimate_memory(networks["T5"], 8, 24, "bfloat16")
        assert 0.4 < half.activations / large.activations < 1 and half.weights == large.weights
