"""Rows of a frame or of an artifact, checked, with at most some of them in memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_inpars._stage import as_frame, check_columns, check_kept, check_strings
from pyterrier_inpars.datasets.toolkit_files import is_null

if TYPE_CHECKING:
    from pyterrier_inpars.queries.artifact import SyntheticQueries

COLUMNS = ["qid", "query", "docno", "text"]
CHUNK = 10_000
"""Number of rows that are converted together."""


def checked_rows(queries: pd.DataFrame | SyntheticQueries) -> Iterator[dict[str, Any]]:
    """Yields checked rows without missing values, for a format without a column for dropped rows.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: An id, query or text is not a string, or a filter dropped a row
            (``explain=True``).
    """
    for frame in _checked_frames(queries):
        check_kept(frame)
        yield from _records(frame)


def checked_chunks(queries: Any) -> Iterator[list[dict[str, Any]]]:
    """Yields checked rows in lists of at most ``CHUNK``, with those that a filter dropped."""
    return map(_records, _checked_frames(queries))


def _checked_frames(queries: Any) -> Iterator[pd.DataFrame]:
    if hasattr(queries, "iter_results"):
        rows = queries.iter_results()
        while chunk := list(islice(rows, CHUNK)):
            yield _checked(as_frame(chunk))
        return
    check_columns(queries, *COLUMNS)
    for start in range(0, len(queries), CHUNK):
        yield _checked(queries.iloc[start : start + CHUNK])


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    check_columns(frame, *COLUMNS)
    check_strings(frame, *COLUMNS)
    return frame


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if not is_null(value)}
        for row in frame.to_dict("records")
    ]
