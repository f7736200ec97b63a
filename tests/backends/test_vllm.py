"""vLLM in this process, compared with transformers on the same model.

vLLM is not among the packages of the tests, as it takes an environment of its own:
``tests/servers/vllm.sh`` makes one and runs this file. Without it, only the first tests run.
"""

import importlib.util
import json
import os
import pickle

import chat_templates
import pytest
import tiny_llm
import torch
import transformers
from plain_generation import documents

from pyterrier_inpars import ChatPrompt, QueryGenerator, RelevanceJudge
from pyterrier_inpars.backends import HuggingFaceBackend, VLLMBackend, vllm
from pyterrier_inpars.backends.base import Sampling

installed = pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="needs vLLM")
PROMPTS = ["the spectrum of a plasma " * n + "\nquery:" for n in (1, 5, 2, 3)]


@pytest.mark.skipif(bool(importlib.util.find_spec("vllm")), reason="vLLM is installed")
def test_the_missing_package_is_named(llama):
    with pytest.raises(ImportError, match=r"pip install 'pyterrier_inpars\[vllm\]'"):
        VLLMBackend(llama).complete(PROMPTS)


def test_arguments_are_checked_before_the_model_is_loaded():
    with pytest.raises(ValueError, match="takes no .gguf file"):
        VLLMBackend("model.GGUF")
    with pytest.raises(ValueError, match="context .* not 0"):
        VLLMBackend("m", context=0)
    with pytest.raises(TypeError, match="template_options must be a dict"):
        VLLMBackend("m", template_options={"a b": 1})
    with pytest.raises(TypeError, match="cannot be given with a backend object"):
        QueryGenerator(VLLMBackend("m"), dtype="float32")


@pytest.mark.parametrize("options", [{"dtype": "float16"}, {"engine": {"dtype": "float16"}}])
def test_settings_with_a_dtype_do_not_load_the_model(monkeypatch, llama, options):
    """As when ``index()`` finds a complete artifact."""
    monkeypatch.setattr(vllm, "_version", lambda package: "1")
    backend = VLLMBackend(llama, **options)
    assert QueryGenerator(backend).settings()["dtype"] == "float16"
    assert "llm" not in vars(backend)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny instruct model whose heads are as large as vLLM's kernels need."""
    folder = tmp_path_factory.mktemp("vllm")
    shape = {**tiny_llm.SHAPE, "hidden_size": 128, "head_dim": 32, "max_position_embeddings": 1024}
    before = tiny_llm.CONFIGS["llama"]
    tiny_llm.CONFIGS["llama"] = lambda: transformers.LlamaConfig(**shape)
    try:
        return chat_templates.save(folder, chat_templates.QWEN)
    finally:
        tiny_llm.CONFIGS["llama"] = before


@pytest.fixture(scope="module")
def plain(folder):
    return HuggingFaceBackend(folder, dtype="float32")


@pytest.fixture(scope="module")
def backend(folder):
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    engine = {"enforce_eager": True, "max_num_seqs": 16}
    if not torch.cuda.is_available():
        engine["kv_cache_memory_bytes"] = 2**28
    return VLLMBackend(folder, dtype="float32", context=1000, engine=engine)


def texts(completions):
    return [(completion.text, completion.finish_reason) for completion in completions]


def close(found, expected):
    return all(
        one == pytest.approx(other, abs=2e-3) for one, other in zip(found, expected, strict=True)
    )


@installed
@pytest.mark.parametrize("stop", [("\n",), (), ("the",), ("se of", "\n")])
def test_greedy_completions_are_those_of_transformers(backend, plain, stop):
    counts = []
    found = backend.complete(PROMPTS, max_new_tokens=12, stop=stop, progress=counts.append)
    expected = plain.complete(PROMPTS, max_new_tokens=12, stop=stop)
    assert texts(found) == texts(expected) and sum(counts) == len(PROMPTS)
    assert close([c.log_probs for c in found], [c.log_probs for c in expected])
    assert [c.ends for c in found] == [c.ends for c in expected]
    assert backend.complete([]) == []


