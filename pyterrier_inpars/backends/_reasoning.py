"""The reasoning that instruct models write before their answer, and the tags around it."""

from __future__ import annotations

import re

WINDOW = 80
"""Number of characters before a tag that show whether it is among words.

A line with as many before a closing tag is taken for reasoning, not for a query.
"""
_OPENING = (
    r"(?i:<(?:seed:)?(?:think|thinking|thought|reasoning)>|\[THINK\])|◁think▷"
    r"|<\|(?:START_THINKING|begin_of_thought)\|>"
    r"|<\|channel>(?:thought)?"  # Gemma
    r"|<\|channel\|>(?:(?!final\b)\w+<\|message\|>)?"  # harmony, the format of gpt-oss
    # harmony from a server that leaves out its special tokens; a query may be "analysisX ray"
    rf"|\Aanalysis(?=[A-Z](?:[^\n]{{{WINDOW}}}|[\s\S]*?assistantfinal))"
)
_CLOSING = (
    r"(?i:</(?:seed:)?(?:think|thinking|thought|reasoning)>|\[/THINK\])|◁/think▷"
    r"|<\|(?:END_THINKING|START_RESPONSE|end_of_thought|begin_of_solution)\|>|<channel\|>"
    r"|<\|channel\|>final\b[^\n]{0,40}?<\|message\|>|assistantfinal"
)
_FIRST = r"(?=[<\[◁a])"  # of all tags: other text is skipped faster
_TAG = re.compile(f"{_FIRST}(?:(?P<closing>{_CLOSING})|{_OPENING})")
_OPENING_AT_END = re.compile(f"({_OPENING})$")
_BEFORE_WORD = re.compile(r"(?:\S[^\S\n]+|[^\S\n]*[\"'`(“‘„«])\Z")
_SENTENCE_END = re.compile(r"[.!?。！？][^\S\n]+\Z")
_AFTER_WORD = re.compile(r"[^\w\s]*(?:\s|\Z)")
_INSIDE_LINE = re.compile(r"[^\w\s]+(?:\s|\Z)|[^\S\n]+\S")


def is_tag(token: str) -> bool:
    """Returns whether a special token is one of the tags, which stays a part of an answer."""
    return token == "<|message|>" or _TAG.fullmatch(token) is not None


def begins_with_tag(answer: str) -> bool:
    """Returns whether an answer begins with the tag of a reasoning."""
    return _TAG.match(answer.lstrip()) is not None


def reasoning_tag(prompt: str) -> str:
    """Returns the tag at the end of a prompt that begins a reasoning, "" if there is none."""
    match = _OPENING_AT_END.search(prompt.rstrip()[-WINDOW:])
    return match[1] if match else ""


def answer_start(answer: str) -> int:
    """Returns the position after the reasoning; the end of an answer that ends within it.

    A tag among the words of a line is a part of the answer, as in ``what does <think> do``. Only a
    closing tag ends the reasoning there too: after an opening one, a sentence, or a long line.
    """
    start, is_open = 0, False
    for tag in _TAG.finditer(answer):
        is_closing = tag["closing"] is not None
        if (is_open and is_closing) or not _is_word(answer, tag, is_closing):
            start, is_open = (tag.end(), False) if is_closing else (start, True)
    return len(answer) if is_open else start


def _is_word(answer: str, tag: re.Match[str], is_closing: bool) -> bool:
    """Returns whether a tag is among the words of a line: neither at its start nor attached.

    A closing tag is not among them if it ends the line, or follows the end of a sentence or a long
    text. A quotation mark in that text may be one of JSON, with a query in it.
    """
    before = answer[max(0, tag.start() - WINDOW) : tag.start()].rpartition("\n")[2]
    if is_closing and (
        _SENTENCE_END.search(before) or (len(before) == WINDOW and '"' not in before)
    ):
        return False
    after = _INSIDE_LINE if is_closing else _AFTER_WORD
    return bool(_BEFORE_WORD.search(before) and after.match(answer, tag.end()))
