"""Topics that a language model repeated, found by equal texts and by vectors."""

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_inpars import evaluation


class Letters:
    """An encoder whose vectors are counts of letters."""

    def encode(self, texts):
        return np.array([[text.count(letter) for letter in "abc"] for text in texts], dtype=float)


def frame(texts, prefix):
    return pd.DataFrame({"qid": [f"{prefix}{i}" for i in range(len(texts))], "query": texts})


def test_equal_texts():
    queries = frame(["What is it?", "other", "what  IS it", "?"], "s")
    topics = frame(["what is it", "nothing", "!", "Other."], "t")
    found = evaluation.leaked_topics(queries, topics)
    assert found.to_dict("records") == [
        {
            "qid": "t0",
            "query": "what is it",
            "synthetic_qid": "s0",
            "synthetic_query": "What is it?",
            "similarity": 1.0,
        },
        {
            "qid": "t3",
            "query": "Other.",
            "synthetic_qid": "s1",
            "synthetic_query": "other",
            "similarity": 1.0,
        },
    ]


WORDS = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(WORDS, WORDS, st.sampled_from([0.5, 0.9, 1.0]))
def test_similar_texts(queries, topics, threshold):
    found = evaluation.leaked_topics(
        frame(queries, "s"), frame(topics, "t"), Letters(), threshold
    ).set_index("qid")

    def cosine(a, b):
        a, b = Letters().encode([a, b])
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    for i, topic in enumerate(topics):
        best = max(cosine(topic, query) for query in queries)
        if abs(best - threshold) > 1e-6:
            assert (f"t{i}" in found.index) == (best > threshold)
        if f"t{i}" in found.index:
            assert found.loc[f"t{i}", "similarity"] == pytest.approx(best, abs=1e-6)


def test_bad_input():
    queries, topics = frame(["a"], "s"), frame(["b"], "t")
    assert len(evaluation.leaked_topics(queries, topics.iloc[:0], Letters())) == 0
    with pytest.raises(TypeError, match="encoder must be a BiEncoder"):
        evaluation.leaked_topics(queries, topics, "mpnet")
    with pytest.raises(ValueError, match="threshold must be above 0"):
        evaluation.leaked_topics(queries, topics, threshold=2)
    with pytest.raises(pt.validate.InputValidationError, match="query"):
        evaluation.leaked_topics(queries, topics[["qid"]])


def test_case_and_invisible_characters_make_no_difference():
    known = pd.DataFrame(
        {"qid": ["s1", "s2"], "query": ["die Straße am Meer?", "co\u00adral reefs"]}
    )
    topics = pd.DataFrame(
        {"qid": ["1", "2"], "query": ["DIE STRASSE AM MEER", "Coral reefs\ufeff"]}
    )
    leaks = evaluation.leaked_topics(known, topics)
    assert leaks["synthetic_qid"].tolist() == ["s1", "s2"]
