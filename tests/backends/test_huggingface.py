"""The backend of transformers: context, scoring, sampled batches, int8, compilation."""

import copy
import json
import shutil
import sys

import numpy as np
import pyterrier as pt
import pytest
import tiny
import tiny_llm
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from pyterrier_inpars import CrossEncoder, QueryGenerator, QueryLikelihood
from pyterrier_inpars._compute.devices import quantize
from pyterrier_inpars.backends import huggingface
from pyterrier_inpars.backends.base import Sampling
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend
from pyterrier_inpars.backends.openai import OpenAIBackend

PROMPTS = ["the spectrum of a plasma " * n + "\nquery:" for n in (1, 5, 2, 3)]


@pytest.mark.parametrize("kind, limit", [("llama", 512), ("gpt2", 512), ("bloom", None)])
def test_context(tmp_path, kind, limit):
    """The positions of the model limit prompt and completion together, where it has a limit."""
    backend = HuggingFaceBackend(tiny_llm.save(tmp_path / kind, kind))
    assert backend.context == limit
    if limit:
        prompt = "the spectrum of a plasma " * 40
        rest = limit - len(backend.tokenizer(prompt)["input_ids"])
        assert len(backend.complete([prompt], max_new_tokens=rest)) == 1
        with pytest.raises(ValueError, match=f"exceed the context of {limit} tokens"):
            backend.complete([prompt], max_new_tokens=rest + 1)


def test_loading_prints_nothing(llama, capfd):
    """Neither the bars of transformers, nor the notices of the libraries it imports."""
    HuggingFaceBackend(llama).complete(PROMPTS[:1], max_new_tokens=1)
    assert capfd.readouterr().err == ""


def test_a_smaller_context(llama):
    backend = HuggingFaceBackend(llama, context=100)
    assert backend.context == 100 and backend.describe()["context"] == 100
    prompt = "the spectrum of a plasma " * 12
    rest = 100 - len(backend.tokenizer(prompt)["input_ids"])
    assert len(backend.complete([prompt], max_new_tokens=rest)) == 1
    with pytest.raises(ValueError, match="exceed the context of 100 tokens"):
        backend.complete([prompt], max_new_tokens=rest + 1)
    assert HuggingFaceBackend(llama, context=10_000).context == 512
    assert "context" not in HuggingFaceBackend(llama).describe()


def test_a_local_folder_replaces_a_hub_name(llama, monkeypatch):
    monkeypatch.setenv("INPARS_LOCAL_MODELS", json.dumps({"maker/llm": llama}))
    backend = HuggingFaceBackend("maker/llm", dtype="float32")
    expected = HuggingFaceBackend(llama, dtype="float32").complete(PROMPTS, max_new_tokens=3)
    assert backend.complete(PROMPTS, max_new_tokens=3) == expected
    assert backend.describe()["model"] == "maker/llm"


def test_several_greedy_completions_are_refused(llama):
    with pytest.raises(ValueError, match="2 greedy completions .* temperature above 0"):
        HuggingFaceBackend(llama).complete(PROMPTS, num_samples=2)


class Complete:
    """A backend that can only complete prompts."""

    def complete(self, prompts, **options):
        return []

    def __repr__(self):
        return "Complete()"


@pytest.mark.parametrize("stage", [QueryGenerator, QueryLikelihood])
def test_options_of_the_model_are_checked_by_name(stage):
    with pytest.raises(TypeError, match="no parameter 'batchsize': did you mean 'batch_size'"):
        stage("anything", batchsize=3)
    with pytest.raises(TypeError, match="no parameter 'max_doc_token': did you mean 'max_doc_tok"):
        stage("anything", max_doc_token=3)
    with pytest.raises(TypeError, match="no parameter 'quux': the model takes revision, trust_"):
        stage("anything", quux=3)
    with pytest.raises(TypeError, match=r"dtype, device cannot be given .*on Complete\(\)"):
        stage(Complete(), dtype="int8", device=None)


@pytest.mark.parametrize("stage", [QueryGenerator, QueryLikelihood])
def test_options_of_the_model_are_shown_and_kept(stage):
    options = {"revision": "v1", "batch_size": 3, "dtype": "int8", "context": 99}
    made = stage("anything", max_doc_tokens=5, **options)
    shown = "max_doc_tokens=5, revision='v1', batch_size=3, dtype='int8', context=99)"
    assert repr(made).startswith(f"{stage.__name__}('anything', ")
    assert repr(made).endswith(shown)
    assert made.get_parameter("batch_size") == 3 == made._backend.batch_size
    again = pt.inspect.transformer_apply_attributes(made, max_doc_tokens=6)
    assert repr(again) == repr(made).replace("tokens=5", "tokens=6")
    assert again._backend.revision == "v1" and again._backend._dtype == "int8"
    made.set_parameter("model", "other")  # and not behind the backend
    assert made._backend.name == "other" and made._backend._context == 99


