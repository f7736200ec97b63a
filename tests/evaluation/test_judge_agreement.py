"""Agreement of a judge with human qrels, compared with Cohen's kappa written out."""

import re
import warnings

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


@pytest.mark.filterwarnings("ignore:all .* pairs")
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


@pytest.mark.parametrize(
    "pairs, threshold, message",
    [
        ([(1, 1), (1, 0)], 1, "all 2 pairs have the label 1 in the qrels, so that kappa does"),
        ([(0, 0), (0, 0)], 1, "all 2 pairs have the label 0 in the qrels, so that kappa does"),
        ([(1, 1), (2, 0)], 1, "all 2 pairs are relevant, so that binary kappa does not measure"),
        ([(1, 2), (0, 0)], 2, "all 2 pairs are not relevant, so that binary kappa does not"),
        ([(3, 1), (0, 0)], 2, "highest label is 1, below relevance_threshold=2.*judge_threshold="),
    ],
)
def test_a_kappa_that_does_not_measure_the_judge_gives_a_warning(pairs, threshold, message):
    judged, qrels = frames(pairs)
    with pytest.warns(UserWarning) as caught:
        evaluation.judge_agreement(judged, qrels, relevance_threshold=threshold)
    assert len(caught) == 1 and re.search(message, str(caught[0].message))


def test_a_kappa_that_measures_the_judge_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for pairs in ([(1, 0), (0, 0)], [(2, 0), (0, 3)], [(3, 2), (0, 1)]):
            evaluation.judge_agreement(*frames(pairs))
        judged, qrels = frames([(3, 1), (0, 0)])
        found = evaluation.judge_agreement(judged, qrels, relevance_threshold=2, judge_threshold=1)
    assert found.binary_kappa == 1


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
