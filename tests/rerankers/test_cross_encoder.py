import functools
import json
import warnings

import numpy as np
import pytest
import tiny
import torch
from tiny_training import QUICK, scores, weights
from torch.utils.flop_counter import FlopCounterMode

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, load_reranker
from pyterrier_inpars.rerankers._first_state import classifies_first_state, first_state

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


BERT_LIKE = ["bert", "roberta", "electra", "distilbert", "deberta-v2"]


def logits(path, frame) -> np.ndarray:
    """What a classifier gives for each pair, whose document is cut to fit."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    network = AutoModelForSequenceClassification.from_pretrained(path).eval()
    encode = functools.partial(tokenizer, truncation="only_second", max_length=32)
    pairs = zip(frame["query"], frame["text"], strict=True)
    with torch.no_grad():
        rows = [network(**encode([q], [t], return_tensors="pt")).logits[0] for q, t in pairs]
    return torch.stack(rows).numpy()


class TestCrossEncoder:
    def test_checkpoint_for_sentence_transformers(self, models, frame, tmp_path):
        from sentence_transformers import CrossEncoder as Oracle

        saved = CrossEncoder(models[CrossEncoder], dtype="float32", max_length=20)
        oracle = Oracle(str(saved.save(tmp_path / "checkpoint")))
        pairs = list(zip(frame["query"], frame["text"], strict=True))
        np.testing.assert_allclose(oracle.predict(pairs), scores(saved, frame), atol=1e-6)

    def test_logits_of_transformers(self, models, frame, tmp_path):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        saved = CrossEncoder(models[CrossEncoder], dtype="float32")
        path = saved.save(tmp_path / "checkpoint")
        network = AutoModelForSequenceClassification.from_pretrained(path).eval()
        tokenizer = AutoTokenizer.from_pretrained(path)
        row = frame.iloc[[4]]
        batch = tokenizer(row["query"].tolist(), row["text"].tolist(), return_tensors="pt")
        with torch.no_grad():
            expected = network(**batch).logits.item()
        assert scores(saved, row)[0] == pytest.approx(expected, abs=1e-6)

    def test_the_query_is_not_cut(self, models, frame):
        """Read as far as the query and the document go, every word of the query counts."""
        reranker = CrossEncoder(models[CrossEncoder], dtype="float32", max_length=16)
        query = "what is the river of a good cloud field"
        rows = frame.head(2).assign(text="stone " * 40, query=[query, query + " north"])
        assert np.ptp(scores(reranker, rows)) > 1e-3

    def test_a_query_that_fills_the_input(self, models, frame):
        """It is cut until one token of the document fits."""
        reranker = CrossEncoder(models[CrossEncoder], dtype="float32", max_length=8)
        rows = frame.head(4).assign(query="grape " * 40, text=["stone", "stone river", "", "cloud"])
        one, more, none, other = scores(reranker, rows)
        assert one == pytest.approx(more, abs=1e-5)
        assert min(abs(one - none), abs(one - other)) > 1e-3
        by_hand = rows.assign(query="grape " * 4)
        np.testing.assert_allclose(scores(reranker, by_hand), [one, more, none, other], atol=1e-5)
        long_word = rows.assign(query="xylophones" * 9)
        np.testing.assert_allclose(
            scores(reranker, long_word),
            scores(reranker, rows.assign(query="xylo")),
            atol=1e-5,
        )

    def test_too_long_for_the_model(self, models, frame):
        for cls in (CrossEncoder, BiEncoder):
            with pytest.raises(ValueError, match="max_length=33 is more than the 32 positions"):
                cls(models[cls], max_length=33)(frame)

    def test_random_head(self, models, frame, tmp_path):
        reranker = CrossEncoder(models[CrossEncoder])
        with pytest.warns(UserWarning, match="is a BertModel without a scoring head"):
            reranker(frame)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            CrossEncoder(reranker.save(tmp_path / "checkpoint"))(frame)

    def test_new_head_comes_from_the_seed(self, models, frame):
        first, again, other = (
            scores(
                CrossEncoder(models[CrossEncoder], dtype="float32", training={"seed": seed}), frame
            )
            for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first, again)
        assert not np.allclose(first, other)

    @pytest.mark.parametrize("kind", BERT_LIKE)
    @pytest.mark.parametrize("outputs", [1, 2])
    def test_outputs(self, frame, tmp_path, kind, outputs):
        """Of two outputs the score is the log-odds of the second."""
        path = tiny.tiny_classifier(tmp_path / "model", kind, outputs)
        expected = logits(path, frame) @ ([1.0] if outputs == 1 else [-1.0, 1.0])
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            reranker = load_reranker(path, dtype="float32")
            found = scores(reranker, frame)
        assert type(reranker) is CrossEncoder
        np.testing.assert_allclose(found, expected, atol=1e-5)
        saved = reranker.save(tmp_path / "saved")
        np.testing.assert_allclose(logits(saved, frame)[:, 0], expected, atol=1e-5)
        np.testing.assert_array_equal(scores(CrossEncoder(saved, dtype="float32"), frame), found)

    def test_too_many_outputs(self, frame, tmp_path):
        path = tiny.tiny_classifier(tmp_path / "nli", "bert", 3)
        with pytest.raises(ValueError, match="nli' has 3 outputs: a reranker has one, or two"):
            CrossEncoder(path)(frame)

    def test_two_outputs_in_bfloat16_and_int8(self, frame, tmp_path):
        """The layer that makes the scores computes in float32."""
        path = tiny.tiny_classifier(tmp_path / "model", "bert", 2)
        exact = scores(CrossEncoder(path, dtype="float32"), frame)
        for dtype in ("bfloat16", "int8"):
            rounded = scores(CrossEncoder(path, dtype=dtype), frame)
            assert len(set(rounded)) == len(rounded) and np.corrcoef(exact, rounded)[0, 1] > 0.99


class TestTraining:
    def test_first_losses(self, plain_models, examples):
        """Listwise: the cross-entropy of the softmax over a positive and its negatives."""
        logits = CrossEncoder(plain_models[CrossEncoder], dtype="float32")(examples)[
            "score"
        ].to_numpy()
        groups = torch.tensor(logits).reshape(12, 3)
        expected = {
            "listwise": -groups.log_softmax(dim=1)[:, 0].mean().item(),
            "binary": torch.nn.functional.binary_cross_entropy_with_logits(
                torch.tensor(logits),
                torch.tensor(examples["label"].to_numpy(float)),
                torch.tensor(1.0 + examples["label"].to_numpy()),  # two negatives a positive
            ).item()
            * 36
            / 48,
        }
        training = {"learning_rate": 0.0, "per_device_train_batch_size": 48}
        for loss, value in expected.items():
            reranker = CrossEncoder(
                plain_models[CrossEncoder], dtype="float32", training=training | {"loss": loss}
            )
            assert reranker.fit(examples).train_loss == pytest.approx(value, rel=1e-4)

    def test_two_outputs_train_as_one(self, examples, tmp_path):
        """Binary cross-entropy of the log-odds is the two-way cross-entropy of the outputs."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        path = tiny.tiny_classifier(tmp_path / "model", "bert", 2, dropout=0.0)
        network = AutoModelForSequenceClassification.from_pretrained(path).eval()
        pairs = examples["query"].tolist(), examples["text"].tolist()
        batch = AutoTokenizer.from_pretrained(path)(*pairs, padding=True, return_tensors="pt")
        labels = torch.tensor(examples["label"].to_numpy())
        with torch.no_grad():  # two negatives for each positive, which counts twice
            logits = network(**batch).logits
            loss = torch.nn.functional.cross_entropy(logits, labels, torch.tensor([1.0, 2.0]))
        still = {"learning_rate": 0.0, "per_device_train_batch_size": 48}
        reranker = CrossEncoder(path, dtype="float32", training=still | {"loss": "binary"})
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
            reranker = CrossEncoder(models[CrossEncoder], training=QUICK | {"loss": loss})
            assert np.isfinite(reranker.fit(long).train_loss)

    @pytest.mark.parametrize("loss", ["listwise", "binary"])
    def test_a_document_that_fills_the_input(self, models, examples, loss):
        """It is cut to what fits: the rest changes nothing."""
        text = examples["text"] + " cloud" * 30
        first, second = (
            CrossEncoder(
                models[CrossEncoder], dtype="float32", training=QUICK | {"loss": loss}
            ).fit(examples.assign(text=texts))
            for texts in (text + " river", text + " stone")
        )
        assert torch.equal(weights(first), weights(second))

    def test_checkpoint_for_sentence_transformers(self, models, examples, tmp_path):
        from sentence_transformers import CrossEncoder as Oracle

        trained = CrossEncoder(models[CrossEncoder], dtype="float32", training=QUICK).fit(examples)
        oracle = Oracle(str(trained.save(tmp_path / "checkpoint")))
        pairs = list(zip(examples["query"], examples["text"], strict=True))
        np.testing.assert_allclose(oracle.predict(pairs), trained(examples)["score"], atol=1e-6)


