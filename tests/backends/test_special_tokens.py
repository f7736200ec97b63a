"""What a model writes besides the text of a query: special tokens, cut characters, NaN."""

import copy
import pickle
import warnings
from pathlib import Path

import chat_templates
import pandas as pd
import pytest
import tiny_llm
import torch
import transformers
from plain_generation import generator
from tokenizers import AddedToken, processors

from pyterrier_inpars import QueryGenerator, QueryLikelihood, Sampling
from pyterrier_inpars.backends.base import Completion, NotANumberError
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend
from pyterrier_inpars.prompts.extraction import log_probs_of, queries_of

PROMPTS = ["the spectrum of a plasma " * n + "\nquery:" for n in (1, 5, 2, 3)]
SAMPLED = Sampling(temperature=1.0)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """A model whose tokenizer has a token that ends a turn, which is no end token."""
    folder = tiny_llm.save(tmp_path_factory.mktemp("chat"), "llama")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken("<end_of_turn>", special=True)], special_tokens=True)
    tokenizer.save_pretrained(folder)
    return HuggingFaceBackend(folder, dtype="float32")


def completed(backend, *texts, cut=0):
    """Returns the completion of a model that writes these texts, one log-probability a token."""
    tokens = [t for text in texts for t in backend.tokenizer(text)["input_ids"]]
    tokens = tokens[: len(tokens) - cut]
    log_probs = [-float(i) for i in range(len(tokens))]
    return backend._completion(tokens, log_probs)


@pytest.mark.parametrize("special", ["<end_of_turn>", "<pad>", "<bos>"])
@pytest.mark.parametrize("end", ["<eos>", "\n", ""])
def test_special_tokens_are_no_part_of_a_query(chat, special, end):
    count = len(chat.tokenizer("noise gain")["input_ids"])
    found = completed(chat, "noise gain", special, end)
    assert found.text == "noise gain"
    assert found.log_probs == [-float(i) for i in range(count)]
    before = completed(chat, special, "noise gain", end)
    assert before.text == "noise gain" and before.log_probs == [-i - 1.0 for i in range(count)]


def test_text_of_special_tokens_written_as_text_stays(chat):
    ids = chat.tokenizer("a <pad> b", split_special_tokens=True)["input_ids"]
    assert chat._completion(ids, [-1.0] * len(ids)).text == "a <pad> b"


TAGS = (
    *("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "[THINK]", "[/THINK]"),
    *("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|channel>", "<channel|>"),
)
QUERY = "plasma noise gain"


@pytest.fixture(scope="module")
def reasoner(tmp_path_factory):
    """A model whose tags of reasoning are special tokens."""
    folder = chat_templates.save(tmp_path_factory.mktemp("reasoner"), chat_templates.QWEN)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = [AddedToken(tag, special=True) for tag in TAGS]
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    return HuggingFaceBackend(folder, dtype="float32")


@pytest.mark.parametrize(
    "reasoning, query",
    [
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>",
            QUERY,
        ),
        ("<|channel|>analysis<|message|>the noise ", None),
        ("[THINK]Okay, a plasma[/THINK]", QUERY),
        ("[THINK]Okay, ", None),
        ("<|START_THINKING|>a plasma<|END_THINKING|><|START_RESPONSE|>", QUERY),
        ("<|channel>thought\na plasma\n<channel|>", QUERY),
        ("<|channel>thought\na plasma ", None),
        ("<|im_start|>", QUERY),
    ],
)
def test_reasoning_between_special_tokens_is_no_query(reasoner, reasoning, query):
    ids = reasoner.tokenizer(reasoning + QUERY + "<|im_end|>")["input_ids"]
    log_probs = [-float(i) for i in range(len(ids))]
    completion = reasoner._completion(ids, log_probs, (), is_chat=True)
    assert len(completion.log_probs) == len(completion.ends)
    found = queries_of(completion.text, None, chat=True)
    assert [q.text for q in found] == [query] * (query is not None)
    for q in found:
        size = len(reasoner.tokenizer(QUERY)["input_ids"])
        assert log_probs_of(completion, q) == log_probs[-1 - size : -1]
    text = reasoner._completion(ids, log_probs, ()).text  # of a text prompt, as before
    assert not any(tag in text for tag in TAGS)


