"""Readers of documents, topics and judgements, and of the lines and rows they consist of."""

from __future__ import annotations

import codecs
import csv
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_inpars._files import open_binary

_DOCNO = ("docno", "doc_id", "_id", "id")
_TEXT = ("text", "contents", "document", "doc_text")
_QID = ("qid", "query_id", "_id", "id")
_QUERY = ("query", "text", "question")
# Other names by which a header is recognized; such columns must be chosen by name.
_OTHER = """
    docid doc document_id pid passage_id title body content passage abstract topic topic_id number
""".split()
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_KINDS = (*_DELIMITERS, ".jsonl", ".json")
_LONGEST_FIELD = 2**31 - 1  # characters; csv's default of 131,072 is less than a long document
_AFTER_RETURN = re.compile(r"(?<=\r)(?!\n)")


def read_corpus(
    path: str | Path,
    *,
    docno: str | int | None = None,
    text: str | int | Sequence[str | int] | None = None,
) -> Iterator[dict[str, str]]:
    """Reads documents from a file, one at a time.

    The suffix selects the format: CSV or TSV (``.csv``, ``.tsv``) or JSON Lines (``.jsonl``,
    ``.json``), each in UTF-8 and also with ``.gz``. Ids are kept as written: ``007`` and ``NA`` are
    strings. White space around the column names and ids of a table is removed. A ``title`` is put
    before the text, separated by a space, except before ``contents``, which includes it by
    Anserini's convention.

    A TSV file with two columns may lack the header, as MS MARCO's ``collection.tsv`` does; the
    columns are then the docno and the text. A quotation mark in such a file is part of the text.

    Every docno is kept in memory to detect duplicates, about 100 bytes for each document.

    Args:
        path: File to read.
        docno: Column of the document id: its name, or its position from 0 in a table without a
            header. By default the first that exists of ``docno``, ``doc_id``, ``_id``, ``id``.
        text: Column of the text, likewise, or a list of columns, whose texts are joined by spaces.
            By default the first that exists of ``text``, ``contents``, ``document``, ``doc_text``.

    Yields:
        Dicts of ``docno`` and ``text`` (both str); none for an empty file.

    Raises:
        ValueError: A column is missing, a row is invalid, or a docno is a duplicate; the error
            names the file and the line.
        FileNotFoundError: The file does not exist.
    """
    key: str | int | None = None
    fields: list[str | int] = []
    asked = [text] if text is None or isinstance(text, str | int) else list(text)
    seen: set[str] = set()
    for where, record in _records(Path(path), {"docno": _DOCNO, "text": _TEXT}, docno, *asked):
        if key is None:
            key = _column(where, record, docno, _DOCNO, "docno")
            fields = [_column(where, record, name, _TEXT, "text") for name in asked]
            titled = len(fields) == 1 and fields[0] not in ("contents", "title")
        document = _id(path, record, key, where)
        if document in seen:
            raise ValueError(f"{where}: duplicate docno {document!r}")
        seen.add(document)
        optional = ["title"] if titled else fields if len(fields) > 1 else []
        parts = [_string(where, record, name) for name in optional if record.get(name)]
        if len(fields) == 1:
            parts.append(_string(where, record, fields[0]))
        yield {"docno": document, "text": " ".join(filter(None, parts)).strip()}


