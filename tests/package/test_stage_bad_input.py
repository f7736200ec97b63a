"""Bad input of any stage: frames, and values of any type."""

import pandas as pd
import pytest
from bad_input import (
    ANY,
    CORPUS,
    MISSING,
    Error,
    bm25_over_corpus,
    frame,
    gives,
    ours,
    queries,
    quick,
)
from hypothesis import given
from hypothesis import strategies as st

import pyterrier_inpars
from pyterrier_inpars import (
    CopyFilter,
    DuplicateFilter,
    FalseNegativeFilter,
    LengthFilter,
    NegativeMiner,
    OverlapFilter,
    RoundTripFilter,
    ScoreFilter,
    evaluation,
)

pisa = pytest.importorskip("pyterrier_pisa")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bm25(tmp_path_factory):
    return bm25_over_corpus(tmp_path_factory.mktemp("index"))


STAGES = {
    "ScoreFilter": lambda bm25: ScoreFilter(1),
    "LengthFilter": lambda bm25: LengthFilter(0, min_tokens=1),
    "CopyFilter": lambda bm25: CopyFilter(),
    "DuplicateFilter": lambda bm25: DuplicateFilter(),
    "OverlapFilter": lambda bm25: OverlapFilter(0.5),
    "RoundTripFilter": lambda bm25: RoundTripFilter(bm25),
    "NegativeMiner": lambda bm25: NegativeMiner(bm25, texts=lambda: iter(CORPUS)),
    "FalseNegativeFilter": lambda bm25: FalseNegativeFilter(),
    "JudgedOnly": lambda bm25: evaluation.JudgedOnly(queries()[["qid", "docno"]]),
}


@pytest.mark.parametrize("stage", STAGES)
def test_frames_of_any_stage(bm25, stage):
    stage = STAGES[stage](bm25)
    two = queries().assign(qid="q") if isinstance(stage, FalseNegativeFilter) else queries()
    gives(lambda: stage(pd.DataFrame()), Error("missing_columns", MISSING))
    gives(lambda: stage(pd.concat([two, two], axis=1)), Error("two columns are called 'qid'"))
    gives(lambda: stage(two.assign(x=0, y=0).rename(columns={"y": "x"})), Error("are called 'x'"))
    assert list(stage(two.iloc[:0]).columns) == list(stage(two).columns)
    wanted = stage(two)
    assert list(wanted.index) == list(range(len(wanted)))
    for odd in (
        two.set_axis([5, 5]),
        two.set_index(["qid", "docno"], drop=False),
        two.rename(columns={"text": "text"}).assign(**{"Ünï {x}": 1}).drop(columns="Ünï {x}"),
        two.astype({"query": "string", "docno": "string", "text": "string"}),
        two.astype({"query": "category", "docno": "category", "text": "category"}),
    ):
        found = stage(odd)
        for column in wanted:
            assert list(found[column]) == list(wanted[column])


ANY_ROWS = st.lists(
    st.fixed_dictionaries(
        {"qid": ANY, "query": ANY, "docno": ANY, "text": ANY, "score": ANY, "label": ANY}
    ),
    max_size=4,
)


@quick
@given(ANY_ROWS)
@pytest.mark.parametrize("stage", STAGES)
def test_any_values_through_any_stage(bm25, stage, records):
    """A stage raises an error of this package, or returns input rows or examples made of them."""
    stage = STAGES[stage](bm25)
    if isinstance(stage, LengthFilter):
        stage = LengthFilter(1)
    found = ours(lambda: stage(frame(*records) if records else queries().iloc[:0]))
    if found is not None and isinstance(stage, pyterrier_inpars.filtering.Filter):
        given_rows = [(r["qid"], r["query"], r["docno"], r["text"]) for r in records]
        for row in found[["qid", "query", "docno", "text"]].itertuples(index=False, name=None):
            assert any(
                all(a is b or a == b for a, b in zip(row, g, strict=True)) for g in given_rows
            )
    ours(lambda: stage(records))  # as a stream
