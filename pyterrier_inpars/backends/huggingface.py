"""Causal language models of transformers, with the shared prefix of the prompts computed once."""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from more_itertools import chunked

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._compute.cpu_linear import pack_linear
from pyterrier_inpars._compute.cpu_memory import keep_freed_memory
from pyterrier_inpars._compute.devices import best_device, best_dtype, is_int8, quantize
from pyterrier_inpars._compute.memory_limit import MemoryLimit, is_out_of_memory
from pyterrier_inpars._quiet import quiet
from pyterrier_inpars.backends._drafts import DRAFT_TOKENS, draft
from pyterrier_inpars.backends._kv_cache import (
    SequentialBatch,
    SharedPrefixCache,
    prefilled,
    supports_masks,
)
from pyterrier_inpars.backends._sampling import next_tokens, token_log_probs
from pyterrier_inpars.backends._tokenized import TokenizedBackend
from pyterrier_inpars.backends.base import NEWLINE, Completion, Messages, Sampling

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 64
"""Default number of sequences computed together."""
REFILL_SHARE = 1 / 4
"""Share of the batch that must be free before waiting prompts are added."""
MAX_LOGITS = 2**28
"""Maximum number of logits of a batch of scored continuations: 1 GiB in float32."""


class BackendOptions(TypedDict, total=False):
    """Keyword parameters of `HuggingFaceBackend`, which stages with a ``model`` accept too."""

    revision: str | None
    trust_remote_code: bool
    batch_size: int | None
    dtype: str | torch.dtype
    compile: bool
    device: str | torch.device | None
    context: int | None
    template_options: Mapping[str, Any] | None


