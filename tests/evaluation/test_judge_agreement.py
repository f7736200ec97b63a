"""Agreement of a judge with human qrels, compared with Cohen's kappa written out."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_inpars import evaluation

LABELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=20)


def frames(pairs):
    ids = {
        "qid": [f"q{i % 2}" for i in range(len(pairs))],
        "docno": [f"d{i}" for i in range(len(pairs))],
    }
    human, judge = zip(*pairs, strict=True)
    return pd.DataFrame(ids).assign(label=judge), pd.DataFrame(ids).assign(label=human)


def kappa(pairs, weight):
    """Returns 1 - observed / expected disagreement."""
    n = len(pairs)
    observed = sum(weight(a, b) for a, b in pairs) / n
    expected = sum(weight(a, b) for a, _ in pairs for _, b in pairs) / n**2
    return 1.0 if expected == 0 else 1 - observed / expected


@settings(max_examples=60, deadline=None)
@given(LABELS)
def test_kappa_and_confusion(pairs):
    judged, qrels = frames(pairs)
    other = pd.DataFrame({"qid": ["z"], "docno": ["z"], "label": [1]})
    found = evaluation.judge_agreement(pd.concat([judged, other]), qrels)
    assert found.pairs == len(pairs)
    assert found.kappa == pytest.approx(kappa(pairs, lambda a, b: a != b))
    assert found.weighted_kappa == pytest.approx(kappa(pairs, lambda a, b: (a - b) ** 2))
    assert found.binary_kappa == pytest.approx(kappa(pairs, lambda a, b: (a > 0) != (b > 0)))
    assert found.accuracy == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    twice = evaluation.judge_agreement(judged, pd.concat([qrels, qrels.assign(iteration="0")]))
    assert twice.pairs == found.pairs and twice.kappa == found.kappa
    for human in found.confusion.index:
        for judge in found.confusion.columns:
            assert found.confusion.loc[human, judge] == pairs.count((human, judge))


def test_thresholds_grades_and_reprs():
    judged, qrels = frames([(1, 2), (0, 1), (2, 3), (0, 0)])
    found = evaluation.judge_agreement(
        judged.rename(columns={"label": "grade"}), qrels, judge_threshold=2
    )
    assert found.binary_kappa == 1.0 and found.accuracy == 0.25
    assert "4 pairs" in repr(found) and "<table" in found._repr_html_()


def test_bad_input():
    judged, qrels = frames([(1, 2), (0, 1)])
    with pytest.raises(ValueError, match="'d0' is judged twice for qid 'q0'"):
        evaluation.judge_agreement(pd.concat([judged, judged]), qrels)
    with pytest.raises(ValueError, match="no pair is judged by both"):
        evaluation.judge_agreement(judged.assign(qid="x"), qrels)
    with pytest.raises(ValueError, match="label is not a number"):
        evaluation.judge_agreement(judged.assign(label="high"), qrels)
    with pytest.raises(ValueError, match="that of the judge is 1.5 at qid 'q0', docno 'd0'"):
        evaluation.judge_agreement(judged.assign(label=1.5), qrels)
