"""Drafts of tokens: the same completions in fewer forward passes."""

import numpy as np
import pytest
import tiny_llm

from pyterrier_inpars.backends import huggingface
from pyterrier_inpars.backends._drafts import draft
from pyterrier_inpars.backends._kv_cache import SharedPrefixCache
from pyterrier_inpars.backends.base import Sampling
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend

PROMPTS = ["the spectrum of a plasma " * n + "\nquery:" for n in (1, 5, 2, 3, 1)]


@pytest.mark.parametrize(
    "tokens, count, expected",
    [
        ([1, 2, 3, 4, 5, 1, 2, 3], 2, [4, 5]),
        ([1, 2, 3, 4, 5, 1, 2, 3], 7, [4, 5, 1, 2, 3, 4, 5]),  # it continues with itself
        ([9, 2, 3, 4, 1, 2, 3, 5, 7, 2, 3], 1, [5]),  # the last of two occurrences
        ([1, 2, 3, 4, 7, 2, 3, 5, 1, 2, 3], 1, [4]),  # three equal tokens before two
        ([6, 6, 6], 3, [6, 6, 6]),
        ([6, 6], 3, []),
        ([1, 2, 3, 4], 3, []),
        ([6, 6, 6], 0, []),
        ([], 3, []),
    ],
)
def test_draft(tokens, count, expected):
    assert draft(tokens, count) == expected


def endless(folder, kind):
    """A backend whose completions end at the token limit."""
    backend = HuggingFaceBackend(tiny_llm.save(folder, kind), dtype="float32", batch_size=4)
    vars(backend)["_end_tokens"] = set()
    return backend


class TestCompletions:
    @pytest.fixture
    def passes(self, monkeypatch):
        """Numbers of tokens that forward passes were given, row by row."""
        passes = []
        forward = SharedPrefixCache.forward

        def counted(self, tokens):
            passes.append([len(row) for row in tokens])
            return forward(self, tokens)

        monkeypatch.setattr(SharedPrefixCache, "forward", counted)
        return passes

    @pytest.mark.parametrize("kind", ["gemma3", "llama", "gpt2", "bloom"])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"sampling": Sampling(temperature=0.3), "seeds": range(10), "num_samples": 2},
            {"sampling": Sampling(temperature=0.5, top_p=0.9), "seeds": range(5)},
        ],
        ids=["greedy", "two samples", "nucleus"],
    )
    @pytest.mark.filterwarnings("ignore:.*accepts no explicit attention masks")
    def test_they_are_the_same(self, kind, options, tmp_path, monkeypatch, passes):
        options = {"prefix": "the spectrum", "max_new_tokens": 40, "stop": (), **options}
        found = []
        for tokens in (0, 16, 50):
            monkeypatch.setattr(huggingface, "DRAFT_TOKENS", tokens)
            backend = endless(tmp_path, kind)
            backend.complete(PROMPTS, prefix="the spectrum", max_new_tokens=1)
            passes.clear()
            found.append(backend.complete(PROMPTS, **options))
            assert all(sum(row) <= max(tokens, len(row)) for row in passes)
            drafts = sum(sum(row) - len(row) for row in passes)
            assert bool(drafts) == (tokens > 0 and kind != "bloom")
        for other in found[1:]:
            assert [c.text for c in other] == [c.text for c in found[0]]
            assert [c.finish_reason for c in other] == [c.finish_reason for c in found[0]]
            for a, b in zip(other, found[0], strict=True):
                np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-4)

    @pytest.mark.parametrize("kind", ["gemma3", "llama"])
    def test_a_stop_string_ends_them_within_a_draft_too(self, kind, tmp_path, monkeypatch):
        backend = endless(tmp_path, kind)
        options = {"max_new_tokens": 40}
        (whole,) = backend.complete(PROMPTS[:1], stop=(), **options)
        stops = list(dict.fromkeys(whole.text[i : i + 2] for i in range(4, len(whole.text) - 1)))
        for stop in stops[:12]:
            found = []
            for tokens in (0, 16):
                monkeypatch.setattr(huggingface, "DRAFT_TOKENS", tokens)
                (completion,) = backend.complete(PROMPTS[:1], stop=[stop], **options)
                found.append((completion.text, completion.finish_reason, len(completion.log_probs)))
            assert found[0] == found[1] and found[0][1] == "stop"

    def test_a_repetition_takes_fewer_passes(self, tmp_path, passes):
        backend = endless(tmp_path, "llama")
        backend.model.lm_head.weight = backend.model.model.embed_tokens.weight
        (found,) = backend.complete(PROMPTS[:1], max_new_tokens=60, stop=())
        assert len(found.log_probs) == 60
        assert len(passes) < 60 / 2

    def test_the_context_may_be_full(self, tmp_path):
        """A draft beyond the token limit would have positions that the model does not have."""
        backend = endless(tmp_path, "gpt2")
        prompt = PROMPTS[0]
        most = backend.context - len(backend.tokenizer(prompt)["input_ids"])
        (found,) = backend.complete([prompt], max_new_tokens=most, stop=())
        assert found.finish_reason == "length"
