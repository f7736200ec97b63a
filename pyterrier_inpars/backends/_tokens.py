"""Number of tokens of a text, estimated where the model's tokenizer is not at hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pyterrier_inpars._words import UNSPACED
from pyterrier_inpars.backends._chat import as_text
from pyterrier_inpars.backends.base import Messages

CHARACTERS_PER_TOKEN = 4
"""Rule of thumb for English text."""
LONGEST_WORD = 40
"""Characters of the longest word; longer strings are links, hashes or encoded data."""
_WIDE = UNSPACED + "\u1100-\u11ff\uac00-\ud7af"
"""Characters that are about a token each: those of scripts without spaces, and Korean."""
LETTER = rf"[^\W{_WIDE}]"
"""Pattern of a letter or digit of a word, in scripts with one token for several characters."""
_WIDE_CHARACTER = re.compile(f"[{_WIDE}]")
_UNIT = re.compile(
    rf"[{_WIDE}]|(?<![^\s{_WIDE}])[^\s{_WIDE}]{{1,{LONGEST_WORD}}}(?![^\s{_WIDE}])|[^\s{_WIDE}]{{1,6}}"
)


def units(text: str) -> Iterator[re.Match[str]]:
    """Yields the units of a text that stand for tokens where there is no tokenizer.

    A unit is a word, a character of a script that writes words without spaces or has a character
    for each syllable (Chinese, Japanese, Korean, Thai, ...), or 6 characters of a longer string.
    """
    return _UNIT.finditer(text)


def count_units(text: str) -> int:
    """Returns the number of `units` of a text."""
    words = text.split()
    # The server path counts in the main thread: words are split an order of magnitude faster.
    if max(map(len, words), default=0) <= LONGEST_WORD and not _count_wide(text):
        return len(words)
    return sum(1 for _ in units(text))


def _count_wide(text: str) -> int:
    """Returns the number of characters that count as a token each."""
    return 0 if text.isascii() else len(_WIDE_CHARACTER.findall(text))


def count_tokens(tokenizer: Any, prompt: str | Messages) -> int:
    """Returns the number of tokens of a prompt.

    Args:
        tokenizer: Tokenizer with the interface of transformers. None to estimate the number: a
            token is a character of the scripts of `units`, or 4 characters of others.
        prompt: Text or messages.
    """
    text = as_text(tokenizer, prompt)
    if tokenizer is None:
        wide = _count_wide(text)
        return wide - (wide - len(text)) // CHARACTERS_PER_TOKEN
    return len(tokenizer(text)["input_ids"])
