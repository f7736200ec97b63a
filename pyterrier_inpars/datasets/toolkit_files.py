"""The files of the InPars Toolkit (arXiv 2307.04601), read into frames and rows and written back.

Paths that end in ``.gz``, ``.bz2`` or ``.lz4`` are compressed. A file is written under another name
and renamed when it is whole.
"""

import codecs
import csv
import json
import math
import re
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._files import atomic_text, plain
from pyterrier_inpars._stage import as_numbers, check_columns, check_strings
from pyterrier_inpars.training.examples import check_examples, check_negatives

# Our columns, and the toolkit's names of them, that which we write first: version 1 of the data
# has `question` and `doc_text`.
_NAMES = {
    "docno": ("doc_id", "docno"),
    "text": ("text", "doc_text"),
    "query": ("query", "question"),
}
_WRITTEN = ("doc_id", "text", "query", "log_probs", "prompt_text", "fewshot_examples")


def read_queries(path: str | Path) -> Iterator[dict[str, Any]]:
    """Reads synthetic queries from JSON Lines, one at a time.

    A line has ``doc_id``, ``text`` or ``doc_text``, and ``query`` or ``question``; it may have
    ``log_probs``, ``score``, ``fewshot_examples`` (ids of topics) and ``qid``. What else it has is
    kept as it is. A field whose value is null is not there. A blank query gives no row, as in
    ``QueryGenerator``, but is counted in the qids of those after it.

    Args:
        path: the file.

    Yields:
        Rows with ``qid`` (that of the file, or else ``<docno>-<n>`` for the n-th query of a
        document), ``query``, ``docno``; ``text``, if the line has one; ``log_probs`` (list of
        float, natural logarithms), if it has them; ``score``, if it has one, or else the mean of
        ``log_probs``. Ids are strings: the number 1 becomes ``"1"``, and ``"007"`` stays.

    Raises:
        ValueError: the file is empty or damaged, or a line is of another form; the error names the
            file and the line.
        FileNotFoundError: there is no such file.
    """
    numbers: Counter[str] = Counter()
    qids = set()
    for where, record in json_lines(path):
        record = {name: value for name, value in record.items() if value is not None}
        used = {column: _name(column, record) for column in _NAMES}
        for column in ("docno", "query"):
            if used[column] is None:
                raise ValueError(
                    f"{where}: lacks {' and '.join(_NAMES[column])}; it has only {list(record)}"
                )
        row = {column: record.pop(name) for column, name in used.items() if name is not None}
        docno = row["docno"] = as_id(row["docno"], "doc_id", where)
        for column in ("text", "query"):
            if not isinstance(row.get(column, ""), str):
                raise ValueError(f"{where}: {column} must be a string, not {row[column]!r}")
        numbers[docno] += 1
        qid = as_id(record.pop("qid", f"{docno}-{numbers[docno]}"), "qid", where)
        if not row["query"].strip():
            continue
        if qid in qids:
            raise ValueError(f"{where}: qid {qid!r} came before")
        qids.add(qid)
        row = {"qid": qid, "query": row.pop("query"), **row}
        if "log_probs" in record:
            row["log_probs"] = _numbers(record.pop("log_probs"), where)
        if "score" in record:
            (row["score"],) = _numbers([record.pop("score")], where, "score")
        elif row.get("log_probs"):
            row["score"] = sum(row["log_probs"]) / len(row["log_probs"])
        if (topics := record.get("fewshot_examples")) is not None:
            if not isinstance(topics, list):
                raise ValueError(f"{where}: fewshot_examples must be a list, not {topics!r:.200}")
            record["fewshot_examples"] = [as_id(t, "fewshot_examples", where) for t in topics]
        yield row | record


def write_queries(rows: Iterable[dict[str, Any]] | pd.DataFrame, path: str | Path) -> None:
    """Writes synthetic queries as JSON Lines that both the toolkit and `read_queries` read.

    The fields are ``doc_id``, ``text``, ``query``, ``log_probs``, ``prompt_text`` and
    ``fewshot_examples``, as far as a row has them, then all others of the row.

    Args:
        rows: rows with at least the strings ``query`` and ``docno``; a missing value (None, NaN)
            is left out.
        path: the file, whose folder is made if need be.

    Raises:
        ValueError: a row lacks a column or cannot be stored. No file is left.
    """
    if isinstance(rows, pd.DataFrame):
        rows = rows.to_dict("records")
    with atomic_text(path) as out:
        for number, row in enumerate(rows, start=1):
            at = f"row {number} (qid {row.get('qid')!r})"
            record = {name: value for name, value in row.items() if not _missing(value)}
            for column in ("docno", "query"):
                if column not in record:
                    raise ValueError(f"{at} lacks {column}: it has only {list(record)}")
            for column in ("docno", "query", "qid", "text"):
                if not isinstance(record.get(column, ""), str):
                    raise ValueError(f"{at}: {column} must be a string, not {record[column]!r}")
            record["doc_id"] = record.pop("docno")
            first = {name: record.pop(name) for name in _WRITTEN if name in record}
            try:
                out.write(json.dumps(first | record, ensure_ascii=False, default=plain) + "\n")
            except (TypeError, UnicodeEncodeError) as error:
                raise ValueError(f"cannot write {at}: {error}") from error


