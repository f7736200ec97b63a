"""Filters that explain: `explain`, counts of the last call, `funnel`, and what a notebook shows."""

import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_false_negative_filter import SCORED, scored
from test_filtering import COLUMNS, MAKERS, NAMES, RANKINGS, ROWS, Collect, Letters, frame, quick
from writer import Writer, corpus

from pyterrier_inpars import SyntheticQueries, evaluation, funnel
from pyterrier_inpars.filtering import (
    EXAMPLES,
    CopyFilter,
    DuplicateFilter,
    FalseNegativeFilter,
    LengthFilter,
    RoundTripFilter,
    ScoreFilter,
    SemanticDuplicateFilter,
)
from pyterrier_inpars.mining import NegativeMiner
from pyterrier_inpars.training.examples import check_examples

MARKS = st.lists(st.sampled_from([None, float("nan"), "Earlier"]), min_size=9, max_size=9)
STAGES = st.lists(st.sampled_from(MAKERS), min_size=1, max_size=4)


def explaining(stage):
    stage.explain = True
    return stage


def same(left, right):
    """Rows are equal, up to their index; an empty frame has no types."""
    left, right = (f.reset_index(drop=True) for f in (left, right))
    pd.testing.assert_frame_equal(left, right, check_dtype=len(left) > 0)


def check_explained(plain, explained, rows):
    """All rows are there as they were, and those without a reason are those that are kept."""
    out = explained(rows)
    assert list(out.columns) == [*rows.columns, "dropped_by"]
    same(out[rows.columns], rows)
    same(out[out["dropped_by"].isna()][rows.columns], plain(rows))
    return out


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
@quick
@given(rows=ROWS)
def test_an_explaining_filter_drops_the_same_rows(make, rows):
    stage = explaining(make())
    out = check_explained(make(), stage, frame(rows))
    assert set(out["dropped_by"].dropna()) <= {type(stage).__name__}
    assert (stage.seen, stage.dropped) == (len(rows), out["dropped_by"].notna().sum())
    again = stage(out)
    pd.testing.assert_frame_equal(again, out, check_dtype=len(rows) > 0)
    assert stage.last_dropped == 0


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
@quick
@given(rows=ROWS.filter(len), marks=MARKS)
def test_rows_that_were_dropped_pass_uncounted_and_uncompared(make, rows, marks):
    queries = frame(rows)
    queries["dropped_by"] = pd.Series(marks[: len(rows)], dtype=object).values
    queries.index = range(len(rows))
    gone = queries["dropped_by"].notna()
    kept = make()(queries[~gone])["qid"]
    for stage in (make(), explaining(make())):
        out = stage(queries)
        assert (stage.seen, stage.dropped) == ((~gone).sum(), (~gone).sum() - len(kept))
        left = out[out["dropped_by"].isna()]
        assert list(left["qid"]) == list(kept)
        same(out[out["dropped_by"] == "Earlier"].astype(object), queries[gone].astype(object))
        expected = queries if stage.explain else queries[gone | queries["qid"].isin(kept)]
        assert list(out["qid"]) == list(expected["qid"])


@quick
@given(ROWS, STAGES)
def test_a_pipeline_that_explains(rows, makers):
    plain, explained = ([make() for make in makers] for _ in range(2))
    for stage in explained:
        stage.explain = True
    plain, explained = (
        pt.Compose(*stages) if len(stages) > 1 else stages[0] for stages in (plain, explained)
    )
    out = check_explained(plain, explained, frame(rows))
    pd.testing.assert_frame_equal(funnel(plain), funnel(explained))
    by_filter = out["dropped_by"].value_counts().to_dict()
    counted = funnel(plain).groupby("stage")["dropped"].sum()
    assert by_filter == counted[counted > 0].to_dict()


@quick
@given(SCORED.filter(len), st.sampled_from([0, 0.5, -2]), st.sampled_from([0, 1.0]))
def test_examples_that_are_explained(rows, margin, second):
    rows = [(qid, 1, -1.5) for qid in sorted({qid for qid, *_ in rows})] + rows
    plain = FalseNegativeFilter(margin) >> FalseNegativeFilter(second)
    check_explained(
        plain,
        FalseNegativeFilter(margin, explain=True) >> FalseNegativeFilter(second, explain=True),
        scored(rows),
    )


