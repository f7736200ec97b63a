"""Backends of pyterrier_rag: any object with its ``generate`` method."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from more_itertools import chunked

from pyterrier_inpars.backends.base import (
    CUT,
    NEWLINE,
    SAMPLING_FIELDS,
    Completion,
    Messages,
    PromptError,
    Sampling,
)

BATCH_SIZE = 16
"""Number of prompts of a call, unless the object has a ``batch_size``."""
REFUSALS = ("ERROR::reduce_length", "ERROR::response_filtered")
"""Texts in place of an answer to a prompt that was refused alone."""

_SECRET = re.compile(r"key|secret|passw|credential|auth|header|cookie|bearer", re.I)
_TOKEN = re.compile(r"token", re.I)
_NO_SECRET = re.compile(r"(max|min)(_new|_completion)?_tokens|\w*_token_ids?|tokenizer", re.I)


class PyTerrierRagBackend:
    """Completes prompts with a backend of pyterrier_rag, for example its OpenAI backend.

    The method ``generate(prompts, return_logprobs=True, max_new_tokens=..., stop_sequences=[...])``
    must return one object per prompt with the attributes ``text`` and ``logprobs``. For each
    generated token, ``logprobs`` maps the text of the most probable tokens to their natural
    log-probability. If it is None or absent, or a generated token is not among them, the
    log-probabilities are unknown. Temperature and other sampling settings are those of the object.
    It provides no tokenizer, so documents are truncated by words; see `Backend`.

    A call has as many prompts as the object's attribute ``batch_size`` says, and 16 without one, as
    its backends for transformers compute all prompts of a call together. A prompt that is too long,
    or whose answer was filtered or is None, gives a completion with an ``error``. Any other error
    ends the run.

    Args:
        backend: Object with a ``generate`` method.

    Attributes:
        chat: Whether the object takes messages, by its attribute ``supports_message_input``.
        wraps_texts: The same: pyterrier_rag sends a text as a message then.

    Raises:
        PromptError: On use, a prompt failed for another reason, which these backends report in the
            text.
        RuntimeError: On use, there are not as many outputs as prompts.
        ValueError: On use, sampling is requested from this package.
    """

    tokenizer = None
    context = None

    def __init__(self, backend: Any):
        self.backend = backend
        self.chat = bool(getattr(backend, "supports_message_input", False))
        self.wraps_texts = self.chat

    @property
    def batch_size(self) -> int:
        """Number of prompts of a call."""
        size = getattr(self.backend, "batch_size", None)
        return size if type(size) is int and size > 0 else BATCH_SIZE

    @property
    def _arguments(self) -> Any:
        """The ``generation_args`` of the object without secrets, a dict if they are a mapping."""
        given = getattr(self.backend, "_generation_args", None)
        return _described(getattr(self.backend, "generation_args", given) or {})

    @property
    def fixed_sampling(self) -> dict[str, Any]:
        """Fields of `Sampling`, all of which the object decides; None if it does not name them."""
        arguments = self._arguments
        known = arguments if isinstance(arguments, dict) else {}
        return {name: known.get(name) for name in SAMPLING_FIELDS}

    def describe(self) -> dict[str, Any]:
        """Returns the class, the model's name and the ``generation_args``; see `Backend.describe`.

        Of these arguments, those that may hold a key or an access token are left out, at any depth.
        The object's ``repr`` is not included: it may contain an API key, or an address that changes
        from run to run.
        """
        kind = type(self.backend)
        arguments = self._arguments
        return {
            "model": getattr(self.backend, "model_id", None),
            "backend": f"{kind.__module__}.{kind.__qualname__}",
            **({"generation_args": arguments} if arguments else {}),
            **self.fixed_sampling,
        }

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
        """Completes each prompt up to a stop string or the token limit; see `Backend.complete`."""
        if sampling.temperature or num_samples > 1:
            raise ValueError(
                f"sampling and num_queries are not passed on to {self.backend!r}: set the "
                "temperature of that object, and generate one query per document"
            )
        completions: list[Completion] = []
        for part in chunked(prompts, self.batch_size):
            outputs = self.backend.generate(
                part,
                return_logprobs=getattr(self.backend, "supports_logprobs", True),
                max_new_tokens=max_new_tokens,
                stop_sequences=list(stop) or None,
            )
            if len(outputs) != len(part):
                raise RuntimeError(
                    f"{self.backend!r} returned {len(outputs)} outputs for {len(part)} prompts"
                )
            for output in outputs:
                if output.text is None or output.text in REFUSALS:
                    reason = f"{self.backend!r} returned {output.text!r}"
                    completions.append(Completion("", None, "error", error=reason))
                elif not isinstance(output.text, str) or output.text.startswith("ERROR::"):
                    message = f"{self.backend!r} returned {output.text!r:.200}"
                    raise PromptError(message, len(completions))
                else:
                    completions.append(_completion(output, max_new_tokens, stop))
            progress(len(outputs))
        return completions


def _described(value: Any) -> Any:
    """Returns arguments for a manifest: without secrets, and other objects by their class."""
    if isinstance(value, Mapping):
        return {str(name): _described(v) for name, v in value.items() if not _is_secret(str(name))}
    if isinstance(value, list | tuple):
        return [_described(v) for v in value]
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return type(value).__qualname__


def _is_secret(name: str) -> bool:
    """Returns whether the value of an argument may be a secret."""
    is_token = _TOKEN.search(name) and not _NO_SECRET.fullmatch(name)
    return bool(is_token or _SECRET.search(name))


def _completion(output: Any, max_new_tokens: int, stop: Sequence[str]) -> Completion:
    whole, candidates = output.text, getattr(output, "logprobs", None) or []
    if not all(isinstance(top_tokens, Mapping) for top_tokens in candidates):
        candidates = []
    text = whole[: min((i for i in map(whole.find, stop) if i >= 0), default=None)]
    tokens = _tokens_of(text, candidates) if candidates else None
    count = len(candidates) if tokens is None else len(tokens)
    ended = len(text) < len(whole) or count < max_new_tokens
    if not ended and text.endswith(CUT):
        text = text.rstrip(CUT)
        tokens = tokens and _tokens_of(text, candidates)
    reason = "stop" if ended else "length"
    if tokens is None:
        return Completion(text.strip(), None, reason)
    space = len(text) - len(text.lstrip())
    text = text.strip()
    ends = itertools.accumulate(length for length, _ in tokens)
    return Completion(
        text,
        [log_prob for _, log_prob in tokens],
        reason,
        [min(max(0, end - space), len(text)) for end in ends],
    )


def _tokens_of(
    text: str, candidates: Sequence[Mapping[str, float]]
) -> list[tuple[int, float]] | None:
    """Returns the length and log-probability of the tokens of a text, found among candidate tokens.

    Args:
        text: Generated text.
        candidates: For each token, the log-probabilities of the most probable tokens.

    Returns:
        None if the text is not a sequence of candidate tokens.
    """
    tokens = []
    rest = text
    for top_tokens in candidates:
        if not rest:
            break
        fitting = [token for token in top_tokens if token and rest.startswith(token)]
        fitting += [token for token in top_tokens if token.startswith(rest) and NEWLINE in token]
        if not fitting:
            return None
        token = max(fitting, key=len)
        tokens.append((len(token), top_tokens[token]))
        rest = rest[len(token) :]
    return None if rest else tokens
