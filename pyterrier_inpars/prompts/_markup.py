"""What instruct models write around a query: Markdown, quotation marks, tags, labels.

Where it can be a part of a real query, it stays, since a label that is left does less harm than a
query that lost its beginning: a number (``3 body problem``), a sign (``-5 degrees``, ``# of
calories``), another label (``Python: sort a list``, ``user query: intent survey``). Exceptions are
the marks that most lists have: a query such as ``1. FC Köln`` or ``* in sql`` loses them.
"""

from __future__ import annotations

import re

_QUOTES = (
    *('""', "''", "“”", "‘’", "„“", "„”", "‚‘", "‚’", "«»", "»«", "‹›", "›‹", "「」", "『』"),
    *("**", "__", "``"),
)
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
_TAG = r"(?:answer|query|search_query|question|response|output|result)>"
_MARKUP = re.compile(rf"(?:`{{3,}}|~{{3,}})[\w+#.-]*|[-*_=#>]+|</?{_TAG}")
_MARK = r"(?:[*•·▪◦]|1[.)])\s+|1[、．]\s*|(?:[->–—]|#{1,6})\s+(?!\s|\d|of\b)"
_NOUN = r"(?:query|queries|question|answer)"
_SURE = r"(?:sure(?: thing)?|certainly|absolutely|of course|okay)"
_HERE = r"here(?:['’]s| is| are)"
_LABEL = (
    rf"(?:{_SURE}[,.!]+\s+)?(?:{_HERE}\b[^:：.!?]{{0,80}}\b{_NOUN}\b[^:：.!?]{{0,80}}|question|answer"
    r"|(?:(?:search|web|synthetic|suggested|generated|possible|example)\s+)*"
    r"(?:queries|query(?:\s*#?\d+)?))"
)
_EMPHASIS = r"[*_]{0,3}"
_BEFORE = re.compile(
    rf"(?:<{_TAG}\s*|{_MARK}"
    rf"|{_EMPHASIS}{_LABEL}{_EMPHASIS}[:：](?:{_EMPHASIS}(?:\s+|$)|(?=[^\s*_/])))+",
    re.I,
)
_AFTER = re.compile(rf"\s*(?:</{_TAG}|<\|(?:END_RESPONSE|end_of_solution|return)\|>)[.,;]?$", re.I)
_LONGEST_AFTER = 32
_ANNOUNCEMENT = re.compile(
    rf"{_LABEL}|{_SURE}(?:\W*|[,.!].*[.!])|(?:{_SURE}[,.!]+\s+)?{_HERE}\b.*\.", re.I
)
_OTHER_NOUN = (  # "query" in other languages
    r"\b(?:requête|consulta|pregunta|pergunta|suchanfrage|anfrage|domanda|zapytanie|запрос)s?\b"
    r"|查询|查詢|搜索|搜尋|检索|検索|クエリ|검색|쿼리|질문|استعلام|प्रश्न"
)
_ASKS = r"(?:how|what|which|why|comment|wie|cómo)\b|如何|怎么|怎样|为什么|どう|어떻게"
_BEFORE_COLON = re.compile(
    rf"(?!{_ASKS}).*?(?:\b(?:{_NOUN}|{_SURE}|{_HERE})\b|{_OTHER_NOUN}"
    r"|\b(?:search(?: for| terms?)?|ask)\W*$)",
    re.I,
)


def is_markup(line: str) -> bool:
    """Returns whether a line has no text: a fence, a rule, a tag."""
    return _MARKUP.fullmatch(line.strip()) is not None


def announces(line: str) -> bool:
    """Returns whether a line says that a query is on the next one: ``Here is a search query:``.

    A colon alone does not: ``how to fix the following error:``.
    """
    text = line.strip().strip("#*_ ")
    if text.endswith((":", "：")):
        return _BEFORE_COLON.match(text[:-1].rstrip("*_")) is not None
    return _ANNOUNCEMENT.fullmatch(text) is not None


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
    before, end = _BEFORE.match(text), len(text)
    while after := _AFTER.search(text, max(0, end - _LONGEST_AFTER), end):
        end = after.start()
    return before.end() if before else 0, len(text) - end


def _length_of_quotes(text: str) -> int:
    """Returns the length of what encloses a text: a quotation mark, or ``*``, ``_``, backticks.

    It is 0 if nothing does, or if it encloses only the first and last words. Markdown has no space
    beside it, unlike ``_ is the capital of _``; a name such as ``__init__`` is one word.
    """
    if len(text) < 2 or text[0] + text[-1] not in _QUOTES:
        return 0
    length = 1
    if text[0] in "*_`":
        runs = (len(text) - len(rest) for rest in (text.lstrip(text[0]), text.rstrip(text[0])))
        length = max(1, min(*runs, (len(text) - 1) // 2))
    inside = _APOSTROPHE.sub("", text[length:-length])
    is_name = text[0] == "_" and " " not in inside
    is_spaced = text[0] in "*_`" and inside != inside.strip()
    return 0 if text[0] in inside or text[-1] in inside or is_name or is_spaced else length
