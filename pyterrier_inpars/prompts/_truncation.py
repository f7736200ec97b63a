"""Truncation of documents to a number of tokens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from pyterrier_inpars._counted import are_many
from pyterrier_inpars.backends._chat import as_text, encode
from pyterrier_inpars.backends._tokens import count_units, units
from pyterrier_inpars.backends.base import Messages

CHARACTERS_PER_UNIT = 20
"""Several times the usual length of a word: a text with more per unit is longer than the limit."""
MANY_TRUNCATED = (5, 0.2)
"""Number and share of truncated documents from which there is a warning."""


class Room(NamedTuple):
    """What limits a prompt, and the answer to it.

    Attributes:
        context: Maximum number of tokens of both together; None for no limit.
        max_new_tokens: Those of them that are reserved for the answer.
        answer: What the model writes, in the words of errors and warnings.
    """

    context: int | None
    max_new_tokens: int
    answer: str

    @property
    def tokens(self) -> float:
        """Maximum number of tokens of a prompt."""
        return math.inf if self.context is None else self.context - self.max_new_tokens

    def __str__(self) -> str:
        return (
            f"context={self.context}, of which max_new_tokens={self.max_new_tokens} are reserved "
            f"for the {self.answer}"
        )


class Truncated(NamedTuple):
    """Documents as the model sees them.

    Attributes:
        texts: Their texts.
        long: Whether each document is longer than ``max_doc_tokens``.
        squeezed: Whether each document was cut so that prompt and answer fit the context.
    """

    texts: list[str]
    long: list[bool]
    squeezed: list[bool]


def truncate_documents(
    documents: Iterable[str],
    build: Callable[[int, str], str | Messages],
    tokenizer: Any,
    max_doc_tokens: int,
    room: Room,
) -> Truncated:
    """Truncates documents to their own limit, and then so that prompt and answer fit the context.

    Args:
        documents: Texts to truncate.
        build: See `truncate_to_fit`.
        tokenizer: See `truncate`.
        max_doc_tokens: Maximum number of tokens of a document.
        room: Limit of a prompt.

    Raises:
        ValueError: A prompt is too long even without its document.
    """
    whole = [" ".join(document.split()) for document in documents]
    first = truncate(whole, tokenizer, max_doc_tokens)
    limit = f"{room} (raise the former, or lower the latter)"
    texts = truncate_to_fit(first, build, tokenizer, room.tokens, limit)
    return Truncated(
        texts,
        [text != document for text, document in zip(first, whole, strict=True)],
        [text != longer for text, longer in zip(texts, first, strict=True)],
    )


def truncation_warnings(
    long: int,
    squeezed: int,
    documents: int,
    max_doc_tokens: int,
    default: int,
    room: Room,
    remedy: str,
) -> Iterator[tuple[str, str]]:
    """Yields a name and a text for each warning of many truncated documents.

    Args:
        long: Number of documents longer than ``max_doc_tokens``.
        squeezed: Number of those that were cut to fit the context.
        documents: Number of documents.
        max_doc_tokens: Maximum number of tokens of a document.
        default: Its default: a limit of one's own is no reason for a warning.
        room: Limit of a prompt.
        remedy: What to do about long documents.
    """
    if max_doc_tokens == default and are_many(long, documents, MANY_TRUNCATED):
        yield (
            "truncated",
            f"{long:,} of {documents:,} documents ({long / documents:.0%}) are longer than "
            f"max_doc_tokens={max_doc_tokens}, so the model sees only their beginning: {remedy}, "
            "or set max_doc_tokens",
        )
    if are_many(squeezed, documents, MANY_TRUNCATED):
        yield (
            "squeezed",
            f"{squeezed:,} of {documents:,} documents ({squeezed / documents:.0%}) were cut "
            f"further, so that prompt and {room.answer} fit {room}: raise the former, lower the "
            "latter, or give a shorter prompt",
        )


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
    # Counting is fast, but reads the whole document, of which a long one is cut near its beginning.
    if len(document) < CHARACTERS_PER_UNIT * number and count_units(document) <= number:
        return document
    first = list(itertools.islice(units(document), number + 1))
    return document if len(first) <= number else document[: first[-2].end()]


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
