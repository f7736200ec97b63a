"""Choice of the next token from the logits of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyterrier_inpars.backends.base import Sampling

if TYPE_CHECKING:
    import torch

CHUNK_ROWS = 8
"""Number of rows processed together on a CPU: few enough for their logits to fit its caches."""
BLOCK = 512
"""Maximum number of logits of a block in which the maximum is searched."""
TOP_TOKENS = 1024
"""Number of most probable tokens in which the nucleus is searched before all tokens are sorted."""


def next_tokens(
    logits: torch.Tensor, sampling: Sampling, generators: Sequence[Any]
) -> list[tuple[int, float]]:
    """Returns the next token of each row and its natural log-probability.

    Args:
        logits: Shape (rows, vocabulary).
        sampling: How tokens are chosen.
        generators: One ``torch.Generator`` per row; not used by greedy decoding.
    """
    chosen: list[tuple[int, float]] = []
    rows = CHUNK_ROWS if logits.device.type == "cpu" else max(1, len(logits))
    for chunk in logits.split(rows):
        chunk = chunk.float()
        tokens = choose(chunk, sampling, generators[len(chosen) : len(chosen) + len(chunk)])
        chosen += zip(tokens.tolist(), token_log_probs(chunk, tokens).tolist(), strict=True)
    return chosen


def token_log_probs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Returns the natural log-probability of one token per row, shape (rows,).

    Args:
        logits: Shape (rows, vocabulary).
        tokens: Shape (rows,).
    """
    return logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)


def choose(logits: torch.Tensor, sampling: Sampling, generators: Sequence[Any]) -> torch.Tensor:
    """Returns the next token of each row, shape (rows,).

    Each row is sampled with one random number from its own generator, so that it does not depend
    on the other rows of the batch.
    """
    import torch

    if sampling.temperature == 0:
        return _argmax(logits)
    probabilities = (logits / sampling.temperature).softmax(-1)
    tokens = None
    if sampling.top_p < 1:
        probabilities, tokens = _nucleus(probabilities, sampling.top_p)
    cumulative = probabilities.cumsum(-1)
    numbers = torch.tensor([torch.rand((), generator=g).item() for g in generators])
    threshold = numbers.to(logits.device)[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, threshold, right=True).clamp(max=logits.shape[-1] - 1)
    return (drawn if tokens is None else tokens.gather(1, drawn))[:, 0]


def _argmax(logits: torch.Tensor) -> torch.Tensor:
    """Returns the first position of the maximum of each row.

    On a CPU, PyTorch's ``argmax`` uses no vector instructions, and ``amax`` does: it finds the
    maximum of each block, and ``argmax`` only searches these and one block of each row.
    """
    import torch

    size = math.gcd(logits.shape[-1], BLOCK)
    if size == 1:  # an odd number of words has no blocks
        return logits.argmax(-1)
    blocks = logits.unflatten(-1, (-1, size))
    best = blocks.amax(-1).argmax(-1)
    rows = torch.arange(len(logits), device=logits.device)
    return best * size + blocks[rows, best].argmax(-1)


def _nucleus(probabilities: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns probabilities in descending order, 0 outside the nucleus, and their tokens."""
    count = min(TOP_TOKENS, probabilities.shape[-1])
    ordered, tokens = probabilities.topk(count)
    if ordered.sum(-1).min() < top_p:  # a flat distribution
        ordered, tokens = probabilities.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return (before < top_p) * ordered, tokens
