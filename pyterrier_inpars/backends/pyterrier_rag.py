"""Backends of pyterrier_rag: any object with its ``generate`` method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyterrier_inpars.backends.base import CUT, NEWLINE, Completion, Messages, Sampling


class PyTerrierRagBackend:
    """Completes prompts with a backend of pyterrier_rag, for example its OpenAI backend.

    The method ``generate(prompts, return_logprobs=True, max_new_tokens=..., stop_sequences=[...])``
    must return one object per prompt with the attributes ``text`` and ``logprobs``. For each
    generated token, ``logprobs`` maps the text of the most probable tokens to their natural
    log-probability. Temperature and other sampling settings are those of the object. It provides no
    tokenizer, so documents are truncated by words.

    Args:
        backend: Object with a ``generate`` method.

    Raises:
        RuntimeError: On use, a call failed, which these backends report in the text.
        ValueError: On use, sampling is requested from this package, or log-probabilities are
            missing.
    """

    tokenizer = None
    context = None

    def __init__(self, backend: Any):
        self.backend = backend

    def describe(self) -> dict[str, Any]:
        """Returns the class and the model's name; see `Backend.describe`.

        The object's ``repr`` is not included: it may contain an API key, or an address that
        changes from run to run.
        """
        kind = type(self.backend)
        name = getattr(self.backend, "model_id", None)
        return {"model": name, "backend": f"{kind.__module__}.{kind.__qualname__}"}

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
        outputs = self.backend.generate(
            list(prompts),
            return_logprobs=True,
            max_new_tokens=max_new_tokens,
            stop_sequences=list(stop),
        )
        if len(outputs) != len(prompts):
            raise RuntimeError(
                f"{self.backend!r} returned {len(outputs)} outputs for {len(prompts)} prompts"
            )
        progress(len(outputs))
        return [self._completion(output, max_new_tokens, stop) for output in outputs]

    def _completion(self, output: Any, max_new_tokens: int, stop: Sequence[str]) -> Completion:
        if output.text is None or output.text.startswith("ERROR::"):
            raise RuntimeError(f"{self.backend!r} failed on a prompt: {output.text!r}")
        if output.logprobs is None:
            raise ValueError(
                f"{self.backend!r} returns no log-probabilities, which queries need for their score"
            )
        text = output.text[: min((i for i in map(output.text.find, stop) if i >= 0), default=None)]
        log_probs = _token_log_probs(text, output.logprobs)
        ended = len(text) < len(output.text) or len(log_probs) < max_new_tokens
        if not ended and text.endswith(CUT):
            text = text.rstrip(CUT)
            log_probs = _token_log_probs(text, output.logprobs)
        return Completion(text.strip(), log_probs, "stop" if ended else "length")


def _token_log_probs(text: str, candidates: Sequence[Mapping[str, float]]) -> list[float]:
    """Returns the log-probabilities of the tokens of a text, found among candidate tokens.

    Args:
        text: Generated text.
        candidates: For each token, the log-probabilities of the most probable tokens.

    Raises:
        ValueError: The text is not a sequence of candidate tokens.
    """
    log_probs = []
    rest = text
    for top_tokens in candidates:
        if not rest:
            break
        fitting = [token for token in top_tokens if token and rest.startswith(token)]
        fitting += [token for token in top_tokens if token.startswith(rest) and NEWLINE in token]
        if not fitting:
            raise ValueError(
                f"no candidate token matches {rest!r}; the candidates are {list(top_tokens)}"
            )
        token = max(fitting, key=len)
        log_probs.append(top_tokens[token])
        rest = rest[len(token) :]
    if rest:
        raise ValueError(f"there are no log-probabilities for {rest!r}, the end of {text!r}")
    return log_probs
