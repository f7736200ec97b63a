"""pseudo_qrels: against reciprocal rank fusion in plain loops."""

import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_systems import Noisy, queries
from pyterrier.measures import nDCG

from pyterrier_inpars.evaluation import compare, pseudo_qrels

SCORES = st.dictionaries(
    st.tuples(st.sampled_from(["q0", "q1"]), st.sampled_from("abcde")),
    st.integers(-2, 2).map(float),
    min_size=1,
)


def frame(scores):
    rows = [(*ids, score) for ids, score in scores.items()]
    return pd.DataFrame(rows, columns=["qid", "docno", "score"])


@settings(max_examples=60, deadline=None)
@given(st.lists(SCORES, min_size=1, max_size=3), st.integers(1, 4), st.sampled_from([0, 1, 60]))
def test_reciprocal_rank_fusion(systems, depth, k):
    given = {f"system {n}": frame(scores) for n, scores in enumerate(systems)}
    judged = pseudo_qrels(given, queries(2), depth, k)
    expected = {}
    for qid in ("q0", "q1"):
        fused = {}
        for scores in systems:
            hits = sorted(((s, d) for (q, d), s in scores.items() if q == qid), reverse=True)
            for rank, (_, docno) in enumerate(hits, 1):
                fused[docno] = fused.get(docno, 0) + 1 / (k + rank)
        best = sorted(fused, key=lambda d: (round(fused[d], 12), d), reverse=True)[:depth]
        expected |= {(qid, docno): depth - place for place, docno in enumerate(best)}
    found = {(q, d): label for q, d, label in judged.itertuples(index=False)}
    assert found == expected and list(judged) == ["qid", "docno", "label"]


def test_the_fused_ranking_itself_is_ideal():
    """nDCG with the labels measures how close a ranking is to the fused one."""
    systems = [Noisy(0.5, seed) for seed in range(3)]
    judged = pseudo_qrels(systems, queries(), names=list("abc"))
    ideal = judged.rename(columns={"label": "score"})
    far = Noisy(0.5, 9)
    table = compare({"ideal": ideal, "one": systems[0], "other": far}, queries(), qrels=judged)
    values = table.set_index("name")["nDCG@10"]
    assert values["ideal"] == pytest.approx(1) and values["one"] > values["other"]


def test_one_system_judges_its_own_ranking():
    system = Noisy(0.5)
    judged = pseudo_qrels([system], queries(), depth=5)
    assert list(judged["label"]) == [5, 4, 3, 2, 1] * 60
    assert compare([system], queries(), [nDCG @ 5], qrels=judged)["nDCG@5"][0] == pytest.approx(1)


@pytest.mark.parametrize("options", [{"depth": 0}, {"k": -1}, {"depth": 2.5}])
def test_bad_numbers(options):
    with pytest.raises(ValueError, match="must be a whole number"):
        pseudo_qrels([pt.Transformer.identity()], queries(), **options)
