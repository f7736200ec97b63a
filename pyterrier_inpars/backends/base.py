"""Protocols of LLM backends: prompts in, completions or log-likelihoods out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from pyterrier_inpars._arguments import finite, positive_int
from pyterrier_inpars._errors import LanguageModelError

NEWLINE = "\n"
"""Stop string of a query that is the rest of a line."""
Messages = list[dict[str, str]]
"""A chat: messages with ``role`` (``system``, ``user``, ``assistant``) and ``content``.

A last message of the role ``assistant`` is the beginning of the answer, which the model continues.
"""
LEAST_LOG_PROB = -9999.0
"""Log-probability of a token whose probability is 0, or too low to be known.

OpenAI and vLLM's server return it. Other runtimes return minus infinity or the lowest float.
"""
CUT = "\ufffd"
"""Text of a character of which a completion at the token limit holds only the first bytes."""


@dataclass(frozen=True)
class Sampling:
    """How a language model chooses the next token.

    Attributes:
        temperature: 0 for greedy decoding: the most probable token. Above 0, the token is sampled
            from the softmax of the logits divided by the temperature.
        top_p: Nucleus threshold (arXiv 1904.09751, section 3.1): only the most probable tokens
            whose probabilities sum up to ``top_p`` are sampled. 1 for all tokens.
        seed: Random seed. A sampled query depends only on the seed, the docno and its number.

    Raises:
        ValueError: A value is out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        checked = {
            "temperature": finite("temperature", self.temperature, least=0),
            "top_p": finite("top_p", self.top_p, above=0, most=1),
            "seed": positive_int("seed", self.seed, least=0),
        }
        for name, value in checked.items():
            if not isinstance(getattr(self, name), int | float):  # NumPy's, which are not JSON
                object.__setattr__(self, name, value)

    @classmethod
    def of(cls, value: Sampling | Mapping[str, Any] | None) -> Sampling:
        """Returns ``value``, or the sampling with these fields; None is greedy decoding.

        Raises:
            TypeError: ``value`` is neither a sampling nor a mapping, or has an unknown field.
            ValueError: A value is out of range.
        """
        if isinstance(value, cls):
            return value
        if value is None or (isinstance(value, Mapping) and set(value) <= set(SAMPLING_FIELDS)):
            return cls(**(value or {}))
        raise TypeError(
            f"sampling must be a Sampling, or a dict with some of {', '.join(SAMPLING_FIELDS)}, "
            f"not {value!r:.200}"
        )

    def check_num_samples(self, num_samples: int) -> None:
        """Checks that several completions of one prompt can differ.

        Raises:
            ValueError: Several greedy completions are requested.
        """
        if num_samples > 1 and self.temperature == 0:
            raise ValueError(
                f"{num_samples} greedy completions of one prompt would be equal: set a "
                "temperature above 0, for example sampling={'temperature': 0.7}"
            )


SAMPLING_FIELDS = tuple(field.name for field in dataclasses.fields(Sampling))


class NotANumberError(ValueError):
    """A language model computed NaN for a prompt.

    Args:
        model: The model and its dtype, as text.
        row: Number of the prompt, from 0.
        place: The prompt in the words of the caller; None for its number.
    """

    def __init__(self, model: str, row: int, place: str | None = None):
        self.model = model
        self.row = row
        super().__init__(
            f"{model} computed NaN instead of log-probabilities at {place or f'row {row}'}: load "
            "it with dtype='float32' or 'bfloat16', or check its weights"
        )

    def at(self, place: str) -> NotANumberError:
        """Returns the same error with another description of the prompt."""
        return NotANumberError(self.model, self.row, place)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model, self.row)


class PromptError(LanguageModelError):
    """A runtime refused a prompt, or failed on it for good.

    Args:
        message: What the runtime reported.
        row: Number of the prompt, from 0.
        place: The prompt in the words of the caller; None for its number.
    """

    def __init__(self, message: str, row: int, place: str | None = None):
        self.message = message
        self.row = row
        super().__init__(f"the language model failed at {place or f'prompt {row}'}: {message}")

    def at(self, place: str) -> PromptError:
        """Returns the same error with another description of the prompt."""
        return PromptError(self.message, self.row, place)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.row)


