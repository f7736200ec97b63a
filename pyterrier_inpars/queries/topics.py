"""Synthetic queries as topics and qrels."""

from __future__ import annotations

import pandas as pd

from pyterrier_inpars._retrieval import clean
from pyterrier_inpars._stage import check_columns, check_kept, check_strings
from pyterrier_inpars.queries.artifact import SyntheticQueries


def as_results(queries: SyntheticQueries | pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Returns synthetic queries as a frame of at least one row, and checks the columns.

    Raises:
        TypeError: ``queries`` is neither a frame nor `SyntheticQueries`.
        pt.validate.InputValidationError: A column is missing.
        ValueError: There are no queries, a filter dropped one (``explain=True``), or a value of the
            columns is not a string.
    """
    frame = queries.get_results() if isinstance(queries, SyntheticQueries) else queries
    check_columns(frame, *columns)
    if len(frame) == 0:
        raise ValueError("there are no queries: the frame is empty; a filter may have dropped all")
    check_kept(frame)
    check_strings(frame, *columns)
    return frame


def topics_and_qrels(
    queries: SyntheticQueries | pd.DataFrame,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns synthetic queries as topics, and their source documents as qrels.

    Queries are cleaned as for `NegativeMiner`: without punctuation and in lower case, so that any
    search engine can parse them. Queries without words are left out. Rows with the same ``qid`` and
    query are one topic with several relevant documents.

    Args:
        queries: Synthetic queries: ``qid, query, docno``. A column ``label`` is the label of the
            document; without it every document has label 1.

    Returns:
        The topics ``qid, query``, with ``type`` where the queries have it, and the qrels ``qid,
        docno, label``.

    Raises:
        TypeError: ``queries`` is neither a frame nor `SyntheticQueries`.
        pt.validate.InputValidationError: A column is missing.
        ValueError: No query has a word, a value is not a string, or one ``qid`` has two queries.
    """
    frame = as_results(queries, "qid", "query", "docno")
    frame = frame.assign(query=frame["query"].map(clean))
    frame = frame[frame["query"] != ""]
    if len(frame) == 0:
        raise ValueError("no query has a word: look at the queries that were written")
    columns = [c for c in ("qid", "query", "type") if c in frame]
    topics = frame[columns].drop_duplicates(["qid", "query"]).reset_index(drop=True)
    if (twice := topics["qid"].duplicated()).any():
        qid = topics["qid"][twice].iloc[0]
        raise ValueError(
            f"qid {qid!r} has two queries, {topics['query'][topics['qid'] == qid].tolist()[:2]}: "
            "each query needs its own qid"
        )
    qrels = frame if "label" in frame else frame.assign(label=1)
    qrels = qrels[["qid", "docno", "label"]].drop_duplicates()
    return topics, qrels.reset_index(drop=True)