def test_a_model_with_images(tmp_path):
    """Its configuration contains one for the text and one for the images."""
    backend = HuggingFaceBackend(tiny_llm.save(tmp_path, "gemma3-images"), dtype="float32")
    assert backend.context == 512
    assert len(backend.complete(PROMPTS, max_new_tokens=3)) == len(PROMPTS)
    assert backend._supports_masks  # otherwise each prompt would run alone


class TestLogLikelihood:
    RESTS = [" is measured", "", " gain of the receiver", " a"]

    @pytest.mark.parametrize("prefix", ["the spectrum of", PROMPTS[0], PROMPTS[0] + " is measured"])
    def test_a_prefix_changes_nothing(self, llama, prefix):
        """Not even a prefix as long as the prompt."""
        backend = HuggingFaceBackend(llama, dtype="float32")
        prompts = [PROMPTS[0]] * len(self.RESTS)
        plain = backend.log_likelihood(prompts, self.RESTS)
        found = backend.log_likelihood(prompts, self.RESTS, prefix=prefix)
        assert [len(row) for row in found] == [len(row) for row in plain]
        assert found[1] == [] and all(found[i] for i in (0, 2, 3))
        for a, b in zip(found, plain, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)

    def test_progress_counts_all_pairs(self, llama):
        backend = HuggingFaceBackend(llama, dtype="float32", batch_size=2)
        counts = []
        backend.log_likelihood(PROMPTS, self.RESTS, progress=counts.append)
        assert sum(counts) == len(PROMPTS)

    def test_texts_beyond_the_context_are_refused(self, llama):
        backend = HuggingFaceBackend(llama, dtype="float32")
        with pytest.raises(ValueError, match="exceed the context of 512 tokens"):
            backend.log_likelihood(["the noise"], [" plasma" * 520])
        with pytest.raises(ValueError, match="4 prompts, but 1 continuations"):
            backend.log_likelihood(PROMPTS, [" a"])


def test_samples_of_many_prompts_stay_in_order(llama):
    """Although they end in any order, and waiting prompts take the places of others."""
    sampled = {"sampling": Sampling(temperature=1.0), "num_samples": 3, "max_new_tokens": 9}
    prompts = [prompt + " " + word for prompt in PROMPTS for word in tiny_llm.WORDS[:5]]
    wide, narrow = (HuggingFaceBackend(llama, dtype="float32", batch_size=size) for size in (64, 6))
    expected = []
    for i, prompt in enumerate(prompts):
        expected += wide.complete([prompt], seeds=range(3 * i, 3 * i + 3), **sampled)
    assert len({len(c.log_probs) for c in expected}) > 3
    counts = []
    for backend in (wide, narrow):
        found = backend.complete(prompts, seeds=range(60), progress=counts.append, **sampled)
        assert [c.text for c in found] == [c.text for c in expected]
    assert sum(counts) == 2 * len(expected)


def test_gaps_are_filled_from_the_end():
    assert huggingface._compacted([0, 1, 2]) == [0, 1, 2]
    assert huggingface._compacted([1, 3, 4]) == [4, 1, 3]
    assert huggingface._compacted([]) == []


class TestInt8:
    @pytest.fixture(autouse=True)
    def torchao(self):
        pytest.importorskip("torchao")

    @pytest.mark.parametrize("kind", ["gemma3", "llama", "bloom"])
    def test_log_probs_are_close_to_float32(self, tmp_path, kind):
        """Compared for the same tokens, where the first token is the same."""
        path = tiny_llm.save(tmp_path / kind, kind)
        exact, rounded = (HuggingFaceBackend(path, dtype=dtype) for dtype in ("float32", "int8"))
        prompts = [f"{prompt} {word}" for prompt in PROMPTS for word in tiny_llm.WORDS[:4]]
        pairs = list(
            zip(
                *(backend.complete(prompts, max_new_tokens=1) for backend in (exact, rounded)),
                strict=True,
            )
        )
        differences = [
            np.subtract(a.log_probs, b.log_probs) for a, b in pairs if a.text and a.text == b.text
        ]
        assert len(differences) > 1
        assert 0 < np.abs(np.concatenate(differences)).max() < 0.5

    def test_quantized_weights(self, llama):
        """All layers but the last one are quantized, with 255 steps per row."""
        model = HuggingFaceBackend(llama, dtype="int8").model
        exact = HuggingFaceBackend(llama, dtype="float32").model
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

    def test_int8_is_part_of_the_settings(self, llama):
        plain, rounded = (HuggingFaceBackend(llama, dtype=d).describe() for d in ("auto", "int8"))
        assert rounded == {**plain, "weights": "int8"}

    def test_a_model_without_linear_layers(self, tmp_path):
        path = tiny_llm.save(tmp_path, "gpt2")
        with pytest.raises(ValueError, match="GPT2LMHeadModel has no linear layers .* than int8"):
            HuggingFaceBackend(path, dtype="int8").complete(PROMPTS)

    def test_without_torchao(self, llama, monkeypatch):
        monkeypatch.setitem(sys.modules, "torchao.quantization", None)
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'pyterrier_inpars\[int8\]'"):
            HuggingFaceBackend(llama, dtype="int8").complete(PROMPTS)