def test_the_tags_of_reasoning_stay_in_the_answers_to_messages_alone(reasoner):
    """The model writes them at random."""
    output = reasoner.model.get_output_embeddings()
    with torch.no_grad():
        output.weight[reasoner.tokenizer.convert_tokens_to_ids("[THINK]")] *= 40
    prompts = [[{"role": "user", "content": p}] for p in PROMPTS]
    answers = reasoner.complete(prompts, max_new_tokens=16, stop=())
    texts = reasoner.complete(PROMPTS, max_new_tokens=16, stop=())
    assert any("[THINK]" in answer.text for answer in answers)
    assert not any("[THINK]" in answer.text for answer in texts)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_character_cut_at_the_limit_is_dropped(chat, cut):
    whole = completed(chat, "gain ", "😀")
    assert whole.text == "gain 😀" and len(chat.tokenizer("😀")["input_ids"]) == 4
    found = completed(chat, "gain ", "😀", cut=cut)
    assert found.text == "gain" and found.finish_reason == "length"
    assert len(found.log_probs) == len(chat.tokenizer("gain ")["input_ids"])


@pytest.mark.parametrize("template", ["$A <eos>", "<bos> $A <eos>"])
def test_an_end_token_that_the_tokenizer_appends_is_no_part_of_the_prompt(tmp_path, template):
    plain = HuggingFaceBackend(tiny_llm.save(tmp_path / "plain", "llama"), dtype="float32")
    folder = tiny_llm.save(tmp_path / "ends", "llama")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<eos>", 1), ("<bos>", 2)]
    )
    tokenizer.save_pretrained(folder)
    ends = HuggingFaceBackend(folder, dtype="float32")
    assert ends.tokenizer("a")["input_ids"][-1] == 1
    begin = [2] * template.startswith("<bos>")
    assert ends._encode(PROMPTS, 0) == [begin + ids for ids in plain._encode(PROMPTS, 0)]
    if not begin:
        assert ends.complete(PROMPTS) == plain.complete(PROMPTS)
        rests = [" noise"] * len(PROMPTS)
        assert ends.log_likelihood(PROMPTS, rests) == plain.log_likelihood(PROMPTS, rests)


@pytest.fixture
def with_nan(tmp_path):
    """A model with one row of NaN in its output layer, in float16 as such models come."""
    folder = Path(tiny_llm.save(tmp_path, "llama"))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.lm_head.weight.data[7] = torch.nan
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nan_logits_are_an_error_that_names_model_dtype_and_document(with_nan, dtype):
    frame = pd.DataFrame({"docno": ["d1", "d2"], "text": ["a plasma", "the noise of a receiver"]})
    where = rf"{with_nan}' in {dtype} computed NaN .* at docno 'd2'.*float32"
    stage = generator(with_nan, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no word of masks
        with pytest.raises(NotANumberError, match=where):
            stage(frame)
    pairs = frame.assign(qid=["1", "2"], query="noise")
    with pytest.raises(NotANumberError, match=r"NaN .* at qid '2', docno 'd2'"):
        QueryLikelihood(with_nan, dtype=dtype)(pairs)


def test_nan_of_any_backend_is_an_error(model):
    class Diverged:
        tokenizer, context = None, None

        def describe(self):
            return {"model": "diverged"}

        def complete(self, prompts, **options):
            return [Completion("a query", [-1.0, float("nan")], "stop") for _ in prompts]

    with pytest.raises(NotANumberError, match="Diverged.* NaN .* docno 'd'"):
        QueryGenerator(Diverged())(pd.DataFrame({"docno": ["d"], "text": ["x"]}))


class TestCopies:
    FRAME = pd.DataFrame({"docno": ["d1", "d2"], "text": ["a plasma", "the noise of a receiver"]})

    @pytest.mark.parametrize("copied", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy])
    def test_used_stages_can_be_pickled_and_copied(self, llama, copied):
        queries = generator(llama)
        scored = QueryLikelihood(llama, dtype="float32")
        pairs = self.FRAME.assign(qid=["1", "2"], query="noise gain")
        for stage, frame in ((queries, self.FRAME), (scored, pairs)):
            expected = stage(frame)
            other = copied(stage)
            assert repr(other) == repr(stage)
            pd.testing.assert_frame_equal(other(frame), expected)
            pd.testing.assert_frame_equal(stage(frame), expected)  # the original still works

    def test_a_pickle_holds_no_weights(self, llama):
        stage = generator(llama)
        fresh = len(pickle.dumps(stage))
        stage(self.FRAME)
        assert len(pickle.dumps(stage)) < fresh + 100


