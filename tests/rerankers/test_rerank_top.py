import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_inpars.rerankers import BiEncoder, RerankTop

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


@st.composite
def runs(draw) -> pd.DataFrame:
    """Results in any order, whose ranks count from anywhere and whose scores tie."""
    rows = []
    numbers = st.sampled_from([0.0, -1.5, 9.25, 9.25, 1e6, -1e6, 12345.678, 12345.6781])
    for qid in draw(st.lists(st.sampled_from(["q1", "q2", "007", "7"]), unique=True, min_size=1)):
        first = draw(st.integers(0, 2))
        docnos = draw(st.permutations("abcdefgh"))[: draw(st.integers(1, 8))]
        given = sorted(draw(st.lists(numbers, min_size=8, max_size=8)), reverse=True)
        for i, docno in enumerate(docnos):
            value = draw(numbers)  # what the reranker is going to say
            rows.append((qid, f"query {qid}", docno, given[i], i + first, value))
    columns = ["qid", "query", "docno", "score", "rank", "value"]
    frame = pd.DataFrame(draw(st.permutations(rows)), columns=columns)
    return frame.astype({"score": draw(st.sampled_from(["float32", "float64"]))})


class TestRerankTop:
    """Documents below the cutoff stay there, in their order."""

    @settings(deadline=None)
    @given(runs(), st.integers(1, 9))
    def test_against_the_rule_written_out(self, run, k):
        reranker = pt.apply.generic(
            lambda f: pt.model.add_ranks(f.assign(text="read", score=f["value"])), batch_size=3
        )
        before = run.copy()
        out = RerankTop(reranker, k)(run)
        pd.testing.assert_frame_equal(run, before)
        assert list(out["qid"].unique()) == list(run["qid"].unique())
        assert len(out) == len(run)
        for qid, found in out.groupby("qid"):
            given = run[run["qid"] == qid].sort_values("rank")
            top = given.head(k).sort_values("value", ascending=False, kind="stable")
            expected = [*top["docno"], *given["docno"][k:]]
            assert list(found["docno"]) == expected
            assert list(found["rank"]) == list(range(len(given)))
            assert list(found["score"][:k]) == list(top["value"])
            below = found["score"].to_numpy("float32")[len(top) - 1 :]
            assert (np.diff(below) < 0).all(), "who sorts by score would find another order"
            assert (found["text"] == "read").tolist() == [True] * len(top) + [False] * len(
                below[1:]
            )

    def test_trec_run(self, models, frame, tmp_path):
        """A file whose ranks count from 1 and whose scores tie, through a text stage."""
        path = tmp_path / "run.res"
        docnos = ["d0", "d5", "z", "m", "a", "d10"]
        lines = [f"q0 Q0 {d} {i + 1} {[9, 8, 7, 7, 7, -1][i]} tag" for i, d in enumerate(docnos)]
        path.write_text("\n".join(lines))
        texts = dict(zip(frame["docno"], frame["text"], strict=True))
        text = pt.apply.text(lambda row: texts[row["docno"]])
        reranker = BiEncoder(models[BiEncoder], dtype="float32")
        topics = pd.DataFrame([("q0", "what is apple"), ("q9", "not in the run")])
        topics.columns = ["qid", "query"]
        run = pt.Transformer.from_df(pt.io.read_results(str(path)))
        out = (run >> RerankTop(text >> reranker, 2))(topics)
        expected = reranker(frame[frame["docno"].isin(["d0", "d5"])]).sort_values("rank")
        assert list(out["docno"]) == [*expected["docno"], "z", "m", "a", "d10"]
        np.testing.assert_allclose(out["score"][:2], expected["score"])
        pt.io.write_results(out, str(tmp_path / "out.res"))
        again = pt.io.read_results(str(tmp_path / "out.res"))
        assert list(again.sort_values("score", ascending=False)["docno"]) == list(out["docno"])

    def test_a_query_that_the_reranker_drops(self):
        run = pd.DataFrame({"qid": ["1"] * 3 + ["2"] * 3, "query": "q", "docno": [*"abcdef"]})
        run["rank"], run["score"] = [0, 1, 2] * 2, 0.0
        keep = pt.apply.generic(lambda f: pt.model.add_ranks(f[f["qid"] == "1"].assign(score=2.5)))
        out = RerankTop(keep, 1)(run)
        assert out["docno"].tolist() == ["a", "b", "c", "e", "f"]
        assert out["score"].tolist() == [2.5, 1.0, 0.0, -1.0, -2.0]

    def test_scores_of_minus_infinity(self):
        """The order stays, of the reranked documents and of those below, by rank and by score."""
        run = pd.DataFrame({"qid": ["1"] * 5 + ["2"] * 5, "query": "q", "docno": [*"badcejihgf"]})
        run["rank"], run["score"] = [0, 1, 2, 3, 4] * 2, 0.0
        value = {"b": -np.inf, "a": -2.5, "d": -np.inf} | dict.fromkeys("jih", -np.inf)
        reranker = pt.apply.generic(
            lambda f: pt.model.add_ranks(f.assign(score=f["docno"].map(value)))
        )
        out = RerankTop(reranker, 3)(run)
        assert out["docno"].tolist() == [*"abdce", *"jihgf"]
        assert out["score"].tolist() == [-2.5, -4, -4, -5, -6, -1, -1, -1, -2, -3]
        assert out["rank"].tolist() == [0, 1, 2, 3, 4] * 2

    @pytest.mark.parametrize("score", [np.nan, None, "high"])
    def test_score_that_is_not_a_number(self, score):
        run = pd.DataFrame({"qid": "1", "query": "q", "docno": [*"abc"], "rank": [0, 1, 2]})
        reranker = pt.apply.generic(lambda f: f.assign(score=pd.Series([score] * 2, dtype=object)))
        with pytest.raises(ValueError, match="score is not a number at qid '1', docno 'a'"):
            RerankTop(reranker, 2)(run)

    def test_inspection(self, make, frame):
        stage = RerankTop(make(), 5)
        inputs = pt.inspect.transformer_inputs(stage)
        assert inputs == [["qid", "docno", "rank", "query", "text"]]
        outputs = ["qid", "query", "docno", "text", "extra", "score", "rank"]
        assert list(stage(frame).columns) == list(stage(frame.head(0)).columns) == outputs

    @pytest.mark.parametrize("k", [0, -1, 2.0, None])
    def test_no_cutoff(self, k):
        with pytest.raises(ValueError, match="k must be a whole number of at least 1"):
            RerankTop(pt.Transformer.identity(), k)
