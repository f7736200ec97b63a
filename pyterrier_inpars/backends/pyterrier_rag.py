"""Backends in the manner of pyterrier_rag: any object with its ``generate`` method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyterrier_inpars.backends.base import NEWLINE, Completion, Sampling


class PyTerrierRagBackend:
    """Completes prompts by an object's ``generate`` (pyterrier_rag's for OpenAI's API, say).

    ``generate(prompts, return_logprobs=True, max_new_tokens=..., stop_sequences=[...])`` must give
    for each prompt an object with ``text`` and ``logprobs``: for each token a mapping from the
    likeliest tokens' text to their log-probability. How tokens are chosen is the object's own
    affair. It has no tokenizer to cut documents by, so these are cut by words.

    Args:
        backend: the object.

    Raises:
        RuntimeError: (on use) a call failed, which such backends tell in the text.
        ValueError: (on use) sampling is asked for here, or log-probabilities are missing.
    """

    tokenizer = None
    context = None

    def __init__(self, backend: Any):
        self.backend = backend

    def describe(self) -> dict[str, Any]:
        """What decides the output, as far as it is told: the class and the model's name.

        Not the object's ``repr``, which may hold a key, or an address that is another in each run.
        """
        kind = type(self.backend)
        name = getattr(self.backend, "model_id", None)
        return {"model": name, "backend": f"{kind.__module__}.{kind.__qualname__}"}

    def complete(
        self,
        prompts: Sequence[str],
        *,
        prefix: str,
        max_new_tokens: int,
        sampling: Sampling,
        progress: Callable[[int], object],
    ) -> list[Completion]:
        """Completes each prompt up to a newline or the limit."""
        if sampling.temperature or sampling.num_samples > 1:
            raise ValueError(
                f"temperature and num_queries are not passed on to {self.backend!r}: set the "
                f"temperature there, and write one query a document"
            )
        outputs = self.backend.generate(
            list(prompts),
            return_logprobs=True,
            max_new_tokens=max_new_tokens,
            stop_sequences=[NEWLINE],
        )
        if len(outputs) != len(prompts):
            raise RuntimeError(
                f"{self.backend!r} gave {len(outputs)} outputs for {len(prompts)} prompts"
            )
        progress(len(outputs))
        return [self._completion(output, max_new_tokens) for output in outputs]

    def _completion(self, output: Any, max_new_tokens: int) -> Completion:
        if output.text is None or output.text.startswith("ERROR::"):
            raise RuntimeError(f"{self.backend!r} failed on a prompt: {output.text!r}")
        if output.logprobs is None:
            raise ValueError(f"{self.backend!r} gives no log-probabilities, but queries need them")
        text = output.text.split(NEWLINE)[0]
        log_probs = _emitted(text, output.logprobs)
        ended = NEWLINE in output.text or len(log_probs) < max_new_tokens
        return Completion(text.strip(), log_probs, "stop" if ended else "length")


def _emitted(text: str, candidates: Sequence[Mapping[str, float]]) -> list[float]:
    """Log-probabilities of the tokens that make up the text, each found among the candidates.

    Raises:
        ValueError: the text cannot be made from the candidates.
    """
    log_probs = []
    rest = text
    for likeliest in candidates:
        if not rest:
            break
        fitting = [token for token in likeliest if token and rest.startswith(token)]
        fitting += [token for token in likeliest if token.startswith(rest) and NEWLINE in token]
        if not fitting:
            raise ValueError(f"no candidate token begins {rest!r}; they are {list(likeliest)}")
        token = max(fitting, key=len)
        log_probs.append(likeliest[token])
        rest = rest[len(token) :]
    if rest:
        raise ValueError(f"there are no log-probabilities for {rest!r}, the end of {text!r}")
    return log_probs