def read_topics(
    path: str | Path, *, qid: str | int | None = None, query: str | int | None = None
) -> pd.DataFrame:
    """Reads topics from a file in a format of :func:`read_corpus`.

    A TSV file with two columns may lack the header; the columns are then the qid and the query. A
    quotation mark in such a file is part of the query.

    Args:
        path: File to read.
        qid: Column of the topic id: its name, or its position from 0 in a table without a header.
            By default the first that exists of ``qid``, ``query_id``, ``_id``, ``id``.
        query: Column of the query, likewise. By default the first that exists of ``query``,
            ``text``, ``question``.

    Returns:
        Frame ``qid, query`` (both str), in the order of the file.

    Raises:
        ValueError: A column is missing, a row is invalid, or a qid is a duplicate; the error names
            the file and the line.
        FileNotFoundError: The file does not exist.
    """
    names = None
    topics: dict[str, str] = {}
    for where, record in _records(Path(path), {"qid": _QID, "query": _QUERY}, qid, query):
        if names is None:
            names = (
                _column(where, record, qid, _QID, "qid"),
                _column(where, record, query, _QUERY, "query"),
            )
        topic = _id(path, record, names[0], where)
        if topic in topics:
            raise ValueError(f"{where}: duplicate qid {topic!r}")
        topics[topic] = _string(where, record, names[1])
    return pd.DataFrame(list(topics.items()), columns=["qid", "query"])


def read_qrels(path: str | Path) -> pd.DataFrame:
    """Reads relevance judgements in TREC's format or in BEIR's.

    TREC's format has four columns, ``qid 0 docno label``, separated by white space. BEIR's has
    three, ``query-id corpus-id score``, separated by tabs, with or without a header. A judgement
    that is repeated with the same label is returned once.

    Args:
        path: File to read.

    Returns:
        Frame ``qid, docno`` (str) and ``label`` (int64), in the order of the file.

    Raises:
        ValueError: A line has neither format, or a document has two labels for one query; the error
            names the file, and the line or the ids.
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
    qrels = pd.DataFrame(rows, columns=["qid", "docno", "label"]).astype({"label": "int64"})
    return unique_judgements(qrels, path)


def unique_judgements(qrels: pd.DataFrame, where: object) -> pd.DataFrame:
    """Drops repeated judgements from a frame ``qid, docno, label``.

    Other columns, such as TREC's iteration, distinguish judgements.

    Args:
        qrels: Frame of judgements.
        where: Their source, for the error.

    Raises:
        ValueError: Two rows differ only in their label; the error names the qid and the docno.
    """
    qrels = qrels.drop_duplicates(ignore_index=True)
    others = [column for column in qrels if column != "label"]
    if (twice := qrels.duplicated(others)).any():
        qid, docno = qrels.loc[twice, ["qid", "docno"]].iloc[0]
        raise ValueError(f"{where}: docno {docno!r} has two different labels for qid {qid!r}")
    return qrels


def unique_docnos(documents: Iterable[tuple[str, str]], where: object) -> Iterator[tuple[str, str]]:
    """Yields pairs of docno and text as they come.

    Every docno is kept in memory, about 100 bytes for each.

    Args:
        documents: The pairs.
        where: Their source, for the error.

    Raises:
        ValueError: A docno is a duplicate.
    """
    seen: set[str] = set()
    for docno, text in documents:
        if docno in seen:
            raise ValueError(f"{where}: duplicate docno {docno!r}")
        seen.add(docno)
        yield docno, text


def _judgement(line: str) -> tuple[str, str, int]:
    cells = [cell.strip() for cell in line.rstrip("\r\n").split("\t")]
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
    path: Path, columns: Mapping[str, Sequence[str]], *asked: str | int | None
) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Reads the records of a CSV, TSV or JSON Lines file.

    Args:
        path: File to read.
        columns: The columns of a TSV file without a header, each with the names by which a header
            is recognized.
        asked: Names or positions of columns that the caller gave. Positions mean that a table has
            no header, and its columns are numbered.

    Yields:
        The place, for errors, and the record.
    """
    kind = file_kind(path)
    if kind not in _DELIMITERS:
        yield from json_lines(path, may_be_empty=True)
        return
    header: list[Any] = []
    numbered = any(isinstance(name, int) for name in asked)
    if numbered or (kind == ".tsv" and set(asked) == {None} and not _has_header(path, columns)):
        header = [] if numbered else list(columns)
        rows = plain_rows(path) if kind == ".tsv" else table_rows(path, ",", may_be_empty=True)
    else:
        rows = table_rows(path, _DELIMITERS[kind], may_be_empty=True)
    for where, row in rows:
        if not header and numbered:
            header = list(range(len(row)))
        elif not header:
            header = [name.strip() for name in row]
            if len(set(header)) < len(header):
                raise ValueError(f"{where}: duplicate column name: {', '.join(header)}")
            continue
        if len(row) != len(header):
            raise ValueError(
                f"{where}: {len(row)} cells, but the columns are {', '.join(map(str, header))}"
            )
        yield where, dict(zip(header, row, strict=True))


