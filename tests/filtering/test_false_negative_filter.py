"""FalseNegativeFilter: against a plain oracle, and its errors."""

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_inpars.filtering import FalseNegativeFilter

SCORED = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([0, 0, 1]), st.sampled_from([-3, -2, -1.5])),
    max_size=14,
)


def scored(rows):
    return pd.DataFrame(rows, columns=["qid", "label", "score"])


@settings(max_examples=200, deadline=None)
@given(SCORED.filter(len), st.sampled_from([0, 0.5, 1.0, -0.5, -2]))
def test_false_negatives_are_dropped(rows, margin):
    rows = [(qid, 1, -1.5) for qid in sorted({qid for qid, *_ in rows})] + rows
    examples = scored(rows)
    examples.index = [7] * len(rows)
    expected = []
    for i, (qid, label, _) in enumerate(rows):
        positive = min(s for q, lab, s in rows if q == qid and lab)
        low = [j for j, (q, lab, s) in enumerate(rows) if q == qid and not lab]
        low = [j for j in low if rows[j][2] < positive - margin]
        if i in low or (label and low):
            expected.append(i)
    stage = FalseNegativeFilter(margin)
    out = stage(examples)
    pd.testing.assert_frame_equal(out, examples.iloc[expected].reset_index(drop=True))
    assert (stage.seen, stage.dropped) == (len(rows), len(rows) - len(expected))


def test_a_margin_in_logits_and_in_log_probabilities():
    """The margin is a difference, so it works for scores above and below zero."""
    for positive in (4.0, -4.0):
        rows = [("q", 1, positive), ("q", 0, positive - 0.5), ("q", 0, positive - 1.5)]
        out = FalseNegativeFilter(1.0)(scored(rows))
        assert list(out["score"]) == [positive, positive - 1.5]


def test_invalid_frames_and_margins():
    examples = scored([("a", 1, -1.0), ("a", 0, -2.0), ("b", 0, -2.0)])
    with pytest.raises(ValueError, match="qid 'b' has no positive"):
        FalseNegativeFilter()(examples)
    examples.loc[1, "score"] = np.nan
    with pytest.raises(ValueError, match="score is not a number at qid 'a'"):
        FalseNegativeFilter()(examples[:2])
    for column in ("qid", "label", "score"):
        with pytest.raises(pt.validate.InputValidationError, match=f"'{column}'"):
            FalseNegativeFilter()(examples.drop(columns=column))
    for margin in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="margin must be a number, not"):
            FalseNegativeFilter(margin)


TestFalseNegativeFilter = pt.testing.transformer_test_class(FalseNegativeFilter)
