"""Extraction of queries from the answer of a language model."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pyterrier_inpars._fingerprint import describe_function
from pyterrier_inpars._words import UNSPACED
from pyterrier_inpars.backends._chat import as_text
from pyterrier_inpars.backends._reasoning import answer_start, reasoning_tag
from pyterrier_inpars.backends._tokenized import TokenizedBackend
from pyterrier_inpars.backends.base import Completion, Messages
from pyterrier_inpars.prompts._markup import announces, around, is_markup

Extract = str | re.Pattern[str] | Mapping[str, str] | Callable[[str], Any]
"""A marker, a regular expression, ``{"json": field}``, or a function from answer to queries."""
_WORD = re.compile(rf"[^\W{UNSPACED}]")
_PUNCTUATION = tuple(",;:.!?،؛؟।")
_ENDS = r"\n\v\f\r\x1c-\x1e\x85\u2028\u2029"  # where str.splitlines() splits
_LINE_END = re.compile(f"[{_ENDS}]")
_LINE = re.compile(f"[^{_ENDS}]+")
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_JSON_START = re.compile(r"\{\s*[\"}]|\[\s*[\[{\"\]]")
_EMPHASIS_END = re.compile(r"[*_]{1,3}(?=\s|\Z)")


class Query(NamedTuple):
    """A query in an answer.

    Attributes:
        text: The query, without white space at its ends. Control characters and lone surrogates,
            which files and tokenizers do not take, are spaces.
        start: Its position in the answer, negative if it begins in the prefill; None if it is not
            a part of the answer, or if a function returned a text that occurs there several times.
        end: The position after it, if the answer has it in another form, such as with the escapes
            of JSON; None for ``start + len(text)``.
    """

    text: str
    start: int | None
    end: int | None = None

    @property
    def span(self) -> tuple[int, int] | None:
        """Its beginning and end in the answer, None if it is not a part of the answer."""
        if self.start is None:
            return None
        return self.start, self.start + len(self.text) if self.end is None else self.end

    def without(self, before: int, after: int) -> Query:
        """Returns the query without characters at its ends."""
        text = self.text[before : len(self.text) - after]
        if self.start is None or self.end is not None:
            return self._replace(text=text)
        return Query(text, self.start + before)

    def after(self, characters: int) -> Query:
        """Returns the query with positions from this number of characters on."""
        start, end = (None if place is None else place - characters for place in self[1:])
        return Query(self.text, start, end)


def check_extract(extract: Extract | None) -> Extract | None:
    """Returns ``extract`` if it is valid, a mapping as a dict.

    Raises:
        TypeError: It is none of the accepted kinds.
        ValueError: A marker is empty.
    """
    if isinstance(extract, Mapping):
        valid = list(extract) == ["json"] and isinstance(extract["json"], str)
    else:
        valid = extract is None or isinstance(extract, str | re.Pattern) or callable(extract)
    if not valid:
        raise TypeError(
            'extract must be a marker such as "Query:", a compiled regular expression, '
            f'{{"json": field}}, or a function from the answer to queries, not {extract!r:.200}'
        )
    if isinstance(extract, Mapping):
        return dict(extract)
    if extract == "":
        raise ValueError('extract must not be an empty string: give a marker such as "Query:"')
    return extract


def describe_extract(extract: Extract) -> Any:
    """Returns a JSON-serializable description for a manifest."""
    if isinstance(extract, re.Pattern):
        return {"regex": extract.pattern, "flags": extract.flags}
    if isinstance(extract, str | Mapping):
        return extract
    return describe_function(extract)


def queries_of(
    answer: str, extract: Extract | None, *, chat: bool, prefill: str = ""
) -> list[Query]:
    """Extracts the queries of an answer.

    Args:
        answer: The text of the model.
        extract: Where the queries are. A marker: the rest of the line after its last occurrence. A
            regular expression: its first group, or the whole match, at each match.
            ``{"json": field}``: the string, or the strings, in this field of the first JSON object
            that has it, or of the objects of a list. A function: what it returns, a string or
            several. None: the first line; in a chat, not one that announces a query, as ``Here is a
            search query:`` does.
        chat: Whether this is the answer to a chat prompt. Reasoning is left out then, and an answer
            that ends within it has no queries (see `answer_start`). A marker may be emphasized
            (``**Query:**`` or ``**Query**:``), alone or with the query, which may be on the next
            line. Quotation marks and asterisks around a query are removed, and if it is a line of
            the answer, also Markdown and labels (see `_markup`).
        prefill: Beginning of the answer that the prompt contains. ``extract`` applies to both
            together, with a space between two words of a script that has them. A query that ends in
            the prefill is none, and the first line is that of the model's text.

    Raises:
        TypeError: A function returns neither strings nor None.
    """
    if not answer:
        return []
    begun = prefill + space_before(answer, prefill)
    whole = begun + answer
    start = answer_start(whole) if chat else 0
    is_line = extract is None or isinstance(extract, str)
    found = []
    for query in _found(whole, start, extract, len(begun), chat):
        query = _stripped(query._replace(text=_NO_TEXT.sub(" ", query.text)))
        while chat and any(cut := around(query.text, is_line)):
            query = _stripped(query.without(*cut))
        found.append(query.after(len(begun)))
    return [q for q in found if q.text and (q.span is None or q.span[1] > 0)]


def space_before(text: str, prefill: str) -> str:
    """Returns a space if it is written between a prefill and a text that begins with a word."""
    return " " if ends_with_word(prefill) and _WORD.match(text) else ""


def ends_with_word(text: str) -> bool:
    """Returns whether a space is written before a word after this text, or after its last mark."""
    if text.endswith(_PUNCTUATION):
        text = text[:-1]
    while text and unicodedata.category(text[-1]).startswith("M"):  # vowel signs and accents
        text = text[:-1]
    return _WORD.match(text[-1:]) is not None


def begun_reasoning(backend: Any, prompt: str | Messages) -> str:
    """Returns the tag by which a prompt begins the reasoning of the model, "" if there is none.

    Some chat templates end with it, so that the answer does not contain it. Only a runtime in this
    process is known to render this template: a server may use another one, and leaves out the
    reasoning.
    """
    if isinstance(prompt, str) or not isinstance(backend, TokenizedBackend):
        return ""
    return reasoning_tag(as_text(backend.tokenizer, prompt))


def log_probs_of(completion: Completion, query: Query) -> list[float] | None:
    """Returns the log-probabilities of the tokens of a query in a completion, None if unknown."""
    if completion.log_probs is None or query.text == completion.text:
        return completion.log_probs
    if query.span is None or completion.ends is None:
        return None
    start, end = query.span
    spans = zip([0, *completion.ends], completion.ends, completion.log_probs, strict=False)
    return [
        value for first, last, value in spans if first < end and last > max(first, start)
    ] or None


def answer_of(answer: str) -> str:
    """Returns an answer without the reasoning before it."""
    return answer[answer_start(answer) :]


def _found(
    answer: str, start: int, extract: Extract | None, begun: int, chat: bool
) -> Iterator[Query]:
    """Yields the queries from ``start`` on, with white space and quotation marks.

    The first ``begun`` characters of the answer are the prefill.
    """
    if extract is None and chat:
        lines = [*_lines(answer, max(start, begun))] or [Query("", None)]
        yield next((line for line in lines[:-1] if not announces(line.text)), lines[-1])
    elif extract is None:
        start = max(start, begun)
        start = min(len(answer), start + len(answer[start:]) - len(answer[start:].lstrip()))
        yield _line(answer, start)
    elif isinstance(extract, str):
        if chat:
            *_, last = [None, *_marker(extract).finditer(answer, start)]
            if last:
                yield _after_marker(answer, last)
        elif (place := answer.rfind(extract, start)) >= 0:
            yield _line(answer, place + len(extract))
    elif isinstance(extract, re.Pattern):
        group = 1 if extract.groups else 0
        for match, place in _matches(answer, start, extract):
            if match[group] is not None:
                yield _one_line(Query(match[group], place + match.start(group)))
    elif isinstance(extract, Mapping):
        yield from map(_one_line, _json_field(answer, start, extract["json"]))
    else:
        for text in _texts(extract(answer[start:]), extract):
            first = max(start, begun) if text in answer[max(start, begun) :] else start
            is_unique = answer.count(text, first) == 1
            yield _one_line(Query(text, answer.find(text, first) if is_unique else None))


def _matches(
    answer: str, start: int, extract: re.Pattern[str]
) -> Iterator[tuple[re.Match[str], int]]:
    """Yields the matches from ``start`` on, and the place that their positions count from.

    It is where anchors match. After a reasoning, they may also match behind the line ends there. If
    nothing matches, lookbehinds may see the end of the reasoning.
    """
    text = answer[start:].lstrip() if start else answer
    for place in dict.fromkeys([start, len(answer) - len(text)]):
        if found := list(extract.finditer(answer[place:])):
            yield from ((match, place) for match in found)
            return
    if start:
        yield from ((match, 0) for match in extract.finditer(answer, start))


def _line(answer: str, start: int) -> Query:
    return Query(_LINE_END.split(answer[start:], maxsplit=1)[0], start)


def _lines(answer: str, start: int) -> Iterator[Query]:
    """Yields the lines with text: those that are neither blank nor Markdown alone."""
    for line in _LINE.finditer(answer, start):
        if line[0].strip() and not is_markup(line[0]):
            yield Query(line[0], line.start())


def _marker(text: str) -> re.Pattern[str]:
    """Returns what finds a marker, also with the end of its emphasis before its colon."""
    if not text.endswith((":", "：")):
        return re.compile(re.escape(text) + "()")
    return re.compile(re.escape(text[:-1]) + "([*_]{0,3})[:：]")


def _after_marker(answer: str, marker: re.Match[str]) -> Query:
    """Returns the query after a marker, as instruct models write it.

    They write ``**Query:** a query``, ``**Query**: a query`` or ``**Query: a query**``, or the
    query on the next line.
    """
    before = answer[: marker.start()]
    emphasis = before[len(before.rstrip("*_")) :]
    start = marker.end()
    if end := _EMPHASIS_END.match(answer, start):
        start = end.end()
    elif emphasis and answer.startswith(emphasis, start):
        start += len(emphasis)
    query = next(_lines(answer, start), Query("", None))
    is_open = not marker[1] and start == marker.end()
    return Query(query.text.rstrip().removesuffix(emphasis), query.start) if is_open else query


def _one_line(query: Query) -> Query:
    """Returns a query; white space in one of several lines becomes spaces."""
    if not _LINE_END.search(query.text.strip()):
        return query
    start, end = query.span or (None, None)
    return Query(" ".join(query.text.split()), start, end)


def _stripped(query: Query) -> Query:
    rest = query.text.lstrip()
    return query.without(len(query.text) - len(rest), len(rest) - len(rest.rstrip()))


class _Value(str):
    """A string of JSON, which knows where it is in the text."""

    start: int
    end: int


class _Decoder(json.JSONDecoder):
    """Decoder of JSON whose strings are `_Value`s, and may have line ends."""

    def __init__(self) -> None:
        super().__init__(strict=False)
        self.parse_string = self._parse_string
        self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined]

    @staticmethod
    def _parse_string(text: str, start: int, strict: bool) -> tuple[_Value, int]:
        found, end = json.decoder.scanstring(text, start, strict)  # type: ignore[attr-defined]
        value = _Value(found)
        value.start, value.end = start, end - 1
        return value, end


def _json_field(answer: str, start: int, field: str) -> list[Query]:
    """Returns the strings in a field of the first JSON object, or list of objects, that has it."""
    decoder = _Decoder()
    for match in _JSON_START.finditer(answer, start):
        try:
            value, _ = decoder.raw_decode(answer, match.start())
        except RecursionError:
            return []
        except ValueError:
            continue
        objects = value if isinstance(value, list) else [value]
        fields = [item.get(field) for item in objects if isinstance(item, dict)]
        if found := [value for value in fields if value is not None]:
            lists = [value if isinstance(value, list) else [value] for value in found]
            return [
                _written(answer, text)
                for texts in lists
                for text in texts
                if isinstance(text, _Value)
            ]
    return []


def _written(answer: str, value: _Value) -> Query:
    """Returns a query with its place, and with its end if the answer has it in another form."""
    is_same = answer[value.start : value.end] == value
    return Query(str(value), value.start, None if is_same else value.end)


def _texts(found: Any, extract: Any) -> list[str]:
    """Returns what a function returned as a list of strings."""
    if found is None:
        return []
    is_list = isinstance(found, Iterable) and not isinstance(found, str | Mapping)
    texts = list(found) if is_list else [found]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"extract must return a string or several, but {extract!r} gave {found!r}")
    return texts