class TestFirstState:
    """The last layer of a BERT-like encoder computes the state of the first token only."""

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    @pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "camembert", "xlm-roberta"])
    def test_less_for_the_same_logits(self, kind, attention):
        from transformers import AutoConfig, AutoModelForSequenceClassification

        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
        config = AutoConfig.for_model(
            kind,
            **sizes,
            vocab_size=50,
            num_hidden_layers=2,
            num_labels=1,
            embedding_size=32,
            initializer_range=0.3,
        )
        torch.manual_seed(0)
        network = AutoModelForSequenceClassification.from_config(
            config, attn_implementation=attention
        ).eval()
        for name, weight in network.named_parameters():
            if name.endswith("bias"):  # they begin as 0
                torch.nn.init.normal_(weight)
        batch = {
            "input_ids": torch.randint(3, 50, (4, 20)),
            "attention_mask": (torch.arange(20) < torch.tensor([[20], [13], [1], [20]])).long(),
        }

        def computed() -> tuple[torch.Tensor, int]:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                return network(**batch).logits, counter.get_total_flops()

        full, before = computed()
        assert classifies_first_state(network)
        with first_state(network):
            found, during = computed()
        again, after = computed()
        torch.testing.assert_close(found, full, atol=1e-5, rtol=1e-5)
        assert full.std() > 0.1
        assert torch.equal(again, full) and before == after
        layer = 2 * 4 * 20 * (4 * 32 * 32 + 2 * 32 * 64)  # two operations a multiply-add
        assert before - during > 0.8 * layer

    def test_other_networks_stay(self, models):
        """A classifier of another family, an encoder whose states are pooled, int8 layers."""
        from transformers import DistilBertConfig, DistilBertForSequenceClassification

        config = DistilBertConfig(vocab_size=50, dim=32, hidden_dim=64, n_layers=1, n_heads=4)
        other = DistilBertForSequenceClassification(config)
        assert not classifies_first_state(other)
        assert not classifies_first_state(BiEncoder(models[BiEncoder]).network[0].model)
        for network in (other, CrossEncoder(models[CrossEncoder], dtype="int8").network):
            with first_state(network):
                changed = [m for m in network.modules() if "forward" in vars(m)]
            assert all(type(module) is torch.nn.Linear for module in changed)  # the head


