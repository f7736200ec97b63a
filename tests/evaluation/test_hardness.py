"""overlap: the share of a query's words that are in its document."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_inpars.evaluation import overlap

WORDS = st.lists(st.sampled_from(["ion", "Ion", "laser", "of", "the", "é"]), max_size=6)


def of(query, text):
    return overlap(pd.DataFrame({"query": [query], "text": [text]}))[0]


@pytest.mark.parametrize(
    "query, text, share",
    [
        ("laser beams", "Beams of a LASER.", 1.0),
        ("laser beams", "a laser", 0.5),
        ("laser, laser, ion", "laser", 0.5),
        ("laser", "lasers", 0.0),
        ("?!", "laser", 0.0),
        ("laser", "", 0.0),
        ("cafe\u0301", "caf\u00e9", 1.0),
        ("珊瑚白化的原因", "本文讨论珊瑚白化的原因和后果。", 1.0),
        ("珊瑚变暖", "珊瑚和海水变暖。", 2 / 3),
        ("ปะการัง", "การปะทะ", 2 / 5),
    ],
)
def test_share(query, text, share):
    assert of(query, text) == share


@settings(max_examples=40, deadline=None)
@given(WORDS, WORDS)
def test_share_counted_word_by_word(query, text):
    distinct = {word.lower() for word in query}
    found = [word for word in distinct if word in [w.lower() for w in text]]
    assert of(" ".join(query), ". ".join(text)) == (len(found) / len(distinct) if distinct else 0)


def test_a_column_of_the_queries():
    frame = pd.DataFrame({"query": ["a b", "c"], "body": ["b", "c"]}, index=[7, 3])
    shares = overlap(frame, text_field="body")
    assert frame.assign(overlap=shares)["overlap"].tolist() == [0.5, 1.0]
    frame["title"] = ["A", None]
    assert overlap(frame, text_field=["title", "body"]).tolist() == [1.0, 1.0]
