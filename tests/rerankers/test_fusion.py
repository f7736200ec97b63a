"""ScoreFusion: against a plain weighted sum of z-scores."""

import math

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyterrier_inpars.rerankers.fusion import ScoreFusion

SCORE = st.sampled_from([-3.0, -1.5, 0.0, 0.1, 2.0, 40.0])
ROWS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 9).map(str), SCORE, SCORE),
    unique_by=lambda row: row[:2],
    min_size=1,
    max_size=12,
)


class Scores(pt.Transformer):
    """A reranker with fixed scores that returns its rows in another order."""

    schematic = {"label": "Scores", "help_url": None}

    def transform(self, inp):
        pt.validate.columns(inp, includes=["qid", "docno", "given"])
        return pt.model.add_ranks(inp.assign(score=inp["given"])).sort_values(["qid", "rank"])


def frame(rows):
    return pd.DataFrame(rows, columns=["qid", "docno", "score", "given"]).assign(text="t")


def z(scores):
    mean = sum(scores) / len(scores)
    deviation = math.sqrt(sum((s - mean) ** 2 for s in scores) / len(scores))
    return [(s - mean) / deviation if len(set(scores)) > 1 else 0.0 for s in scores]


@settings(max_examples=200, deadline=None)
@given(ROWS, st.sampled_from([(1.0, 1.0), (0.2, 0.8), (0, 1), (2, -1)]))
@example([("a", "1", 0.1, 1.0), ("a", "2", 0.1, 1.0), ("a", "3", 0.1, 1.0)], (1, 1))
def test_weighted_sum_of_z_scores(rows, weights):
    inp = frame(rows)
    inp.index = [5] * len(inp)
    out = ScoreFusion(Scores(), weights)(inp)
    expected = {}
    for qid in {row[0] for row in rows}:
        of_query = [row for row in rows if row[0] == qid]
        first, own = (z([row[i] for row in of_query]) for i in (2, 3))
        for row, a, b in zip(of_query, first, own, strict=True):
            expected[row[:2]] = weights[0] * a + weights[1] * b
    found = dict(zip(zip(out["qid"], out["docno"], strict=True), out["score"], strict=True))
    assert found == pytest.approx(expected, abs=1e-9)
    assert list(out.columns) == ["qid", "docno", "given", "text", "score", "rank"]
    pd.testing.assert_frame_equal(out, pt.model.add_ranks(out.copy()))
    order = Scores()(inp)
    assert list(out["docno"]) == list(order["docno"]) and list(out["qid"]) == list(order["qid"])


def test_scales_do_not_matter():
    rng = np.random.default_rng(0)
    inp = frame([("a", str(i), *rng.normal(size=2)) for i in range(20)])
    other = inp.assign(score=inp["score"] * 30 + 8, given=inp["given"] * 0.01 - 90)
    found, again = (ScoreFusion(Scores())(f)["score"] for f in (inp, other))
    np.testing.assert_allclose(sorted(found), sorted(again), atol=1e-9)


def test_documents_that_a_reranker_drops_are_dropped():
    inp = frame([("a", str(i), float(i), -float(i)) for i in range(6)])
    out = ScoreFusion(Scores() % 4, (1, 1e-9))(inp)
    assert sorted(out["docno"]) == list("0123")
    first = dict(zip(map(str, range(6)), z([float(i) for i in range(6)]), strict=True))
    assert list(out["score"]) == pytest.approx([first[d] for d in out["docno"]], abs=1e-6)
    both = ScoreFusion([Scores(), Scores() % 4])(inp)
    assert sorted(both["docno"]) == list("0123")


def test_invalid_input():
    inp = frame([("a", "1", 1.0, 1.0), ("a", "2", 2.0, 1.0)])
    with pytest.raises(ValueError, match="duplicate docno '1' for qid 'a': drop"):
        ScoreFusion(Scores())(inp.assign(docno="1"))
    for column, value in (("score", np.nan), ("given", -np.inf)):
        broken = inp.copy()
        broken.loc[1, column] = value
        with pytest.raises(ValueError, match=r"number.* at qid 'a', docno '2'"):
            ScoreFusion(Scores())(broken)
    for column in ("qid", "docno", "score", "given"):
        with pytest.raises(pt.validate.InputValidationError, match=f"'{column}'"):
            ScoreFusion(Scores())(inp.drop(columns=column))
    for weights in ((1,), (1, 2, 3), (1, float("nan")), ("1", 1), 5):
        with pytest.raises(ValueError, match="weights must be"):
            ScoreFusion(Scores(), weights)


def test_empty_frame():
    out = ScoreFusion(Scores())(frame([]))
    assert list(out.columns) == ["qid", "docno", "given", "text", "score", "rank"]


TestScoreFusion = pt.testing.transformer_test_class(lambda: ScoreFusion(Scores()))
