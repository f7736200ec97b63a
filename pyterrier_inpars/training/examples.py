"""Training examples: checks, groups by query, lists for a loss, and a validation split."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pyterrier_inpars._stage import as_numbers, check_columns, check_kept, check_strings
from pyterrier_inpars.training.losses import FROM_TEACHER, UNLABELLED
from pyterrier_inpars.training.recipes import HELD_OUT

FEWEST, MOST = 20, 200
"""Minimum number of documents and approximate maximum number of queries held out by default."""
NEGATIVES = 20
"""Maximum number of negatives that a query held out by default is validated on."""


class Group(NamedTuple):
    """A query with one relevant document and the negatives mined for it."""

    query: str
    positive: str
    negatives: list[str]


def groups(examples: pd.DataFrame, text_field: str) -> list[Group]:
    """Returns one group per positive: its text, and all negatives of its qid in frame order."""
    relevant = examples["label"] == 1
    negatives: dict[str, list[str]] = {}
    for qid, text in zip(examples["qid"][~relevant], examples[text_field][~relevant], strict=True):
        negatives.setdefault(qid, []).append(text)
    positives = examples[relevant]
    return [
        Group(query, text, negatives.get(qid, []))
        for qid, query, text in zip(
            positives["qid"], positives["query"], positives[text_field], strict=True
        )
    ]


def documents_of(pairs: Iterable[Sequence[str]]) -> dict[str, set[str]]:
    """Returns the documents of each query, by its text, from pairs of query and document."""
    found: dict[str, set[str]] = {}
    for query, document in pairs:
        found.setdefault(query, set()).add(document)
    return found


def balanced(examples: pd.DataFrame) -> pd.DataFrame:
    """Returns the examples with as many positives as negatives, in frame order.

    The rows of a qid's rarer label are repeated in equal shares: a positive with 100 negatives
    occurs 100 times, as in the triples of the InPars Toolkit, each of which gives a positive and a
    negative. If qids lack one of the labels, all rows of the rarer label are then repeated until
    the whole frame is balanced.

    Args:
        examples: Frame ``qid, label`` and others, with both labels 0 and 1.
    """
    label = examples["label"].astype(int)
    count = np.ones(len(examples), dtype=int)
    place = examples.groupby(["qid", label]).cumcount().to_numpy()
    size = label.groupby([examples["qid"], label]).transform("size").to_numpy()
    other = label.groupby(examples["qid"]).transform("size").to_numpy() - size
    rarer = (other > size).nonzero()[0]
    count[rarer] = other[rarer] // size[rarer] + (place[rarer] < other[rarer] % size[rarer])
    total = np.bincount(label, weights=count, minlength=2).astype(int)
    rows = (label.to_numpy() == total.argmin()).nonzero()[0]
    share, rest = divmod(total.max() - total.min(), len(rows))
    count[rows] += share
    count[rows[:rest]] += 1
    return examples.iloc[np.repeat(np.arange(len(examples)), count)]


class Listing(NamedTuple):
    """A query, some of its documents, and a target per document: a label or a teacher's score."""

    query: str
    texts: list[str]
    targets: list[float]

    @property
    def length(self) -> int:
        """Length of the longest pair, in characters."""
        return len(self.query) + max(map(len, self.texts))


def listings(examples: pd.DataFrame, text_field: str, loss: str) -> list[Listing]:
    """Returns the lists that a loss learns from.

    For the losses of ``UNLABELLED`` a list is all rows of a qid; for the other losses it is one
    positive, followed by all negatives of its qid. Lists of one document are dropped, as they have
    no order to learn.

    Args:
        examples: Frame ``qid, query`` and the texts, with ``score`` for a loss that learns from a
            teacher, and ``label`` for all but ``UNLABELLED``.
        text_field: Column with the texts.
        loss: One of ``losses.LOSSES``.

    Raises:
        ValueError: No list has two documents, a score of the teacher is missing, or it scores all
            documents of each list alike.
    """
    target = "score" if loss in FROM_TEACHER else "label"
    if target == "score":
        check_teacher(examples, loss)
    examples = examples.assign(**{target: examples[target].astype(float)})
    if loss in UNLABELLED:
        found = [
            Listing(rows["query"].iloc[0], rows[text_field].tolist(), rows["score"].tolist())
            for _, rows in examples.groupby("qid", sort=False, observed=True)
        ]
    else:
        texts: list[Any] = groups(examples, text_field)
        targets: list[Any] = groups(examples, target)
        found = [
            Listing(row.query, [row.positive, *row.negatives], [of.positive, *of.negatives])
            for row, of in zip(texts, targets, strict=True)
        ]
    found = [row for row in found if len(row.texts) > 1]
    if not found:
        needed = "two documents" if loss in UNLABELLED else "a positive and a negative"
        raise ValueError(f"no qid has {needed}, which loss={loss!r} needs: mine negatives first")
    if target == "score" and all(len(set(row.targets)) == 1 for row in found):
        raise ValueError(
            f"loss={loss!r} learns from the scores of a teacher, and it gives all documents of "
            "each query the same score: give another teacher"
        )
    return found


