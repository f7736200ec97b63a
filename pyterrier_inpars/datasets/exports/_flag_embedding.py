"""Training files of FlagEmbedding."""

from __future__ import annotations

from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pyterrier_inpars.datasets._rows import as_id, as_string, json_lines
from pyterrier_inpars.datasets.exports._json_lines import list_for, list_of, write_lines
from pyterrier_inpars.datasets.exports._judged import judged_queries
from pyterrier_inpars.datasets.exports._rows import COLUMNS
from pyterrier_inpars.datasets.toolkit_files import judged_texts


def write_flag_embedding(
    examples: pd.DataFrame, path: str | Path, *, scores: bool = False, prompt: str | None = None
) -> None:
    """Writes FlagEmbedding's training file, as of its version 1.4.

    One line of JSON per qid: ``query``, ``pos`` and ``neg`` (lists of texts), with ``scores`` also
    ``pos_scores`` and ``neg_scores``, and ``query_id``, ``pos_ids`` and ``neg_ids``, which
    FlagEmbedding ignores. Queries without a negative are left out, with a warning.

    Args:
        examples: Frame ``qid, query, docno, text, label``.
        path: File to write. Missing parent folders are created.
        scores: Whether the column ``score`` of a teacher is written, for distillation.
        prompt: Instruction of the queries, for all lines; ``None`` for none.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        TypeError: ``prompt`` is not a string.
        ValueError: The examples are invalid, or have no positive or no negative; or a score is not
            finite.
    """
    if not isinstance(prompt, str | None):
        raise TypeError(f"prompt must be a string or None, not {prompt!r:.200}")
    records = []
    for group in judged_queries(examples, "docno", scores=scores):
        record: dict[str, Any] = {"query": group.query}
        sides = {"pos": group.positives, "neg": group.negatives}
        record |= {name: [d.text for d in documents] for name, documents in sides.items()}
        if scores:
            record |= {f"{name}_scores": [d.score for d in found] for name, found in sides.items()}
        if prompt is not None:
            record["prompt"] = prompt
        record["query_id"] = group.qid
        record |= {f"{name}_ids": [d.docno for d in found] for name, found in sides.items()}
        records.append(record)
    write_lines(path, records)


def read_flag_embedding(path: str | Path) -> pd.DataFrame:
    """Reads FlagEmbedding's training file.

    Args:
        path: JSON Lines; see :func:`write_flag_embedding`.

    Returns:
        Training examples ``qid, query, docno, text, label``, and ``score`` if all lines have
        scores. In a file with lines without ids, equal queries get one qid and equal texts one
        docno, as of :func:`from_triplets`.

    Raises:
        ValueError: The file is empty, or a line is invalid; the error names the line.
        FileNotFoundError: The file does not exist.
    """
    rows = []
    for where, record in json_lines(path):
        query, qid = as_string(record.get("query"), "query", where), record.get("query_id")
        for side, label in (("pos", 1), ("neg", 0)):
            texts = list_of(where, record, side, str)
            ids = list_for(where, record, f"{side}_ids", texts)
            scores = list_for(where, record, f"{side}_scores", texts, Real)
            for number, text in enumerate(texts):
                score = None if scores is None else float(scores[number])
                docno = None if ids is None else ids[number]
                rows.append(_Line(where, query, text, label, score, qid, docno))
    if any(row.qid is None or row.docno is None for row in rows):
        judged = ((row.query, row.text, row.label) for row in rows)
        frame = judged_texts(path, judged)
    else:
        with_ids = [
            (
                as_id(row.qid, "query_id", row.where),
                row.query,
                as_id(row.docno, "pos_ids or neg_ids", row.where),
                row.text,
                row.label,
            )
            for row in rows
        ]
        frame = pd.DataFrame(with_ids, columns=[*COLUMNS, "label"])
    if any(row.score is None for row in rows):
        return frame
    scores_of = {(row.query, row.text): row.score for row in rows}
    pairs = zip(frame["query"], frame["text"], strict=True)
    return frame.assign(score=[scores_of[pair] for pair in pairs])


class _Line(NamedTuple):
    """A document in a line of FlagEmbedding's file; ids and score are None if the line has none."""

    where: str
    query: str
    text: str
    label: int
    score: float | None
    qid: Any
    docno: Any
