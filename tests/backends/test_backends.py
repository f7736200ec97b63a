"""Backends with pyterrier_rag's ``generate`` serve as they are, and what they give is checked."""

import copy
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import tiny_llm
import torch
from plain_generation import check, documents, generator, plainly
from transformers import AutoModelForCausalLM, AutoTokenizer

from pyterrier_inpars._compute.devices import quantize
from pyterrier_inpars.backends import _kv_cache, huggingface
from pyterrier_inpars.backends.base import GREEDY, Sampling
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend


@dataclass
class Output:
    text: str | None
    logprobs: list | None = None


class Completions:
    """A tiny language model behind the interface of a completion API: top candidates by text."""

    model_id = "tiny"

    def __init__(self, folder):
        self.llm = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer_ = AutoTokenizer.from_pretrained(folder)

    def generate(self, inps, *, return_logprobs, max_new_tokens, stop_sequences):
        ends = {self.tokenizer_.eos_token_id, *self.llm.generation_config.eos_token_id}
        outputs = []
        for prompt in inps:
            ids, text, candidates = self.tokenizer_(prompt)["input_ids"], "", []
            for _ in range(max_new_tokens):
                with torch.no_grad():
                    scores = self.llm(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
                best = scores.topk(5)
                token = int(best.indices[0])
                if token in ends:
                    break
                pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                candidates.append({self.tokenizer_.decode([t]): value for t, value in pairs})
                ids = [*ids, token]
                text += self.tokenizer_.decode([token])
                if any(stop in text for stop in stop_sequences):
                    break
            outputs.append(Output(text, candidates if return_logprobs else None))
        return outputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_llm.save(tmp_path_factory.mktemp("llama"), "llama")


def ascii_rows(rows):
    return [row for row in rows if row[1].isascii()]  # half a character is no token text


def test_a_foreign_backend_writes_the_same_queries(folder):
    frame = documents(40)
    found = generator(None, backend=Completions(folder))(frame)
    kept = found[found["query"].map(str.isascii)].reset_index(drop=True)
    expected = ascii_rows(plainly(folder, frame))
    assert len(expected) > 3
    check(kept, expected)


class Fixed:
    """A backend that gives what a failing service would."""

    def __init__(self, *outputs):
        self.outputs = list(outputs)

    def generate(self, inps, *, return_logprobs, max_new_tokens, stop_sequences):
        return self.outputs

    def __repr__(self):
        return "Fixed()"


@pytest.mark.parametrize(
    "outputs, error, message",
    [
        ([Output("ERROR::other")], RuntimeError, "Fixed.* failed .*ERROR::other"),
        ([Output(None)], RuntimeError, "failed"),
        ([], RuntimeError, "0 outputs for 1 prompts"),
        ([Output("a b")], ValueError, "no log-probabilities"),
        ([Output("a b", [{"x": -1.0}])], ValueError, "no candidate token begins 'a b'"),
        ([Output("a b", [{"a": -1.0}])], ValueError, "no log-probabilities for ' b'"),
    ],
)
def test_what_it_gives_is_checked(outputs, error, message):
    with pytest.raises(error, match=message):
        generator(None, backend=Fixed(*outputs))(documents(1))


def test_the_token_written_is_found_among_the_candidates():
    candidates = [{"th": -2.0, "the": -1.0, "x": -0.5}, {" cat": -0.2}, {"\n": -0.1}]
    found = generator(None, backend=Fixed(Output("the cat\n", candidates)))(documents(1))
    assert found["query"][0] == "the cat"
    assert found["log_probs"][0] == [-1.0, -0.2]
    assert found["finish_reason"][0] == "stop"


def test_sampling_is_not_silently_ignored():
    with pytest.raises(ValueError, match="not passed on to Fixed"):
        generator(None, backend=Fixed(), temperature=0.7)(documents(1))


def test_a_model_or_a_backend():
    for options in ({"model": None}, {"model": "m", "backend": Fixed()}):
        with pytest.raises(ValueError, match="either a model or a backend"):
            generator(**options)


PROMPTS = ["the spectrum of a plasma " * n + "\nquery:" for n in (1, 5, 2, 3)]


@pytest.mark.parametrize("kind, limit", [("llama", 512), ("gpt2", 512), ("bloom", None)])
def test_context(tmp_path, kind, limit):
    """Most positions of a prompt and its completion, where the model has a limit."""
    backend = HuggingFaceBackend(tiny_llm.save(tmp_path / kind, kind))
    assert backend.context == limit
    if limit:
        prompt = "the spectrum of a plasma " * 40
        rest = limit - len(backend.tokenizer(prompt)["input_ids"])
        assert len(backend.complete([prompt], max_new_tokens=rest)) == 1
        with pytest.raises(ValueError, match=f"do not fit into the {limit} positions"):
            backend.complete([prompt], max_new_tokens=rest + 1)


def test_a_model_with_images(tmp_path):
    """Its configuration holds one for the text and one for the images."""
    backend = HuggingFaceBackend(tiny_llm.save(tmp_path, "gemma3-images"), dtype="float32")
    assert backend.context == 512
    assert len(backend.complete(PROMPTS, max_new_tokens=3)) == len(PROMPTS)
    assert backend._supports_masks  # else it would run prompt by prompt


class TestLogLikelihood:
    RESTS = [" is measured", "", " gain of the receiver", " a"]

    @pytest.mark.parametrize("prefix", ["the spectrum of", PROMPTS[0], PROMPTS[0] + " is measured"])
    def test_a_prefix_changes_nothing(self, folder, prefix):
        """Not even one as long as the prompt, after whose end a continuation's token is first."""
        backend = HuggingFaceBackend(folder, dtype="float32")
        prompts = [PROMPTS[0]] * len(self.RESTS)
        plain = backend.log_likelihood(prompts, self.RESTS)
        found = backend.log_likelihood(prompts, self.RESTS, prefix=prefix)
        assert [len(row) for row in found] == [len(row) for row in plain]
        assert found[1] == [] and all(found[i] for i in (0, 2, 3))
        for a, b in zip(found, plain, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)

    def test_progress_counts_all_pairs(self, folder):
        backend = HuggingFaceBackend(folder, dtype="float32", batch_size=2)
        counts = []
        backend.log_likelihood(PROMPTS, self.RESTS, progress=counts.append)
        assert sum(counts) == len(PROMPTS)

    def test_what_does_not_fit(self, folder):
        backend = HuggingFaceBackend(folder, dtype="float32")
        with pytest.raises(ValueError, match="do not fit into the 512 positions"):
            backend.log_likelihood(["the noise"], [" plasma" * 520])
        with pytest.raises(ValueError, match="zip"):
            backend.log_likelihood(PROMPTS, [" a"])


class TestReading:
    """Rows that come, go and move, against each row read alone."""

    @pytest.fixture(params=["own", "shared"])
    def llm(self, request, tmp_path):
        """A model with sliding windows, with its own attention or the package's."""
        backend = HuggingFaceBackend(tiny_llm.save(tmp_path, "gemma3"), dtype="float32")
        backend.complete(PROMPTS, prefix="the spectrum", max_new_tokens=1)
        assert backend.model.config._attn_implementation == _kv_cache.SHARED
        if request.param == "own":
            backend.model.set_attn_implementation("sdpa")
        with torch.inference_mode():
            yield backend.model

    @staticmethod
    def alone(llm, tokens):
        """Logits after each token of one sequence, in a new copy of the model's own way."""
        own = llm.config._attn_implementation
        llm.set_attn_implementation("eager")
        logits = llm(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
        llm.set_attn_implementation(own)
        return logits

    @pytest.mark.parametrize("prefix", [[], list(range(50, 80))])
    @pytest.mark.parametrize("piece", [5, 256])
    def test_rows_see_what_they_would_alone(self, llm, prefix, piece, monkeypatch):
        monkeypatch.setattr(_kv_cache, "PIECE", piece)
        rng = np.random.default_rng(1)

        def some(*counts):
            return [rng.integers(10, 400, count).tolist() for count in counts]

        def check(reading, rows, new):
            logits = reading.read(new)
            for i, (row, tokens) in enumerate(zip(rows, new, strict=True)):
                row += tokens
                expected = self.alone(llm, row)[-len(tokens) :]
                torch.testing.assert_close(logits[i, : len(tokens)], expected, atol=1e-3, rtol=1e-3)

        reading = _kv_cache.SharedPrefixCache(llm, 6, 40, _kv_cache.prefilled(llm, prefix))
        first = some(17, 3, 8, 1)
        reading.add(first)
        rows = [prefix + row for row in first]
        check(reading, rows, some(1, 1, 1, 1))
        reading.keep([0, 3, 2])  # the last takes the place of the second
        rows = [rows[0], rows[3], rows[2]]
        check(reading, rows, some(1, 1, 1))
        second = some(0, 12)
        reading.add(second)
        rows += [prefix + row for row in second]
        check(reading, rows, some(2, 1, 4, 1, 3))
        reading.keep([1, 0, 4, 4, 4, 3])
        rows = [list(rows[i]) for i in (1, 0, 4, 4, 4, 3)]
        check(reading, rows, some(1, 1, 1, 1, 1, 1))


@pytest.mark.parametrize("sharpness", [0.01, 3.0])  # nuclei of thousands of tokens, and of some
def test_a_nucleus_is_that_of_all_tokens_sorted(sharpness):
    torch.manual_seed(0)
    logits = torch.randn(5, 3000, dtype=torch.float64) * sharpness
    sampling = Sampling(temperature=1.0, top_p=0.8)
    seeds = range(400)
    for row in logits:
        generators = [torch.Generator().manual_seed(i) for i in seeds]
        drawn = _kv_cache.choose(row.expand(len(seeds), -1), sampling, generators).tolist()
        order = row.argsort(descending=True).tolist()
        shares = row.softmax(0)[order].tolist()
        nucleus, held = [], 0.0
        for token, share in zip(order, shares, strict=True):
            if held >= 0.8:
                break
            nucleus.append(token)
            held += share
        for seed, token in zip(seeds, drawn, strict=True):
            number = torch.rand((), generator=torch.Generator().manual_seed(seed)).item() * held
            place = int(np.searchsorted(np.cumsum(shares[: len(nucleus)]), number, side="right"))
            assert token == nucleus[place]


def test_every_row_gets_its_own_token_and_log_probability():
    """Also where there are more rows than are worked on together."""
    torch.manual_seed(0)
    logits = torch.randn(2 * _kv_cache.TOGETHER + 3, 50).bfloat16()
    expected = logits.float().log_softmax(1).max(1)
    tokens, log_probs = zip(*_kv_cache.next_tokens(logits, GREEDY, [None] * 50), strict=True)
    assert list(tokens) == expected.indices.tolist()
    assert list(log_probs) == pytest.approx(expected.values.tolist(), abs=1e-5)


def test_samples_of_many_prompts_stay_in_order(folder):
    """Though they end in any order, and prompts take the places of others."""
    sampling = Sampling(temperature=1.0, num_samples=3, seeds=range(60))
    prompts = [prompt + " " + word for prompt in PROMPTS for word in tiny_llm.WORDS[:5]]
    wide, narrow = (
        HuggingFaceBackend(folder, dtype="float32", batch_size=size) for size in (64, 6)
    )
    expected = []
    for i, prompt in enumerate(prompts):
        own = Sampling(temperature=1.0, num_samples=3, seeds=range(3 * i, 3 * i + 3))
        expected += wide.complete([prompt], max_new_tokens=9, sampling=own)
    assert len({len(c.log_probs) for c in expected}) > 3
    counts = []
    for backend in (wide, narrow):
        found = backend.complete(
            prompts, max_new_tokens=9, sampling=sampling, progress=counts.append
        )
        assert [c.text for c in found] == [c.text for c in expected]
    assert sum(counts) == 2 * len(expected)


def test_rows_close_up():
    assert huggingface._closed_up([0, 1, 2]) == [0, 1, 2]
    assert huggingface._closed_up([1, 3, 4]) == [4, 1, 3]
    assert huggingface._closed_up([]) == []


class TestInt8:
    @pytest.fixture(autouse=True)
    def torchao(self):
        pytest.importorskip("torchao")

    @pytest.mark.parametrize("kind", ["gemma3", "llama", "bloom"])
    def test_log_probs_are_near(self, tmp_path, kind):
        """Of the same tokens, where the first is the same."""
        path = tiny_llm.save(tmp_path / kind, kind)
        exact, rounded = (HuggingFaceBackend(path, dtype=dtype) for dtype in ("float32", "int8"))
        pairs = list(
            zip(
                *(backend.complete(PROMPTS, max_new_tokens=1) for backend in (exact, rounded)),
                strict=True,
            )
        )
        differences = [
            np.subtract(a.log_probs, b.log_probs) for a, b in pairs if a.text and a.text == b.text
        ]
        assert len(differences) > 1
        assert 0 < np.abs(np.concatenate(differences)).max() < 0.5

    def test_weights(self, folder):
        """Those of every layer but the last, each in one of 255 steps of its row."""
        model = HuggingFaceBackend(folder, dtype="int8").model
        exact = HuggingFaceBackend(folder, dtype="float32").model
        rounded = copy.deepcopy(exact)
        quantize(rounded, torch.float32, keep=[rounded.lm_head])
        for name, layer in exact.named_modules():
            if not isinstance(layer, torch.nn.Linear):
                continue
            found, by_hand = (m.get_submodule(name).weight for m in (model, rounded))
            if name == "lm_head":
                assert type(found) is torch.nn.Parameter and found.dtype != torch.int8
                assert torch.equal(by_hand, layer.weight)
                continue
            assert found.qdata.dtype == torch.int8
            step = layer.weight.abs().amax(1, keepdim=True) / 127
            assert 0 < ((by_hand.dequantize() - layer.weight).abs() / step).max() < 0.51

    def test_a_last_layer_shared_with_the_embedding_stays(self, tmp_path):
        config = tiny_llm.CONFIGS["gemma3"]()
        config.tie_word_embeddings = True
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        tiny_llm.tokenizer().save_pretrained(tmp_path)
        of_backend = HuggingFaceBackend(tmp_path, dtype="int8").model
        by_hand = AutoModelForCausalLM.from_pretrained(tmp_path)
        quantize(by_hand, torch.float32)
        for model in (of_backend, by_hand):
            assert model.lm_head.weight is model.model.embed_tokens.weight
            assert type(model.lm_head.weight) is torch.nn.Parameter
            assert model.model.layers[0].mlp.up_proj.weight.qdata.dtype == torch.int8

    def test_it_is_told(self, folder):
        plain, rounded = (HuggingFaceBackend(folder, dtype=d).describe() for d in ("auto", "int8"))
        assert rounded == {**plain, "weights": "int8"}

    def test_a_model_without_linear_layers(self, tmp_path):
        path = tiny_llm.save(tmp_path, "gpt2")
        with pytest.raises(ValueError, match="GPT2LMHeadModel has no linear layers .* than int8"):
            HuggingFaceBackend(path, dtype="int8").complete(PROMPTS)

    def test_without_torchao(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "torchao.quantization", None)
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'pyterrier_inpars\[int8\]'"):
            HuggingFaceBackend(folder, dtype="int8").complete(PROMPTS)


@pytest.mark.slow
def test_compile(tmp_path, monkeypatch):
    """Compiled, the model writes the same."""
    monkeypatch.setitem(tiny_llm.SHAPE, "num_hidden_layers", 1)  # which compiles in half the time
    folder = tiny_llm.save(tmp_path, "llama")
    plain, compiled = (
        HuggingFaceBackend(folder, dtype="float32", compile=flag) for flag in (False, True)
    )
    expected = plain.complete(PROMPTS, max_new_tokens=4)
    torch._dynamo.utils.counters.clear()
    found = compiled.complete(PROMPTS, max_new_tokens=4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"], "nothing was compiled"
    assert compiled._supports_masks
    assert [c.text for c in found] == [c.text for c in expected]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-4)