class TestOtherModels:
    """What is not a causal language model with a fast tokenizer."""

    def refuses(self, path, error):
        for backend in (HuggingFaceBackend(path, dtype="float32"), path):
            stage = QueryGenerator(backend, prompt="zero-shot", max_new_tokens=2)
            with pytest.raises(ValueError, match=error):
                stage([{"docno": "d1", "text": "the gain"}])

    def test_a_multimodal_model(self, tmp_path):
        """Its text part is a causal language model, in a class of its own."""
        path = tiny_llm.save(tmp_path, "mistral3")
        backend = HuggingFaceBackend(path, dtype="float32", device="cpu")
        found = backend.log_likelihood(PROMPTS, [" gain signal"] * 4, prefix="the")
        assert backend._supports_masks and backend.context == 512
        model = AutoModelForImageTextToText.from_pretrained(path).eval()
        for prompt, values in zip(PROMPTS, found, strict=True):
            ids = torch.tensor([backend.tokenizer(prompt + " gain signal")["input_ids"]])
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            expected = logits.gather(1, ids[0, 1:, None])[-len(values) :, 0]
            np.testing.assert_allclose(values, expected, atol=1e-3)

    @pytest.mark.parametrize("make", [tiny.tiny_t5, tiny.tiny_bart])
    def test_an_encoder_decoder(self, tmp_path, make):
        """BART has a decoder that transformers would load alone."""
        path = make(tmp_path)
        self.refuses(path, f"which is a {make.__name__[5:]}, an encoder-decoder: give another")

    def test_another_model(self, tmp_path):
        transformers.ViTConfig().save_pretrained(tmp_path)
        tiny_llm.tokenizer().save_pretrained(tmp_path)
        self.refuses(str(tmp_path), "which is a vit: give another model")

    def test_a_lora_adapter(self, tmp_path):
        """Its folder has no model, which the error says in generation and in reranking."""
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        tiny_llm.tokenizer().save_pretrained(tmp_path)
        self.refuses(str(tmp_path), "holds a LoRA adapter without its model: merge the two first")
        with pytest.raises(OSError, match="CrossEncoder cannot load .*merge the two first"):
            _ = CrossEncoder(tmp_path).network

    def test_a_tokenizer_in_python(self, llama, tmp_path):
        """It does not know where in a text a token ends."""
        shutil.copytree(llama, tmp_path / "slow")
        for file in (tmp_path / "slow").glob("*token*"):
            file.unlink()
        transformers.ByT5Tokenizer().save_pretrained(tmp_path / "slow")
        error = r"slow' has a tokenizer in Python \(ByT5Tokenizer\), which .*: "
        self.refuses(str(tmp_path / "slow"), error + "use OpenAIBackend and a server")
        server = OpenAIBackend("http://127.0.0.1:9/v1", "m", tokenizer=str(tmp_path / "slow"))
        with pytest.raises(ValueError, match=error + "leave tokenizer out, and words are counted"):
            _ = server.tokenizer


class HalfOnly(torch.nn.Module):
    """Integer weights and a kernel for half precision, such as Marlin of GPTQ and AWQ."""

    def __init__(self, layer, seen):
        super().__init__()
        weight = layer.weight.detach().float()
        self.register_buffer("scale", (weight.abs().max() / 127).bfloat16())
        self.register_buffer("qweight", (weight / self.scale.float()).round().to(torch.int8))
        self.seen = seen

    def forward(self, rows):
        self.seen.add(rows.dtype)
        if rows.dtype not in (torch.float16, torch.bfloat16):
            raise RuntimeError("only bfloat16 and float16 are supported")
        return rows @ (self.qweight.to(rows.dtype) * self.scale.to(rows.dtype)).t()


@pytest.mark.parametrize("known", [True, False])
def test_a_kernel_for_half_precision(llama, known, recwarn):
    """A quantized model is never computed in float32; one that fails in it is not either."""
    backend, alone = (HuggingFaceBackend(llama, dtype="bfloat16", device="cpu") for _ in range(2))
    seen = set()
    for model in (backend.model, alone.model):
        for layer in model.model.layers:
            for part in (layer.self_attn, layer.mlp):
                for name, child in [*part.named_children()]:
                    if isinstance(child, torch.nn.Linear):
                        setattr(part, name, HalfOnly(child, seen))
        if known:
            model.hf_quantizer = object()
    found = backend.log_likelihood(PROMPTS, [" gain"] * len(PROMPTS))
    assert backend._supports_masks
    assert seen == {torch.bfloat16} | ({torch.float32} if not known else set())
    alone._supports_masks = False  # computes one prompt at a time
    expected = alone.log_likelihood(PROMPTS, [" gain"] * len(PROMPTS))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=0.5)
    assert not [w for w in recwarn if "masks" in str(w.message)]


@pytest.mark.slow
def test_compile(tmp_path, monkeypatch):
    """A compiled model generates the same text."""
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
