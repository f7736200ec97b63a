"""Causal language models of transformers, with the static part of the prompt computed once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_inpars.backends.base import GREEDY, NEWLINE, Completion, Sampling
from pyterrier_inpars.backends.decoding import PlainReading, Reading, choose, takes_masks
from pyterrier_inpars.devices import best_device, best_dtype, is_int8, quantize
from pyterrier_inpars.frames import positive_int

if TYPE_CHECKING:
    import torch


MOST_LOGITS = 2**28
"""Most numbers that a batch of scored continuations has as logits: 1 GiB in float32."""


class HuggingFaceBackend:
    """Completes prompts with any causal language model that transformers loads.

    The prompts of a collection differ only in their last part, so the keys and values of what they
    share are computed once and serve every batch. Batches hold prompts of like length, padded on
    the left; positions and attention masks are given explicitly, so that padding changes nothing,
    in models with sliding windows too. A row leaves the batch when its text has ended.

    Models whose attention does not take such masks (with ALiBi, say) are found out by comparing
    both ways on the first two prompts, and run prompt by prompt.

    Args:
        model: name on the Hugging Face hub, local folder, or ``.gguf`` file.
        revision: branch, tag or commit on the hub.
        batch_size: completions computed together; 32 on a CPU, 64 elsewhere if None.
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
        self.batch_size = batch_size and positive_int("batch_size", batch_size)
        self._dtype = dtype
        self._compile = compile
        self._device = device
        self._hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        self._takes_masks: bool | None = None  # found out on first use
        self._prefix: tuple[Sequence[int], Reading | None] = ((), None)

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

        model = self._load(AutoModelForCausalLM, dtype=self.dtype).eval()
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
            progress: called with the number of completions after each batch.

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
        completions: dict[int, list[Completion]] = {}
        with torch.inference_mode():
            for batch in self._batches(prefix_ids, ids, sampling.num_samples):
                rows = [
                    _Row.start(i, n, sampling) for i in batch for n in range(sampling.num_samples)
                ]
                if self._takes_masks:
                    reading = self._after(prefix_ids, len(batch))
                    reading.read([ids[i][len(prefix_ids) :] for i in batch])
                    reading.repeat(sampling.num_samples)
                    self._write(rows, reading, max_new_tokens, sampling)
                else:
                    for row in rows:
                        plain = PlainReading(self.model).read([ids[row.prompt]])
                        self._write([row], plain, max_new_tokens, sampling)
                for row in rows:
                    completions.setdefault(row.prompt, []).append(self._completion(row))
                progress(len(rows))
        return [completion for i in range(len(prompts)) for completion in completions[i]]

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
        log_probs: list[list[float]] = [[] for _ in ids]
        if not scored:
            return log_probs
        prefix_ids = self._encode(prefix, 0)
        prefix_ids = prefix_ids[: _shared(prefix_ids, [ids[i][: starts[i]] for i in scored])]
        scored.sort(key=lambda i: len(ids[i]), reverse=True)
        with torch.inference_mode():
            self._try_masks(prefix_ids, ids[scored[0]])
            for batch in self._scoring_batches(scored, counts):
                rows, last = [ids[i] for i in batch], [counts[i] for i in batch]
                if self._takes_masks:
                    rests = [row[len(prefix_ids) :] for row in rows]
                    found = self._after(prefix_ids, len(rows)).log_probs(rests, last)
                else:
                    found = [
                        PlainReading(self.model).log_probs([row], [count])[0]
                        for row, count in zip(rows, last, strict=True)
                    ]
                for i, values in zip(batch, found, strict=True):
                    log_probs[i] = values
                progress(len(batch))
        return log_probs

    # -- text and tokens ---------------------------------------------------------------------

    def _load(self, auto_class: Any, **options: Any) -> Any:
        path = Path(self.name)
        source = self.name
        if path.suffix == ".gguf":
            source, options = str(path.parent), {**options, "gguf_file": path.name}
        try:
            return auto_class.from_pretrained(source, **self._hub, **options)
        except (OSError, ValueError, ImportError) as error:
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

    def _batches(
        self, prefix: list[int], ids: list[list[int]], num_samples: int
    ) -> Iterator[list[int]]:
        """Which prompts to complete together: those of like length, the longest first."""
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)
        self._try_masks(prefix, ids[order[0]])
        size = max(1, self._size // num_samples)
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _scoring_batches(self, order: list[int], counts: list[int]) -> Iterator[list[int]]:
        """The pairs in their order, so many together that their logits do not fill the memory."""
        most = max(1, MOST_LOGITS // self.model.config.get_text_config().vocab_size)
        batch: list[int] = []
        for i in order:
            longest = max(counts[j] for j in [*batch, i])
            if batch and (len(batch) == self._size or (len(batch) + 1) * longest > most):
                yield batch
                batch = []
            batch.append(i)
        yield batch

    @property
    def _size(self) -> int:
        return self.batch_size or (32 if self.device.type == "cpu" else 64)

    def _try_masks(self, prefix: list[int], ids: list[int]) -> None:
        """Finds out, on first use, whether the model takes explicit masks."""
        if self._takes_masks is None:
            rest = ids[len(prefix) :]
            self._takes_masks = takes_masks(self.model, prefix, [rest, rest[len(rest) // 2 :]])

    def _after(self, prefix: list[int], rows: int) -> Reading:
        """So many rows that have read the prefix, which is read once and kept for more batches."""
        if self._prefix[0] != prefix:
            self._prefix = (prefix, Reading(self.model).read([prefix]) if prefix else None)
        return (self._prefix[1] or Reading(self.model)).copies(rows)

    def _write(
        self,
        rows: list[_Row],
        reading: Reading | PlainReading,
        max_new_tokens: int,
        sampling: Sampling,
    ) -> None:
        """Writes on after each prompt until all texts have ended; a row that has, leaves."""
        for step in range(max_new_tokens):
            tokens = choose(reading.logits, sampling, [row.generator for row in rows])
            chosen = reading.logits.gather(1, tokens[:, None])[:, 0] - reading.logits.logsumexp(1)
            for row, token, log_prob in zip(rows, tokens.tolist(), chosen.tolist(), strict=True):
                row.tokens.append(token)
                row.log_probs.append(log_prob)
            going = [i for i, row in enumerate(rows) if not self._ends(row.tokens[-1])]
            if not going or step == max_new_tokens - 1:
                return
            if len(going) < len(rows):  # never so for the one row of a plain reading
                rows = [rows[i] for i in going]
                reading = reading.select(going)  # type: ignore[union-attr]
            reading.read([row.tokens[-1:] for row in rows])


@dataclass
class _Row:
    """One completion while it is written."""

    prompt: int
    generator: torch.Generator | None
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, prompt: int, sample: int, sampling: Sampling) -> _Row:
        import torch

        if sampling.temperature == 0:
            return cls(prompt, None)
        seed = sampling.seeds[prompt * sampling.num_samples + sample]
        return cls(prompt, torch.Generator().manual_seed(seed))


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