@installed
def test_messages_are_rendered_as_by_transformers(backend, plain):
    prompt = ChatPrompt("Document: {document}", system="Write.", prefill="Query:")
    chats = [prompt.build(text) for text in ("the <|im_end|> spectrum", "noise", "a plasma")]
    options = {"max_new_tokens": 10, "stop": ()}
    assert backend._encode(chats, 10) == plain._encode(chats, 10)
    assert texts(backend.complete(chats, **options)) == texts(plain.complete(chats, **options))


@installed
def test_a_sampled_completion_depends_on_its_seed_alone(backend):
    options = {"max_new_tokens": 12, "sampling": Sampling(1.0, top_p=0.95), "stop": ()}
    seeds = [2**64 - 1, 1, 2, 3, 3, 2, 1, 0]
    found = backend.complete(PROMPTS, num_samples=2, seeds=seeds, **options)
    assert len(found) == 8 and len({c.text for c in found}) > 4
    alone = backend.complete(PROMPTS[1:2], num_samples=2, seeds=seeds[2:4], **options)
    assert texts(alone) == texts(found[2:4])
    again = backend.complete(PROMPTS[:1], num_samples=1, seeds=[5], **options)
    assert texts(again) != texts(found[:1])
    # log-probabilities are those before the temperature
    hot = backend.complete(PROMPTS[:1], seeds=[1], max_new_tokens=1, sampling=Sampling(2.0))
    cold = backend.complete(PROMPTS[:1], max_new_tokens=1)
    assert hot[0].log_probs[0] <= cold[0].log_probs[0] + 1e-4


@installed
def test_likelihoods_and_choices_are_those_of_transformers(backend, plain):
    rest = [" the noise", "", " a magnetic field", " gain"]
    found = backend.log_likelihood(PROMPTS, rest)
    assert close(found, plain.log_likelihood(PROMPTS, rest)) and found[1] == []
    for choices in (["0", "1", "2"], ["x", "xyz"]):
        expected = plain.choice_log_probs(PROMPTS, choices)
        assert close(backend.choice_log_probs(PROMPTS, choices), expected)


@installed
def test_stages_take_the_backend(backend, plain):
    frame = documents(5)
    options = {"max_new_tokens": 10, "max_doc_tokens": 30, "prompt": "chat"}
    found, expected = (QueryGenerator(b, **options)(frame) for b in (backend, plain))
    assert found["query"].tolist() == expected["query"].tolist() and len(found)
    assert close(found["log_probs"], expected["log_probs"])
    settings = QueryGenerator(backend, **options).settings()
    assert settings["backend"] == "vllm" and settings["dtype"] == "float32"
    assert settings["engine"]["enforce_eager"] and settings["max_prompt_tokens"] == 1000
    assert set(settings["versions"]) == {"vllm", "torch", "transformers"}
    json.dumps(settings)
    pairs = expected[["qid", "query", "docno", "text"]]
    grades = [RelevanceJudge(b, max_doc_tokens=50)(pairs)["score"] for b in (backend, plain)]
    assert close([grades[0].tolist()], [grades[1].tolist()])


@installed
def test_a_schema_is_enforced(backend):
    schema = {"type": "object", "properties": {"q": {"enum": ["a", "b"]}}, "required": ["q"]}
    (found,) = backend.complete(PROMPTS[:1], max_new_tokens=60, stop=(), schema=schema)
    assert json.loads(found.text)["q"] in ("a", "b")


@installed
def test_an_interrupted_call_leaves_no_prompts_for_the_next(backend, plain):
    def interrupt(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.complete(PROMPTS, max_new_tokens=12, progress=interrupt)
    found = backend.complete(PROMPTS[:2], max_new_tokens=12)
    assert texts(found) == texts(plain.complete(PROMPTS[:2], max_new_tokens=12))


def test_a_backend_can_be_pickled(folder):
    twin = pickle.loads(pickle.dumps(VLLMBackend(folder, context=100)))
    assert twin.context == 100 and twin.chat
