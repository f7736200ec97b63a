"""Files of the InPars Toolkit (arXiv 2307.04601) and TREC runs: readers and writers.

A suffix ``.gz``, ``.bz2`` or ``.lz4`` selects compression. A file that cannot be written to its end
is not created, and an earlier one stays.
"""

from __future__ import annotations

import csv
import json
import math
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._files import atomic_text, plain
from pyterrier_inpars._stage import as_numbers, check_columns, check_strings, is_missing
from pyterrier_inpars.datasets._rows import (
    as_id,
    as_string,
    json_lines,
    quoted_rows,
    read_lines,
)
from pyterrier_inpars.training.examples import check_examples, check_negatives

# The toolkit's names of our columns; InPars-v1 has `question` and `doc_text`.
_NAMES = {
    "docno": ("doc_id", "docno"),
    "text": ("text", "doc_text"),
    "query": ("query", "question"),
}
_WRITTEN = ("doc_id", "text", "query", "log_probs", "prompt_text", "fewshot_examples")


def read_queries(path: str | Path) -> Iterator[dict[str, Any]]:
    """Reads synthetic queries from JSON Lines, one at a time.

    Each line has ``doc_id``, ``query`` or ``question``, and optionally ``text`` or ``doc_text``,
    ``log_probs``, ``score``, ``fewshot_examples`` (topic ids) and ``qid``. Other fields are kept,
    and fields that are null are ignored. A line with a blank query yields no row, as in
    ``QueryGenerator``, but counts for the qids of later lines.

    Args:
        path: File to read.

    Yields:
        Rows with ``qid`` (the line's, or ``<docno>-<n>`` for the n-th query of a document),
        ``query`` and ``docno``; with ``text`` and ``log_probs`` (list of float, natural
        logarithms) if the line has them; and with ``score``, by default the mean of
        ``log_probs``. Ids are strings: the number 1 becomes ``"1"``, and ``"007"`` is kept.

    Raises:
        ValueError: The file is empty or damaged, or a line is invalid; the error names the file
            and the line.
        FileNotFoundError: The file does not exist.
    """
    numbers: Counter[str] = Counter()
    qids = set()
    for where, record in json_lines(path):
        row = _query(where, record, numbers)
        if not row["query"].strip():
            continue
        if row["qid"] in qids:
            raise ValueError(f"{where}: duplicate qid {row['qid']!r}")
        qids.add(row["qid"])
        yield row


def _query(where: str, record: dict[str, Any], numbers: Counter[str]) -> dict[str, Any]:
    """Returns a line of a file of synthetic queries as a row, and counts its document."""
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
        as_string(row.get(column, ""), column, where)
    numbers[docno] += 1
    qid = as_id(record.pop("qid", f"{docno}-{numbers[docno]}"), "qid", where)
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
    return row | record


def write_queries(rows: Iterable[dict[str, Any]] | pd.DataFrame, path: str | Path) -> None:
    """Writes synthetic queries as JSON Lines for the toolkit and `read_queries`.

    The toolkit's fields come first (``doc_id``, ``text``, ``query``, ``log_probs``,
    ``prompt_text``, ``fewshot_examples``, those that a row has), then all others of the row.

    Args:
        rows: Rows with at least ``query`` and ``docno`` (both str). Missing values (None, NaN) are
            not written.
        path: File to write. Missing parent folders are created.

    Raises:
        ValueError: There are no rows, a row lacks a column, a qid is a duplicate, or `read_queries`
            would refuse the row; the error names the row.
    """
    if isinstance(rows, pd.DataFrame):
        rows = rows.to_dict("records")
    numbers: Counter[str] = Counter()
    qids = set()
    with atomic_text(path) as out:
        for number, row in enumerate(rows, start=1):
            at = f"row {number} (qid {row.get('qid')!r})"
            record = {name: value for name, value in row.items() if not is_null(value)}
            for column in ("docno", "query"):
                if column not in record:
                    raise ValueError(f"{at} lacks {column}: it has only {list(record)}")
            for column in ("docno", "query", "qid", "text"):
                as_string(record.get(column, ""), column, at)
            if not record["query"].strip():
                raise ValueError(f"{at}: the query is blank, which `read_queries` would drop")
            record["doc_id"] = record.pop("docno")
            first = {name: record.pop(name) for name in _WRITTEN if name in record}
            try:
                line = json.dumps(
                    first | record, ensure_ascii=False, allow_nan=False, default=plain
                )
                line.encode()
            except (TypeError, ValueError) as error:
                raise ValueError(f"cannot write {at}: {error}") from error
            qid = _query(at, json.loads(line), numbers)["qid"]  # what is written can be read
            if qid in qids:
                raise ValueError(f"{at}: duplicate qid {qid!r}")
            qids.add(qid)
            out.write(line + "\n")
        if not qids:
            raise ValueError(f"no queries to write to {path}")


