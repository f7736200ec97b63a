"""Training examples by query: its positives and its negatives."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import pandas as pd

from pyterrier_inpars._stage import check_columns
from pyterrier_inpars.training.examples import check_examples, check_negatives, check_teacher


class Document(NamedTuple):
    """A document of a query; its score is None unless scores are needed."""

    docno: str
    text: str
    label: int
    score: float | None


class JudgedQuery(NamedTuple):
    """A query with its positives and negatives."""

    qid: str
    query: str
    positives: list[Document]
    negatives: list[Document]


def judged_queries(
    examples: pd.DataFrame, *columns: str, scores: bool = False, every: bool = False
) -> list[JudgedQuery]:
    """Returns training examples by query, and checks them.

    Args:
        examples: Frame ``qid, query, text, label``.
        *columns: Columns that are needed, too.
        scores: Whether ``score`` is needed.
        every: Whether queries without a negative are returned.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: The examples are invalid, a qid has two queries or a document two labels, or no
            query is left.
    """
    check_columns(examples, "qid", "query", "text", "label", *columns)
    check_examples(examples, "text")
    if scores:
        check_teacher(examples, "distillation")
    if not every:
        check_negatives(examples)
    docnos = examples["docno"] if "docno" in examples else [""] * len(examples)
    values = examples["score"].astype(float) if scores else [None] * len(examples)
    found: dict[str, JudgedQuery] = {}
    labels: dict[tuple[str, str], int] = {}
    for qid, query, text, label, docno, score in zip(
        *(examples[name] for name in ("qid", "query", "text", "label")), docnos, values, strict=True
    ):
        group = found.setdefault(qid, JudgedQuery(qid, query, [], []))
        if group.query != query:
            raise ValueError(f"qid {qid!r} has two queries: {group.query!r:.100}, {query!r:.100}")
        document = Document(docno, text, int(label), score)
        if labels.setdefault((qid, docno or text), document.label) != document.label:
            raise ValueError(f"{docno or text!r:.100} has two labels for qid {qid!r}")
        side = group.positives if document.label else group.negatives
        side.append(document)
    if every:
        return list(found.values())
    complete = [group for group in found.values() if group.positives and group.negatives]
    if not complete:
        raise ValueError("no qid has a positive and a negative: mine negatives for its positives")
    if dropped := len(found) - len(complete):
        warnings.warn(
            f"{dropped} of {len(found)} queries lack a positive or a negative and are not written",
            stacklevel=3,
        )
    return complete
