"""Backends with pyterrier_rag's ``generate`` serve as they are, and what they give is checked."""

from dataclasses import dataclass

import pytest
import tiny_llm
import torch
from test_generation import check, documents, generator, plainly
from transformers import AutoModelForCausalLM, AutoTokenizer


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
