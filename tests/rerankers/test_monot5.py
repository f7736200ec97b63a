import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from tiny_training import QUICK, scores, shapes_of
from torch.utils.flop_counter import FlopCounterMode

from pyterrier_inpars.rerankers import MonoT5, load_reranker, monot5
from pyterrier_inpars.rerankers._first_token import first_token

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


LABELS = {
    "T5": ("true", "false"),
    "T5 1.1": ("true", "false"),
    "FLAN-T5": ("yes", "no"),
    "mT5": ("yes", "no"),
}


def plainly(path, kind, frame, labels=None) -> list[float]:
    """What the published models say, row by row: ``kind`` is one, or a template of one's own."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    template = {
        "FLAN-T5": "Is the following passage relevant to the query?\nQuery: {}\nPassage: {}",
        **dict.fromkeys(["T5", "T5 1.1", "mT5"], "Query: {} Document: {} Relevant:"),
    }.get(kind, str(kind).replace("{query}", "{}").replace("{text}", "{}"))
    tokenizer = AutoTokenizer.from_pretrained(path)
    network = AutoModelForSeq2SeqLM.from_pretrained(path).eval()
    words = [f"▁{word}" for word in labels or LABELS[kind]]
    relevant, other = (tokenizer.get_vocab()[word] for word in words)
    found = []
    for query, text in zip(frame["query"], frame["text"], strict=True):
        ids = tokenizer(template.format(query, text), return_tensors="pt")
        start = torch.tensor([[network.config.decoder_start_token_id]])
        with torch.no_grad():
            said = network(**ids, decoder_input_ids=start).logits[0, 0, [relevant, other]]
        found.append(said.log_softmax(0)[0].item())
    return found


class TestMonoT5:
    @pytest.fixture
    def oracle(self):
        from pyterrier_t5 import MonoT5ReRanker

        return lambda path: MonoT5ReRanker(
            model=path, tok_model=path, batch_size=1, device="cpu", verbose=False
        )

    def test_pyterrier_t5(self, models, frame, oracle):
        path = models[MonoT5]
        long_query = frame.head(3).assign(query="what is the river " * 20, docno=["x", "y", "z"])
        odd = frame.head(3).assign(
            text=["</s> good", " two  spaces\nand lines ", "{text} Relevant:"]
        )
        everything = pd.concat([frame, long_query, odd], ignore_index=True)
        found = scores(MonoT5(path, dtype="float32", batch_size=4), everything)
        np.testing.assert_allclose(found, scores(oracle(path), everything), atol=1e-5)
        assert (found <= 0).all()

    def test_batches_have_similar_numbers_of_tokens(self, models):
        """However many characters they are."""
        texts = ["apple " * 20, "z" * 19, "apple " * 30, "z" * 29]  # of 20 and 30 tokens
        rows = pd.DataFrame({"qid": "1", "query": "fig", "docno": [*"abcd"], "text": texts})
        reranker = MonoT5(models[MonoT5], dtype="float32", batch_size=2)
        shapes = shapes_of(reranker)
        reranker(rows)
        assert {rows for rows, _ in shapes} == {2} and len({n for _, n in shapes}) == 2

    def test_pairs_tokenised_at_once(self, models, frame, monkeypatch):
        expected = scores(MonoT5(models[MonoT5], dtype="float32"), frame)
        monkeypatch.setattr(monot5, "AT_ONCE", 4)
        found = scores(MonoT5(models[MonoT5], dtype="float32"), frame)
        np.testing.assert_array_equal(found, expected)

    def test_plain_forward_pass(self, models):
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        path = models[MonoT5]
        tokenizer, network = (
            c.from_pretrained(path) for c in (AutoTokenizer, AutoModelForSeq2SeqLM)
        )
        ids = tokenizer("Query: fig Document: a good grape Relevant:", return_tensors="pt")
        with torch.no_grad():
            start = torch.tensor([[tokenizer.pad_token_id]])
            logits = network.eval()(**ids, decoder_input_ids=start).logits[0, 0]
        true, false = tokenizer.convert_tokens_to_ids(["▁true", "▁false"])
        expected = (logits[true] - torch.logsumexp(logits[[true, false]], 0)).item()
        row = pd.DataFrame(
            [["1", "fig", "d", "a good grape"]], columns=["qid", "query", "docno", "text"]
        )
        assert scores(MonoT5(path, dtype="float32"), row)[0] == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("kind", LABELS)
    def test_kind_follows_from_the_configuration(self, frame, tmp_path, kind):
        """And not from the folder's name."""
        path = tiny.tiny_t5(tmp_path / "monot5-flan-mt5-bert", LABELS[kind], kind=kind)
        short = frame[frame["text"].str.len() < 60]
        reranker = load_reranker(path, dtype="float32", batch_size=2)
        assert type(reranker) is MonoT5
        expected = plainly(path, kind, short)
        np.testing.assert_allclose(scores(reranker, short), expected, atol=1e-5)
        saved = reranker.save(tmp_path / "saved")
        np.testing.assert_allclose(plainly(saved, kind, short), expected, atol=1e-5)
        again = MonoT5(saved, dtype="float32", batch_size=2)
        np.testing.assert_array_equal(scores(again, frame), scores(reranker, frame))

    def test_mt5_of_pyterrier_t5(self, frame, tmp_path):
        from pyterrier_t5 import mT5ReRanker

        path = tiny.tiny_t5(tmp_path / "mt5", ("yes", "no"), kind="mT5")
        oracle = mT5ReRanker(model=path, tok_model=path, batch_size=1, verbose=False)
        found = scores(MonoT5(path, dtype="float32", device="cpu"), frame)
        np.testing.assert_allclose(found, scores(oracle, frame), atol=1e-5)

    def test_label_word_is_the_piece_of_the_vocabulary(self, frame, tmp_path):
        """As in mT5, whatever pieces the word itself is split into."""
        path = tiny.tiny_t5(tmp_path / "mt5", ("yes", "no"), kind="mT5", label_score=-99.0)
        reranker = MonoT5(path, dtype="float32")
        reranker(frame)
        tokenizer = reranker._tokenizer
        assert tokenizer.tokenize("yes") == ["▁", "y", "e", "s"]
        assert tokenizer.convert_ids_to_tokens(reranker._label_ids) == ["▁yes", "▁no"]

    def test_template_and_labels(self, models, frame, tmp_path):
        """Those given come before those of the kind, and are saved."""
        given = {"template": "{query} what {text} is", "labels": ("good", "▁bad")}
        path = tiny.tiny_t5(tmp_path / "flan", LABELS["FLAN-T5"], kind="FLAN-T5")
        reranker = MonoT5(path, dtype="float32", **given)
        short = frame[frame["text"].str.len() < 60]
        expected = plainly(path, given["template"], short, ("good", "bad"))
        np.testing.assert_allclose(scores(reranker, short), expected, atol=1e-5)
        saved = reranker.save(tmp_path / "saved")
        assert json.loads((saved / "inpars.json").read_text())["template"] == given["template"]
        loaded = MonoT5(saved, dtype="float32")
        np.testing.assert_array_equal(scores(loaded, frame), scores(reranker, frame))
        other = MonoT5(saved, dtype="float32", labels=("bad", "good"))
        np.testing.assert_allclose(
            np.exp(scores(other, frame)) + np.exp(scores(loaded, frame)), 1, atol=1e-6
        )

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    @pytest.mark.parametrize("kind", ["T5", "T5 1.1", "mT5"])
    def test_first_token_alone_needs_less(self, kind, attention):
        """The same logits without keys and values of tokens and logits of other words."""
        from transformers import AutoModelForSeq2SeqLM, MT5Config, T5Config

        options = {} if kind == "T5" else {"feed_forward_proj": "gated-gelu"}
        config = (MT5Config if kind == "mT5" else T5Config)(
            vocab_size=50,
            d_model=32,
            d_kv=8,
            d_ff=128,
            num_layers=2,
            num_heads=3,
            tie_word_embeddings=kind == "T5",
            **options,
        )
        torch.manual_seed(0)
        network = AutoModelForSeq2SeqLM.from_config(config, attn_implementation=attention).eval()
        words = [7, 3]
        batch = {
            "input_ids": torch.randint(1, 50, (4, 20)),
            "attention_mask": (torch.arange(20) < torch.tensor([[20], [13], [1], [20]])).long(),
            "decoder_input_ids": torch.zeros(4, 1, dtype=torch.long),
        }

        def said() -> tuple[torch.Tensor, int]:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                return network(**batch, use_cache=False).logits[:, 0], counter.get_total_flops()

        full, before = said()
        with first_token(network, words) as columns:
            few, during = said()
        again, after = said()
        torch.testing.assert_close(few[:, columns], full[:, words], atol=1e-5, rtol=1e-5)
        assert few.shape == (4, 2)
        assert torch.equal(again, full)
        assert before == after
        # a product of two matrices is two operations a multiply-add
        keys_and_values = 2 * 2 * 4 * 20 * (32 * 3 * 8) * config.num_layers
        others = 2 * 4 * 32 * (50 - 2)
        assert before - during > 0.7 * (keys_and_values + others)
        with torch.autocast("cpu", torch.bfloat16), first_token(network, words) as columns:
            rough, _ = said()
        torch.testing.assert_close(rough[:, columns].float(), full[:, words], atol=0.1, rtol=0.1)

    def test_first_token_leaves_other_networks_alone(self, models, tmp_path):
        """An encoder-decoder of another kind, and int8 layers, are as they were."""
        from transformers import AutoModelForSeq2SeqLM

        bart = AutoModelForSeq2SeqLM.from_pretrained(tiny.tiny_bart(tmp_path / "bart"))
        int8 = MonoT5(models[MonoT5], dtype="int8").network
        for network in (bart, int8):
            with first_token(network, [7, 3]) as columns:
                changed = {type(m) for m in network.modules() if "forward" in vars(m)}
            assert (network is bart) == (not changed)
            assert columns == ([7, 3] if network is bart else [0, 1])
        assert changed == {torch.nn.Linear}  # the head, which stays in float32

    def test_another_encoder_decoder(self, frame, tmp_path):
        path = tiny.tiny_bart(tmp_path / "bart")
        with pytest.raises(
            ValueError, match="is a bart, which has no known template: .* template and labels"
        ):
            load_reranker(path)(frame)
        given = {"template": "{query} {text} is", "labels": ("good", "bad")}
        found = scores(load_reranker(path, dtype="float32", batch_size=4, **given), frame)
        expected = plainly(path, given["template"], frame, given["labels"])
        np.testing.assert_allclose(found, expected, atol=1e-5)

    @pytest.mark.parametrize(
        "template", ["", "{query}", "{text}", "{text} {query}", "{query} {query} {text}", "a{b}c"]
    )
    def test_bad_template(self, models, template):
        with pytest.raises(ValueError, match="template must hold {query}, and {text} after it"):
            MonoT5(models[MonoT5], template=template)

    @pytest.mark.parametrize(
        "labels", ["no", ("yes",), ("yes", "yes"), ("a", "b", "c"), ("a", "b", ""), ("a", "")]
    )
    def test_bad_labels(self, models, labels):
        with pytest.raises(ValueError, match="labels must be two words"):
            MonoT5(models[MonoT5], labels=labels)

    @pytest.mark.parametrize("word", ["perhaps", "é"])
    def test_unknown_label_word(self, models, frame, word):
        with pytest.raises(ValueError, match=f"label word '{word}' is . tokens .* must be one"):
            MonoT5(models[MonoT5], labels=("true", word))(frame)

    def test_template_that_leaves_no_room(self, frame, tmp_path):
        path = tiny.tiny_t5(tmp_path / "flan", LABELS["FLAN-T5"], kind="FLAN-T5")
        one_word = frame.assign(query=frame["query"].str.split().str[-1])
        assert np.ptp(scores(MonoT5(path, max_length=12), one_word)) > 0
        with pytest.raises(ValueError, match="max_length=11 leaves no room for a query in 'Is the"):
            MonoT5(path, max_length=11)(frame)

    def test_end_of_the_template_is_always_kept(self, models):
        reranker = MonoT5(models[MonoT5], max_length=12)
        tokenizer = reranker.network and reranker._tokenizer
        queries, texts = ["fig", "fig", "fig " * 50, "fig " * 50], ["a", "a " * 50, "a", ""]
        batch = reranker._batch(queries, texts)
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            tokens = tokenizer.convert_ids_to_tokens(ids[: mask.sum()])
            assert len(tokens) <= 12 and tokens[0] == "▁Query:"
            assert tokens[-2:] == ["▁Relevant:", "</s>"] and tokens.count("</s>") == 1

    def test_the_words_beyond_the_limit_do_not_matter(self, models):
        rows = pd.DataFrame({"qid": "1", "query": "fig", "docno": ["a", "b"]})
        rows["text"] = ["good " * 60, "good " * 60 + "bad"]
        cut, whole = (MonoT5(models[MonoT5], dtype="float32", max_length=n) for n in (48, 100))
        assert np.ptp(scores(cut, rows)) < 1e-5
        assert np.ptp(scores(whole, rows)) > 1e-3

    def test_checkpoint_for_pyterrier_t5(self, models, frame, oracle, tmp_path):
        saved = MonoT5(models[MonoT5], dtype="float32", max_length=20)
        path = str(saved.save(tmp_path / "checkpoint"))
        np.testing.assert_allclose(scores(oracle(path), frame), scores(saved, frame), atol=1e-5)

    def test_checkpoint_carries_its_template(self, frame, tmp_path):
        path = Path(tiny.tiny_t5(tmp_path / "yes", label_words=("yes", "no")))
        settings = {"template": "text: {query} is {text} good", "true": "yes", "false": "no"}
        (path / "inpars.json").write_text(json.dumps(settings))
        reranker = MonoT5(path, dtype="float32")
        expected = scores(reranker, frame)
        again = reranker.save(tmp_path / "again")
        assert json.loads((again / "inpars.json").read_text()) == {**settings, "max_length": 48}
        np.testing.assert_array_equal(scores(MonoT5(again, dtype="float32"), frame), expected)
        ids = reranker._batch(["fig"], ["grape"])["input_ids"][0]
        assert reranker._tokenizer.decode(ids) == "text: fig is grape good</s>"

    def test_label_word_of_several_tokens(self, frame, tmp_path):
        path = tiny.tiny_t5(tmp_path / "yes", label_words=("yes", "no"))
        with pytest.raises(ValueError, match="label word 'true' is 5 tokens"):
            MonoT5(path)(frame)

    def test_end_token_after_a_document_at_the_end(self, models):
        """FLAN-T5's template ends with the document: the end token stands all the same."""
        reranker = MonoT5(models[MonoT5], max_length=12, template="{query} is {text}")
        reranker.network  # noqa: B018
        batch = reranker._batch(["fig", "fig " * 50], ["good " * 50, "good"])
        ends = batch["input_ids"][:, -1].tolist()
        assert batch["input_ids"].shape == (2, 12)
        assert ends == [reranker._tokenizer.eos_token_id] * 2