@pytest.fixture(scope="module")
def neo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("neo")
    torch.manual_seed(1)
    config = transformers.GPTNeoConfig(
        vocab_size=400,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["local"], 2]],
        window_size=32,
        max_position_embeddings=512,
        bos_token_id=2,
        eos_token_id=1,
    )
    model = transformers.GPTNeoForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    model.save_pretrained(folder)
    tiny_llm.tokenizer().save_pretrained(folder)
    return str(folder)


class TestLocalAttention:
    def test_the_check_is_longer_than_the_window(self, neo):
        """Although the first prompts are shorter."""
        backend = HuggingFaceBackend(neo, dtype="float32")
        with pytest.warns(UserWarning, match="GPTNeoForCausalLM accepts no explicit attention"):
            backend.complete(["the noise", "a plasma"], max_new_tokens=2)
        assert backend._supports_masks is False
        found = [c.log_probs for c in backend.complete(PROMPTS, max_new_tokens=12)]
        for prompt, log_probs in zip(PROMPTS, found, strict=True):
            alone = HuggingFaceBackend(neo, dtype="float32")
            alone._supports_masks = False
            assert alone.complete([prompt], max_new_tokens=12)[0].log_probs == pytest.approx(
                log_probs, abs=1e-4
            )

    def test_the_check_computes_in_float32(self, neo):
        backend = HuggingFaceBackend(neo, dtype="bfloat16")
        dtypes = {name: t.dtype for name, t in backend.model.state_dict().items()}
        with pytest.warns(UserWarning, match="no explicit attention masks"):
            backend.complete(["the noise"], max_new_tokens=2)
        assert {name: t.dtype for name, t in backend.model.state_dict().items()} == dtypes

    @pytest.mark.parametrize("kind", ["bloom", "mamba"])
    def test_the_fallback_says_so_once(self, tmp_path, kind):
        backend = HuggingFaceBackend(tiny_llm.save(tmp_path, kind), dtype="float32")
        with pytest.warns(UserWarning) as caught:
            backend.complete(PROMPTS, max_new_tokens=2)
            backend.complete(PROMPTS, max_new_tokens=2)
        assert ["one at a time" in str(w.message) for w in caught].count(True) == 1

    def test_the_fallback_computes_each_token_once_where_the_model_has_a_cache(self, tmp_path):
        backend = HuggingFaceBackend(tiny_llm.save(tmp_path, "bloom"), dtype="float32")
        backend._supports_masks = False
        fed = []
        backend.model.register_forward_pre_hook(
            lambda module, args, options: fed.append(options["input_ids"].shape[1]),
            with_kwargs=True,
        )
        (found,) = backend.complete([PROMPTS[1]], max_new_tokens=9)
        tokens = len(backend.tokenizer(PROMPTS[1])["input_ids"])
        assert fed[0] == tokens and set(fed[1:]) <= {1}
        sampled = backend.complete(
            PROMPTS[:1], max_new_tokens=6, num_samples=3, seeds=[1, 2, 3], sampling=SAMPLED
        )
        for n, seed in enumerate([1, 2, 3]):  # the caches of samples are their own
            (alone,) = backend.complete(
                PROMPTS[:1], max_new_tokens=6, seeds=[seed], sampling=SAMPLED
            )
            assert alone.text == sampled[n].text
