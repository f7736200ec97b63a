"""Readers of documents, topics and judgements, and of the lines and rows they consist of."""

from __future__ import annotations

import codecs
import csv
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

_DOCNO = ("docno", "doc_id", "_id", "id")
_TEXT = ("text", "contents", "document", "doc_text")
_QID = ("qid", "query_id", "_id", "id")
_QUERY = ("query", "text", "question")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_KINDS = (*_DELIMITERS, ".jsonl", ".json")
_LONGEST_FIELD = 2**31 - 1  # characters; csv's default of 131,072 is less than a long document
_AFTER_RETURN = re.compile(r"(?<=\r)(?!\n)")


def read_corpus(
    path: str | Path, *, docno: str | None = None, text: str | None = None
) -> Iterator[dict[str, str]]:
    """Reads documents from a file, one at a time.

    The suffix selects the format: CSV or TSV with a header (``.csv``, ``.tsv``) or JSON Lines
    (``.jsonl``, ``.json``), each in UTF-8 and also with ``.gz``. Ids are kept as written: ``007``
    and ``NA`` are strings. A ``title`` is put before the text, separated by a space, except before
    ``contents``, which includes it by Anserini's convention.

    Args:
        path: File to read.
        docno: Column of the document id. By default the first that exists of ``docno``,
            ``doc_id``, ``_id``, ``id``.
        text: Column of the text. By default the first that exists of ``text``, ``contents``,
            ``document``, ``doc_text``.

    Yields:
        Dicts of ``docno`` and ``text`` (both str); none for an empty file.

    Raises:
        ValueError: A column is missing or a row is invalid; the error names the file and the line.
        FileNotFoundError: The file does not exist.
    """
    names = None
    for where, record in _records(Path(path)):
        if names is None:
            names = (
                _column(where, record, docno, _DOCNO, "docno"),
                _column(where, record, text, _TEXT, "text"),
            )
        body = _string(where, record, names[1])
        if names[1] not in ("contents", "title") and record.get("title"):
            body = join_title(_string(where, record, "title"), body)
        yield {"docno": as_id(record.get(names[0]), names[0], where), "text": body.strip()}


def read_topics(
    path: str | Path, *, qid: str | None = None, query: str | None = None
) -> pd.DataFrame:
    """Reads topics from a file in a format of :func:`read_corpus`.

    A TSV file with two columns may lack the header; the columns are then the qid and the query.

    Args:
        path: File to read.
        qid: Column of the topic id. By default the first that exists of ``qid``, ``query_id``,
            ``_id``, ``id``.
        query: Column of the query. By default the first that exists of ``query``, ``text``,
            ``question``.

    Returns:
        Frame ``qid, query`` (both str), in the order of the file.

    Raises:
        ValueError: A column is missing, a row is invalid, or a qid is a duplicate; the error names
            the file and the line.
        FileNotFoundError: The file does not exist.
    """
    names = None
    topics: dict[str, str] = {}
    headerless = {"qid": _QID, "query": _QUERY} if qid is None and query is None else {}
    for where, record in _records(Path(path), headerless):
        if names is None:
            names = (
                _column(where, record, qid, _QID, "qid"),
                _column(where, record, query, _QUERY, "query"),
            )
        topic = as_id(record.get(names[0]), names[0], where)
        if topic in topics:
            raise ValueError(f"{where}: duplicate qid {topic!r}")
        topics[topic] = _string(where, record, names[1])
    return pd.DataFrame(list(topics.items()), columns=["qid", "query"])


def read_qrels(path: str | Path) -> pd.DataFrame:
    """Reads relevance judgements in TREC's format or in BEIR's.

    TREC's format has four columns, ``qid 0 docno label``, separated by white space. BEIR's has
    three, ``query-id corpus-id score``, separated by tabs, with or without a header.

    Args:
        path: File to read.

    Returns:
        Frame ``qid, docno`` (str) and ``label`` (int64), in the order of the file.

    Raises:
        ValueError: A line has neither format; the error names the file and the line.
        FileNotFoundError: The file does not exist.
    """
    rows = []
    for number, (where, line) in enumerate(read_lines(path, may_be_empty=True)):
        if not line.strip():
            continue
        try:
            rows.append(_judgement(line.decode()))
        except ValueError:
            if number or line.count(b"\t") != 2:  # else it is the header of BEIR's format
                raise ValueError(
                    f"{where}: {line.strip()!r:.200} is not a judgement: expected "
                    "`qid 0 docno label`, or qid, docno and label separated by tabs, with an "
                    "integer label"
                ) from None
    return pd.DataFrame(rows, columns=["qid", "docno", "label"]).astype({"label": "int64"})


def _judgement(line: str) -> tuple[str, str, int]:
    cells = line.rstrip("\r\n").split("\t")
    if len(cells) == 3:
        qid, docno, label = cells
    else:
        qid, _, docno, label = line.split()
    if not qid or not docno or abs(int(label)) >= 2**63:
        raise ValueError
    return qid, docno, int(label)


def join_title(title: str | None, text: str) -> str:
    """Returns a title and a body as one text; there may be no title."""
    return f"{title or ''} {text}".strip()


def file_kind(path: Path) -> str:
    """Returns the suffix that names the format of a file, without ``.gz``.

    Raises:
        ValueError: It is not one of those that :func:`read_corpus` reads.
    """
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    if kind not in _KINDS:
        raise ValueError(
            f"{path}: the name must end in one of {', '.join(_KINDS)}, or in one of them and .gz"
        )
    return kind


