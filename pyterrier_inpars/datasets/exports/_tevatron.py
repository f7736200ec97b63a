"""Training files of Tevatron (arXiv 2203.05765)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pyterrier_inpars.datasets._rows import as_id, as_string, json_lines
from pyterrier_inpars.datasets.exports._json_lines import list_of, write_lines
from pyterrier_inpars.datasets.exports._judged import Document, judged_queries
from pyterrier_inpars.datasets.exports._rows import COLUMNS
from pyterrier_inpars.datasets.readers import join_title


def write_tevatron(examples: pd.DataFrame, path: str | Path) -> None:
    """Writes Tevatron's training file, which its versions 1 and 2 read.

    One line of JSON per qid: ``query_id``, ``query``, ``positive_passages`` and
    ``negative_passages``, which are lists of ``docid``, ``title`` (empty) and ``text``. Queries
    without a negative are left out, with a warning.

    Args:
        examples: Frame ``qid, query, docno, text, label``.
        path: File to write. Missing parent folders are created.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: The examples are invalid, or have no positive or no negative.
    """

    def passages(documents: list[Document]) -> list[dict[str, str]]:
        return [{"docid": d.docno, "title": "", "text": d.text} for d in documents]

    write_lines(
        path,
        [
            {
                "query_id": group.qid,
                "query": group.query,
                "positive_passages": passages(group.positives),
                "negative_passages": passages(group.negatives),
            }
            for group in judged_queries(examples, "docno")
        ],
    )


def read_tevatron(path: str | Path) -> pd.DataFrame:
    """Reads Tevatron's training file, of the format with passages in each line.

    Args:
        path: JSON Lines; see :func:`write_tevatron`.

    Returns:
        Training examples ``qid, query, docno, text, label``. A title is put before its text.

    Raises:
        ValueError: The file is empty, or a line is invalid; the error names the line.
        FileNotFoundError: The file does not exist.
    """
    rows = []
    for where, record in json_lines(path):
        qid = as_id(record.get("query_id"), "query_id", where)
        query = as_string(record.get("query"), "query", where)
        for name, label in (("positive_passages", 1), ("negative_passages", 0)):
            for passage in list_of(where, record, name, dict):
                docno = as_id(passage.get("docid"), "docid", where)
                title = as_string(passage.get("title") or "", "title", where)
                text = join_title(title, as_string(passage.get("text"), "text", where))
                rows.append((qid, query, docno, text, label))
    return pd.DataFrame(rows, columns=[*COLUMNS, "label"])
