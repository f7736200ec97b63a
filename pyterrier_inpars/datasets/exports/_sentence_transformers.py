"""Triplets and labelled lists, the training data of sentence-transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_inpars._stage import check_strings
from pyterrier_inpars.datasets.exports._judged import judged_queries
from pyterrier_inpars.datasets.toolkit_files import judged_texts

if TYPE_CHECKING:
    import datasets


def to_triplets(examples: pd.DataFrame) -> pd.DataFrame:
    """Returns training examples as sentence-transformers' triplets.

    ``datasets.Dataset.from_pandas(to_triplets(examples))`` trains a ``SentenceTransformer`` with
    ``MultipleNegativesRankingLoss``, for example.

    Args:
        examples: Frame ``qid, query, text, label``.

    Returns:
        Frame ``anchor, positive, negative``: each positive with each negative of its qid. Positives
        without a negative are left out, with a warning.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: The examples are invalid, or have no positive or no negative.
    """
    rows = [
        (group.query, positive.text, negative.text)
        for group in judged_queries(examples)
        for positive in group.positives
        for negative in group.negatives
    ]
    return pd.DataFrame(rows, columns=["anchor", "positive", "negative"])


def from_triplets(triplets: pd.DataFrame | datasets.Dataset) -> pd.DataFrame:
    """Returns sentence-transformers' triplets, or tuples with several negatives, as examples.

    Args:
        triplets: Columns of strings, by their order: the query, a positive, and one negative or
            more.

    Returns:
        Frame ``qid, query, docno, text, label``. There are no ids: equal queries get one qid
        (``1``, ``2``, ...) and equal texts one docno (``d1``, ``d2``, ...). See
        :func:`~pyterrier_inpars.datasets.toolkit_files.read_triples`.

    Raises:
        ValueError: There are fewer than three columns, or a value is not a string.
    """
    frame = _as_frame(triplets)
    if len(frame.columns) < 3:
        raise ValueError(
            f"triplets have a query, a positive and a negative, not only {list(frame.columns)}"
        )
    check_strings(frame, *frame.columns)
    return judged_texts(
        "the triplets",
        (
            (row[0], text, int(number == 0))
            for row in frame.itertuples(index=False, name=None)
            for number, text in enumerate(row[1:])
        ),
    )


def to_lists(examples: pd.DataFrame, *, scores: bool = False) -> pd.DataFrame:
    """Returns training examples as sentence-transformers' labelled lists.

    ``datasets.Dataset.from_pandas(to_lists(examples))`` trains a ``CrossEncoder`` with
    ``LambdaLoss``, for example.

    Args:
        examples: Frame ``qid, query, text, label``.
        scores: Whether the column ``score``, such as of a teacher, takes the place of the labels.

    Returns:
        Frame ``query, documents, labels``, the last two of lists, one row per qid: the positives,
        then the negatives. With ``scores``, the last column is called ``scores``.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: The examples are invalid, or have no positive; or a score is not finite.
    """
    rows = []
    for group in judged_queries(examples, scores=scores, every=True):
        documents = [*group.positives, *group.negatives]
        values = [document.score if scores else document.label for document in documents]
        rows.append((group.query, [document.text for document in documents], values))
    return pd.DataFrame(rows, columns=["query", "documents", "scores" if scores else "labels"])


def from_lists(lists: pd.DataFrame | datasets.Dataset) -> pd.DataFrame:
    """Returns sentence-transformers' labelled lists as training examples.

    Args:
        lists: Columns by their order: the query, a list of texts, and a list of as many labels
            (0 or 1).

    Returns:
        Frame ``qid, query, docno, text, label``, with ids as of :func:`from_triplets`.

    Raises:
        ValueError: There are not three columns, or a row is not of this kind.
    """
    frame = _as_frame(lists)
    if len(frame.columns) != 3:
        raise ValueError(f"lists have a query, texts and labels, not {list(frame.columns)}")
    judged = []
    for number, (query, *columns) in enumerate(frame.itertuples(index=False, name=None)):
        if not all(map(pd.api.types.is_list_like, columns)):
            raise ValueError(f"row {number}: texts and labels must be lists, not {columns!r:.200}")
        texts, labels = map(list, columns)
        if len(texts) != len(labels) or not all(isinstance(t, str) for t in (query, *texts)):
            raise ValueError(f"row {number}: must be a string, and texts with as many labels")
        if wrong := [label for label in labels if label not in (0, 1)]:
            raise ValueError(f"row {number}: a label must be 0 or 1, not {wrong[0]!r}")
        judged += [(query, text, int(label)) for text, label in zip(texts, labels, strict=True)]
    return judged_texts("the lists", judged)


def _as_frame(columns: Any) -> pd.DataFrame:
    """Returns a frame, or a data set of ``datasets``, as a frame."""
    if isinstance(columns, pd.DataFrame):
        return columns
    if not hasattr(columns, "to_pandas"):
        raise TypeError(
            f"a DataFrame or a datasets.Dataset is needed, not a {type(columns).__name__}"
        )
    return columns.to_pandas()
