"""Judgements that spread from the source document to similar ones."""

from __future__ import annotations

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._retrieval import retrieve
from pyterrier_inpars._stage import check_columns, fields_of, joined_text
from pyterrier_inpars.queries.artifact import SyntheticQueries
from pyterrier_inpars.queries.topics import as_results, topics_and_qrels


def similar_qrels(
    queries: SyntheticQueries | pd.DataFrame,
    retriever: pt.Transformer,
    k: int = 5,
    *,
    text_field: str | list[str] = "text",
    verbose: bool = False,
) -> pd.DataFrame:
    """Judges a query's source document relevant, and the documents most similar to it partly so.

    A human topic has several relevant documents, a synthetic query one. Systems that find all
    documents about a topic, such as dense ones and those with feedback, therefore look worse on
    synthetic queries than they are. Here the source document has label 2, and the ``k`` documents
    that the retriever finds with the source's text as query have label 1::

        similar = evaluation.similar_qrels(queries, bm25 % 100 >> text >> ScoreFusion(encoder))
        evaluation.select(systems, queries, qrels=similar)

    The retriever should be as good as possible, and fuse lexical and dense scores: one of a single
    kind favors systems of its kind.

    Args:
        queries: Synthetic queries, as `SyntheticQueries` or a frame ``qid, query, docno, text``.
        retriever: Transformer from queries to results, such as a reranking pipeline.
        k: Number of similar documents to judge per query.
        text_field: Column with the text of the source document, or several, whose texts are joined
            by spaces.
        verbose: Whether to show progress.

    Returns:
        Frame ``qid, docno, label`` for `compare`, `select`, `agreement` and ``ScoreFusion.fit``.

    Raises:
        TypeError: ``queries`` is neither a frame nor `SyntheticQueries`.
        pt.validate.InputValidationError: A column is missing.
        ValueError: There are no queries, a text is not a string, or ``k`` is not a positive whole
            number.
    """
    positive_int("k", k)
    frame = as_results(queries, "qid", "query", "docno")
    check_columns(frame, *fields_of(text_field))
    _, judged = topics_and_qrels(frame)
    sources = frame.drop_duplicates("docno")
    texts = joined_text(sources, text_field)
    sources = pd.DataFrame({"qid": sources["docno"].tolist(), "query": texts})
    found = [
        (source, docno)
        for source, hits in retrieve(retriever, sources, k + 1, verbose=verbose)
        for docno in [docno for docno in hits["docno"] if docno != source][:k]
    ]
    similar = judged[["qid", "docno"]].merge(
        pd.DataFrame(found, columns=["docno", "similar"]), on="docno"
    )
    similar = similar[["qid"]].assign(docno=similar["similar"], label=1)
    # A source document of the same query stays one.
    both = pd.concat([judged.assign(label=2), similar])
    return both.drop_duplicates(["qid", "docno"]).reset_index(drop=True)
