"""Extraction of queries from the answer of a language model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pyterrier_inpars._fingerprint import describe_function
from pyterrier_inpars.backends._chat import as_text
from pyterrier_inpars.backends._reasoning import answer_start, reasoning_tag
from pyterrier_inpars.backends._tokenized import TokenizedBackend
from pyterrier_inpars.backends.base import Completion, Messages

Extract = str | re.Pattern[str] | Mapping[str, str] | Callable[[str], Any]
"""A marker, a regular expression, ``{"json": field}``, or a function from answer to queries."""
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
_LETTER = r"[^\W\u3040-\u30ff\u3400-\u9fff]"  # Chinese and Japanese have no spaces between words
_WORD = re.compile(_LETTER)
_WORD_END = re.compile(rf"{_LETTER}[,;:.!?]?$")
_LINE_END = re.compile(r"[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")  # where str.splitlines() splits
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_QUOTES = ('""', "''", "**", "“”", "‘’", "«»", "``", "「」")


class Query(NamedTuple):
    """A query in an answer.

    Attributes:
        text: The query, without white space at its ends. Control characters and lone surrogates,
            which files and tokenizers do not take, are spaces.
        start: Its position in the answer, negative if it begins in the prefill; None if it is not
            a part of the answer.
    """

    text: str
    start: int | None


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
            several. None: the first line.
        chat: Whether this is the answer to a chat prompt. Reasoning is left out then, and an answer
            that ends within it has no queries (see `answer_start`). A marker may be emphasized
            (``**Query:**`` or
            ``**Query**:``), alone or with the query, which may be on the next line. Quotation marks
            and asterisks around a query are removed.
        prefill: Beginning of the answer that the prompt contains. ``extract`` applies to both
            together, with a space between two words. A query that ends in the prefill is none, and
            the first line is that of the model's text.

    Raises:
        TypeError: A function returns neither strings nor None.
    """
    if not answer:
        return []
    begun = f"{prefill} " if _WORD_END.search(prefill) and _WORD.match(answer) else prefill
    whole = begun + answer
    start = answer_start(whole) if chat else 0
    found = []
    for query in _found(whole, start, extract, len(begun), chat):
        query = _stripped(Query(_NO_TEXT.sub(" ", query.text), query.start))
        while chat and (length := _length_of_quotes(query.text)):
            place = None if query.start is None else query.start + length
            query = _stripped(Query(query.text[length:-length], place))
        if query.start is not None:
            query = Query(query.text, query.start - len(begun))
        found.append(query)
    return [q for q in found if q.text and (q.start is None or q.start + len(q.text) > 0)]


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
    if query.start is None or completion.ends is None:
        return None
    end = query.start + len(query.text)
    spans = zip([0, *completion.ends], completion.ends, completion.log_probs, strict=False)
    return [
        value for first, last, value in spans if first < end and last > max(first, query.start)
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
    if extract is None:
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
        for match in extract.finditer(answer, start):
            group = 1 if extract.groups else 0
            if match[group] is not None:
                yield _one_line(match[group], match.start(group))
    else:
        if isinstance(extract, Mapping):
            texts = _json_field(answer[start:], extract["json"])
        else:
            texts = _texts(extract(answer[start:]), extract)
        for text in texts:
            places = (answer.find(text, first) for first in (max(start, begun), start))
            yield _one_line(text, next((place for place in places if place >= 0), None))


def _line(answer: str, start: int) -> Query:
    return Query(_LINE_END.split(answer[start:], maxsplit=1)[0], start)


def _marker(text: str) -> re.Pattern[str]:
    """Returns what finds a marker, also with the end of its emphasis before its colon."""
    return re.compile(re.escape(text[:-1]) + r"\*{0,3}:" if text.endswith(":") else re.escape(text))


def _after_marker(answer: str, marker: re.Match[str]) -> Query:
    """Returns the query after a marker, as instruct models write it.

    They write ``**Query:** a query``, ``**Query**: a query`` or ``**Query: a query**``, or the
    query on the next line.
    """
    before = answer[: marker.start()]
    emphasis = before[len(before.rstrip("*")) :]
    is_open = "*" not in marker[0] and not answer.startswith("*", marker.end())
    rest = answer[marker.end() :].lstrip("*" if emphasis else "").lstrip()
    query = _line(answer, len(answer) - len(rest))
    return Query(query.text.rstrip().removesuffix(emphasis), query.start) if is_open else query


def _one_line(text: str, start: int | None) -> Query:
    """Returns a query; white space in one of several lines becomes spaces."""
    is_one = not _LINE_END.search(text.strip())
    return Query(text, start) if is_one else Query(" ".join(text.split()), None)


def _stripped(query: Query) -> Query:
    space = len(query.text) - len(query.text.lstrip())
    return Query(query.text.strip(), None if query.start is None else query.start + space)


def _length_of_quotes(text: str) -> int:
    """Returns the length of what encloses a text: a quotation mark, ``*`` or ``**``.

    It is 0 if nothing does, or if it encloses only the first and last words.
    """
    if len(text) < 2 or text[0] + text[-1] not in _QUOTES:
        return 0
    length = 2 if text[0] == "*" and text[:2] == text[-2:] == "**" and len(text) > 4 else 1
    inside = _APOSTROPHE.sub("", text[length:-length])
    return 0 if text[0] in inside or text[-1] in inside else length


def _json_field(text: str, field: str) -> list[str]:
    """Returns the strings in a field of the first JSON object, or list of objects, that has it."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"[\[{]", text):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        objects = value if isinstance(value, list) else [value]
        fields = [item.get(field) for item in objects if isinstance(item, dict)]
        if found := [value for value in fields if value is not None]:
            lists = [value if isinstance(value, list) else [value] for value in found]
            return [query for queries in lists for query in queries if isinstance(query, str)]
    return []


def _texts(found: Any, extract: Any) -> list[str]:
    """Returns what a function returned as a list of strings."""
    if found is None:
        return []
    is_list = isinstance(found, Iterable) and not isinstance(found, str | Mapping)
    texts = list(found) if is_list else [found]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"extract must return a string or several, but {extract!r} gave {found!r}")
    return texts
