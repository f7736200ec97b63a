"""Readers of documents, topics and judgements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_inpars.datasets._rows import (
    as_id,
    as_string,
    json_lines,
    plain_rows,
    read_lines,
    table_rows,
)

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
        parts = [as_string(record[name], str(name), where) for name in optional if record.get(name)]
        if len(fields) == 1:
            parts.append(as_string(record.get(fields[0]), str(fields[0]), where))
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
        topics[topic] = as_string(record.get(names[1]), str(names[1]), where)
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
            if number or not _is_header(line.decode(errors="replace")):
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


def _is_header(line: str) -> bool:
    """Returns whether a line is the header of BEIR's format: three cells, the last no number."""
    cells = line.split("\t")
    if len(cells) != 3:
        return False
    try:
        float(cells[2])
    except ValueError:
        return True
    return False


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