def _has_header(path: Path, columns: Mapping[str, Sequence[str]]) -> bool:
    """Returns whether a TSV file starts with a header: usual names, or another number of cells."""
    known = {*_OTHER, *(name for names in columns.values() for name in names)}
    for _, row in plain_rows(path):
        names = {cell.strip(' "').lower() for cell in row}
        return len(row) != len(columns) or not known.isdisjoint(names)
    return False


def _column(
    where: str,
    record: Mapping[Any, Any],
    name: str | int | None,
    known: Sequence[str],
    parameter: str,
) -> str | int:
    """Returns the given column name, or else the first known one that the record has."""
    for candidate in known if name is None else [name]:
        if candidate in record:
            return candidate
    wanted = " or ".join(known) if name is None else name
    raise ValueError(
        f"{where}: no column {wanted}, only {', '.join(map(str, record))}: name the "
        f"column with {parameter}=..."
    )


def _id(path: str | Path, record: Mapping[Any, Any], column: str | int, where: str) -> str:
    """Returns an id; that of a table without the white space around it, like the header."""
    value = record.get(column)
    if isinstance(value, str) and file_kind(Path(path)) in _DELIMITERS:
        value = value.strip()
    return as_id(value, str(column), where)


def _string(where: str, record: Mapping[Any, Any], column: str | int) -> str:
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
        ValueError: ``value`` is of another type or blank.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
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


