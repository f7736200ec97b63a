"""Special tokens that are written out in a message, which most servers would obey."""

from __future__ import annotations

import re

_SPECIAL_TOKENS = {
    "<": re.compile(
        r"<(?=[|｜][^|｜<>\s]{1,40}[|｜]?>|[^|｜<>\s]{1,40}[|｜]>"  # ChatML, Llama 3, DeepSeek
        r"|(?:start|end)_of_\w{1,20}>|/?s>|[be]os>)"  # Gemma, Llama 2
    ),
    "[": re.compile(  # Mistral
        r"\[(?=/?(?:INST|THINK|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])"
    ),
}
"""Special tokens of the usual chat templates, by their first character, which alone is matched."""


def without_special_tokens(content: str) -> str:
    """Returns the content of a message with a space in special tokens, as in ``< |im_end|>``."""
    for start, token in _SPECIAL_TOKENS.items():
        if start in content:
            content = token.sub(f"{start} ", content)
    return content