def check_examples(examples: pd.DataFrame, text_field: str, labelled: bool = True) -> None:
    """Checks texts, ids and labels of training examples.

    Args:
        examples: Frame ``query, label`` and the texts; ``qid`` and ``docno`` are checked if
            present.
        text_field: Column with the texts.
        labelled: Whether the labels are used, and are checked.

    Raises:
        ValueError: The frame is empty, a filter dropped an example (``explain=True``), a text or id
            is not a string, a label is not 0 or 1, or no example is a positive.
    """
    if len(examples) == 0:
        raise ValueError(
            "no examples to train on: the frame is empty; a filter may have dropped all rows"
        )
    check_columns(examples)
    check_kept(examples)
    check_strings(examples, *examples.columns.intersection(["qid", "docno"]), "query", text_field)
    if not labelled:
        return
    other = examples["label"][~examples["label"].isin([0, 1])]
    if len(other):
        raise ValueError(f"label must be 1 (relevant) or 0 (negative), not {other.iloc[0]!r}")
    if not (examples["label"] == 1).any():
        raise ValueError("no example has label 1: training needs a relevant document")


def with_labels(examples: pd.DataFrame, qrels: pd.DataFrame) -> pd.DataFrame:
    """Returns the examples with ``label`` 1 where the qrels have a label above 0, and 0 elsewhere.

    Args:
        examples: Frame ``qid, docno`` and others; a ``label`` in it is replaced.
        qrels: Frame ``qid, docno, label``.

    Raises:
        ValueError: No example is relevant by the qrels, or see :func:`check_qrels`.
    """
    check_qrels(qrels)
    labels = are_relevant(examples, qrels).astype(int)
    if len(examples) and not labels.any():
        raise ValueError(
            "no example is relevant by the qrels: their qid and docno must be the strings of the "
            "examples, and a relevant document must be among the results"
        )
    return examples.assign(label=labels)


def are_relevant(pairs: pd.DataFrame, qrels: pd.DataFrame) -> np.ndarray:
    """Returns whether each row ``qid, docno`` is relevant by valid qrels."""
    relevant = qrels.loc[as_numbers(qrels, "label") > 0, ["qid", "docno"]]
    index = pd.MultiIndex.from_frame(pairs[["qid", "docno"]])
    return index.isin(pd.MultiIndex.from_frame(relevant))


def check_qrels(qrels: pd.DataFrame) -> None:
    """Checks that qrels have their columns, and judge each pair alike.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: A pair has two labels, or one that is not a number; the error names it.
    """
    check_columns(qrels, "qid", "docno", "label")
    as_numbers(qrels, "label")
    pairs = qrels[["qid", "docno", "label"]].drop_duplicates()
    twice = pairs[pairs.duplicated(["qid", "docno"], keep=False)]
    if len(twice):
        qid, docno = twice.iloc[0][["qid", "docno"]]
        labels = twice.loc[(twice["qid"] == qid) & (twice["docno"] == docno), "label"].tolist()
        raise ValueError(
            f"the qrels judge docno {docno!r} for qid {qid!r} twice, as {labels}: keep one of them"
        )


def graded_qrels(qrels: pd.DataFrame) -> pd.DataFrame:
    """Returns valid qrels with their labels as whole numbers, which measures need.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: An id is not a string, a label is not a whole number, or see `check_qrels`.
    """
    check_qrels(qrels)
    check_strings(qrels, "qid", "docno")
    labels = as_numbers(qrels, "label")
    if (bad := ~np.isfinite(labels) | (labels != np.trunc(labels))).any():
        qid, docno, label = qrels[["qid", "docno", "label"]].iloc[int(bad.argmax())]
        raise ValueError(
            f"label must be a whole number, but is {label} at qid {qid!r}, docno {docno!r}: "
            "round it to a grade"
        )
    return qrels.assign(label=labels.astype("int64"))


def check_negatives(examples: pd.DataFrame) -> None:
    """Checks that at least one example is a negative.

    Raises:
        ValueError: There is none.
    """
    if not (examples["label"] == 0).any():
        raise ValueError("no example has label 0: mine negatives first, as with NegativeMiner")


