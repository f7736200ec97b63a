"""Choices of an answer of an OpenAI-compatible server: text, log-probabilities, how it ended."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pyterrier_inpars.backends._server import PromptFailure
from pyterrier_inpars.backends.base import CUT, Completion

BROKEN_OFF = ("abort", "error", "insufficient_system_resource")
"""Reasons for the end of an answer that the server did not finish."""
FILTERED = (
    "content_filter",
    *("safety", "recitation", "blocklist", "prohibited_content", "spii", "language"),  # Gemini
    *("refusal", "error_toxic"),  # gateways to Anthropic and Cohere
)
"""Reasons for the end of an answer that a content filter removed, as a whole or in part."""
LENGTH = ("length", "max_tokens", "max_output_tokens", "model_length")
"""Reasons for the end of an answer at the token limit."""


def completions_of(choices: Iterable[Mapping[str, Any]], stop: Iterable[str]) -> list[Completion]:
    """Returns the completions of the choices of an answer that are well-formed and ended.

    One that the model refused, or that a content filter removed, has an error; see `checked`.
    """
    found: list[Completion | None] = []
    for choice in choices:
        try:
            found.append(completion_of(choice, stop))
        except PromptFailure as failure:
            found.append(Completion("", None, "error", error=str(failure)))
    return [completion for completion in found if completion is not None]


def checked(completions: Sequence[Completion]) -> list[Completion]:
    """Returns the completions of a prompt, without text in place of those that have an error.

    Raises:
        PromptFailure: All have one.
    """
    errors = [completion.error for completion in completions]
    if errors and all(errors):
        raise PromptFailure(str(errors[0]))
    return [replace(completion, error=None) for completion in completions]


def completion_of(choice: Mapping[str, Any], stop: Iterable[str]) -> Completion | None:
    """Returns the completion of one choice of an answer, or None if it is malformed or broken off.

    Raises:
        PromptFailure: The model refused to answer, or a content filter removed the answer.
    """
    given = choice.get("message")
    message: Mapping[str, Any] = given if isinstance(given, dict) else {}
    given_reason = str(choice.get("finish_reason"))
    reason = given_reason.partition(":")[0].strip().lower()  # "content_filter: RECITATION"
    if refusal := message.get("refusal"):
        raise PromptFailure(f"the model refused to answer: {refusal!r:.200}")
    if reason in FILTERED:
        raise PromptFailure(f"a content filter removed the answer ({given_reason:.100})")
    raw = _raw_text(choice.get("text") or message.get("content"))
    if raw is None or reason in BROKEN_OFF or not ("text" in choice or isinstance(given, dict)):
        return None
    cut = min((raw.find(end) for end in stop if end in raw), default=len(raw))
    text = raw[:cut].strip()
    is_cut = reason in LENGTH and cut == len(raw)
    if is_cut:
        text = text.rstrip(CUT)
    tokens = _tokens(choice.get("logprobs"))
    has_reasoned = bool(message.get("reasoning_content") or message.get("reasoning"))
    start = raw.find(text)
    log_probs, ends = _log_probs(tokens, raw, start + len(text), has_reasoned)
    if ends is not None:
        ends = [min(max(end - start, 0), len(text)) for end in ends]
    return Completion(text, log_probs, "length" if is_cut else "stop", ends)


def _raw_text(content: Any) -> str | None:
    """Returns the text of an answer, which may come in parts; None if it is malformed."""
    parts = content if isinstance(content, list) else [content or ""]
    texts = [part.get("text", "") if isinstance(part, dict) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        return None
    return re.sub("[\ud800-\udfff]", CUT, "".join(texts))  # halves of characters


def _tokens(returned: Any) -> list[tuple[bytes, float]] | None:
    """Returns the tokens of an answer with their log-probabilities, None if any is unknown.

    Args:
        returned: Field ``logprobs`` of a choice, in the form of either endpoint.
    """
    if not isinstance(returned, dict):
        return None
    try:
        if "content" in returned:
            rows = returned["content"] or []
            values = [row["logprob"] for row in rows]
            texts = [
                bytes(row["bytes"]) if row.get("bytes") else row["token"].encode() for row in rows
            ]
        else:
            values = returned.get("token_logprobs") or []
            texts = [text.encode("utf-8", "surrogatepass") for text in returned.get("tokens") or []]
        if len(texts) != len(values) or not all(isinstance(v, (int, float)) for v in values):
            return None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return list(zip(texts, values, strict=True))


def _log_probs(
    tokens: Sequence[tuple[bytes, float]] | None, raw: str, length: int, has_reasoned: bool
) -> tuple[list[float] | None, list[int] | None]:
    """Returns the log-probabilities of the tokens of a text, and the positions of their ends.

    Args:
        tokens: All tokens of the answer, perhaps with those of reasoning before the text.
        raw: Text that the server returned.
        length: Number of its characters that are the text.
        has_reasoned: Whether the server returned reasoning beside the text.
    """
    if not tokens or not length:
        return None, None
    texts, values = zip(*tokens, strict=True)
    start = _start_of(raw[:length].encode(), texts)
    if start is None:  # bytes of a character are lost in some servers' tokens
        is_whole = length == len(raw) and not has_reasoned
        return (list(values), None) if is_whole else (None, None)
    joined = b""
    ends = []
    for text in texts[start:]:
        joined += text
        ends.append(len(joined.decode("utf-8", "ignore")))
    count = sum(end < length for end in ends) + 1
    return list(values[start : start + count]), ends[:count]


def _start_of(text: bytes, tokens: Sequence[bytes]) -> int | None:
    """Returns the number of the token at which a text begins, the last one if there are several.

    Returns:
        None if the text does not begin with a token.
    """
    joined = b"".join(tokens)
    starts = [0, *itertools.accumulate(map(len, tokens))][:-1]
    if joined.startswith(text):
        return 0
    return next(
        (n for n, start in reversed([*enumerate(starts)]) if joined.startswith(text, start)), None
    )