def with_prompt(reranker, folder, prompt) -> str:
    """A checkpoint of the reranker with a default prompt."""
    path = reranker.save(folder)
    file = path / "config_sentence_transformers.json"
    known = {"prompts": {"search": prompt}, "default_prompt_name": "search"}
    file.write_text(json.dumps(json.loads(file.read_text()) | known))
    return str(path)


class TestPrompt:
    """A checkpoint's default prompt is put before each query, as by sentence-transformers."""

    def test_scores(self, models, frame, tmp_path):
        from sentence_transformers import CrossEncoder as Oracle

        plain = CrossEncoder(models[CrossEncoder], dtype="float32")
        path = with_prompt(plain, tmp_path / "checkpoint", "about the ")
        prompted = CrossEncoder(path, dtype="float32")
        pairs = list(zip(frame["query"], frame["text"], strict=True))
        expected = Oracle(path).predict(pairs, activation_fn=torch.nn.Identity())
        np.testing.assert_allclose(scores(prompted, frame), expected, atol=1e-6)
        by_hand = frame.assign(query="about the " + frame["query"])
        np.testing.assert_allclose(scores(prompted, frame), scores(plain, by_hand), atol=1e-6)
        assert abs(scores(prompted, frame) - scores(plain, frame)).max() > 1e-3
        assert prompted.scores_fingerprint() != plain.scores_fingerprint()
        again = CrossEncoder(prompted.save(tmp_path / "again"), dtype="float32")
        assert again.scores_fingerprint() == prompted.scores_fingerprint()

    def test_room_for_the_prompt(self, models, frame, tmp_path):
        """Of a query that is too long, the end is cut."""
        plain = CrossEncoder(models[CrossEncoder], dtype="float32")
        prompted = CrossEncoder(with_prompt(plain, tmp_path / "a", "about the "), dtype="float32")
        long = frame.assign(query=frame["text"])
        by_hand = long.assign(query="about the " + long["query"])
        np.testing.assert_allclose(scores(prompted, long), scores(plain, by_hand), atol=1e-6)
        path = with_prompt(plain, tmp_path / "b", "about " * 40)
        with pytest.raises(
            ValueError, match="the prompt 'about .* leaves no room for a query in 32"
        ):
            CrossEncoder(path)(frame)

    @pytest.mark.parametrize("loss", ["pointwise", "listwise"])
    def test_training(self, models, examples, tmp_path, loss):
        plain = CrossEncoder(models[CrossEncoder], dtype="float32", training=QUICK)
        path = with_prompt(plain, tmp_path / "checkpoint", "about the ")
        training = QUICK | {"loss": loss}
        prompted = CrossEncoder(path, dtype="float32", training=training).fit(examples)
        start = CrossEncoder(plain.save(tmp_path / "plain"), dtype="float32", training=training)
        by_hand = examples.assign(query="about the " + examples["query"])
        assert torch.equal(weights(prompted), weights(start.fit(by_hand)))
        assert prompted.provenance["settings"]["reranker"]["prompt"] == "about the "
        assert "prompt" not in start.provenance["settings"]["reranker"]


def test_a_tokenizer_without_offsets(models, frame, tmp_path):
    """One that is written in Python, as those of Japanese models are."""
    from sentence_transformers import CrossEncoder as Oracle
    from transformers import BertJapaneseTokenizer

    saved = CrossEncoder(models[CrossEncoder], dtype="float32")
    path = saved.save(tmp_path / "checkpoint")
    vocab = sorted(saved.network.tokenizer.vocab, key=saved.network.tokenizer.vocab.get)
    (path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("\n".join(vocab))
    BertJapaneseTokenizer(
        str(tmp_path / "vocab.txt"),
        word_tokenizer_type="basic",
        subword_tokenizer_type="wordpiece",
        model_max_length=32,
    ).save_pretrained(path)
    slow = CrossEncoder(path, dtype="float32")
    assert not slow.network.tokenizer.is_fast
    pairs = list(zip(frame["query"], frame["text"], strict=True))
    expected = Oracle(str(path)).predict(pairs, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(scores(slow, frame), expected, atol=1e-6)
    words = "apple " * 60
    (cut,) = slow._cut([words])
    assert words.startswith(cut) and 20 < len(cut.split()) <= 28