@dataclass(frozen=True)
class Completion:
    """The text that a model generated after a prompt.

    Attributes:
        text: Generated text up to the first stop string, stripped.
        log_probs: Natural log-probability of each token of the text. The token that ended the text
            is included only if it holds a part of the text. None if the runtime gives none.
        finish_reason: ``"stop"`` if the model or a stop string ended the text, ``"length"`` if the
            token limit did, ``"error"`` if there is no text because the prompt failed, or because
            a content filter removed one of its completions.
        ends: Position in ``text`` at which each token of ``log_probs`` ends. None if unknown: the
            log-probabilities of a part of the text are unknown then, too.
        error: Why the prompt failed for good, if the backend skips such prompts instead of raising
            a `PromptError`. The text is empty then.
        unanswered: Whether the server failed at this prompt, so that another request may be
            answered. A later ``index()`` tries it again.
    """

    text: str
    log_probs: list[float] | None
    finish_reason: str
    ends: list[int] | None = None
    error: str | None = None
    unanswered: bool = False

    @property
    def has_nan(self) -> bool:
        """Whether a log-probability is NaN: the model computed no numbers."""
        return any(map(math.isnan, self.log_probs or []))


class Backend(Protocol):
    """An LLM runtime that completes prompts, with the log-probabilities of the tokens if it can.

    Attributes:
        tokenizer: Tokenizer with the interface of ``transformers``, used to truncate documents.
            None if the runtime has none: documents are then truncated by words, or by characters of
            Chinese, Japanese, Korean and Thai.
        context: Maximum number of tokens of a prompt and its completion together, None if unknown.
        chat: Whether the model follows instructions in messages. ``prompt="auto"`` of a
            `QueryGenerator` is then a `ChatPrompt`. A backend without this attribute has text
            prompts.
    """

    tokenizer: Any
    context: int | None
    chat: bool

    def complete(
        self,
        prompts: Sequence[str | Messages],
        *,
        prefix: str | Messages,
        max_new_tokens: int,
        sampling: Sampling,
        num_samples: int,
        seeds: Sequence[int],
        progress: Callable[[int], object],
        stop: Sequence[str] = (NEWLINE,),
        schema: Mapping[str, Any] | None = None,
    ) -> list[Completion]:
        """Completes prompts.

        Args:
            prompts: Complete prompts: texts to continue, or messages to answer. The content of a
                message is text, in which special tokens have no meaning.
            prefix: Text that all prompts begin with, which a runtime may process once. For
                messages, the same messages without the document.
            max_new_tokens: Maximum number of tokens of a completion.
            sampling: How tokens are chosen.
            num_samples: Number of completions per prompt.
            seeds: One seed per completion, prompt by prompt. A completion depends on its own seed
                only.
            progress: Callback that receives the number of completions that have ended.
            stop: Strings that end a completion, of which they are not a part. Empty if only the
                model ends it.
            schema: JSON schema of the completion. A runtime that cannot enforce it ignores it.

        Returns:
            ``num_samples`` completions per prompt, in the order of the prompts.

        Raises:
            NotANumberError: The model computed NaN.
            PromptError: A prompt failed for good, and the backend does not skip such prompts.
        """

    def describe(self) -> dict[str, Any]:
        """Returns the settings that determine the output: model, revision, dtype, versions.

        They must be JSON-serializable. Package versions are under the key ``versions``, and a
        context smaller than the model's is under the key ``context``. A field of `Sampling` that
        the runtime sets itself is included, None if its value is unknown.
        """


class RemoteBackend(Backend, Protocol):
    """A `Backend` that sends prompts to a server. Any backend may have these members, or lack them.

    Attributes:
        wraps_texts: Whether a text prompt becomes the message of a user, so that the model answers
            it instead of continuing it. Without this attribute, it does not. As an answer may have
            several lines, the default ``stop`` of the prompt does not end it.
    """

    wraps_texts: bool

    def most(self, max_new_tokens: int, num_samples: int) -> tuple[int, int | None]:
        """Returns what the completions of one prompt take at most, for an estimate.

        Without this method, it is one request and ``num_samples * max_new_tokens`` tokens.

        Args:
            max_new_tokens: Maximum number of tokens of a completion, unless the backend replaces
                it.
            num_samples: Number of completions of the prompt.

        Returns:
            Number of requests, and of tokens of all completions together, None without a limit.
        """