def read_triples(path: str | Path) -> pd.DataFrame:
    """Reads training triples: TSV of query, relevant text, text that is not relevant.

    Args:
        path: the file.

    Returns:
        Training examples ``qid, query, docno, text, label``. A query stands for itself: its qid is
        the number of the distinct query, and a text is one document, whose docno is ``d`` and the
        number of the distinct text. Each document is there once for a query. A negative that is
        also a positive of its query is left out, with a warning: the toolkit draws some such.

    Raises:
        ValueError: the file is empty, or a line has not three columns; the error names the line.
    """
    columns = ("query", "positive text", "negative text")
    return _examples(
        path,
        (
            judged
            for _, (query, positive, negative) in _table(path, columns)
            for judged in ((query, positive, 1), (query, negative, 0))
        ),
    )


def write_triples(examples: pd.DataFrame, path: str | Path) -> None:
    """Writes training triples: one line for each positive with each negative of its qid.

    A tab or a line's end in a text becomes a space.

    Args:
        examples: training examples ``qid, query, text, label``.
        path: the file, whose folder is made if need be.

    Raises:
        ValueError: the examples are not of that form, or have no pair. No file is left.
        pt.validate.InputValidationError: a column is missing.
    """
    check_columns(examples, "qid", "query", "text", "label")
    check_strings(examples, "qid")
    check_examples(examples, "text")
    check_negatives(examples)
    negatives: dict[str, list[str]] = {}
    for qid, text in examples.loc[examples["label"] == 0, ["qid", "text"]].itertuples(index=False):
        negatives.setdefault(qid, []).append(text)
    positives = examples.loc[examples["label"] == 1, ["qid", "query", "text"]]
    if alone := sum(qid not in negatives for qid in positives["qid"]):
        warnings.warn(
            f"{alone} of {len(positives)} positives have no negative and are in no triple",
            stacklevel=2,
        )
    with atomic_text(path) as out:
        writer = csv.writer(out, delimiter="\t", lineterminator="\n")
        for qid, query, positive in positives.itertuples(index=False):
            for negative in negatives.get(qid, []):
                row = (query, positive, negative)
                writer.writerow([re.sub(r"[\t\r\n]+", " ", field) for field in row])


def read_pairs(path: str | Path) -> pd.DataFrame:
    """Reads judged pairs: TSV of query, passage, label (1 relevant, 0 not).

    Args:
        path: the file.

    Returns:
        Training examples, as `read_triples` gives them.

    Raises:
        ValueError: the file is empty, a line has not three columns, or a label is not 0 or 1; the
            error names the line.
    """

    def judged() -> Iterator[tuple[str, str, int]]:
        for where, (query, passage, label) in _table(path, ("query", "passage", "label")):
            if label.strip() not in ("0", "1"):
                raise ValueError(f"{where}: label must be 0 or 1, not {label!r}")
            yield query, passage, int(label.strip())

    return _examples(path, judged())


def read_fewshot(path: str | Path) -> pd.DataFrame:
    """Reads few-shot examples: JSON Lines with ``query_id``, ``doc_id``, ``query``, ``document``.

    Args:
        path: the file.

    Returns:
        Frame ``qid, query, docno, text``, all str, for ``FewShotPrompt``.

    Raises:
        ValueError: the file is empty, or a line is of another form; the error names the line.
    """
    rows = []
    for where, record in json_lines(path):
        fields = ("query_id", "query", "doc_id", "document")
        if lacking := [field for field in fields if field not in record]:
            raise ValueError(f"{where}: lacks {', '.join(lacking)}; it has only {list(record)}")
        for field in ("query", "document"):
            if not isinstance(record[field], str):
                raise ValueError(f"{where}: {field} must be a string, not {record[field]!r}")
        for field in ("query_id", "doc_id"):
            record[field] = as_id(record[field], field, where)
        rows.append([record[field] for field in fields])
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text"])


def read_run(path: str | Path) -> pd.DataFrame:
    """Reads a TREC run, whose ids may be any words: ``NaN``, or one with a quotation mark.

    ``pt.io.read_results`` takes such for missing values and for quoted fields; FEVER has both.

    Args:
        path: the file.

    Returns:
        Frame ``qid, docno, score, rank``: str, str, float, int. Ranks count from 0 by score, rows
        of equal score in the order of the file.

    Raises:
        ValueError: the file is empty, or a line has not six columns or no number as its score; the
            error names the line. A document stands twice for a query.
    """
    rows = []
    for where, line in read_lines(path):
        if not line.strip():
            continue
        try:
            qid, _, docno, _, score, _ = line.decode().split()
            rows.append((qid, docno, float(score)))
            if math.isnan(rows[-1][2]):
                raise ValueError("the score is not a number")
        except ValueError as error:
            raise ValueError(
                f"{where}: must be `qid Q0 docno rank score name`, not {line!r:.200}: {error}"
            ) from error
    run = pd.DataFrame(rows, columns=["qid", "docno", "score"])
    if (twice := run.duplicated(["qid", "docno"])).any():
        qid, docno, _ = rows[twice.argmax()]
        raise ValueError(f"{path}: document {docno!r} stands twice for qid {qid!r}")
    return pt.model.add_ranks(run)


