"""ScoreFusion: against a plain weighted sum of z-scores, and a search over weights in a loop."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyterrier.measures import AP, RR, P, nDCG

from pyterrier_inpars._scores import z_scores
from pyterrier_inpars.rerankers._weight_search import search_weights, weight_grid
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

    def __init__(self, column="given"):
        self.column = column

    def transform(self, inp):
        pt.validate.columns(inp, includes=["qid", "docno", self.column])
        scored = pt.model.add_ranks(inp.assign(score=inp[self.column]))
        return scored.sort_values(["qid", "rank"])


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


SEVERAL = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 9).map(str), SCORE, SCORE, SCORE),
    unique_by=lambda row: row[:2],
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(SEVERAL, st.sampled_from([None, (1, 2, 0.5), (0, 1, 1), (1, 0, 2), (0, 0, 3), (1, 0, 0)]))
def test_several_rerankers(rows, weights):
    inp = pd.DataFrame(rows, columns=["qid", "docno", "score", "given", "other"])
    fusion = ScoreFusion([Scores(), Scores("other")], weights)
    out = fusion(inp)
    expected = {}
    for qid in {row[0] for row in rows}:
        of_query = [row for row in rows if row[0] == qid]
        components = [z([row[i] for row in of_query]) for i in (2, 3, 4)]
        for row, *scores in zip(of_query, *components, strict=True):
            total = sum(w * s for w, s in zip(weights or (1, 1, 1), scores, strict=True))
            expected[row[:2]] = total
    found = dict(zip(zip(out["qid"], out["docno"], strict=True), out["score"], strict=True))
    assert found == pytest.approx(expected, abs=1e-9)
    columns = ["qid", "docno", "given", "other", "score", "rank"]
    assert list(out.columns) == columns == list(fusion(inp[:0]).columns)
    pd.testing.assert_frame_equal(out, pt.model.add_ranks(out.copy()))


def test_a_reranker_of_weight_0_is_not_applied():
    inp = frame([("a", str(i), float(i), -float(i)) for i in range(4)])
    fail = pt.apply.generic(lambda results: 1 / 0)
    for weights in ((1, 0, 1), (0, 0, 1)):
        out = ScoreFusion([fail, Scores()], weights)(inp)
        assert len(out) == 4
    with pytest.raises(ZeroDivisionError):
        ScoreFusion([fail, Scores()])(inp)
    assert list(ScoreFusion([fail], (2, 0))(inp)["docno"]) == list("0123")


def test_grid_scan_over_the_weights():
    results, qrels = labelled(20)
    fusion = ScoreFusion([Scores(), Scores("other")])
    weights = [(1, 0, 0), (0, 1, 0), (1, 1, 1)]
    table = pt.GridScan(
        pt.Transformer.from_df(results) >> fusion,
        {fusion: {"weights": weights}},
        results[["qid"]].drop_duplicates().assign(query=""),
        qrels,
        [nDCG @ 10],
    )
    expected = [
        value_of(ScoreFusion([Scores(), Scores("other")], w), results, qrels) for w in weights
    ]
    assert list(table["nDCG@10"]) == pytest.approx(expected)
    with pytest.raises(ValueError, match="weights must be 3 numbers"):
        fusion.set_parameter("weights", (1, 2))
    assert fusion.weights == (1, 1, 1)
    other = Scores("other")
    fusion.set_parameter("rerankers", other)
    with pytest.raises(ValueError, match="weights must be 2 numbers"):
        fusion(results)
    fusion.set_parameter("weights", None)
    fresh = ScoreFusion(other)
    pd.testing.assert_frame_equal(fusion(results), fresh(results))
    assert repr(fusion) == repr(fresh)


def labelled(queries, seed=0):
    """Results with two informative scores and one of noise, and the qrels."""
    rng = np.random.default_rng(seed)
    rows, relevant = [], []
    for qid in (f"q{n}" for n in range(queries)):
        label = rng.integers(0, 3, size=12) * (rng.random(12) < 0.3)
        for n, value in enumerate(label):
            scores = value + rng.normal(size=2), rng.normal()
            rows.append((qid, f"d{n}", *scores[0], scores[1], "t"))
            relevant.append((qid, f"d{n}", int(value)))
    results = pd.DataFrame(rows, columns=["qid", "docno", "score", "given", "other", "text"])
    return results, pd.DataFrame(relevant, columns=["qid", "docno", "label"])


def value_of(system, results, qrels, measure=nDCG @ 10):
    return measure.calc_aggregate(
        qrels.rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"}),
        system(results).rename(columns={"qid": "query_id", "docno": "doc_id"}),
    )


@pytest.mark.parametrize("measure", [nDCG @ 10, RR, P @ 3])
def test_fit_takes_the_best_weights_of_the_grid(measure):
    """Each weight is evaluated by ir_measures, over the whole ranking."""
    results, qrels = labelled(15)
    fusion = ScoreFusion([Scores(), Scores("other")])
    assert fusion.fit(results, qrels, measure=measure) is fusion
    tenths = [n / 10 for n in range(11)]
    grid = [w for w in product(tenths, repeat=3) if abs(sum(w) - 1) < 1e-9]
    assert len(grid) == 66
    grid.append((1 / 3, 1 / 3, 1 / 3))
    values = {w: value_of(ScoreFusion(fusion.rerankers, w), results, qrels, measure) for w in grid}
    found = dict(zip(fusion.tuning["weights"], fusion.tuning[str(measure)], strict=True))
    assert found == pytest.approx(values)
    best = {w for w in grid if values[w] > max(values.values()) - 1e-9}
    assert fusion.weights in best
    components = [sum(weight > 0 for weight in w) for w in best]
    assert sum(weight > 0 for weight in fusion.weights) == min(components)
    assert list(fusion.tuning[str(measure)]) == pytest.approx(sorted(found.values())[::-1])


def test_equal_scores_are_ordered_as_by_trec_eval():
    """The higher docno comes first, at the cutoff too."""
    pairs = pd.DataFrame({"qid": "q", "docno": [f"d{n}" for n in range(9)]})
    scores = np.tile([[1.0, 1.0]] * 3 + [[0.0, 0.0]] * 6, 1)
    for relevant in pairs["docno"]:
        qrels = pd.DataFrame({"qid": ["q"], "docno": [relevant], "label": [1]})
        found = search_weights(pairs, scores, qrels, nDCG @ 2)["nDCG@2"]
        expected = {"d2": 1.0, "d1": 1 / math.log2(3)}.get(relevant, 0.0)
        assert list(found) == pytest.approx([expected] * 11)


def test_equally_good_weights_have_the_fewest_components():
    results, qrels = labelled(10)
    results["given"] = results["other"] = results["score"] = qrels["label"].astype(float)
    fusion = ScoreFusion([Scores(), Scores("other")]).fit(results, qrels)
    assert sum(weight > 0 for weight in fusion.weights) == 1
    assert fusion.tuning["components"].is_monotonic_increasing


def test_fit_as_the_last_stage_of_a_pipeline():
    results, qrels = labelled(15)
    topics = results[["qid"]].drop_duplicates().assign(query="")
    fusion = ScoreFusion(Scores())
    pipeline = pt.Transformer.from_df(results) >> fusion
    before = value_of(ScoreFusion(Scores()), results, qrels)
    assert fusion.tuning is None
    pipeline.fit(topics, qrels)
    assert value_of(fusion, results, qrels) >= before
    assert fusion.weights == ScoreFusion(Scores()).fit(results, qrels).weights != (1, 1)


def test_tune_on_synthetic_queries():
    """The source document is the relevant one."""
    results, _ = labelled(15)
    sources = results.groupby("qid").head(1)
    queries = sources[["qid", "docno"]].assign(query=sources["qid"] + "?")
    tuned = ScoreFusion(Scores()).tune(queries, pt.Transformer.from_df(results), RR)
    fitted = ScoreFusion(Scores()).fit(results, queries.assign(label=1), measure=RR)
    assert tuned.weights == fitted.weights
    pd.testing.assert_frame_equal(tuned.tuning, fitted.tuning)
    _, qrels = labelled(15)
    candidates = pt.Transformer.from_df(results)
    judged = ScoreFusion(Scores()).tune(queries, candidates, qrels=qrels)
    assert judged.weights == ScoreFusion(Scores()).fit(results, qrels).weights


def test_fit_scores_once_and_ignores_unjudged_queries():
    seen = []
    count = pt.apply.generic(lambda results: (seen.append(len(results)), results)[1])
    results, qrels = labelled(15)
    ScoreFusion(count >> Scores()).fit(results, qrels[qrels["qid"] != "q3"])
    assert [rows for rows in seen if rows] == [14 * 12]  # pt.inspect passes empty frames


@pytest.mark.parametrize("number, size", [(2, 11), (3, 67), (4, 287), (5, 126), (9, 166), (30, 31)])
def test_weights_of_the_grid(number, size):
    grid = weight_grid(number)
    assert len(grid) == len(set(grid)) == size
    assert all(sum(w) == pytest.approx(1) and min(w) >= 0 for w in grid)
    assert (1 / number,) * number in grid
    single = {tuple(float(i == n) for i in range(number)) for n in range(number)}
    assert single <= set(grid)


def test_many_rows_are_searched_with_fewer_weights(monkeypatch):
    """With a cutoff, there are fewer rows to evaluate."""
    monkeypatch.setattr("pyterrier_inpars.rerankers._weight_search.MOST_ROWS", 4_000)
    pairs = pd.DataFrame({"qid": "q", "docno": [f"d{n}" for n in range(100)]})
    qrels = pairs.head(1).assign(label=1)
    scores = np.zeros((len(pairs), 3))
    assert len(search_weights(pairs, scores, qrels, AP)) == 22
    assert len(search_weights(pairs, scores, qrels, nDCG @ 10)) == 67


def test_invalid_training_data():
    results, qrels = labelled(3)
    fusion = ScoreFusion(Scores())
    with pytest.raises(ValueError, match="fit needs qrels.*tune"):
        fusion.fit(results, None)
    with pytest.raises(ValueError, match="judge none of the queries of the 36 results"):
        fusion.fit(results, qrels.assign(qid="x" + qrels["qid"]))
    with pytest.raises(TypeError, match="measure must be one of ir_measures.*'nonsense'"):
        fusion.fit(results, qrels, measure="nonsense")
    with pytest.raises(TypeError, match="retriever must be a PyTerrier transformer"):
        fusion.tune(qrels, results)
    with pytest.raises(pt.validate.InputValidationError, match="'given'"):
        fusion.fit(results.drop(columns="given"), qrels)
    with pytest.raises(ValueError, match="no queries"):
        fusion.tune(qrels.assign(query="q")[:0], Scores())
    assert fusion.tuning is None and fusion.weights == (1, 1)


@pytest.mark.parametrize(
    "label, error",
    [
        (0.5, "label must be a whole number, but is 0.5 at qid"),
        (float("nan"), "label is not a number at qid"),
        (0, "none of the 36 results is relevant by the qrels"),
        (-1, "none of the 36 results is relevant by the qrels"),
    ],
)
def test_labels_that_decide_nothing(label, error):
    results, qrels = labelled(3)
    with pytest.raises(ValueError, match=error):
        ScoreFusion(Scores()).fit(results, qrels.assign(label=label))


def test_whole_labels_of_any_type_and_measures_without_a_cutoff():
    results, qrels = labelled(3)
    expected = ScoreFusion(Scores()).fit(results, qrels).tuning
    found = ScoreFusion(Scores()).fit(results, qrels.assign(label=qrels["label"] * 1.0)).tuning
    pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(ValueError, match="the measure P needs other parameters"):
        ScoreFusion(Scores()).fit(results, qrels, measure=P)


def test_invalid_rerankers():
    with pytest.raises(ValueError, match="rerankers is empty"):
        ScoreFusion([])
    with pytest.raises(TypeError, match="a reranker must be a PyTerrier transformer, not 'bm25'"):
        ScoreFusion([Scores(), "bm25"])


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


TestSeveralRerankers = pt.testing.transformer_test_class(
    lambda: ScoreFusion([Scores(), Scores("other")], (1, 0, 1))
)


def test_a_reranker_that_changes_its_input_does_not_change_the_first_stage():
    class Negated(Scores):
        def transform(self, inp):
            pt.validate.columns(inp, includes=["qid", "docno", "score"])
            inp["score"] = -3 * inp["score"]
            return pt.model.add_ranks(inp)

    inp = frame([("a", str(i), float(i), 2.0 * i) for i in range(4)])
    for rerankers in ([Negated(), Scores()], [Scores(), Negated()]):
        out = ScoreFusion(rerankers, (1, 1, 1))(inp).set_index("docno")["score"]
        assert out.to_dict() == pytest.approx(dict(zip("0123", z(list(inp["score"])), strict=True)))
    assert list(inp["score"]) == [0, 1, 2, 3]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=2, max_size=9),
    st.sampled_from([1e-250, 1e-9, 1.0, 1e9, 1e250]),
    st.sampled_from([-1, 0, 1, 1000]),
)
@example([0.1 + 0.2, 0.3, 0.3], 1.0, 0)
@example([0.0, 0.001, 0.003], 1e-250, 0)
@example([0.0, 0.001, 0.003], 1e250, 0)
def test_z_scores_of_any_scale(scores, scale, offset):
    """Those of numpy, of scores on a usual scale; and 0 where scores differ by rounding."""
    values = np.array(scores) + offset
    found = z_scores(values * scale, pd.Series(["a"] * len(values)))
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        assert (found == 0).all()
    else:
        expected = (values - values.mean()) / values.std()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 if offset else 1e-12)


@pytest.mark.parametrize(
    "scores", [[0.9999999, 0.9999992, 0.9999995], [1e6, 1e6 + 0.5, 1e6 + 0.9], [1.0, 1 + 1e-11]]
)
def test_scores_in_a_narrow_range_keep_their_order(scores):
    """Those of a saturated cross-encoder, for example."""
    found = z_scores(np.array(scores), pd.Series(["a"] * len(scores)))
    assert list(np.argsort(found)) == list(np.argsort(scores))
    assert (found.mean(), found.std()) == pytest.approx((0, 1))


def test_judged_only_measures_see_documents_below_the_cutoff():
    """The first two documents of each query are not judged."""
    results, qrels = labelled(20)
    top = results.sort_values("given").groupby("qid").tail(2)
    unjudged = pd.MultiIndex.from_frame(top[["qid", "docno"]])
    pairs = pd.MultiIndex.from_frame(qrels[["qid", "docno"]])
    qrels = qrels[~pairs.isin(unjudged)]
    for measure in (nDCG(judged_only=True) @ 2, P(judged_only=True) @ 2):
        fusion = ScoreFusion([Scores(), Scores("other")]).fit(results, qrels, measure=measure)
        for weights, value in fusion.tuning[["weights", str(measure)]][:20].itertuples(index=False):
            system = ScoreFusion([Scores(), Scores("other")], weights)
            assert value == pytest.approx(value_of(system, results, qrels, measure))
