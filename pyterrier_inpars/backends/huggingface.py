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

from pyterrier_inpars._compute.cpu_linear import pack_linear
from pyterrier_inpars._compute.devices import best_device, best_dtype, is_int8, quantize
from pyterrier_inpars._hub import resolved
from pyterrier_inpars._stage import positive_int
from pyterrier_inpars.backends._chat import encode, turn_end
from pyterrier_inpars.backends._kv_cache import (
    SequentialBatch,
    SharedPrefixCache,
    prefilled,
    supports_masks,
)
from pyterrier_inpars.backends._sampling import next_tokens, token_log_probs
from pyterrier_inpars.backends.base import (
    CUT,
    NEWLINE,
    Completion,
    Messages,
    NotANumberError,
    Sampling,
)

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


class HuggingFaceBackend:
    """Runs any causal language model that transformers loads.

    The prompts of a collection differ only in their last part. Keys and values of the shared prefix
    are computed once and used by every batch (see `SharedPrefixCache`). A completion that has ended
    leaves the batch. Once a quarter of the batch is free, the next prompts are added, longest
    first. On a CPU, the weights are packed for oneDNN on first use (see `pack_linear`); the model
    can then be used by this backend only.

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
        dtype: ``"auto"`` (bfloat16 where the processor computes in it, else float32),
            ``"float32"``, ``"bfloat16"``, ``"float16"``, a ``torch.dtype``, or ``"int8"``: 8-bit
            weights, computed with as by ``"auto"``, except those of the output layer.
        compile: Whether the model is compiled with ``torch.compile`` on first use, which takes a
            minute, and a C++ compiler on a CPU.
        device: Device of the model; None for the best one available.
        context: Maximum number of tokens of a prompt and its completion together; None for the
            number of positions of the model, which is also the upper limit.

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
    ):
        self.name = str(model)
        self.revision = revision
        self.batch_size = positive_int(
            "batch_size", BATCH_SIZE if batch_size is None else batch_size
        )
        self._dtype = dtype
        self._compile = compile
        self._device = device
        self._context = None if context is None else positive_int("context", context)
        self._hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        self._forget()

    def _forget(self) -> None:
        """Resets what depends on the loaded model."""
        self._supports_masks: bool | None = None  # None until the first use
        self._prefix: tuple[Sequence[int], SharedPrefixCache | None] = ((), None)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the parameters alone: a loaded model cannot be pickled or copied."""
        loaded = [
            name
            for name, value in vars(type(self)).items()
            if isinstance(value, functools.cached_property)
        ]
        return {k: v for k, v in vars(self).items() if k not in [*loaded, "_prefix"]}

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
    def tokenizer(self) -> Any:
        """Tokenizer of the model, loaded on first use."""
        from transformers import AutoTokenizer

        return self._load(AutoTokenizer)

    @functools.cached_property
    def model(self) -> Any:
        """The model, loaded on first use."""
        from transformers import AutoModelForCausalLM

        model, report = self._load(AutoModelForCausalLM, dtype=self.dtype, output_loading_info=True)
        if missing := sorted(report["missing_keys"]):  # transformers would initialize them
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(
                f"{self.name!r} is not a causal language model, or is incomplete: it has no "
                f"weights for {missing[0]}{more}"
            )
        model = model.eval()
        if is_int8(self._dtype):
            quantize(model, self.dtype, keep=[model.get_output_embeddings()])
        model = model.to(self.device)
        if self._compile:
            model.compile(dynamic=True)  # for any number of rows and tokens
        return model

    @functools.cached_property
    def _config(self) -> Any:
        """Configuration of the model, which can be read without its weights."""
        from transformers import AutoConfig

        return self.model.config if "model" in vars(self) else self._load(AutoConfig)

    @functools.cached_property
    def context(self) -> int | None:
        """Maximum number of tokens of a prompt and its completion; None if there is no limit."""
        config = self.model.config.get_text_config()  # of a multimodal model, the text part
        limits = [self._context, getattr(config, "max_position_embeddings", None)]
        return min((limit for limit in limits if limit is not None), default=None)

    @functools.cached_property
    def chat(self) -> bool:
        """Whether this is an instruct model: its chat template ends answers with an end token.

        A tokenizer with a chat template is not enough: some base models have one too.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            return False
        ends = self._config.get_text_config().eos_token_id
        ends = {*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id}
        return turn_end(self.tokenizer) in {*ends, None}

    def describe(self) -> dict[str, Any]:
        """Returns the settings that determine the output; see `Backend.describe`."""
        import torch
        import transformers

        return {
            "model": self.name,
            "revision": getattr(self._config, "_commit_hash", None) or self.revision,
            "dtype": str(self.dtype).removeprefix("torch."),
            **({"weights": "int8"} if is_int8(self._dtype) else {}),
            **({"context": self._context} if self._context is not None else {}),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }

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
        completions: dict[int, Completion] = {}
        with torch.inference_mode():
            rows = self._generate(
                prefix_ids, ids, max_new_tokens, sampling, num_samples, seeds, tuple(stop)
            )
            for row in rows:
                completions[row.number] = self._completion(row, stop)
                progress(1)
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

        if len(prompts) != len(continuations):
            raise ValueError(
                f"there are {len(prompts)} prompts, but {len(continuations)} continuations: give "
                "one continuation per prompt"
            )
        if not prompts:
            return []
        ids = self._encode(prompts, 0, continuations)
        alone = self._encode(prompts, 0)
        starts = [max(1, _common_length(*pair)) for pair in zip(alone, ids, strict=True)]
        counts = [max(0, len(row) - start) for row, start in zip(ids, starts, strict=True)]
        scored = [i for i, count in enumerate(counts) if count]
        progress(len(ids) - len(scored))
        likelihoods: list[list[float]] = [[] for _ in ids]
        if not scored:
            return likelihoods
        prefix_ids = self._encode_prefix(prefix, prompts)
        length = _shared_length(prefix_ids, [ids[i][: starts[i]] for i in scored])
        prefix_ids = prefix_ids[:length]
        scored.sort(key=lambda i: len(ids[i]), reverse=True)
        with torch.inference_mode():
            self._check_masks(prefix_ids, ids, scored[0])
            for indices in self._scoring_batches(scored, counts):
                rows, last = [ids[i] for i in indices], [counts[i] for i in indices]
                longest = len(rows[0]) + max(last)  # with padding
                batch, length = self._new_batch(prefix_ids, len(rows), longest)
                found = _log_probs(batch, [row[length:] for row in rows], last)
                for i, values in zip(indices, found, strict=True):
                    self._check_numbers(values, i)
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
        encoded = [self._encode(prompts, 0, [choice] * len(prompts)) for choice in choices]
        rows = [row[:-1] for row in encoded[0]]
        tokens = [ids[0][-1] for ids in encoded]
        expected = [[[*row, token] for row in rows] for token in tokens]
        if encoded != expected or len(set(tokens)) < len(tokens) or not all(rows):
            return self._choices_one_by_one(prompts, choices, prefix, progress)
        prefix_ids = self._encode_prefix(prefix, prompts)
        prefix_ids = prefix_ids[: _shared_length(prefix_ids, rows)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
        found: list[list[float]] = [[] for _ in rows]
        with torch.inference_mode():
            self._check_masks(prefix_ids, rows, order[0])
            for indices in self._scoring_batches(order, [1] * len(rows)):
                batch, length = self._new_batch(prefix_ids, len(indices), len(rows[indices[0]]))
                batch.prefill([rows[i][length:-1] for i in indices])
                logits = batch.forward([rows[i][-1:] for i in indices])
                for i, values in zip(indices, logits, strict=True):
                    found[i] = values[0].float().log_softmax(dim=-1)[tokens].tolist()
                    self._check_numbers(found[i], i)
                progress(len(indices))
        return found

    def _choices_one_by_one(
        self,
        prompts: Sequence[str | Messages],
        choices: Sequence[str],
        prefix: str | Messages,
        progress: Callable[[int], object],
    ) -> list[list[float]]:
        """Returns `choice_log_probs` by computing each prompt once per choice."""
        columns = [
            self.log_likelihood(prompts, [choice] * len(prompts), prefix=prefix)
            for choice in choices
        ]
        progress(len(prompts))
        return [[sum(tokens) for tokens in row] for row in zip(*columns, strict=True)]

    def _check_numbers(self, log_probs: Sequence[float], row: int) -> None:
        """Checks that the log-probabilities of a prompt are numbers.

        Raises:
            NotANumberError: One is NaN.
        """
        if any(map(math.isnan, log_probs)):
            raise NotANumberError(f"{self.name!r} in {str(self.dtype).removeprefix('torch.')}", row)

    # -- Text and tokens ---------------------------------------------------------------------

    def _load(self, auto_class: Any, **options: Any) -> Any:
        source = resolved(self.name)
        path = Path(source)
        if path.suffix.lower() == ".gguf":
            source, options = str(path.parent), {**options, "gguf_file": path.name}
        try:
            return auto_class.from_pretrained(source, **self._hub, **options)
        except Exception as error:  # a damaged file can raise any error
            raise ValueError(
                f"cannot load a causal language model from {self.name!r}: give a name on the "
                f"Hugging Face hub, a folder or a .gguf file ({error})"
            ) from error

    def _encode(
        self,
        prompts: Sequence[str | Messages],
        max_new_tokens: int,
        continuations: Sequence[str] | None = None,
    ) -> list[list[int]]:
        """Tokenizes prompts; special tokens that are written out in a text stay plain text."""
        encoded = encode(self.tokenizer, prompts, continuations)
        if isinstance(prompts[0], str):
            encoded = [ids[: len(ids) - self._appended] for ids in encoded]
        for ids in encoded:
            if self.context is not None and len(ids) + max_new_tokens > self.context:
                raise ValueError(
                    f"a prompt of {len(ids)} tokens and {max_new_tokens} new tokens exceed the "
                    f"context of {self.context} tokens of {self.name}: lower max_doc_tokens or "
                    "max_new_tokens"
                )
        return encoded

    def _encode_prefix(
        self, prefix: str | Messages, prompts: Sequence[str | Messages]
    ) -> list[int]:
        """Tokenizes a prefix; without one, messages share nothing."""
        if prefix == "" and not isinstance(prompts[0], str):
            return []
        return self._encode([prefix], 0)[0]

    @functools.cached_property
    def _appended(self) -> int:
        """Number of tokens, such as an end token, that the tokenizer appends to a text."""
        whole, plain = (
            self.tokenizer(NEWLINE, add_special_tokens=added)["input_ids"]
            for added in (True, False)
        )
        ends = [n for n in range(len(whole) + 1) if whole[:n][-len(plain) :] == plain]
        return len(whole) - ends[-1] if plain and ends else 0

    @functools.cached_property
    def _special_tokens(self) -> set[int]:
        """Tokens that are no part of a text."""
        added = self.tokenizer.added_tokens_decoder.items()
        return {*self.tokenizer.all_special_ids, *(i for i, token in added if token.special)}

    @functools.cached_property
    def _end_tokens(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        ends = set(ends) if isinstance(ends, list) else {ends}
        return (ends | {self.tokenizer.eos_token_id}) - {None}

    @functools.cached_property
    def _text_of(self) -> Callable[[int], str]:
        """Function that returns the text of one token."""
        return functools.cache(lambda token: self.tokenizer.decode([token]))

    def _has_ended(self, tokens: Sequence[int], stop: Sequence[str]) -> bool:
        """Returns whether the last token ends a completion, as an end token or by a stop string."""
        if tokens[-1] in self._end_tokens or not stop:
            return tokens[-1] in self._end_tokens
        width = max(len(text.encode()) for text in stop)  # in tokens, at most
        last = self._text_of(tokens[-1]) if width == 1 else self.tokenizer.decode(tokens[-width:])
        return any(text in last for text in stop)

    def _completion(self, row: _Row, stop: Sequence[str] = (NEWLINE,)) -> Completion:
        ended = self._has_ended(row.tokens, stop)
        count = len(row.tokens) - (row.tokens[-1] in self._end_tokens)
        kept = [i for i in range(count) if row.tokens[i] not in self._special_tokens]
        tokens = [row.tokens[i] for i in kept]
        log_probs = [row.log_probs[i] for i in kept]
        whole = self.tokenizer.decode(tokens)
        cut = min((i for i in map(whole.find, stop) if i >= 0), default=len(whole))
        text = whole[:cut]
        if not ended and text.endswith(CUT):  # a character whose last bytes are missing
            text = text.rstrip(CUT)
            while tokens and self.tokenizer.decode(tokens[:-1]).rstrip(CUT) == text:
                tokens, log_probs = tokens[:-1], log_probs[:-1]
        ends = self._token_ends(tokens)
        while ends and ends[-1] > cut and not whole[max([0, *ends[-2:-1]]) : cut].strip():
            ends.pop()  # a token of the stop string, with no part of the text
        space = len(text) - len(text.lstrip())
        text = text.strip()
        return Completion(
            text,
            log_probs[: len(ends)],
            "stop" if ended else "length",
            [min(max(0, end - space), len(text)) for end in ends],
        )

    def _token_ends(self, tokens: Sequence[int]) -> list[int]:
        """Returns the position in the text of tokens at which each token ends."""
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        texts = (stream.step(self.tokenizer.backend_tokenizer, token) for token in tokens)
        return list(itertools.accumulate(len(text or "") for text in texts))

    # -- Batches -----------------------------------------------------------------------------

    def _scoring_batches(self, order: list[int], counts: list[int]) -> Iterator[list[int]]:
        """Yields batches of pairs in the given order whose logits fit into memory."""
        most = max(1, MAX_LOGITS // self.model.config.get_text_config().vocab_size)
        batch: list[int] = []
        for i in order:
            longest = max(counts[j] for j in [*batch, i])
            if batch and (len(batch) == self.batch_size or (len(batch) + 1) * longest > most):
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
                self._check_numbers([math.nan], row)
            if not self._supports_masks:
                warnings.warn(
                    f"{self.name}: {type(self.model).__name__} accepts no explicit attention masks,"
                    " so prompts are computed one at a time",
                    stacklevel=2,
                )
            elif not self._compile:
                pack_linear(self.model)

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
        max_new_tokens: int,
        sampling: Sampling,
        num_samples: int,
        seeds: Sequence[int],
        stop: Sequence[str],
    ) -> Iterator[_Row]:
        """Yields each completion when it ends.

        Waiting prompts take the places of completions that have ended, longest first, so that rows
        of a batch have similar lengths. The last token of a prompt is fed with the first step.
        """
        waiting = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        self._check_masks(prefix, ids, waiting[-1])
        most = max(1, min(len(ids), self.batch_size // num_samples))
        longest = len(ids[waiting[-1]]) + max_new_tokens
        batch, length = self._new_batch(prefix, most * num_samples, longest)
        rows: list[_Row] = []
        while waiting or rows:
            free = most - -(-len(rows) // num_samples)
            if waiting and free >= most * REFILL_SHARE:
                new = [waiting.pop() for _ in range(min(free, len(waiting)))]
                batch.prefill([ids[i][length:-1] for i in new])
                added = [(place, i, n) for place, i in enumerate(new) for n in range(num_samples)]
                batch.select([*range(len(rows)), *(len(rows) + place for place, *_ in added)])
                for _, i, n in added:
                    number = i * num_samples + n
                    generator = _generator(seeds[number]) if sampling.temperature else None
                    rows.append(_Row(number, ids[i][-1], generator))
            logits = batch.forward([[row.last] for row in rows])[:, 0]
            found = next_tokens(logits, sampling, [row.generator for row in rows])
            unfinished = []
            for i, (row, (token, log_prob)) in enumerate(zip(rows, found, strict=True)):
                self._check_numbers([log_prob], row.number // num_samples)
                row.last = token
                row.tokens.append(token)
                row.log_probs.append(log_prob)
                if len(row.tokens) == max_new_tokens or self._has_ended(row.tokens, stop):
                    yield row
                else:
                    unfinished.append(i)
            kept = _compacted(unfinished)
            batch.select(kept)
            rows = [rows[i] for i in kept]


@dataclass
class _Row:
    """A completion in progress.

    Attributes:
        number: Number of the completion.
        last: Token to feed next.
        generator: Random generator of the completion, None for greedy decoding.
        tokens: Tokens generated so far.
        log_probs: Their natural log-probabilities.
    """

    number: int
    last: int
    generator: torch.Generator | None
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)


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


def _common_length(a: list[int], b: list[int]) -> int:
    """Returns the number of tokens at the beginning of both sequences that are equal."""
    differ = (i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1])
    return next(differ, min(len(a), len(b)))


def _shared_length(prefix: list[int], ids: list[list[int]]) -> int:
    """Returns how many prefix tokens all sequences share, with one further token in each."""
    shared = min(len(prefix), min(map(len, ids)) - 1)
    while any(row[:shared] != prefix[:shared] for row in ids):
        shared -= 1
    return shared
