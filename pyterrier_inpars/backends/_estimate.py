"""Requests, tokens and cost of a run, estimated before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pyterrier_inpars._arguments import finite
from pyterrier_inpars.backends._tokens import count_tokens
from pyterrier_inpars.backends.base import Messages


class Estimate(NamedTuple):
    """What a run of a language model takes.

    Attributes:
        requests: Number of prompts.
        prompt_tokens: Number of their tokens.
        completion_tokens: Maximum number of tokens of the completions.
        cost: Maximum cost, None without prices.
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


def estimate(
    prompts: Iterable[str | Messages],
    tokenizer: Any,
    max_new_tokens: int,
    prices: tuple[float, float] | None,
) -> Estimate:
    """Counts prompts and their tokens.

    Args:
        prompts: The prompts.
        tokenizer: Tokenizer with the interface of transformers; None for an estimated number.
        max_new_tokens: Maximum number of tokens of all completions of a prompt together.
        prices: Prices of a million tokens of prompts and of completions, None if unknown.

    Raises:
        ValueError: A price is not a number from 0, or there are not two of them.
    """
    per_token = None if prices is None else _checked(prices)
    requests = tokens = 0
    for prompt in prompts:
        requests += 1
        tokens += count_tokens(tokenizer, prompt)
    new_tokens = requests * max_new_tokens
    cost = (
        None
        if per_token is None
        else (tokens * per_token[0] + new_tokens * per_token[1]) / 1_000_000
    )
    return Estimate(requests, tokens, new_tokens, cost)


def _checked(prices: Any) -> tuple[float, float]:
    pair = tuple(prices) if isinstance(prices, Sequence) else ()
    if len(pair) != 2:
        raise ValueError(
            "prices must be two numbers, of a million tokens of prompts and of completions, not "
            f"{prices!r:.200}"
        )
    return finite("prices[0]", pair[0], least=0), finite("prices[1]", pair[1], least=0)