def plain_rows(path: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Reads the rows of a TSV file without quoting, one at a time; blank rows are skipped.

    Yields:
        The place of the row, for errors, and the cells; a quotation mark is a character as any.

    Raises:
        ValueError: The file is damaged or not in UTF-8; the error names the line.
        FileNotFoundError: The file does not exist.
    """
    for where, line in _text_lines(path, "TSV"):
        if line.strip("\r\n"):
            yield where, line.rstrip("\r\n").split("\t")


def quoted_rows(path: str | Path, width: int) -> Iterator[tuple[str, list[str]]]:
    """Reads the rows of a TSV file without a header, whose writer may have quoted cells or not.

    A line with ``width`` cells is a row. Its cells lose their quotes only where Python's
    ``csv.writer`` sets them, around a cell that contains a quotation mark or a carriage return.
    Other lines are parts of rows with quoted cells (RFC 4180). A carriage return in a cell becomes
    a space.

    Args:
        path: File to read.
        width: Number of cells in a row.

    Yields:
        The place of the row's last line, for errors, and the cells, which may be another number.

    Raises:
        ValueError: The file is empty, damaged or not in UTF-8, or a quoted cell is not closed
            before the next row; the error names the line.
        FileNotFoundError: The file does not exist.
    """
    start, pending = "", ""
    for where, line in _text_lines(path, "TSV", split_returns=False, may_be_empty=False):
        cells = line.rstrip("\r\n").split("\t")
        if pending and len(cells) == width:
            break
        if len(cells) == width:
            yield where, [_unquoted(cell).replace("\r", " ") for cell in cells]
        elif pending or line.strip("\r\n"):
            start = start if pending else where
            pending += line.replace("\r\n", "\n").replace("\r", " ")
            if pending.count('"') % 2 == 0:
                try:
                    row = _next_row(csv.reader([pending], delimiter="\t", strict=True))
                except csv.Error as error:
                    raise ValueError(f"{start}: is not TSV: {error}") from error
                pending = ""
                yield where, row or []
    if pending:
        raise ValueError(
            f"{start}: is not TSV: not {width} cells, and a quotation mark that is not closed "
            "before the next row"
        )


def _unquoted(cell: str) -> str:
    inner = cell[1:-1]
    quoted = cell[:1] == cell[-1:] == '"' and ('"' in inner or "\r" in inner)
    if quoted and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def table_rows(
    path: str | Path, delimiter: str, *, may_be_empty: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """Reads the rows of a CSV or TSV file, one at a time; blank rows are skipped.

    Fields may be quoted, with quotes doubled inside (RFC 4180), and of any length. A carriage
    return ends a row, or belongs to a quoted field.

    Args:
        path: File to read.
        delimiter: Character between fields.
        may_be_empty: Whether an empty file is valid.

    Yields:
        The place of the row's last line, for errors, and the fields.

    Raises:
        ValueError: The file is empty or damaged, or a row is invalid; the error names the line. Or
            a row has several lines of which each looks like a row, so that the quotation marks are
            probably part of the text.
        FileNotFoundError: The file does not exist.
    """
    kind = "TSV" if delimiter == "\t" else "CSV"
    where, width = str(path), 0
    lines: list[str] = []

    def read() -> Iterator[str]:
        nonlocal where
        for where, line in _text_lines(path, kind, may_be_empty=may_be_empty):  # noqa: B007
            lines.append(line)
            yield line

    rows = csv.reader(read(), delimiter=delimiter, strict=True)
    try:
        while (row := _next_row(rows)) is not None:
            width = width or len(row)
            if len(lines) > 1 and all(_looks_like_row(line, delimiter, width) for line in lines):
                raise ValueError(
                    f"{where}: a quotation mark joins {len(lines)} lines that look like rows. If "
                    "it is part of the text, double it and put the field in quotation marks; if "
                    "the lines are one field, replace its line breaks by spaces"
                )
            lines.clear()
            if row:
                yield where, row
    except csv.Error as error:
        raise ValueError(
            f"{where}: is not {kind} in UTF-8 with quotes doubled inside quoted fields: {error}"
        ) from error


def _looks_like_row(line: str, delimiter: str, width: int) -> bool:
    """Returns whether a line has all cells by itself; a comma of a sentence has a space after."""
    cells = line.rstrip("\r\n").split(delimiter)
    return len(cells) == width > 1 and all(cell.strip(' "') and cell[0] != " " for cell in cells)


def _text_lines(
    path: str | Path, kind: str, *, split_returns: bool = True, may_be_empty: bool = True
) -> Iterator[tuple[str, str]]:
    """Reads the lines of a text file, as `read_lines` does; a carriage return may end a line."""
    for where, line in read_lines(path, may_be_empty):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{where}: is not {kind} in UTF-8 with quotes doubled inside quoted fields: {error}"
            ) from error
        for part in filter(None, _AFTER_RETURN.split(text)) if split_returns else [text]:
            yield where, part


def _next_row(rows: Iterator[list[str]]) -> list[str] | None:
    limit = csv.field_size_limit(_LONGEST_FIELD)  # global: restored before other code runs
    try:
        return next(rows, None)
    finally:
        csv.field_size_limit(limit)


def read_lines(path: str | Path, may_be_empty: bool = False) -> Iterator[tuple[str, bytes]]:
    """Reads the lines of a file, which is decompressed by its suffix, without a byte order mark.

    A suffix may be in upper case, and a leading ``~`` is the user's home folder.

    Yields:
        The place, for errors (``corpus.tsv, line 3``), and the line with its line end.

    Raises:
        ValueError: The file is empty or damaged.
        FileNotFoundError: The file does not exist.
    """
    number, empty = 0, True
    with open_binary(path) as lines:
        try:
            for number, line in enumerate(lines, start=1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                empty = empty and not line.strip(b" \r\n")
                yield f"{path}, line {number}", line
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: is damaged after line {number}: {error}") from error
    if empty and not may_be_empty:
        raise ValueError(f"{path}: is empty")
