"""KV caches with a shared prefix: sequences in a batch get the logits they get alone."""

import numpy as np
import pytest
import tiny_llm
import torch
from transformers import AutoModelForCausalLM

from pyterrier_inpars.backends import _kv_cache
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend

PROMPTS = ["the spectrum of a plasma " * n + "\nquery:" for n in (1, 5, 2, 3)]


class TestSharedPrefixCache:
    """Sequences that are added, removed and moved, compared with each one alone."""

    @pytest.fixture(params=["own", "shared"])
    def llm(self, request, tmp_path):
        """A model with sliding windows, with its own attention or the package's."""
        backend = HuggingFaceBackend(tiny_llm.save(tmp_path, "gemma3"), dtype="float32")
        backend.complete(PROMPTS, prefix="the spectrum", max_new_tokens=1)
        assert backend.model.config._attn_implementation == _kv_cache.ATTENTION
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
    def test_sequences_get_the_logits_they_get_alone(self, llm, prefix, piece, monkeypatch):
        monkeypatch.setattr(_kv_cache, "PREFILL_TOKENS", piece)
        rng = np.random.default_rng(1)

        def some(*counts):
            return [rng.integers(10, 400, count).tolist() for count in counts]

        def check(batch, rows, new):
            logits = batch.forward(new)
            for i, (row, tokens) in enumerate(zip(rows, new, strict=True)):
                row += tokens
                expected = self.alone(llm, row)[-len(tokens) :]
                torch.testing.assert_close(logits[i, : len(tokens)], expected, atol=1e-3, rtol=1e-3)

        batch = _kv_cache.SharedPrefixCache(llm, 6, 40, _kv_cache.prefilled(llm, prefix))
        first = some(17, 3, 8, 1)
        batch.prefill(first)
        rows = [prefix + row for row in first]
        check(batch, rows, some(1, 1, 1, 1))
        batch.select([0, 3, 2])  # the last takes the place of the second
        rows = [rows[0], rows[3], rows[2]]
        check(batch, rows, some(1, 1, 1))
        second = some(0, 12)
        batch.prefill(second)
        rows += [prefix + row for row in second]
        check(batch, rows, some(2, 1, 4, 1, 3))
        batch.select([1, 0, 4, 4, 4, 3])
        rows = [list(rows[i]) for i in (1, 0, 4, 4, 4, 3)]
        check(batch, rows, some(1, 1, 1, 1, 1, 1))


class TestRestrictedVocabulary:
    """The check of the masks uses some rows of the embeddings and of the output layer."""

    TOKENS = [399, 350, 398]

    @pytest.fixture(params=[True, False], ids=["tied", "untied"])
    def llm(self, request, tmp_path):
        path = tiny_llm.save(tmp_path, "llama")
        llm = AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval()
        llm.model.embed_tokens.padding_idx = 397  # above all numbers of the restricted vocabulary
        if request.param:
            llm.lm_head.weight = llm.model.embed_tokens.weight
        with torch.inference_mode():
            yield llm

    def test_logits_are_those_of_the_kept_tokens(self, llm):
        expected = llm(input_ids=torch.tensor([self.TOKENS])).logits
        with _kv_cache._restricted_vocabulary(llm, self.TOKENS) as numbers:
            ids = torch.tensor([[numbers[token] for token in self.TOKENS]])
            found = llm(input_ids=ids).logits
        assert found.shape[-1] == 256 + 3
        torch.testing.assert_close(found[..., :256], expected[..., :256])
        for token, number in numbers.items():
            torch.testing.assert_close(found[..., number], expected[..., token])

    def test_the_model_is_left_as_it_was(self, llm):
        """Its weights are not even copied, also after an error."""
        before = {name: weight.data_ptr() for name, weight in llm.named_parameters()}
        with pytest.raises(OSError), _kv_cache._restricted_vocabulary(llm, self.TOKENS):
            assert len(llm.lm_head.weight) == 256 + 3
            raise OSError
        assert {name: weight.data_ptr() for name, weight in llm.named_parameters()} == before
        assert llm.model.embed_tokens.padding_idx == 397

    def test_other_embeddings_stay(self, llm):
        llm.lm_head = torch.nn.Linear(32, 300)  # not one row for each token
        with _kv_cache._restricted_vocabulary(llm, self.TOKENS) as numbers:
            assert numbers == {token: token for token in self.TOKENS}
            assert len(llm.model.embed_tokens.weight) == 400
