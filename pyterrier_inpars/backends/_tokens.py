"""Number of tokens of a prompt, estimated where the model's tokenizer is not at hand."""

from __future__ import annotations

from typing import Any

from pyterrier_inpars.backends._chat import as_text
from pyterrier_inpars.backends.base import Messages

CHARACTERS_PER_TOKEN = 4
"""Rule of thumb for English text."""


def count_tokens(tokenizer: Any, prompt: str | Messages) -> int:
    """Returns the number of tokens of a prompt.

    Args:
        tokenizer: Tokenizer with the interface of transformers. None to estimate the number from
            the number of characters.
        prompt: Text or messages.
    """
    text = as_text(tokenizer, prompt)
    if tokenizer is None:
        return -(-len(text) // CHARACTERS_PER_TOKEN)
    return len(tokenizer(text)["input_ids"])
