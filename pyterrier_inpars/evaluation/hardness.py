"""How hard synthetic queries are: their overlap with the source document."""

from __future__ import annotations

import pandas as pd

from pyterrier_inpars._retrieval import shared_words
from pyterrier_inpars._stage import check_columns, fields_of, joined_text
from pyterrier_inpars.queries.artifact import SyntheticQueries
from pyterrier_inpars.queries.topics import as_results


def overlap(
    queries: SyntheticQueries | pd.DataFrame, text_field: str | list[str] = "text"
) -> pd.Series:
    """Returns the share of each query's words that are in its document.

    Queries that copy their document favor lexical systems. Words are compared without case and
    punctuation, and are not stemmed. In scripts without spaces between words, such as Chinese,
    pairs of letters are compared. `OverlapFilter` drops queries by this share::

        frame = queries.get_results()
        frame["overlap"] = evaluation.overlap(frame)

    Args:
        queries: Synthetic queries, as `SyntheticQueries` or a frame ``query, text``; or human
            topics joined with the text of a relevant document, to compare with.
        text_field: Column with the text of the document, or several, whose texts are joined by
            spaces.

    Returns:
        A number from 0 to 1 for each row; 0 for a query without words.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: There are no queries, or a query or text is not a string.
    """
    frame = as_results(queries, "query")
    check_columns(frame, *fields_of(text_field))
    pairs = zip(frame["query"], joined_text(frame, text_field), strict=True)
    return pd.Series([shared_words(*pair) for pair in pairs], frame.index, name="overlap")
