"""Lines, rows and JSON objects of files, each with its place for errors."""

from __future__ import annotations

import codecs
import csv
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyterrier_inpars._files import open_binary

_LONGEST_FIELD = 2**31 - 1  # characters; csv's default of 131,072 is less than a long document
_AFTER_RETURN = re.compile(r"(?<=\r)(?!\n)")


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


def as_string(value: object, name: str, where: str) -> str:
    """Returns a value that is a string.

    Args:
        value: Value as read.
        name: Name of the field, for the error.
        where: Place of the field, for the error.

    Raises:
        ValueError: ``value`` is of another type.
    """
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} must be a string, not {value!r:.200}")
    return value
