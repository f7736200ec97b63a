"""Backends of pyterrier_rag: their queries, and checks of what they return."""

import types
from dataclasses import dataclass

import pytest
import torch
from plain_generation import check, documents, generator, plainly
from transformers import AutoModelForCausalLM, AutoTokenizer

from pyterrier_inpars import QueryGenerator, SyntheticQueries
from pyterrier_inpars.backends.base import PromptError
from pyterrier_inpars.backends.base import Sampling as Greedy
from pyterrier_inpars.backends.pyterrier_rag import PyTerrierRagBackend


@dataclass
class Output:
    text: str | None
    logprobs: list | None = None


class Completions:
    """A tiny language model behind the interface of a completion API: top candidates by text."""

    model_id = "tiny"

    def __init__(self, llama):
        self.llm = AutoModelForCausalLM.from_pretrained(llama).eval()
        self.tokenizer_ = AutoTokenizer.from_pretrained(llama)

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


def ascii_rows(rows):
    return [row for row in rows if row[1].isascii()]  # a part of a character has no text


def test_a_pyterrier_rag_backend_generates_the_same_queries(llama):
    frame = documents(40)
    found = generator(Completions(llama))(frame)
    kept = found[found["query"].map(str.isascii)].reset_index(drop=True)
    expected = ascii_rows(plainly(llama, frame))
    assert len(expected) > 3
    check(kept, expected)


class Fixed:
    """A backend with fixed outputs, such as those of a failing service."""

    def __init__(self, *outputs):
        self.outputs = list(outputs)

    def generate(self, inps, *, return_logprobs, max_new_tokens, stop_sequences):
        return self.outputs

    def __repr__(self):
        return "Fixed()"


@pytest.mark.parametrize(
    "outputs, error, message",
    [
        ([Output("ERROR::other")], PromptError, "failed at docno 'd0': Fixed.*'ERROR::other'"),
        ([Output(7)], PromptError, "failed at docno 'd0': Fixed"),
        ([], RuntimeError, "returned 0 outputs for 1 prompts"),
    ],
)
def test_invalid_outputs_raise_errors(outputs, error, message):
    with pytest.raises(error, match=message):
        generator(Fixed(*outputs))(documents(1))


class Answers:
    """A backend that answers each prompt by a function of its document."""

    def __init__(self, answer, **attributes):
        self.answer, self.sizes = answer, []
        vars(self).update(attributes)

    def generate(self, inps, *, return_logprobs, max_new_tokens, stop_sequences):
        self.sizes.append(len(inps))
        return [Output(self.answer(prompt)) for prompt in inps]

    def __repr__(self):
        return "Answers()"


@pytest.mark.parametrize(
    "attributes, sizes",
    [({}, [16, 16, 8]), ({"batch_size": 30}, [30, 10]), ({"batch_size": None}, [16, 16, 8])],
)
def test_a_call_has_a_batch_of_prompts(attributes, sizes):
    """Since a model in this process computes all prompts of a call together."""
    backend, counts = Answers(lambda prompt: "a b", **attributes), []
    found = PyTerrierRagBackend(backend).complete(
        ["prompt"] * 40,
        prefix="",
        max_new_tokens=9,
        sampling=Greedy(),
        num_samples=1,
        seeds=[0] * 40,
        progress=counts.append,
    )
    assert backend.sizes == counts == sizes and len(found) == 40


@pytest.mark.parametrize("text", ["ERROR::response_filtered", "ERROR::reduce_length", None])
def test_a_prompt_that_is_refused_alone_loses_no_other(tmp_path, text):
    frame = documents(40)
    frame["text"] = frame["docno"] + " " + frame["text"]
    backend = Answers(lambda prompt: text if "d23 " in prompt else "a b")
    queries = SyntheticQueries(tmp_path / "queries")
    with pytest.warns(UserWarning, match="failed at docno 'd23': Answers.. returned"):
        (generator(backend) >> queries).index(frame.to_dict("records"))
    assert len(queries) == 39 and queries.failed["docno"].tolist() == ["d23"]
    assert queries.status.unanswered == 0


def test_a_call_that_fails_is_an_error_at_its_document():
    frame = documents(40)
    frame["text"] = frame["docno"] + " " + frame["text"]
    backend = Answers(lambda prompt: "ERROR::other" if "d23 " in prompt else "a b")
    with pytest.raises(PromptError, match="failed at docno 'd23': Answers.*ERROR::other"):
        generator(backend)(frame)
    assert backend.sizes == [16, 16]


def test_refusals_without_an_answer_are_an_error_of_the_run(tmp_path):
    backend = Answers(lambda prompt: "ERROR::reduce_length")
    pipeline = generator(backend) >> SyntheticQueries(tmp_path / "queries")
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="no prompt was answered"):
        pipeline.index(documents(3).to_dict("records"))


@pytest.mark.parametrize(
    "candidates", [None, [{"x": -1.0}], [{"a": -1.0}], [None, None], [], [{"a b": -1.0}, None]]
)
def test_without_the_log_probs_of_all_tokens_there_is_no_score(candidates):
    found = generator(Fixed(Output("a b", candidates)))(documents(1))
    assert found["query"].tolist() == ["a b"]
    assert "score" not in found and "log_probs" not in found


