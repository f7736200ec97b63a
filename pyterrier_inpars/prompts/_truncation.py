"""Truncation of documents to a number of tokens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pyterrier_inpars.backends._chat import as_text, encode
from pyterrier_inpars.backends._tokens import count_units, units
from pyterrier_inpars.backends.base import Messages


def truncate(documents: Iterable[str], tokenizer: Any, max_tokens: int) -> list[str]:
    """Truncates each document after ``max_tokens`` tokens and normalizes its white space.

    The cut is made at character offsets instead of by decoding tokens, so the result is always the
    beginning of the document. A character that consists of several tokens is kept as a whole or
    dropped.

    Args:
        documents: Texts to truncate.
        tokenizer: Tokenizer with the interface of transformers. None counts words, and
            characters of scripts without spaces, instead.
        max_tokens: Maximum number of tokens, special tokens not included.
    """
    documents = [" ".join(document.split()) for document in documents]
    if tokenizer is None or not documents:
        return [_first_units(document, max_tokens) for document in documents]
    offsets = tokenizer(
        documents,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
    )["offset_mapping"]
    return [
        document[: _cut_position(*spans[max_tokens - 1 : max_tokens + 1])]
        if len(spans) > max_tokens
        else document
        for document, spans in zip(documents, offsets, strict=True)
    ]


def truncate_to_fit(
    documents: list[str],
    build: Callable[[int, str], str | Messages],
    tokenizer: Any,
    max_tokens: float,
    limit: str,
    continuations: Sequence[str] | None = None,
) -> list[str]:
    """Truncates documents until the prompt built from each has at most ``max_tokens`` tokens.

    Args:
        documents: Texts with normalized white space.
        build: Function from the index of a document and its truncated text to its prompt, a text or
            messages.
        tokenizer: Tokenizer with the interface of transformers. None counts words, and
            characters of scripts without spaces, instead.
        max_tokens: Maximum number of tokens of a prompt and its continuation; infinity for no
            limit.
        limit: Origin of the limit, for the error message.
        continuations: A text after each prompt; None for none.

    Raises:
        ValueError: A prompt is too long even without its document.
    """
    truncated = list(documents)
    pending = list(range(len(truncated))) if max_tokens < math.inf else []
    while pending:
        rests = None if continuations is None else [continuations[i] for i in pending]
        lengths = _prompt_lengths([build(i, truncated[i]) for i in pending], tokenizer, rests)
        excess = {
            i: int(length - max_tokens)
            for i, length in zip(pending, lengths, strict=True)
            if length > max_tokens
        }
        for i, tokens in excess.items():
            if not truncated[i]:
                raise ValueError(
                    f"even without a document, the prompt has {tokens} tokens too many for {limit}:"
                    " give a shorter prompt, or fewer or shorter examples (max_doc_tokens, "
                    "max_query_tokens)"
                )
            room = _length(truncated[i], tokenizer) - tokens
            shorter = truncate(truncated[i : i + 1], tokenizer, room)[0] if room > 0 else ""
            # Tokens depend on the whole text, and one character may be several tokens.
            truncated[i] = min(shorter, truncated[i][:-1], key=len)
        pending = list(excess)
    return truncated


def _prompt_lengths(
    prompts: list[str | Messages], tokenizer: Any, continuations: list[str] | None
) -> list[int]:
    """Returns the number of tokens of each prompt, with its continuation if there are any."""
    is_chat = bool(prompts) and not isinstance(prompts[0], str)
    if tokenizer is None or (is_chat and not getattr(tokenizer, "chat_template", None)):
        rests = [""] * len(prompts) if continuations is None else continuations
        return [
            _length(as_text(tokenizer, prompt) + rest, tokenizer)
            for prompt, rest in zip(prompts, rests, strict=True)
        ]
    return [len(ids) for ids in encode(tokenizer, prompts, continuations)]


def _first_units(document: str, number: int) -> str:
    if count_units(document) <= number:
        return document
    last = next(itertools.islice(units(document), number - 1, None))
    return document[: last.end()]


def _length(text: str, tokenizer: Any) -> int:
    """Returns the number of tokens of a text, or of `units` without a tokenizer."""
    if tokenizer is None:
        return count_units(text)
    return len(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _cut_position(last: tuple[int, int], cut: tuple[int, int]) -> int:
    """Returns where to cut a text between two tokens, given their character spans.

    This is the end of the last token kept, or the beginning of a character that both belong to.
    """
    return cut[0] if last[0] <= cut[0] < last[1] else last[1]