class HuggingFaceBackend(TokenizedBackend):
    """Runs any causal language model that transformers loads.

    The prompts of a collection differ only in their last part. Keys and values of the shared prefix
    are computed once and used by every batch (see `SharedPrefixCache`). A completion that has ended
    leaves the batch. Once a quarter of the batch is free, the next prompts are added, longest
    first. The last completions get drafts of several tokens, which change speed only (see
    `_drafts`). On a CPU, the weights are packed for oneDNN on first use (see `pack_linear`); the
    model can then be used by this backend only.

    On first use, the logits of two prompts are compared with those of the unchanged model. If they
    differ, the model accepts no explicit masks (ALiBi or local attention, for example). A warning
    says so, and each prompt is computed alone, with the model's own cache where it has one.

    A backend can be pickled and copied, also after use; the copy loads the model again.

    Args:
        model: Name on the Hugging Face hub, local folder, or ``.gguf`` file.
        revision: Branch, tag or commit of the model on the hub; None for its main branch.
        trust_remote_code: Whether code from the model's repository is executed. Set it only for
            repositories that you trust.
        batch_size: Number of completions computed together; None for 64.
        dtype: ``"auto"`` (bfloat16 where the processor computes faster in it, else float32),
            ``"float32"``, ``"bfloat16"``, ``"float16"``, a ``torch.dtype``, or ``"int8"``: 8-bit
            weights, computed with as by ``"auto"``, except those of the output layer.
        compile: Whether the model is compiled with ``torch.compile`` on first use, which takes a
            minute, and a C++ compiler on a CPU.
        device: Device of the model; None for the best one available.
        context: Maximum number of tokens of a prompt and its completion together; None for the
            number of positions of the model, which is also the upper limit.
        template_options: Variables of the model's chat template, such as
            ``{"enable_thinking": False}`` for a model that reasons before it answers.

    Raises:
        ValueError: A number is out of range; or, on first use, the model cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        batch_size: int | None = None,
        dtype: str | torch.dtype = "auto",
        compile: bool = False,
        device: str | torch.device | None = None,
        context: int | None = None,
        template_options: Mapping[str, Any] | None = None,
    ):
        super().__init__(model, revision, trust_remote_code, context, template_options)
        self.batch_size = positive_int(
            "batch_size", BATCH_SIZE if batch_size is None else batch_size
        )
        self._dtype = dtype
        self._compile = compile
        self._device = device
        self._forget()

    def _forget(self) -> None:
        """Resets what depends on the loaded model."""
        self._supports_masks: bool | None = None  # None until the first use
        self._prefix: tuple[Sequence[int], SharedPrefixCache | None] = ((), None)
        self._memory = MemoryLimit(type(self).__name__)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the parameters alone: a loaded model cannot be pickled or copied."""
        return {name: value for name, value in super().__getstate__().items() if name != "_prefix"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    @functools.cached_property
    def device(self) -> torch.device:
        """Device of the model."""
        return best_device(self._device, xla=False)

    @functools.cached_property
    def dtype(self) -> torch.dtype:
        """Precision of the computation."""
        return best_dtype(self._dtype, self.device)

    @functools.cached_property
    def model(self) -> Any:
        """The model, loaded on first use."""
        options = {"dtype": self.dtype, "output_loading_info": True}
        model, report = self._load(self._auto_class(), **options)
        if missing := sorted(report["missing_keys"]):  # transformers would initialize them
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(
                f"{self.name!r} is not a causal language model, or is incomplete: it has no "
                f"weights for {missing[0]}{more}"
            )
        model = model.eval()
        if is_int8(self._dtype):
            quantize(model, self.dtype, keep=[model.get_output_embeddings()])
        if model.device != self.device:  # quantized ones may refuse, and are loaded on the GPU
            model = model.to(self.device)
        if self._compile:
            model.compile(dynamic=True)  # for any number of rows and tokens
        return model

    def _auto_class(self) -> str:
        """Returns the class of transformers that loads the model.

        Raises:
            ValueError: It is not a causal language model.
        """
        config = self._config
        with quiet():
            import transformers

        kind, name = type(config), config.model_type
        if getattr(config, "is_encoder_decoder", False):
            name += ", an encoder-decoder"
        elif kind in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or hasattr(config, "auto_map"):
            return "AutoModelForCausalLM"
        elif kind in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            return "AutoModelForImageTextToText"
        raise ValueError(
            f"cannot load a causal language model from {self.name!r}, which is a {name}: give "
            f"another model, or use OpenAIBackend and a server that runs this one"
        )

    def describe(self) -> dict[str, Any]:
        """Returns the settings that determine the output; see `Backend.describe`."""
        with quiet():
            import torch
            import transformers

        return self._describe(
            self._dtype_name,
            {"torch": torch.__version__, "transformers": transformers.__version__},
            **({"weights": "int8"} if is_int8(self._dtype) else {}),
        )

    @property
    def _dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @functools.cached_property
    def _generation_config(self) -> Any:
        return self.model.generation_config

    def complete(
        self,
        prompts: Sequence[str | Messages],
        *,
        prefix: str | Messages = "",
        max_new_tokens: int = 64,
        sampling: Sampling | None = None,
        num_samples: int = 1,
        seeds: Sequence[int] = (),
        progress: Callable[[int], object] = lambda completions: None,
        stop: Sequence[str] = (NEWLINE,),
        schema: Mapping[str, Any] | None = None,
    ) -> list[Completion]:
        """Completes each prompt up to a stop string, the model's end token, or the token limit.

        Args:
            prompts: Complete prompts, either all texts or all messages. Messages are rendered by
                the model's chat template.
            prefix: Text that all prompts begin with, or messages. Tokens may merge at its end, so
                the shared prefix is the part that the tokens of all prompts have in common with it.
            max_new_tokens: Maximum number of tokens of a completion.
            sampling: How tokens are chosen; None for greedy decoding.
            num_samples: Number of completions per prompt.
            seeds: One seed per completion, prompt by prompt; not needed by greedy decoding.
            progress: Callback that receives 1 for each completion that has ended.
            stop: Strings that end a completion, of which they are not a part.
            schema: Ignored: this runtime does not enforce a JSON schema.

        Returns:
            ``num_samples`` completions per prompt, in the order of the prompts.

        Raises:
            ValueError: A prompt and its completion exceed the context, several greedy completions
                are requested, or messages are given and the model has no chat template.
            NotANumberError: The logits of a prompt are NaN.
        """
        import torch

        sampling = sampling or Sampling()
        sampling.check_num_samples(num_samples)
        if not prompts:
            return []
        ids = self._encode(prompts, max_new_tokens)
        prefix_ids = self._encode_prefix(prefix, prompts)
        prefix_ids = prefix_ids[: _shared_length(prefix_ids, ids)]
        is_chat = not isinstance(prompts[0], str)
        completions: dict[int, Completion] = {}
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        while len(completions) < len(ids) * num_samples:
            # The samples of a prompt, which is computed once for those of a part.
            together = min(num_samples, self._most_rows)
            waiting = []
            for i in order:
                numbers = range(i * num_samples, (i + 1) * num_samples)
                left = [number for number in numbers if number not in completions]
                waiting += [(i, part) for part in chunked(left, together)]
            most = max(1, min(len(waiting), self._most_rows // together))
            try:
                with torch.inference_mode():
                    rows = self._generate(
                        prefix_ids,
                        ids,
                        waiting,
                        most,
                        together,
                        max_new_tokens,
                        sampling,
                        seeds,
                        tuple(stop),
                    )
                    for row in rows:
                        done = self._completion(row.tokens, row.log_probs, stop, is_chat)
                        completions[row.number] = done
                        progress(1)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                longest = f"a prompt of {len(ids[waiting[-1][0]]):,} tokens"
                self._memory.lower(most * together, longest, error)
        return [completions[number] for number in range(len(completions))]

    def log_likelihood(
        self,
        prompts: Sequence[str | Messages],
        continuations: Sequence[str],
        *,
        prefix: str | Messages = "",
        progress: Callable[[int], object] = lambda pairs: None,
    ) -> list[list[float]]:
        """Scores the continuation of each prompt.

        Prompt and continuation are tokenized as one text. The tokens of the continuation are those
        after the common beginning of this text and of the prompt tokenized alone. A token that
        holds the end of the prompt and the beginning of the continuation thus belongs to the
        continuation. The first token of a text has no probability and is not scored.

        Args:
            prompts: Complete prompts; see `complete`.
            continuations: One continuation per prompt, including its leading space if any.
            prefix: See `complete`.
            progress: Callback that receives the number of pairs after each batch.

        Returns:
            Natural log-probabilities of the tokens of each continuation, in the order of the
            prompts; an empty list for an empty continuation.

        Raises:
            ValueError: A prompt and its continuation exceed the context, or there are not as many
                continuations as prompts.
            NotANumberError: The logits of a prompt are NaN.
        """
        import torch

        ids, counts = self._encode_pairs(prompts, continuations)
        scored = [i for i, count in enumerate(counts) if count]
        progress(len(ids) - len(scored))
        likelihoods: list[list[float]] = [[] for _ in ids]
        if not scored:
            return likelihoods
        prefix_ids = self._encode_prefix(prefix, prompts)
        length = _shared_length(prefix_ids, [ids[i][: len(ids[i]) - counts[i]] for i in scored])
        prefix_ids = prefix_ids[:length]
        scored.sort(key=lambda i: len(ids[i]), reverse=True)
        with torch.inference_mode():
            self._check_masks(prefix_ids, ids, scored[0])

            def compute(indices: list[int]) -> list[list[float]]:
                rows, last = [ids[i] for i in indices], [counts[i] for i in indices]
                longest = len(rows[0]) + max(last)  # with padding
                batch, length = self._new_batch(prefix_ids, len(rows), longest)
                return _log_probs(batch, [row[length:] for row in rows], last)

            for indices, found in self._scored(scored, counts, ids, compute):
                for i, values in zip(indices, found, strict=True):
                    self._check_numbers(values, i, self._dtype_name)
                    likelihoods[i] = values
                progress(len(indices))
        return likelihoods

    def choice_log_probs(
        self,
        prompts: Sequence[str | Messages],
        choices: Sequence[str],
        *,
        prefix: str | Messages = "",
        progress: Callable[[int], object] = lambda prompts: None,
    ) -> list[list[float]]:
        """Scores the same continuations of every prompt, such as the grades of a judge.

        If the choices differ in one token only, each prompt is computed once. The log-probability
        is that of this token then, and otherwise that of all tokens of the choice.

        Args:
            prompts: Complete prompts; see `complete`.
            choices: Continuations, including their leading space if any.
            prefix: See `complete`.
            progress: Callback that receives the number of prompts after each batch.

        Returns:
            Natural log-probabilities of the choices for each prompt, (prompts, choices).

        Raises:
            ValueError: A prompt and a choice exceed the context.
            NotANumberError: The logits of a prompt are NaN.
        """
        import torch

        if not prompts:
            return []
        one_token = self._one_token_choices(prompts, choices)
        if one_token is None:
            return self._choices_one_by_one(prompts, choices, prefix, progress)
        rows, tokens = one_token
        prefix_ids = self._encode_prefix(prefix, prompts)
        prefix_ids = prefix_ids[: _shared_length(prefix_ids, rows)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
        found: list[list[float]] = [[] for _ in rows]
        with torch.inference_mode():
            self._check_masks(prefix_ids, rows, order[0])

            def compute(indices: list[int]) -> torch.Tensor:
                batch, length = self._new_batch(prefix_ids, len(indices), len(rows[indices[0]]))
                batch.prefill([rows[i][length:-1] for i in indices])
                return batch.forward([rows[i][-1:] for i in indices])

            for indices, logits in self._scored(order, [1] * len(rows), rows, compute):
                for i, values in zip(indices, logits, strict=True):
                    found[i] = values[0].float().log_softmax(dim=-1)[tokens].tolist()
                    self._check_numbers(found[i], i, self._dtype_name)
                progress(len(indices))
        return found

    def _encode_prefix(
        self, prefix: str | Messages, prompts: Sequence[str | Messages]
    ) -> list[int]:
        """Tokenizes a prefix; without one, messages share nothing."""
        if prefix == "" and not isinstance(prompts[0], str):
            return []
        return self._encode([prefix], 0)[0]

    # -- Batches -----------------------------------------------------------------------------

    @property
    def _most_rows(self) -> int:
        """Number of sequences computed together: ``batch_size``, or fewer if memory is short."""
        return self._memory.capped(self.batch_size)

    def _scored(
        self,
        order: list[int],
        counts: list[int],
        ids: list[list[int]],
        compute: Callable[[list[int]], Any],
    ) -> Iterator[tuple[list[int], Any]]:
        """Computes batches of pairs in the given order, smaller ones if memory is short."""
        for batch in self._scoring_batches(order, counts):
            yield from self._memory.run(
                batch, compute, lambda i: f"a prompt of {len(ids[i]):,} tokens"
            )

    def _scoring_batches(self, order: list[int], counts: list[int]) -> Iterator[list[int]]:
        """Yields batches of pairs in the given order whose logits fit into memory."""
        most = max(1, MAX_LOGITS // self.model.config.get_text_config().vocab_size)
        batch: list[int] = []
        for i in order:
            longest = max(counts[j] for j in [*batch, i])
            if batch and (len(batch) == self._most_rows or (len(batch) + 1) * longest > most):
                yield batch
                batch = []
            batch.append(i)
        yield batch

    def _check_masks(self, prefix: list[int], ids: list[list[int]], row: int) -> None:
        """Finds out, on first use and with one prompt, whether the model accepts explicit masks.

        Raises:
            NotANumberError: The logits of the prompt are NaN.
        """
        if self._supports_masks is None:
            rest = ids[row][len(prefix) :]
            self._supports_masks = supports_masks(
                self.model, prefix, [rest, rest[len(rest) // 2 :]]
            )
            if self._supports_masks is None:
                self._check_numbers([math.nan], row, self._dtype_name)
            if not self._supports_masks:
                warnings.warn(
                    f"{self.name}: {type(self.model).__name__} accepts no explicit attention masks,"
                    " so prompts are computed one at a time",
                    stacklevel=2,
                )
            elif not self._compile:
                pack_linear(self.model)
            if self.device.type == "cpu":
                keep_freed_memory()

    def _new_batch(
        self, prefix: list[int], rows: int, longest: int
    ) -> tuple[SharedPrefixCache | SequentialBatch, int]:
        """Returns an empty batch, and the number of prefix tokens that it holds already.

        Keys and values of the prefix are kept for later batches.

        Args:
            prefix: Tokens of the shared prefix.
            rows: Maximum number of sequences.
            longest: Maximum number of tokens of a sequence, including prefix and padding.
        """
        if not self._supports_masks:
            return SequentialBatch(self.model), 0
        if self._prefix[0] != prefix:
            self._prefix = (prefix, prefilled(self.model, prefix))
        cache = SharedPrefixCache(self.model, rows, longest - len(prefix), self._prefix[1])
        return cache, len(prefix)

    def _generate(
        self,
        prefix: list[int],
        ids: list[list[int]],
        waiting: Sequence[tuple[int, list[int]]],
        most: int,
        together: int,
        max_new_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
        stop: Sequence[str],
    ) -> Iterator[_Row]:
        """Yields each completion when it ends.

        Waiting prompts take the places of completions that have ended, longest first, so that rows
        of a batch have similar lengths. The last token of a prompt is fed with the first step.

        Args:
            prefix: Tokens of the shared prefix.
            ids: Tokens of the prompts.
            waiting: Parts: the number of a prompt, shortest first, and those of its completions.
            most: Maximum number of parts completed together.
            together: Maximum number of completions of a part.
            max_new_tokens: See `complete`.
            sampling: See `complete`.
            seeds: See `complete`.
            stop: See `complete`.
        """
        waiting = list(waiting)
        first, _ = waiting[-1]
        self._check_masks(prefix, ids, first)
        longest = len(ids[first]) + max_new_tokens + DRAFT_TOKENS
        batch, length = self._new_batch(prefix, most * together, longest)

        def has_ended(row: _Row) -> bool:
            return len(row.tokens) == max_new_tokens or self._has_ended(row.tokens, stop)

        rows: list[_Row] = []
        while waiting or rows:
            free = most - -(-len(rows) // together)
            if waiting and free >= most * REFILL_SHARE:
                new = [waiting.pop() for _ in range(min(free, len(waiting)))]
                batch.prefill([ids[i][length:-1] for i, _ in new])
                added = [(place, i, n) for place, (i, part) in enumerate(new) for n in part]
                batch.select([*range(len(rows)), *(len(rows) + place for place, *_ in added)])
                for _, i, number in added:
                    generator = _generator(seeds[number]) if sampling.temperature else None
                    rows.append(_Row(number, i, ids[i], generator))
            fed = self._with_drafts(rows, max_new_tokens)
            logits = batch.forward(fed)
            self._append_tokens(rows, fed, logits, sampling, has_ended)
            ended = [has_ended(row) for row in rows]
            yield from itertools.compress(rows, ended)
            kept = _compacted([i for i, is_ended in enumerate(ended) if not is_ended])
            batch.select(kept)
            rows = [rows[i] for i in kept]
            if isinstance(batch, SharedPrefixCache):  # the other kind gets no drafts
                batch.truncate([len(row.text) - 1 for row in rows])

    def _append_tokens(
        self,
        rows: Sequence[_Row],
        fed: Sequence[Sequence[int]],
        logits: torch.Tensor,
        sampling: Sampling,
        has_ended: Callable[[_Row], bool],
    ) -> None:
        """Appends a token to each row, and further ones as long as they are those of its draft.

        Args:
            rows: The completions.
            fed: For each row, its last token and a draft of the next ones.
            logits: Logits after these tokens.
            sampling: See `complete`.
            has_ended: Whether a completion has ended.
        """
        position, agreed = 0, list(range(len(rows)))
        while agreed:
            after = logits[:, position] if len(agreed) == len(rows) else logits[agreed, position]
            found = next_tokens(after, sampling, [rows[i].generator for i in agreed])
            for i, (token, log_prob) in zip(agreed, found, strict=True):
                row = rows[i]
                self._check_numbers([log_prob], row.prompt_number, self._dtype_name)
                row.tokens.append(token)
                row.log_probs.append(log_prob)
            position += 1
            agreed = [
                i
                for i in agreed
                if rows[i].tokens[-1:] == fed[i][position : position + 1] and not has_ended(rows[i])
            ]

    def _with_drafts(self, rows: Sequence[_Row], max_new_tokens: int) -> list[list[int]]:
        """Returns the tokens to feed: the last one of each row, and a draft of the next ones.

        A model that is compiled gets no drafts: a step of several tokens would be compiled too.
        """
        drafts = self._supports_masks and not self._compile
        count = DRAFT_TOKENS // len(rows) - 1 if drafts else 0
        fed = []
        for row in rows:
            text, left = row.text, max_new_tokens - len(row.tokens)
            fed.append([text[-1], *draft(text, min(count, left - 1))])
        return fed


@dataclass
class _Row:
    """A completion in progress.

    Attributes:
        number: Number of the completion.
        prompt_number: Number of its prompt.
        prompt: Tokens of its prompt.
        generator: Random generator of the completion, None for greedy decoding.
        tokens: Tokens generated so far.
        log_probs: Their natural log-probabilities.
    """

    number: int
    prompt_number: int
    prompt: list[int]
    generator: torch.Generator | None
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    @property
    def text(self) -> list[int]:
        """Tokens of the prompt and those generated so far."""
        return self.prompt + self.tokens


def _generator(seed: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(seed)


def _log_probs(
    batch: SharedPrefixCache | SequentialBatch, tokens: Sequence[Sequence[int]], last: Sequence[int]
) -> list[list[float]]:
    """Returns the natural log-probabilities of the last tokens of each sequence.

    Args:
        batch: Batch without sequences.
        tokens: Tokens of each sequence after the prefix that the batch holds.
        last: Number of tokens to score at the end of each sequence: at least 1, and fewer than the
            sequence has.
    """
    import torch

    pairs = list(zip(tokens, last, strict=True))
    batch.prefill([row[: -count - 1] for row, count in pairs])
    logits = batch.forward([row[-count - 1 : -1] for row, count in pairs])
    return [
        token_log_probs(
            found[:count].float(), torch.tensor(row[-count:], device=found.device)
        ).tolist()
        for found, (row, count) in zip(logits, pairs, strict=True)
    ]


def _compacted(rows: list[int]) -> list[int]:
    """Returns ascending row numbers in an order that moves only rows from the end into gaps."""
    count = len(rows)
    late = [row for row in rows if row >= count]
    stay = set(rows)
    return [row if row in stay else late.pop() for row in range(count)]


def _shared_length(prefix: list[int], ids: list[list[int]]) -> int:
    """Returns how many prefix tokens all sequences share, with one further token in each."""
    shared = min(len(prefix), min(map(len, ids)) - 1)
    while any(row[:shared] != prefix[:shared] for row in ids):
        shared -= 1
    return shared
