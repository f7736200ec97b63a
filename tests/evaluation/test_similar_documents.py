"""similar_qrels: against plain loops over the retriever's results."""

import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_inpars.evaluation import compare, similar_qrels

TEXTS = {"d1": "red apple", "d2": "red apple pie", "d3": "red car", "d4": "blue sky", "d5": "pie"}


def shared_words(topics):
    """Ranks documents by the number of words that they share with the query."""
    rows = [
        (topic.qid, topic.query, docno, len(set(topic.query.split()) & set(text.split())))
        for topic in topics.itertuples()
        for docno, text in TEXTS.items()
    ]
    results = pd.DataFrame(rows, columns=["qid", "query", "docno", "score"])
    return pt.model.add_ranks(results[results["score"] > 0])


retriever = pt.apply.generic(shared_words)


def frame(*rows):
    queries = pd.DataFrame(rows, columns=["qid", "query", "docno"])
    return queries.assign(text=queries["docno"].map(TEXTS))


def labels(qrels):
    assert list(qrels) == ["qid", "docno", "label"]
    assert not qrels.duplicated(["qid", "docno"]).any()
    return {(row.qid, row.docno): row.label for row in qrels.itertuples()}


def test_the_most_similar_documents_are_partly_relevant():
    queries = frame(("q1", "what fruit", "d1"), ("q2", "what to bake", "d2"), ("q3", "up", "d4"))
    assert labels(similar_qrels(queries, retriever, k=1)) == {
        ("q1", "d1"): 2,
        ("q1", "d2"): 1,
        ("q2", "d2"): 2,
        ("q2", "d1"): 1,
        ("q3", "d4"): 2,  # nothing else shares a word with it
    }
    all_similar = labels(similar_qrels(queries, retriever, k=9))
    assert {docno for qid, docno in all_similar if qid == "q2"} == {"d1", "d2", "d3", "d5"}


def test_several_queries_of_a_document_and_several_documents_of_a_query():
    queries = frame(("q1", "fruit", "d1"), ("q2", "food", "d1"), ("q1", "fruit", "d2"))
    assert labels(similar_qrels(queries, retriever, k=1)) == {
        ("q1", "d1"): 2,
        ("q1", "d2"): 2,  # a source itself
        ("q2", "d1"): 2,
        ("q2", "d2"): 1,
    }


def test_the_judgements_replace_the_source_documents_in_a_comparison():
    queries = frame(("q1", "red apple", "d1"))
    ranked = pd.DataFrame({"qid": "q1", "docno": ["d1", "d2", "d3"], "score": [3.0, 2.0, 1.0]})
    alone = pd.DataFrame({"qid": ["q1"], "docno": ["d1"], "score": [1.0]})
    judged = similar_qrels(queries, retriever, k=2)
    with pytest.warns(UserWarning, match="only 1 query: confidence"):
        table = compare({"ranked": ranked, "alone": alone}, queries, qrels=judged)
    values = table.set_index("name")["nDCG@10"]
    assert values["ranked"] == pytest.approx(1) and values["alone"] < 1


def test_several_text_columns_are_joined():
    queries = frame(("q1", "what fruit", "d2"), ("q2", "up", "d4"), ("q3", "food", "d2"))
    whole = similar_qrels(queries, retriever, k=2)
    parts = queries.assign(title=["red", "", "red"], body=["apple pie", "blue sky", "apple pie"])
    parts = parts.drop(columns="text")
    pd.testing.assert_frame_equal(
        similar_qrels(parts, retriever, 2, text_field=["title", "body"]), whole
    )
    with pytest.raises(pt.validate.InputValidationError, match="abstract"):
        similar_qrels(parts, retriever, text_field=["title", "abstract"])


def test_bad_input():
    queries = frame(("q1", "fruit", "d1"))
    with pytest.raises(ValueError, match="k must be a whole number"):
        similar_qrels(queries, retriever, 0)
    with pytest.raises(pt.validate.InputValidationError, match="text"):
        similar_qrels(queries.drop(columns="text"), retriever)
    with pytest.raises(ValueError, match="there are no queries"):
        similar_qrels(queries[:0], retriever)