def check_teacher(examples: pd.DataFrame, loss: str) -> None:
    """Checks that each example has a finite score of a teacher.

    Raises:
        ValueError: A score is missing or not finite; the error names qid and docno.
    """
    if "score" not in examples:
        raise ValueError(
            f"loss={loss!r} learns from the scores of a teacher, and the examples have no column "
            f"'score': let another reranker score them, as in student.fit(teacher(examples))"
        )
    scores = pd.to_numeric(examples["score"], errors="coerce")
    bad = examples[~scores.abs().lt(float("inf"))]
    if len(bad):
        qid, docno, score = bad.iloc[0][["qid", "docno", "score"]]
        raise ValueError(
            f"loss={loss!r} learns from the scores of a teacher, and the score of qid {qid!r}, "
            f"docno {docno!r} is {score}: score all examples with one teacher, or drop such rows"
        )


def hold_out(
    examples: pd.DataFrame, share: float, seed: int, negatives: int | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Splits the examples into those to train on and those to validate on.

    Queries whose first relevant document is the same are on the same side. Queries without a
    relevant document are trained on. If no held-out query has a negative, each of them is validated
    on the relevant documents of all of them.

    Args:
        examples: Frame ``qid, query, docno, ..., label``.
        share: Share of the documents whose queries are held out, between 0 and 1; at least one
            document is.
        seed: Seed of the selection.
        negatives: Maximum number of negatives to validate a query on, the first of its rows.

    Returns:
        The examples to train on, in frame order, and the results to validate on, with labels.

    Raises:
        ValueError: All queries have the same relevant document, or only one is held out, without a
            negative.
    """
    document = source_documents(examples)
    if document.nunique() < 2:
        raise ValueError("held_out needs two queries or more: one to train and one to validate on")
    known = document.notna().to_numpy()
    chosen = np.zeros(len(examples), dtype=bool)
    chosen[known] = drawn(document[known], share, seed)
    train, held = examples[~chosen], examples[chosen]
    if negatives is not None:
        held = held[(held["label"] == 1) | (held.groupby(["qid", "label"]).cumcount() < negatives)]
    if (held["label"] == 1).all():
        held = _crossed(held)
    if held["label"].nunique() < 2:
        raise ValueError(
            "the queries held out for validation have no negatives, so every order is equally "
            "good: mine negatives, hold out more queries, or give fit(validation=) results to "
            "rerank"
        )
    return train, held


def source_documents(examples: pd.DataFrame) -> pd.Series:
    """Returns for each row the first relevant document of its qid; missing if there is none."""
    relevant = examples[examples["label"] == 1].drop_duplicates("qid")
    return examples["qid"].map(relevant.set_index("qid")["docno"])


def _crossed(positives: pd.DataFrame) -> pd.DataFrame:
    """Returns each query with all documents of a frame of positives."""
    other = positives.columns.intersection(["qid", "query", "label", "score", "rank"])
    documents = positives.drop(columns=other).drop_duplicates("docno")
    pairs = positives[["qid", "query"]].drop_duplicates("qid").merge(documents, how="cross")
    relevant = pd.MultiIndex.from_frame(positives[["qid", "docno"]])
    return pairs.assign(label=pd.MultiIndex.from_frame(pairs[["qid", "docno"]]).isin(relevant) * 1)


def default_share(examples: pd.DataFrame) -> tuple[float, str]:
    """Returns the share to hold out by default, and if it is 0, why.

    It is a tenth, or about ``MOST`` queries if that is less. It is 0 if a tenth is fewer than
    ``FEWEST`` documents, or if there are no labels of 0 and 1.
    """
    if "label" not in examples or not examples["label"].isin([0, 1]).all():
        return 0.0, "the examples have no labels 0 and 1: give a validation"
    document = source_documents(examples)
    queries, documents = examples.loc[document.notna(), "qid"].nunique(), document.nunique()
    if HELD_OUT * documents < FEWEST:
        return 0.0, (
            f"queries of {documents} source documents are too few to hold some out: give a "
            f"validation, or held_out"
        )
    return min(HELD_OUT, MOST / queries), ""


def drawn(ids: pd.Series, share: float, seed: int) -> pd.Series:
    """Draws a share of at least two distinct ids, at least one and not all of them.

    Returns:
        Whether the id of each row was drawn, bool.
    """
    distinct = list(dict.fromkeys(ids))
    number = min(max(1, round(share * len(distinct))), len(distinct) - 1)
    return ids.isin(random.Random(seed).sample(distinct, number))
