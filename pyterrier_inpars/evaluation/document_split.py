"""Split of synthetic queries into those to train on and those to choose with."""

from __future__ import annotations

import pandas as pd

from pyterrier_inpars._arguments import finite
from pyterrier_inpars.queries.artifact import SyntheticQueries
from pyterrier_inpars.queries.topics import as_results
from pyterrier_inpars.training.examples import drawn


def split(
    queries: SyntheticQueries | pd.DataFrame, share: float = 0.5, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Splits synthetic queries by document, so that systems are not compared on training queries.

    All queries of a document are on the same side::

        to_train, to_choose = evaluation.split(queries)

    Args:
        queries: Synthetic queries, as `SyntheticQueries` or a frame with ``docno``.
        share: Share of the documents whose queries are returned second, between 0 and 1; at least
            one document is on each side.
        seed: Seed of the selection.

    Returns:
        The queries to train on and the queries to choose with, both in frame order.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: ``share`` is not between 0 and 1, or there are fewer than two documents.
    """
    finite("share", share, above=0, below=1)
    frame = as_results(queries, "docno")
    if frame["docno"].nunique() < 2:
        raise ValueError("the queries of a single document cannot be split: generate more")
    second = drawn(frame["docno"], share, seed)
    return frame[~second].reset_index(drop=True), frame[second].reset_index(drop=True)