def test_a_retriever_gets_no_dropped_queries():
    asked = []

    def retrieve(topics):
        asked.extend(topics["qid"])
        return RANKINGS(topics)

    retriever = pt.apply.generic(retrieve)
    queries = frame([("one", "", 0.0), ("two words here", "", 0.0)])
    pipeline = LengthFilter(2, explain=True) >> RoundTripFilter(retriever, 1, explain=True)
    out = pipeline(queries)
    assert asked == ["q1"]
    assert list(out["dropped_by"].fillna("")) == ["LengthFilter", ""]
    asked.clear()
    (LengthFilter(9, explain=True) >> RoundTripFilter(retriever, 1, explain=True))(queries)
    assert asked == []


def test_streams_keep_the_reason():
    queries = frame([("a b c", "x", 0.0), ("a", "x", 0.0), ("x y z", "x y z", 0.0)])
    pipeline = LengthFilter(explain=True) >> CopyFilter(explain=True)
    rows = (pipeline >> Collect()).index(iter(queries.to_dict("records")), batch_size=1)
    assert [row["dropped_by"] for row in rows] == [None, "LengthFilter", "CopyFilter"]
    assert [row["qid"] for row in rows] == ["q0", "q1", "q2"]


def test_explain_is_a_parameter_of_every_filter():
    makers = [*MAKERS, FalseNegativeFilter]
    for make in makers:
        stage = explaining(make())
        assert repr(stage).endswith("explain=True)")
        copy = pt.inspect.transformer_apply_attributes(stage)
        assert copy.explain is True and repr(copy) == repr(stage)
        assert pt.inspect.transformer_outputs(stage, [*COLUMNS, "label"])[-1] == "dropped_by"
        assert list(stage(frame([]).assign(label=0)).columns)[-1] == "dropped_by"
    assert repr(DuplicateFilter(explain=True)) == "DuplicateFilter(explain=True)"
    with pytest.raises(ValueError, match="explain must be True or False, not 'yes'"):
        CopyFilter(explain="yes")


def test_counts_of_the_last_call_and_of_all_calls():
    stage = LengthFilter(2)
    pipeline = stage >> CopyFilter()
    pipeline(frame([("a", "", 0.0), ("b c", "", 0.0)]))
    pipeline(frame([("a", "", 0.0), ("b c", "", 0.0), ("b", "", 0.0)]))
    assert (stage.seen, stage.dropped, stage.last_seen, stage.last_dropped) == (5, 3, 3, 2)
    assert list(stage.dropped_examples["query"]) == ["a", "b"]
    assert funnel(pipeline)["seen"].tolist() == [3, 1]
    pt.schematic.draw(pipeline)  # which inspects the stages, is no call
    pt.inspect.transformer_inputs(pipeline)
    assert stage.last_seen == 3
    pipeline(frame([]))
    assert (stage.last_seen, stage.last_dropped, len(stage.dropped_examples)) == (0, 0, 0)


def test_the_first_dropped_rows_are_kept_in_streams_too():
    queries = frame([(f"w{i}", "", 0.0) for i in range(12)])
    stage = LengthFilter(2)
    stage(queries)
    assert list(stage.dropped_examples["qid"]) == [f"q{i}" for i in range(EXAMPLES)]
    streamed = LengthFilter(2)
    (streamed >> Collect()).index(iter(queries.to_dict("records")), batch_size=2)
    assert list(streamed.dropped_examples["qid"]) == [f"q{i}" for i in range(EXAMPLES)]
    assert streamed.last_dropped == 12


def test_a_funnel():
    queries = frame(
        [("a", "x", 0.0), ("a b", "a b c", 0.0), ("b c d", "x", 1.0), ("c d", "x", 2.0)]
    )
    scorer = pt.apply.doc_score(lambda row: float(len(row["query"])))
    pipeline = LengthFilter(2) >> CopyFilter() >> scorer >> ScoreFilter(1)
    table = funnel(pipeline, queries)
    assert table.to_dict("records") == [
        {"stage": "LengthFilter", "seen": 4, "dropped": 1, "kept": 3, "share": 0.75},
        {"stage": "CopyFilter", "seen": 3, "dropped": 1, "kept": 2, "share": 0.667},
        {"stage": "ScoreFilter", "seen": 2, "dropped": 1, "kept": 1, "share": 0.5},
    ]
    pd.testing.assert_frame_equal(funnel(pipeline), table)
    nothing_left = funnel(LengthFilter(9) >> CopyFilter(), queries)
    assert nothing_left["share"].isna().tolist() == [False, True]
    miner = NegativeMiner(RANKINGS, texts=lambda: iter([]))
    assert funnel(CopyFilter() >> miner, queries[:0])["stage"].tolist() == [
        "CopyFilter",
        "NegativeMiner",
    ]