class Run(Protocol):
    """The prompts of one run.

    Attributes:
        failures_in_a_row: Number of its prompts that failed since the last answer.
        refused: Functions that store these failures, of prompts that the server refused. They are
            called at the next answer. Without one, the server may refuse all prompts, for a reason
            that can be removed.
        counts_refusals: Whether refused prompts are among ``failures_in_a_row``. They are not if
            the run only tries prompts again: some of these may be refused for good.
    """

    counts_refusals: bool
    failures_in_a_row: int
    refused: list[Callable[[], object]]


class StreamingBackend(Backend, Protocol):
    """A `Backend` that answers prompts one by one, as remote runtimes do.

    ``SyntheticQueries.index()`` stores each of its answers when it arrives, and requests those to
    the next documents while it waits.

    Attributes:
        failed: Number of prompts that failed for good, of those that a call or a run got back.
    """

    failed: int

    def submit(
        self,
        prompt: str | Messages,
        *,
        max_new_tokens: int,
        sampling: Sampling,
        num_samples: int,
        seeds: Sequence[int],
        stop: Sequence[str] = (NEWLINE,),
        schema: Mapping[str, Any] | None = None,
        answered: Callable[[list[Completion]], object] = lambda completions: None,
        run: Run | None = None,
    ) -> Future[list[Completion]]:
        """Requests the completions of a prompt; for the arguments, see `Backend.complete`.

        Args:
            prompt: The prompt.
            max_new_tokens: See there, as for the other arguments.
            sampling: See there.
            num_samples: See there.
            seeds: One seed per completion.
            stop: See there.
            schema: See there.
            answered: Callback that receives the completions when they arrive, perhaps in another
                thread. It receives those of a refused prompt at the next answer to another one. It
                is not called if a prompt fails because the server does.
            run: Run that the prompt belongs to.

        Returns:
            The completions. Its result raises the errors of `Backend.complete`.
        """


class LikelihoodBackend(Protocol):
    """An LLM runtime that returns the log-probabilities of given texts.

    Attributes:
        tokenizer: See `Backend`.
        context: See `Backend`.
    """

    tokenizer: Any
    context: int | None

    def log_likelihood(
        self,
        prompts: Sequence[str | Messages],
        continuations: Sequence[str],
        *,
        prefix: str | Messages,
        progress: Callable[[int], object],
    ) -> list[list[float]]:
        """Scores the continuation of each prompt.

        Args:
            prompts: Complete prompts; see `Backend.complete`.
            continuations: One continuation per prompt, including its leading space if any.
            prefix: See `Backend.complete`.
            progress: Callback that receives the number of pairs that have been scored.

        Returns:
            Natural log-probabilities of the tokens of each continuation, in the order of the
            prompts.
        """


class ChoiceBackend(Protocol):
    """An LLM runtime that returns the log-probabilities of given choices, such as grades.

    Attributes:
        tokenizer: See `Backend`.
        context: See `Backend`.
        chat: See `Backend`.
    """

    tokenizer: Any
    context: int | None
    chat: bool

    def choice_log_probs(
        self,
        prompts: Sequence[str | Messages],
        choices: Sequence[str],
        *,
        prefix: str | Messages,
        progress: Callable[[int], object],
    ) -> list[list[float]]:
        """Scores the same continuations of every prompt.

        Args:
            prompts: Complete prompts.
            choices: Continuations, including their leading space if any.
            prefix: Text that all prompts begin with, which a runtime may process once.
            progress: Callback that receives the number of prompts that have been scored.

        Returns:
            Natural log-probabilities of the choices for each prompt, (prompts, choices). They may
            lack the same constant in all choices of a prompt.
        """
