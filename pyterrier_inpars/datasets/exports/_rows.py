"""Rows of a frame or of an artifact, checked, with at most some of them in memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_inpars._stage import as_frame, check_columns, check_strings
from pyterrier_inpars.datasets.toolkit_files import is_null

if TYPE_CHECKING:
    from pyterrier_inpars.queries.artifact import SyntheticQueries

COLUMNS = ["qid", "query", "docno", "text"]
CHUNK = 10_000
"""Number of rows that are converted together."""


def checked_rows(queries: pd.DataFrame | SyntheticQueries) -> Iterator[dict[str, Any]]:
    """Yields checked rows without missing values.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: An id, query or text is not a string.
    """
    for rows in checked_chunks(queries):
        yield from rows


def checked_chunks(queries: Any) -> Iterator[list[dict[str, Any]]]:
    """Yields what `checked_rows` yields, in lists of at most ``CHUNK`` rows."""
    if hasattr(queries, "iter_results"):
        rows = queries.iter_results()
        while chunk := list(islice(rows, CHUNK)):
            yield _checked(as_frame(chunk))
        return
    check_columns(queries, *COLUMNS)
    for start in range(0, len(queries), CHUNK):
        yield _checked(queries.iloc[start : start + CHUNK])


def _checked(frame: pd.DataFrame) -> list[dict[str, Any]]:
    check_columns(frame, *COLUMNS)
    check_strings(frame, *COLUMNS)
    return [
        {name: value for name, value in row.items() if not is_null(value)}
        for row in frame.to_dict("records")
    ]