def test_outputs_may_have_a_text_only():
    found = generator(Fixed(types.SimpleNamespace(text="a b")))(documents(1))
    assert found["query"].tolist() == ["a b"] and "score" not in found


class Chat(Fixed):
    """A chat model without log-probabilities."""

    supports_message_input, supports_logprobs = True, False

    def generate(self, inps, *, return_logprobs, max_new_tokens, stop_sequences):
        assert not return_logprobs and stop_sequences is None  # a server may refuse an empty list
        self.inps = inps
        return self.outputs


def test_objects_that_take_messages_get_the_chat_prompt():
    backend = Chat(Output("<think>so</think>a b"))
    found = QueryGenerator(backend)(documents(1))
    assert found["query"].tolist() == ["a b"]
    assert [message["role"] for message in backend.inps[0]][-1] == "user"


def test_the_log_probs_of_an_extracted_query():
    candidates = [{" so": -2.0}, {" the": -1.0}, {" cat": -0.2}]
    stage = generator(Fixed(Output(" so the cat", candidates)), extract="so")
    found = stage(documents(1))
    assert found["query"][0] == "the cat" and found["log_probs"][0] == [-1.0, -0.2]


def test_generated_tokens_are_found_among_the_candidates():
    candidates = [{"th": -2.0, "the": -1.0, "x": -0.5}, {" cat": -0.2}, {"\n": -0.1}]
    found = generator(Fixed(Output("the cat\n", candidates)))(documents(1))
    assert found["query"][0] == "the cat"
    assert found["log_probs"][0] == [-1.0, -0.2]
    assert found["finish_reason"][0] == "stop"


def test_sampling_is_refused():
    with pytest.raises(ValueError, match="not passed on to Fixed"):
        generator(Fixed(), sampling={"temperature": 0.7})(documents(1))


class Sampling(Fixed):
    """A backend that samples by its own arguments, as those of pyterrier_rag do by default."""

    model_id = "m"

    def __init__(self, *outputs, **arguments):
        super().__init__(*outputs)
        self._generation_args = arguments


def test_settings_have_the_arguments_of_the_object_and_claim_no_others():
    secret = {"api_key": "sk-1", "extra_headers": {"Authorization": "sk-2"}, "stop": object()}
    settings = generator(Sampling(temperature=1.0, max_tokens=9, **secret)).settings()
    assert (settings["temperature"], settings["top_p"], settings["seed"]) == (1.0, None, None)
    assert settings["generation_args"] == {"temperature": 1.0, "max_tokens": 9, "stop": "object"}
    assert "sk-" not in str(settings) and "0x" not in str(settings)
    assert generator(Fixed()).settings()["temperature"] is None
    assert "greedy" not in generator(Fixed())._repr_html_()


def test_settings_have_no_secrets_at_any_depth():
    public = {
        **{"max_tokens": 9, "max_new_tokens": 8, "min_tokens": 1, "max_completion_tokens": 7},
        **{"stop_token_ids": [3], "pad_token_id": 0, "tokenizer": "t", "logprobs": 5},
    }
    secret = {
        **{"hf_token": "SECRET", "token": "SECRET", "bearer": "SECRET", "passwd": "SECRET"},
        "extra_body": {"x_token": "SECRET", "top_k": 5},
        "tools": [{"type": "mcp", "headers": {"Authorization": "Bearer SECRET"}}],
        "parts": ({"accessToken": "SECRET", "n": 1}, [{"Cookie": "SECRET"}]),
    }
    settings = generator(Sampling(**public, **secret)).settings()
    assert "SECRET" not in str(settings)
    assert settings["generation_args"] == {
        **public,
        "extra_body": {"top_k": 5},
        "tools": [{"type": "mcp"}],
        "parts": [{"n": 1}, [{}]],
    }


@pytest.mark.parametrize("given", [object(), [1, 2], "greedy"])
def test_arguments_that_are_no_mapping(given):
    backend = Sampling()
    backend._generation_args = given
    settings = generator(backend).settings()
    assert settings["temperature"] is None
    assert settings["generation_args"] == ("object" if type(given) is object else given)


def test_a_notebook_shows_the_sampling_of_the_object():
    assert "temperature=0.7<" in generator(Sampling(temperature=0.7))._repr_html_()
    assert "greedy" in generator(Sampling(temperature=0))._repr_html_()


def test_the_seed_that_draws_types_is_in_the_settings():
    prompts = {"a": "question", "b": "keywords"}
    stage = QueryGenerator(Chat(), prompt=prompts, types="one", sampling={"seed": 3})
    assert stage.settings()["seed"] == 3


def test_a_run_does_not_resume_with_another_temperature(tmp_path):
    output = Output("a b c")
    queries = SyntheticQueries(tmp_path / "q", shard_size=1)
    corpus = documents(2).to_dict("records")
    with pytest.raises(RuntimeError):  # one output for the first document, none for the second
        (generator(Once(output, temperature=1.0)) >> queries).index(corpus, batch_size=1)
    with pytest.raises(ValueError, match=r"temperature: was 1\.0, is 0\.5"):
        (generator(Once(output, temperature=0.5)) >> queries).index(corpus, batch_size=1)


class Once(Sampling):
    """A backend that answers one batch."""

    def generate(self, inps, *, return_logprobs, max_new_tokens, stop_sequences):
        outputs, self.outputs = self.outputs, []
        return outputs
