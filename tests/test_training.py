import gc
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny
import torch
import transformers

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5
from pyterrier_inpars.training import groups

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

    def test_validation(self, make, examples):
        with pytest.raises(ValueError, match="validation"):
            make().fit(examples, None, examples, None)

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