class TestSaturation:
    def test_scores_keep_the_order_of_the_log_odds(self, models, frame):
        """A confident model has scores near 0, which differ."""
        reranker = MonoT5(models[MonoT5], dtype="float32")
        head = reranker.network.get_output_embeddings()
        log_odds = np.array([-800.0, -30.0, 0.5, 16.0, 20.8, 21.0, 27.2, 60.0, 90.0])
        rows = iter(log_odds)
        head.register_forward_hook(
            lambda *_: torch.tensor([[[x, 0.0]] for x in itertools.islice(rows, 1)]).float()
        )
        reranker.batch_size = 1
        some = frame.head(len(log_odds)).assign(text="cloud")  # of one length: in frame order
        found = scores(reranker, some.assign(query="what is fig"))
        assert (np.diff(found) > 0).all() and (found < 0).all()
        expected = [
            -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x)) for x in log_odds
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


class TestTraining:
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
        # Two negatives for each positive, which counts twice.
        expected = np.average(losses, weights=1 + examples["label"])
        for batch_size, accumulation in [(48, 1), (8, 6)]:
            training = {
                "learning_rate": 0.0,
                "num_train_epochs": 1,
                "per_device_train_batch_size": batch_size,
                "gradient_accumulation_steps": accumulation,
            }
            reranker = MonoT5(path, dtype="float32", training=training)
            assert reranker.fit(examples).train_loss == pytest.approx(expected, rel=1e-4)

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
