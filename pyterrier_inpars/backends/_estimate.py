"""Requests, tokens and cost of a run, estimated before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pyterrier_inpars._arguments import finite
from pyterrier_inpars.backends._tokens import count_tokens
from pyterrier_inpars.backends.base import Messages


class Estimate(NamedTuple):
    """What a run of a language model takes.

    Requests that a server does not answer, or answers in another way than asked, are sent again and
    come on top.

    Attributes:
        requests: Number of requests.
        prompt_tokens: Number of tokens of their prompts.
        completion_tokens: Maximum number of tokens of the completions, None without a limit.
        cost: Maximum cost, None without prices, or without a limit of the completions.
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int | None
    cost: float | None


def estimate(
    prompts: Iterable[str | Messages],
    backend: Any,
    max_new_tokens: int,
    num_samples: int,
    prices: tuple[float, float] | None,
) -> Estimate:
    """Counts requests and their tokens.

    Args:
        prompts: The prompts.
        backend: The backend that completes them. Without its tokenizer, their tokens are estimated.
        max_new_tokens: Maximum number of tokens of a completion, unless the backend replaces it.
        num_samples: Number of completions per prompt.
        prices: Prices of a million tokens of prompts and of completions, None if unknown.

    Raises:
        ValueError: A price is not a number from 0, or there are not two of them.
    """
    per_token = None if prices is None else _checked(prices)
    requests, most = 1, num_samples * max_new_tokens
    if hasattr(backend, "most"):
        requests, most = backend.most(max_new_tokens, num_samples)
    count = tokens = 0
    for prompt in prompts:
        count += 1
        tokens += count_tokens(backend.tokenizer, prompt)
    tokens *= requests
    if most is None:
        return Estimate(count * requests, tokens, None, None)
    cost = None
    if per_token is not None:
        cost = (tokens * per_token[0] + count * most * per_token[1]) / 1_000_000
    return Estimate(count * requests, tokens, count * most, cost)


def _checked(prices: Any) -> tuple[float, float]:
    pair = tuple(prices) if isinstance(prices, Sequence) else ()
    if len(pair) != 2:
        raise ValueError(
            "prices must be two numbers, of a million tokens of prompts and of completions, not "
            f"{prices!r:.200}"
        )
    return finite("prices[0]", pair[0], least=0), finite("prices[1]", pair[1], least=0)