def _records(
    path: Path, headerless: Mapping[str, Sequence[str]] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads the records of a CSV, TSV or JSON Lines file.

    Args:
        path: File to read.
        headerless: For TSV: the columns of a file without a header, each with the names by which a
            header would be recognized.

    Yields:
        The place, for errors, and the record.
    """
    kind = file_kind(path)
    if kind not in _DELIMITERS:
        yield from json_lines(path, may_be_empty=True)
        return
    header: list[str] = []
    for where, row in table_rows(path, _DELIMITERS[kind], may_be_empty=True):
        if not header:
            header = [name.strip() for name in row]
            if len(set(header)) < len(header):
                raise ValueError(f"{where}: duplicate column name: {', '.join(header)}")
            known = {name for names in (headerless or {}).values() for name in names}
            if not headerless or kind != ".tsv" or len(row) != len(headerless) or known & {*header}:
                continue
            header = list(headerless)
        if len(row) != len(header):
            raise ValueError(f"{where}: {len(row)} cells, but the columns are {', '.join(header)}")
        yield where, dict(zip(header, row, strict=True))


def _column(
    where: str, record: Mapping[str, Any], name: str | None, known: Sequence[str], parameter: str
) -> str:
    """Returns the given column name, or else the first known one that the record has."""
    for candidate in known if name is None else [name]:
        if candidate in record:
            return candidate
    raise ValueError(
        f"{where}: no column {name or ' or '.join(known)}, only {', '.join(record)}: name the "
        f"column with {parameter}=..."
    )


def _string(where: str, record: Mapping[str, Any], column: str) -> str:
    value = record.get(column)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {column} must be a string, not {value!r}")
    return value


def as_id(value: object, name: str, where: str) -> str:
    """Returns an id as a string; an integer becomes its decimal digits.

    Args:
        value: Id as read.
        name: Name of the field, for the error.
        where: Place of the field, for the error.

    Raises:
        ValueError: ``value`` is of another type or empty.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}: {name} must be a string or a whole number, not {value!r}")
    return value


def json_lines(
    path: str | Path, *, may_be_empty: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads the objects of a JSON Lines file, one at a time; blank lines are skipped.

    A lone surrogate, which JSON can hold but UTF-8 cannot, becomes ``?``.

    Args:
        path: File to read.
        may_be_empty: Whether an empty file is valid.

    Yields:
        The place, for errors (``queries.jsonl, line 3``), and the object.

    Raises:
        ValueError: The file is empty or damaged, or a line is not a JSON object.
        FileNotFoundError: The file does not exist.
    """
    for where, line in read_lines(path, may_be_empty):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if re.search(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]", line):
                whole = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace")
                record = json.loads(whole)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: is not JSON in UTF-8: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{where}: must be a JSON object, not {record!r:.200}")
        yield where, record


def table_rows(
    path: str | Path,
    delimiter: str,
    *,
    returns_are_spaces: bool = False,
    may_be_empty: bool = False,
) -> Iterator[tuple[str, list[str]]]:
    """Reads the rows of a CSV or TSV file, one at a time; blank rows are skipped.

    Fields may be quoted, with quotes doubled inside (RFC 4180), and of any length.

    Args:
        path: File to read.
        delimiter: Character between fields.
        returns_are_spaces: Whether a carriage return that does not end a line becomes a space. By
            default it ends a row, or belongs to a quoted field.
        may_be_empty: Whether an empty file is valid.

    Yields:
        The place of the row's last line, for errors, and the fields.

    Raises:
        ValueError: The file is empty or damaged, or a row is invalid; the error names the line.
        FileNotFoundError: The file does not exist.
    """
    where = str(path)

    def lines() -> Iterator[str]:
        nonlocal where
        for place, line in read_lines(path, may_be_empty):
            where = place
            text = line.decode()
            if "\r" not in text:
                yield text
            elif returns_are_spaces:
                yield text.replace("\r\n", "\n").replace("\r", " ")
            else:
                yield from filter(None, _AFTER_RETURN.split(text))

    rows = csv.reader(lines(), delimiter=delimiter, strict=True)
    try:
        while (row := _next_row(rows)) is not None:
            if row:
                yield where, row
    except (csv.Error, UnicodeDecodeError) as error:
        kind = "TSV" if delimiter == "\t" else "CSV"
        raise ValueError(
            f"{where}: is not {kind} in UTF-8 with quotes doubled inside quoted fields: {error}"
        ) from error


def _next_row(rows: Iterator[list[str]]) -> list[str] | None:
    limit = csv.field_size_limit(_LONGEST_FIELD)  # global: restored before other code runs
    try:
        return next(rows, None)
    finally:
        csv.field_size_limit(limit)


def read_lines(path: str | Path, may_be_empty: bool = False) -> Iterator[tuple[str, bytes]]:
    """Reads the lines of a file, which is decompressed by its suffix, without a byte order mark.

    Yields:
        The place, for errors (``corpus.tsv, line 3``), and the line with its line end.

    Raises:
        ValueError: The file is empty or damaged.
        FileNotFoundError: The file does not exist.
    """
    number, empty = 0, True
    with pt.io.autoopen(str(path), "rb") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                empty = empty and not line.strip(b" \r\n")
                yield f"{path}, line {number}", line
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: is damaged after line {number}: {error}") from error
    if empty and not may_be_empty:
        raise ValueError(f"{path}: is empty")
