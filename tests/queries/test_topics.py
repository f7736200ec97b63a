"""Synthetic queries as topics and qrels."""

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_inpars import SyntheticQueries
from pyterrier_inpars.queries.topics import topics_and_qrels

ROWS = st.lists(
    st.tuples(st.sampled_from(["q1", "q2", "q3"]), st.sampled_from(["d1", "d2"])), min_size=1
)


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_one_topic_per_qid_and_one_label_per_pair(rows):
    frame = pd.DataFrame(rows, columns=["qid", "docno"])
    frame["query"] = "What is " + frame["qid"] + "?"
    topics, qrels = topics_and_qrels(frame)
    expected = {qid: f"what is {qid}" for qid, _ in rows}
    assert list(topics.itertuples(index=False, name=None)) == list(expected.items())
    pairs = list(dict.fromkeys(rows))
    assert list(qrels.itertuples(index=False, name=None)) == [(*pair, 1) for pair in pairs]


def test_types_labels_and_queries_without_words():
    frame = pd.DataFrame(
        [
            ("1", "Ion!", "a", "keywords", 2),
            ("1", "ion", "b", "keywords", 0),
            ("2", "?", "a", "other", 1),
        ],
        columns=["qid", "query", "docno", "type", "label"],
        index=[4, 4, 4],
    )
    before = frame.copy()
    topics, qrels = topics_and_qrels(frame)
    assert topics.to_dict("records") == [{"qid": "1", "query": "ion", "type": "keywords"}]
    assert qrels.to_dict("records") == [
        {"qid": "1", "docno": "a", "label": 2},
        {"qid": "1", "docno": "b", "label": 0},
    ]
    pd.testing.assert_frame_equal(frame, before)


def test_an_artifact(tmp_path):
    rows = [{"qid": f"q{n}", "query": "A b", "docno": f"d{n}", "text": "t"} for n in range(3)]
    stored = SyntheticQueries(tmp_path / "queries").index(rows)
    for found, expected in zip(
        topics_and_qrels(stored), topics_and_qrels(pd.DataFrame(rows)), strict=True
    ):
        pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    pd.testing.assert_frame_equal(topics_and_qrels(stored)[1], stored.get_qrels())
