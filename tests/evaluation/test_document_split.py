"""split: every query on one side, and every document on one side."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_inpars.evaluation import split

FRAMES = st.lists(st.sampled_from("abcdefgh"), min_size=2).filter(lambda d: len(set(d)) > 1)


@settings(max_examples=60, deadline=None)
@given(FRAMES, st.sampled_from([0.01, 0.3, 0.5, 0.99]), st.integers(0, 3))
def test_sides(docnos, share, seed):
    frame = pd.DataFrame({"qid": [f"q{n}" for n in range(len(docnos))], "docno": docnos})
    first, second = split(frame, share, seed)
    assert sorted([*first["qid"], *second["qid"]]) == sorted(frame["qid"])
    assert not set(first["docno"]) & set(second["docno"])
    assert len(first) and len(second)
    number = len(set(docnos))
    assert abs(second["docno"].nunique() - share * number) <= 1
    for side in (first, second):
        assert list(side.index) == list(range(len(side)))
        assert list(side["qid"]) == sorted(side["qid"], key=lambda qid: int(qid[1:]))
    again = split(frame, share, seed)
    pd.testing.assert_frame_equal(again[1], second)


def test_the_seed_draws_other_documents():
    frame = pd.DataFrame({"docno": [f"d{n}" for n in range(50)]})
    assert list(split(frame, seed=0)[0]["docno"]) != list(split(frame, seed=1)[0]["docno"])


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan"), "half"])
def test_bad_share(share):
    with pytest.raises(ValueError, match="share must be"):
        split(pd.DataFrame({"docno": ["a", "b"]}), share)


def test_a_single_document():
    with pytest.raises(ValueError, match="single document"):
        split(pd.DataFrame({"docno": ["a", "a"]}))
