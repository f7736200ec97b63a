"""What a language model is to this package: prompts in, completions out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pyterrier_inpars._stage import finite


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: 0 takes the likeliest token (greedy); above 0 a token is drawn from the
            distribution of the logits divided by it.
        top_p: draw only from the likeliest tokens that together hold this share of the probability
            (nucleus sampling, arXiv 1904.09751, section 3.1).
        num_samples: completions for each prompt.
        seeds: one seed for each completion, prompt by prompt; what is drawn for a completion
            depends on its own seed alone.

    Raises:
        ValueError: a value is out of range, or several greedy completions are asked for.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    num_samples: int = 1
    seeds: Sequence[int] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not finite("temperature", self.temperature) >= 0:
            raise ValueError(f"temperature must be 0 (greedy) or above, not {self.temperature!r}")
        if not 0 < finite("top_p", self.top_p) <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p!r}")
        if self.num_samples > 1 and self.temperature == 0:
            raise ValueError(
                f"{self.num_samples} greedy completions of one prompt would be the same: "
                f"give a temperature above 0"
            )


GREEDY = Sampling()
NEWLINE = "\n"
"""What ends a completion."""


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt.

    Attributes:
        text: the text up to the first newline, which is not part of it.
        log_probs: natural log-probabilities that the model gave to the tokens of the text, one a
            token; the token that ended the text is not among them, unless it holds some of it.
        finish_reason: ``"stop"`` when the model ended the text, ``"length"`` when the limit did.
    """

    text: str
    log_probs: list[float]
    finish_reason: str


class Backend(Protocol):
    """A runtime that completes prompts with their own log-probabilities.

    Attributes:
        tokenizer: what documents are cut with, called as those of transformers are; None if the
            runtime has none, and words are counted.
        context: most tokens of a prompt and its completion together; None if not known.
    """

    tokenizer: Any
    context: int | None

    def complete(
        self,
        prompts: Sequence[str],
        *,
        prefix: str,
        max_new_tokens: int,
        sampling: Sampling,
        progress: Callable[[int], object],
    ) -> list[Completion]:
        """Completes prompts that all begin with ``prefix``; ``num_samples`` results a prompt."""

    def describe(self) -> dict[str, Any]:
        """What decides the output: model, revision, precision, versions."""


class LikelihoodBackend(Protocol):
    """A runtime that tells how likely its model holds a text that others wrote.

    Attributes:
        tokenizer: see `Backend`.
        context: see `Backend`.
    """

    tokenizer: Any
    context: int | None

    def log_likelihood(
        self,
        prompts: Sequence[str],
        continuations: Sequence[str],
        *,
        prefix: str,
        progress: Callable[[int], object],
    ) -> list[list[float]]:
        """Natural log-probabilities of each continuation's tokens after its prompt."""