def write_run(results: pd.DataFrame, path: str | Path, name: str = "pyterrier") -> None:
    """Writes results as a TREC run, which `read_run` reads: ``qid Q0 docno rank score name``.

    ``pt.io.write_results`` would double the quotation marks in ids.

    Args:
        results: frame ``qid, docno, rank, score``.
        path: the file, whose folder is made if need be.
        name: of the system.

    Raises:
        ValueError: an id is no string, is empty or holds white space, or a score is no number. No
            file is left.
        pt.validate.InputValidationError: a column is missing.
    """
    columns = ["qid", "docno", "rank"]
    check_columns(results, *columns, "score")
    check_strings(results, "qid", "docno")
    scores = as_numbers(results, "score").tolist()
    with atomic_text(path) as out:
        rows = results[columns].itertuples(index=False, name=None)
        for (qid, docno, rank), score in zip(rows, scores, strict=True):
            if len(f"{qid} {docno}".split()) != 2:
                raise ValueError(f"a TREC run cannot hold the ids {qid!r} and {docno!r}")
            out.write(f"{qid} Q0 {docno} {rank} {score!r} {name}\n")


def json_lines(
    path: str | Path, *, may_be_empty: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads JSON Lines, one at a time; blank lines are passed over.

    JSON can hold half of a character (a lone surrogate), which no file in UTF-8 can: it becomes
    ``?``.

    Args:
        path: the file.
        may_be_empty: an empty file is no error.

    Yields:
        The place, for an error (``queries.jsonl, line 3``), and the object.

    Raises:
        ValueError: the file is empty or damaged, or a line is not a JSON object.
        FileNotFoundError: there is no such file.
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


def as_id(value: object, name: str, where: str) -> str:
    """An id as a string: itself, or the decimal digits of a whole number.

    Raises:
        ValueError: it is something else, from which the id as it was written cannot be had.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}: {name} must be a string or a whole number, not {value!r}")
    return value


def _name(column: str, record: dict[str, Any]) -> str | None:
    return next((name for name in _NAMES[column] if name in record), None)


def _numbers(values: Any, where: str, name: str = "log_probs") -> list[float]:
    if not isinstance(values, list) or not all(
        type(value) in (int, float) and abs(value) <= sys.float_info.max for value in values
    ):
        raise ValueError(f"{where}: {name} must be numbers, not {values!r:.200}")
    return list(map(float, values))


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _examples(path: str | Path, judged: Iterable[tuple[str, str, int]]) -> pd.DataFrame:
    """Training examples of query, text and label, each pair once, in the order they come."""
    queries: dict[str, int] = {}
    texts: dict[str, int] = {}
    labels: dict[tuple[int, int], int] = {}
    both = set()
    for query, text, label in judged:
        pair = queries.setdefault(query, len(queries)), texts.setdefault(text, len(texts))
        if labels.setdefault(pair, label) != label:
            labels[pair] = 1
            both.add(pair)
    if both:
        warnings.warn(
            f"{path}: {len(both)} texts are both relevant and not relevant to the same query: "
            "they count as relevant",
            stacklevel=3,
        )
    query_of, text_of = list(queries), list(texts)
    return pd.DataFrame(
        [
            (f"{q + 1}", query_of[q], f"d{t + 1}", text_of[t], label)
            for (q, t), label in labels.items()
        ],
        columns=["qid", "query", "docno", "text", "label"],
    )


def _table(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The place and the fields of each row of a TSV file."""
    where = str(path)

    def lines() -> Iterator[str]:
        nonlocal where
        for place, line in read_lines(path):
            where = place
            yield line.decode().replace("\r\n", "\n").replace("\r", " ")

    limit = csv.field_size_limit(2**31 - 1)  # a document may be longer than csv's 128 KiB
    try:
        for row in csv.reader(lines(), delimiter="\t", strict=True):
            if row and len(row) != len(columns):
                raise ValueError(
                    f"{where}: must have {len(columns)} columns, {', '.join(columns)}, "
                    f"with tabs between them, but has {len(row)}"
                )
            if row:
                yield where, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(
            f"{where}: is not TSV in UTF-8 with quotes doubled inside quoted fields: {error}"
        ) from error
    finally:
        csv.field_size_limit(limit)


def read_lines(path: str | Path, may_be_empty: bool = False) -> Iterator[tuple[str, bytes]]:
    """The lines of a file, and the place of each."""
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
