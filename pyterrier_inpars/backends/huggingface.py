"""Causal language models of transformers, with the static part of the prompt computed once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_inpars._compute.cpu_linear import pack_linear
from pyterrier_inpars._compute.devices import best_device, best_dtype, is_int8, quantize
from pyterrier_inpars._stage import positive_int
from pyterrier_inpars.backends._kv_cache import (
    SharedPrefixCache,
    UncachedBatch,
    log_probs,
    next_tokens,
    prefilled,
    supports_masks,
)
from pyterrier_inpars.backends.base import GREEDY, NEWLINE, Completion, Sampling

if TYPE_CHECKING:
    import torch


REFILL = 1 / 4
"""Share of the rows that must be free before others take their places."""
MOST_LOGITS = 2**28
"""Most numbers that a batch of scored continuations has as logits: 1 GiB in float32."""


class HuggingFaceBackend:
    """Completes prompts with any causal language model that transformers loads.

    The prompts of a collection differ only in their last part, so the keys and values of the shared
    prefix are computed once and serve every batch (see `SharedPrefixCache`). A completion that has
    ended leaves the batch. Once a quarter of the batch is free, the next prompts take those places,
    longest first. On a CPU, the weights are packed for the processor on first use (see `pack`),
    after which the model can only be run here.

    Models whose attention does not take such masks (with ALiBi, say) are found out by comparing
    both ways on the first two prompts, and run prompt by prompt.

    Args:
        model: name on the Hugging Face hub, local folder, or ``.gguf`` file.
        revision: branch, tag or commit on the hub.
        batch_size: completions computed together; 64 if None.
        dtype: ``"auto"`` (bfloat16 where the processor has it), ``"float32"``, ``"bfloat16"``,
            ``"float16"``, a ``torch.dtype``, or ``"int8"``: weights of one byte, computed with as
            by ``"auto"``, except the last layer's, which chooses the tokens.
        compile: compile the model with ``torch.compile`` when it is first used, which takes a
            minute and a C++ compiler on a CPU.
        device: where the model runs; None is the best there is.
        trust_remote_code: run code that comes with the model.

    Raises:
        ValueError: (on first use) the model cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        batch_size: int | None = None,
        dtype: str | torch.dtype = "auto",
        compile: bool = False,
        device: str | torch.device | None = None,
        trust_remote_code: bool = False,
    ):
        self.name = str(model)
        self.revision = revision
        self.batch_size = positive_int("batch_size", 64 if batch_size is None else batch_size)
        self._dtype = dtype
        self._compile = compile
        self._device = device
        self._hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        self._supports_masks: bool | None = None  # found out on first use
        self._prefix: tuple[Sequence[int], SharedPrefixCache | None] = ((), None)

    @functools.cached_property
    def device(self) -> torch.device:
        return best_device(self._device)

    @functools.cached_property
    def dtype(self) -> torch.dtype:
        return best_dtype(self._dtype, self.device)

    @functools.cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return self._load(AutoTokenizer)

    @functools.cached_property
    def model(self) -> Any:
        from transformers import AutoModelForCausalLM

        model, report = self._load(AutoModelForCausalLM, dtype=self.dtype, output_loading_info=True)
        if missing := sorted(report["missing_keys"]):  # transformers makes them up
            raise ValueError(
                f"{self.name!r} is no causal language model, or not all of one: it has no weights "
                f"for {missing[0]}" + f" and {len(missing) - 1} more" * (len(missing) > 1)
            )
        model = model.eval()
        if is_int8(self._dtype):
            quantize(model, self.dtype, keep=[model.get_output_embeddings()])
        model = model.to(self.device)
        if self._compile:
            model.compile(dynamic=True)  # of any number of rows and tokens
        return model

    @functools.cached_property
    def context(self) -> int | None:
        """Most tokens of a prompt and its completion together; None where there is no limit."""
        config = self.model.config.get_text_config()  # beside one for images, say
        return getattr(config, "max_position_embeddings", None)

    def describe(self) -> dict[str, Any]:
        """What decides the output: model, revision, precision, versions."""
        import torch
        import transformers

        return {
            "model": self.name,
            "revision": getattr(self.model.config, "_commit_hash", None) or self.revision,
            "dtype": str(self.dtype).removeprefix("torch."),
            **({"weights": "int8"} if is_int8(self._dtype) else {}),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }

    def complete(
        self,
        prompts: Sequence[str],
        *,
        prefix: str = "",
        max_new_tokens: int = 64,
        sampling: Sampling = GREEDY,
        progress: Callable[[int], object] = lambda completions: None,
    ) -> list[Completion]:
        """Completes each prompt up to a newline, the model's end token, or the limit.

        Args:
            prompts: whole prompts.
            prefix: text that they all begin with. Tokens may merge across its end; as many tokens
                are shared as the tokenised prompts really have in common with it.
            max_new_tokens: most tokens in a completion.
            sampling: how tokens are chosen.
            progress: called with 1 for each completion that has ended.

        Returns:
            ``sampling.num_samples`` completions for each prompt, in the order of the prompts.

        Raises:
            ValueError: a prompt and its completion are longer than the model's context.
        """
        import torch

        if not prompts:
            return []
        ids = [self._encode(prompt, max_new_tokens) for prompt in prompts]
        prefix_ids = self._encode(prefix, max_new_tokens)
        prefix_ids = prefix_ids[: _shared(prefix_ids, ids)]
        completions: dict[int, Completion] = {}
        with torch.inference_mode():
            for row in self._write(prefix_ids, ids, max_new_tokens, sampling):
                completions[row.number] = self._completion(row)
                progress(1)
        return [completions[number] for number in range(len(completions))]

    def log_likelihood(
        self,
        prompts: Sequence[str],
        continuations: Sequence[str],
        *,
        prefix: str = "",
        progress: Callable[[int], object] = lambda pairs: None,
    ) -> list[list[float]]:
        """How likely the model holds each continuation after its prompt, token by token.

        Prompt and continuation are tokenised as one text. The continuation's tokens are those after
        the part that this text shares with the prompt tokenised alone: a token that holds the end
        of the prompt too counts as the continuation's. A text's first token follows nothing and is
        not counted.

        Args:
            prompts: whole prompts.
            continuations: the text after each, with the space that it may begin with.
            prefix: text that all prompts begin with; see `complete`.
            progress: called with the number of pairs after each batch.

        Returns:
            Natural log-probabilities of each continuation's tokens, in the order of the prompts;
            none for an empty continuation.

        Raises:
            ValueError: a prompt and its continuation are longer than the model's context, or there
                are not as many continuations as prompts.
        """
        import torch

        ids, starts = [], []
        for prompt, continuation in zip(prompts, continuations, strict=True):
            ids.append(self._encode(prompt + continuation, 0))
            starts.append(max(1, _in_common(self._encode(prompt, 0), ids[-1])))
        counts = [max(0, len(row) - start) for row, start in zip(ids, starts, strict=True)]
        scored = [i for i, count in enumerate(counts) if count]
        progress(len(ids) - len(scored))
        likelihoods: list[list[float]] = [[] for _ in ids]
        if not scored:
            return likelihoods
        prefix_ids = self._encode(prefix, 0)
        prefix_ids = prefix_ids[: _shared(prefix_ids, [ids[i][: starts[i]] for i in scored])]
        scored.sort(key=lambda i: len(ids[i]), reverse=True)
        with torch.inference_mode():
            self._check_masks(prefix_ids, ids[scored[0]])
            for batch in self._scoring_batches(scored, counts):
                rows, last = [ids[i] for i in batch], [counts[i] for i in batch]
                longest = len(rows[0]) + max(last)  # with padding
                reading, begin = self._reading(prefix_ids, len(rows), longest)
                found = log_probs(reading, [row[begin:] for row in rows], last)
                for i, values in zip(batch, found, strict=True):
                    likelihoods[i] = values
                progress(len(batch))
        return likelihoods

    # -- text and tokens ---------------------------------------------------------------------

    def _load(self, auto_class: Any, **options: Any) -> Any:
        path = Path(self.name)
        source = self.name
        if path.suffix == ".gguf":
            source, options = str(path.parent), {**options, "gguf_file": path.name}
        try:
            return auto_class.from_pretrained(source, **self._hub, **options)
        except Exception as error:  # a damaged file can raise anything
            raise ValueError(
                f"no causal language model can be loaded from {self.name!r}: give a name on the "
                f"Hugging Face hub, a folder or a .gguf file ({error})"
            ) from error

    def _encode(self, text: str, max_new_tokens: int) -> list[int]:
        # a special token written out in a document is text like any other
        ids = self.tokenizer(text, split_special_tokens=True)["input_ids"]
        if self.context is not None and len(ids) + max_new_tokens > self.context:
            raise ValueError(
                f"a prompt of {len(ids)} tokens and {max_new_tokens} new ones do not fit into the "
                f"{self.context} positions of {self.name}: lower max_doc_tokens or max_new_tokens"
            )
        return ids

    @functools.cached_property
    def _end_tokens(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        ends = set(ends) if isinstance(ends, list) else {ends}
        return (ends | {self.tokenizer.eos_token_id}) - {None}

    @functools.cached_property
    def _ends(self) -> Callable[[int], bool]:
        """Whether a token ends a query: the model's end token, or any whose text has a newline."""
        return functools.cache(
            lambda token: token in self._end_tokens or NEWLINE in self.tokenizer.decode([token])
        )

    def _completion(self, row: _Row) -> Completion:
        ended = self._ends(row.tokens[-1])
        tokens, log_probs = row.tokens, row.log_probs
        if ended and not self._written(tokens[-1]):
            tokens, log_probs = tokens[:-1], log_probs[:-1]
        text = self.tokenizer.decode(tokens).split(NEWLINE)[0].strip()
        return Completion(text, log_probs, "stop" if ended else "length")

    def _written(self, end: int) -> bool:
        """Whether a token that ends a query has a part before the newline, as ``?`` and newline."""
        text = self.tokenizer.decode([end])
        return end not in self._end_tokens and bool(text.split(NEWLINE)[0].strip())

    # -- the model ---------------------------------------------------------------------------

    def _scoring_batches(self, order: list[int], counts: list[int]) -> Iterator[list[int]]:
        """The pairs in their order, so many together that their logits do not fill the memory."""
        most = max(1, MOST_LOGITS // self.model.config.get_text_config().vocab_size)
        batch: list[int] = []
        for i in order:
            longest = max(counts[j] for j in [*batch, i])
            if batch and (len(batch) == self.batch_size or (len(batch) + 1) * longest > most):
                yield batch
                batch = []
            batch.append(i)
        yield batch

    def _check_masks(self, prefix: list[int], ids: list[int]) -> None:
        """Finds out, on first use, whether the model takes explicit masks, and makes it ready."""
        if self._supports_masks is None:
            rest = ids[len(prefix) :]
            self._supports_masks = supports_masks(
                self.model, prefix, [rest, rest[len(rest) // 2 :]]
            )
            if self._supports_masks and not self._compile:
                pack_linear(self.model)

    def _reading(
        self, prefix: list[int], rows: int, longest: int
    ) -> tuple[SharedPrefixCache | UncachedBatch, int]:
        """A reading for so many rows of so many tokens, and how many of these it has read before.

        The prefix is read once and kept for more readings.
        """
        if not self._supports_masks:
            return UncachedBatch(self.model), 0
        if self._prefix[0] != prefix:
            self._prefix = (prefix, prefilled(self.model, prefix))
        return SharedPrefixCache(self.model, rows, longest - len(prefix), self._prefix[1]), len(
            prefix
        )

    def _write(
        self, prefix: list[int], ids: list[list[int]], max_new_tokens: int, sampling: Sampling
    ) -> Iterator[_Row]:
        """Writes on after each prompt until the texts have ended; gives each that has.

        As rows end, others take their place, those with the longest prompts first, so that rows
        together are of like length. The last token of a prompt is read with the first step.
        """
        waiting = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        self._check_masks(prefix, ids[waiting[-1]])
        samples = sampling.num_samples
        most = max(1, min(len(ids), self.batch_size // samples))
        longest = len(ids[waiting[-1]]) + max_new_tokens
        reading, begin = self._reading(prefix, most * samples, longest)
        rows: list[_Row] = []
        while waiting or rows:
            free = most - -(-len(rows) // samples)
            if waiting and free >= most * REFILL:
                new = [waiting.pop() for _ in range(min(free, len(waiting)))]
                reading.add([ids[i][begin:-1] for i in new])
                added = [(place, i, n) for place, i in enumerate(new) for n in range(samples)]
                reading.keep([*range(len(rows)), *(len(rows) + place for place, *_ in added)])
                rows += [_Row.start(i * samples + n, ids[i][-1], sampling) for _, i, n in added]
            logits = reading.read([[row.last] for row in rows])[:, 0]
            found = next_tokens(logits, sampling, [row.generator for row in rows])
            going = []
            for i, (row, (token, log_prob)) in enumerate(zip(rows, found, strict=True)):
                row.last = token
                row.tokens.append(token)
                row.log_probs.append(log_prob)
                if self._ends(token) or len(row.tokens) == max_new_tokens:
                    yield row
                else:
                    going.append(i)
            kept = _closed_up(going)
            reading.keep(kept)
            rows = [rows[i] for i in kept]


@dataclass
class _Row:
    """One completion while it is written, with the token that is to be read next."""

    number: int
    last: int
    generator: torch.Generator | None
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, number: int, last: int, sampling: Sampling) -> _Row:
        import torch

        if sampling.temperature == 0:
            return cls(number, last, None)
        return cls(number, last, torch.Generator().manual_seed(sampling.seeds[number]))


def _closed_up(going: list[int]) -> list[int]:
    """Rows that go on, the last of them in the places of those that do not."""
    count = len(going)
    late = [row for row in going if row >= count]
    stay = set(going)
    return [row if row in stay else late.pop() for row in range(count)]


def _in_common(a: list[int], b: list[int]) -> int:
    """How many tokens two texts begin with alike."""
    differ = (i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1])
    return next(differ, min(len(a), len(b)))


def _shared(prefix: list[int], ids: list[list[int]]) -> int:
    """How many tokens of the prefix all prompts begin with, each keeping one of its own."""
    shared = min(len(prefix), min(map(len, ids)) - 1)
    while any(row[:shared] != prefix[:shared] for row in ids):
        shared -= 1
    return shared
