"""Drafts of the next tokens of a completion, looked up in what precedes them.

Prompt lookup decoding (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding): a completion
often repeats itself or copies from its prompt. A forward pass that feeds a draft of the next tokens
gives the logits after each of them, and takes as long as one for a single token when there are few
rows, because it reads the same weights. Tokens are chosen from these logits as without a draft, one
after the other, and the first one that differs from the draft ends it. Drafts therefore save passes
and, up to rounding, do not change which tokens are chosen, neither by greedy decoding nor by
sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

DRAFT_TOKENS = 16
"""Maximum number of tokens of all rows in a forward pass with drafts."""
LOOKUP_TOKENS = (3, 2)
"""Lengths of the n-grams that are looked up, longest first."""


def draft(tokens: Sequence[int], count: int) -> list[int]:
    """Returns what followed the last tokens of a sequence where they occurred before.

    The last occurrence counts. A draft that reaches the end of the sequence continues with itself,
    as a sequence does that repeats a few tokens.

    Args:
        tokens: The sequence.
        count: Number of tokens of the draft.

    Returns:
        The draft; no tokens if the last ones occur for the first time.
    """
    if count < 1:
        return []
    for size in LOOKUP_TOKENS:
        last = list(tokens[-size:])
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == last:
                period = len(tokens) - size - start
                return [tokens[start + size + i % period] for i in range(count)]
    return []