def read_triples(path: str | Path) -> pd.DataFrame:
    """Reads training triples: TSV of query, relevant text and non-relevant text.

    Args:
        path: File to read.

    Returns:
        Training examples ``qid, query, docno, text, label``. The file has no ids: equal queries
        get one qid (``1``, ``2``, ...) and equal texts one docno (``d1``, ``d2``, ...). Each pair
        of query and document occurs once. A text that is both positive and negative for a query,
        as the toolkit samples some, is kept as a positive, with a warning.

    Raises:
        ValueError: The file is empty, or a line does not have three columns; the error names the
            line.
        FileNotFoundError: The file does not exist.
    """
    columns = ("query", "positive text", "negative text")
    return judged_texts(
        path,
        (
            judged
            for _, (query, positive, negative) in _three_columns(path, columns)
            for judged in ((query, positive, 1), (query, negative, 0))
        ),
    )


def write_triples(examples: pd.DataFrame, path: str | Path) -> None:
    """Writes training triples: one line for each positive with each negative of its qid.

    Tabs and line breaks in texts become spaces. Positives without a negative are left out, with a
    warning.

    Args:
        examples: Training examples ``qid, query, text, label``.
        path: File to write. Missing parent folders are created.

    Raises:
        ValueError: The examples are invalid, or have no positive or no negative.
        pt.validate.InputValidationError: A column is missing.
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
            f"{alone} of {len(positives)} positives have no negative and are not written",
            stacklevel=2,
        )
    with atomic_text(path) as out:
        writer = csv.writer(out, delimiter="\t", lineterminator="\n")
        for qid, query, positive in positives.itertuples(index=False):
            for negative in negatives.get(qid, []):
                row = (query, positive, negative)
                writer.writerow([re.sub(r"[\t\r\n]+", " ", field) for field in row])


def read_pairs(path: str | Path) -> pd.DataFrame:
    """Reads judged pairs: TSV of query, passage and label (1 is relevant, 0 is not).

    Args:
        path: File to read.

    Returns:
        Training examples; see `read_triples`.

    Raises:
        ValueError: The file is empty, a line does not have three columns, or a label is not 0 or
            1; the error names the line.
        FileNotFoundError: The file does not exist.
    """

    def judged() -> Iterator[tuple[str, str, int]]:
        for where, (query, passage, label) in _three_columns(path, ("query", "passage", "label")):
            if label.strip() not in ("0", "1"):
                raise ValueError(f"{where}: label must be 0 or 1, not {label!r}")
            yield query, passage, int(label.strip())

    return judged_texts(path, judged())


def read_fewshot(path: str | Path) -> pd.DataFrame:
    """Reads few-shot examples: JSON Lines with ``query_id``, ``doc_id``, ``query``, ``document``.

    The field ``answer``, a whole answer for `ChatPrompt`, is optional; it is in all lines or none.

    Args:
        path: File to read.

    Returns:
        Frame ``qid, query, docno, text`` (all str), and ``answer`` if the file has it, for
        `FewShotPrompt` and `ChatPrompt`.

    Raises:
        ValueError: The file is empty, or a line is invalid; the error names the line.
        FileNotFoundError: The file does not exist.
    """
    rows: list[list[str]] = []
    fields = ["query_id", "query", "doc_id", "document"]
    columns = ["qid", "query", "docno", "text"]
    for where, record in json_lines(path):
        if not rows and "answer" in record:
            fields, columns = [*fields, "answer"], [*columns, "answer"]
        if "answer" in record and "answer" not in fields:
            raise ValueError(f"{where}: has an answer, which the lines before lack")
        if absent := [field for field in fields if field not in record]:
            raise ValueError(f"{where}: lacks {', '.join(absent)}; it has only {list(record)}")
        for field in fields:
            as_checked = as_id if field.endswith("_id") else as_string
            record[field] = as_checked(record[field], field, where)
        rows.append([record[field] for field in fields])
    return pd.DataFrame(rows, columns=columns)


def read_run(path: str | Path) -> pd.DataFrame:
    """Reads a TREC run and keeps all ids as written.

    ``pt.io.read_results`` reads the id ``NaN`` as a missing value and a quotation mark as the start
    of a quoted field; FEVER has both.

    Args:
        path: File to read.

    Returns:
        Frame ``qid, docno`` (str), ``score`` (float) and ``rank`` (int). Ranks start at 0 and
        follow the scores; ties keep the order of the file.

    Raises:
        ValueError: The file is empty, a line does not have six columns or a numeric score, or a
            document is a duplicate for its query; the error names the line or the ids.
        FileNotFoundError: The file does not exist.
    """
    rows = []
    for where, line in read_lines(path):
        if not line.strip():
            continue
        try:
            qid, _, docno, _, score, _ = line.decode().split()
            rows.append((qid, docno, float(score)))
            if math.isnan(rows[-1][2]):
                raise ValueError("the score is NaN")
        except ValueError as error:
            raise ValueError(
                f"{where}: must be `qid Q0 docno rank score tag`, not {line!r:.200}: {error}"
            ) from error
    run = pd.DataFrame(rows, columns=["qid", "docno", "score"])
    if (duplicate := run.duplicated(["qid", "docno"])).any():
        qid, docno, _ = rows[duplicate.argmax()]
        raise ValueError(f"{path}: duplicate docno {docno!r} for qid {qid!r}")
    return pt.model.add_ranks(run)


def write_run(results: pd.DataFrame, path: str | Path, name: str = "pyterrier") -> None:
    """Writes results as a TREC run, ``qid Q0 docno rank score tag``, for `read_run`.

    ``pt.io.write_results`` would double quotation marks in ids.

    Args:
        results: Frame ``qid, docno, rank, score``.
        path: File to write. Missing parent folders are created.
        name: Tag of the run, the name of the system.

    Raises:
        ValueError: There are no results. Or an id is not a string, is empty or contains white
            space, a document is a duplicate for its query, a rank is not a whole number, a score is
            not a number, or ``name`` is empty or contains white space.
        pt.validate.InputValidationError: A column is missing.
    """
    check_columns(results, "qid", "docno", "rank", "score")
    if len(results) == 0:
        raise ValueError(f"no results to write to {path}")
    if not _is_word(name):
        raise ValueError(f"the name of a run must be a word without white space, not {name!r}")
    scores = as_numbers(results, "score").tolist()
    ranks = _whole_numbers(results, "rank")
    _check_pairs(results, "run")
    with atomic_text(path) as out:
        for qid, docno, rank, score in zip(
            results["qid"], results["docno"], ranks, scores, strict=True
        ):
            out.write(f"{qid} Q0 {docno} {rank} {score!r} {name}\n")


def write_qrels(qrels: pd.DataFrame, path: str | Path) -> None:
    """Writes judgements in TREC's format, ``qid 0 docno label``, for `datasets.read_qrels`.

    Args:
        qrels: Frame ``qid, docno, label``.
        path: File to write. Missing parent folders are created.

    Raises:
        ValueError: There are no judgements. Or an id is not a string, is empty or contains white
            space, a document is a duplicate for its query, or a label is not a whole number.
        pt.validate.InputValidationError: A column is missing.
    """
    check_columns(qrels, "qid", "docno", "label")
    if len(qrels) == 0:
        raise ValueError(f"no judgements to write to {path}")
    labels = _whole_numbers(qrels, "label")
    _check_pairs(qrels, "file of judgements")
    with atomic_text(path) as out:
        for qid, docno, label in zip(qrels["qid"], qrels["docno"], labels, strict=True):
            out.write(f"{qid} 0 {docno} {label}\n")


def _check_pairs(frame: pd.DataFrame, kind: str) -> None:
    """Checks the ids of a file of TREC, whose fields white space separates."""
    check_strings(frame, "qid", "docno")
    for qid, docno in zip(frame["qid"], frame["docno"], strict=True):
        if not _is_word(qid) or not _is_word(docno):
            raise ValueError(
                f"a TREC {kind} cannot hold the ids {qid!r} and {docno!r}: an id must not be empty "
                "or contain white space"
            )
    if (twice := frame.duplicated(["qid", "docno"])).any():
        qid, docno = frame.loc[twice.to_numpy(), ["qid", "docno"]].iloc[0]
        raise ValueError(f"duplicate docno {docno!r} for qid {qid!r}: a TREC {kind} has each once")


def _whole_numbers(frame: pd.DataFrame, column: str) -> list[int]:
    numbers = as_numbers(frame, column).tolist()
    for row, number in enumerate(numbers):
        if not number.is_integer():
            qid, docno = frame[["qid", "docno"]].iloc[row]
            raise ValueError(
                f"{column} must be a whole number, not {number!r}, at qid {qid!r}, docno {docno!r}"
            )
    return list(map(int, numbers))


def _is_word(text: str) -> bool:
    return text.split() == [text] and text[0] != "\ufeff"  # a reader takes it for a BOM


def _name(column: str, record: dict[str, Any]) -> str | None:
    return next((name for name in _NAMES[column] if name in record), None)


def _numbers(values: Any, where: str, name: str = "log_probs") -> list[float]:
    if not isinstance(values, list) or not all(
        type(value) in (int, float) and abs(value) <= sys.float_info.max for value in values
    ):
        raise ValueError(f"{where}: {name} must be numbers, not {values!r:.200}")
    return list(map(float, values))


def is_null(value: Any) -> bool:
    """Returns whether a value of a row is None, NaN, ``pd.NA`` or ``pd.NaT``."""
    return value is None or is_missing(value)


def judged_texts(source: object, judged: Iterable[tuple[str, str, int]]) -> pd.DataFrame:
    """Returns training examples without ids, each pair once, in input order.

    Args:
        source: Where they come from, for the warning.
        judged: Query, text and label of each.

    Returns:
        See `read_triples`.
    """
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
            f"{source}: {len(both)} texts are both relevant and not relevant to the same query; "
            "they are kept as relevant",
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


def _three_columns(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields the place and the fields of each row of a TSV file with these columns."""
    for where, row in quoted_rows(path, len(columns)):
        if len(row) != len(columns):
            raise ValueError(
                f"{where}: must have {len(columns)} columns, {', '.join(columns)}, separated by "
                f"tabs, but has {len(row)}"
            )
        yield where, row
