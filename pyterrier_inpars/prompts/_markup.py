"""What instruct models write around a query: Markdown, quotation marks, tags, labels.

What may begin a query stays: a number (``3 body problem``), a sign (``-5 degrees``), another label
(``Python: sort a list``). Only ``1.`` or ``1)`` before a space is taken for a list mark, so that a
query such as ``1. FC Köln`` loses it.
"""

from __future__ import annotations

import re

_QUOTES = (
    *('""', "''", "“”", "‘’", "„“", "„”", "‚‘", "‚’", "«»", "»«", "‹›", "›‹", "「」", "『』"),
    *("**", "``"),
)
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
_TAG = r"(?:answer|query|search_query|question|response|output|result)>"
_MARKUP = re.compile(rf"(?:`{{3,}}|~{{3,}})[\w+#.-]*|[-*_=#>]+|</?{_TAG}")
_LABEL = (
    r"(?:(?:sure|certainly|okay|here(?:['’]s| is| are)|the|this|your|an?|one|possible|suggested|"
    r"proposed|generated|search|web|synthetic|user|final|example|relevant|good|short|realistic)"
    r"[\s,.!:]+)*(?:query|queries|question|answer)(?:\s*\d+)?"
)
_EMPHASIS = r"[*_]{0,3}"
_ANNOUNCEMENT = re.compile(
    rf".*[:：]{_EMPHASIS}|(?:#+\s+|[*_])+{_LABEL}{_EMPHASIS}|(?:sure|certainly|okay)\W*", re.I
)
_BEFORE = re.compile(
    rf"<{_TAG}|(?:[-*+•·▪◦>–—]|#{{1,6}}|1[.)])\s+(?!\d)"
    rf"|{_EMPHASIS}{_LABEL}{_EMPHASIS}[:：]{_EMPHASIS}(?:\s+|(?<=：)|$)",
    re.I,
)
_AFTER = re.compile(rf"(?:</{_TAG}|<\|(?:END_RESPONSE|end_of_solution|return)\|>)$", re.I)


def is_markup(line: str) -> bool:
    """Returns whether a line has no text: a fence, a rule, a tag."""
    return _MARKUP.fullmatch(line.strip()) is not None


def announces(line: str) -> bool:
    """Returns whether a line says that a query is on the next one: ``Here is a search query:``."""
    return _ANNOUNCEMENT.fullmatch(line.strip()) is not None


def around(text: str, is_line: bool) -> tuple[int, int]:
    """Returns the numbers of characters before and after a query that are no part of it.

    Those further inside are found when these are removed.

    Args:
        text: The query.
        is_line: Whether it is a line of the answer, which may have more than quotation marks.
    """
    if length := _length_of_quotes(text):
        return length, length
    if not is_line:
        return 0, 0
    if text[-1:] in (".", ",", ";") and _length_of_quotes(text[:-1]):
        return 0, 1
    before, after = _BEFORE.match(text), _AFTER.search(text)
    return before.end() if before else 0, len(after[0]) if after else 0


def _length_of_quotes(text: str) -> int:
    """Returns the length of what encloses a text: a quotation mark, or ``*`` and backticks.

    It is 0 if nothing does, or if it encloses only the first and last words.
    """
    if len(text) < 2 or text[0] + text[-1] not in _QUOTES:
        return 0
    length = 1
    if text[0] in "*`":
        runs = (len(text) - len(rest) for rest in (text.lstrip(text[0]), text.rstrip(text[0])))
        length = max(1, min(*runs, (len(text) - 1) // 2))
    inside = _APOSTROPHE.sub("", text[length:-length])
    return 0 if text[0] in inside or text[-1] in inside else length