def test_a_funnel_of_nothing():
    with pytest.raises(ValueError, match="has not run: run it first, or give the queries"):
        funnel(LengthFilter(2) >> CopyFilter())
    with pytest.raises(ValueError, match="drops rows: give a pipeline with a filter"):
        funnel(RANKINGS)
    with pytest.raises(TypeError, match="pipeline must be a PyTerrier transformer, not \\["):
        funnel([CopyFilter()])
    assert funnel(CopyFilter(), frame([]))["seen"].tolist() == [0]


def test_a_run_of_an_artifact_is_one_call(tmp_path):
    """Its batches count together, and a second run, which finds all stored, counts nothing."""
    stage = LengthFilter(5)  # each query has four words
    pipeline = Writer([2]) >> stage
    artifact = SyntheticQueries(tmp_path / "queries", shard_size=7)
    (pipeline >> artifact).index(corpus(20), batch_size=3)
    counts = funnel(pipeline >> artifact)
    assert counts[["seen", "dropped"]].values.tolist() == [[40, 40]]
    (pipeline >> artifact).index(corpus(20), batch_size=3)
    assert (stage.seen, stage.last_seen) == (40, 0)


def test_what_a_notebook_shows():
    stage = LengthFilter(2)
    assert "none so far" in stage._repr_html_()
    stage(frame([("<b>", "of <i>", 0.0), ("b c", "", 0.0)]))
    shown = stage._repr_html_()
    assert "2 seen, 1 dropped, 1 kept" in shown and "all calls" not in shown
    assert "&lt;b&gt;" in shown and "of &lt;i&gt;" in shown and "<b>" not in shown
    assert "LengthFilter(2)" in shown and "repr_html" in shown
    stage(frame([("b c", "", 0.0)]))
    assert "3 seen, 1 dropped, 2 kept" in stage._repr_html_()


def test_a_notebook_shows_no_schematic_where_it_is_switched_off(monkeypatch):
    monkeypatch.setenv("PYTERRIER_DISABLE_NOTEBOOK_SCHEMATIC", "1")
    shown = CopyFilter()._repr_html_()
    assert "repr_html" not in shown and "none so far" in shown


def test_near_duplicate_documents_of_several_text_fields():
    rows = [("q0", "x", "d0", "ab", "c"), ("q1", "y", "d1", "ca", "b"), ("q2", "z", "d2", "a", "j")]
    queries = pd.DataFrame(rows, columns=["qid", "query", "docno", "title", "body"])
    stage = SemanticDuplicateFilter(Letters(), field="text", text_field=["title", "body"])
    assert list(stage(queries)["qid"]) == ["q0", "q2"]
    assert pt.inspect.transformer_inputs(stage)[-1] == ["docno", "title", "body"]
    one = SemanticDuplicateFilter(Letters(), field="text", text_field="title")
    assert list(one(queries.assign(title="a"))["qid"]) == ["q0"]
    with pytest.raises(ValueError, match="title must be a string"):
        one(queries.assign(title=7))


USES = {
    "mining": lambda rows: NegativeMiner(pt.Transformer.from_df(rows))(rows),
    "comparison": lambda rows: evaluation.compare([pt.Transformer.from_df(rows)], rows),
    "training": lambda rows: check_examples(rows.assign(label=1), "text"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_dropped_rows_are_not_used_as_if_they_were_kept(use):
    rows = frame([("word", "other", 0.5), ("a", "a b", 0.5)])
    explained = CopyFilter(explain=True)(rows)
    message = r"1 of 2 rows were dropped.*CopyFilter at qid 'q1'.*frame\['dropped_by'\].isna\(\)"
    with pytest.raises(ValueError, match=message):
        use(explained)
