"""Ids, texts and types as pandas' categories, one of them unused, give the same frames."""

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from noisy_systems import Noisy, qrels_of, queries, topics_of

from pyterrier_inpars import (
    CopyFilter,
    DuplicateFilter,
    FalseNegativeFilter,
    LengthFilter,
    NegativeMiner,
    OverlapFilter,
    RerankTop,
    RoundTripFilter,
    ScoreFilter,
    ScoreFusion,
    TeacherScores,
    evaluation,
)
from pyterrier_inpars.training.examples import (
    balanced,
    check_examples,
    default_share,
    hold_out,
    listings,
    with_labels,
)

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword", "ignore:only .* quer")

QUERIES = queries().assign(score=np.arange(60) / 7)
TOPICS, QRELS = topics_of(QUERIES), qrels_of(QUERIES)
TEXTS = QUERIES[["docno", "text"]].drop_duplicates("docno")
TEXT = pt.apply.generic(lambda results: results.merge(TEXTS, on="docno"))
RETRIEVER = Noisy(0.5) >> TEXT
RESULTS = RETRIEVER(TOPICS)
EXAMPLES = NegativeMiner(RETRIEVER, num_negatives=2, depth=10)(QUERIES)
EXAMPLES = EXAMPLES.assign(score=np.sin(np.arange(len(EXAMPLES))))
SYSTEMS = {"poor": Noisy(0.9, 1), "good": Noisy(0.4, 2)}
LENGTHS = pt.apply.doc_score(lambda row: len(row["text"]) % 5)


def lists(examples):
    return pd.DataFrame(listings(examples, "text", "distillation"))


def checked(examples):
    check_examples(examples, "text")
    return examples


CASES = {
    "TeacherScores": (TeacherScores(), EXAMPLES),
    "FalseNegativeFilter": (FalseNegativeFilter(), EXAMPLES),
    "ScoreFilter": (ScoreFilter(10), QUERIES),
    "DuplicateFilter": (DuplicateFilter(), QUERIES),
    "CopyFilter": (CopyFilter(), QUERIES),
    "LengthFilter": (LengthFilter(2), QUERIES),
    "OverlapFilter": (OverlapFilter(0.9), QUERIES),
    "RoundTripFilter": (RoundTripFilter(Noisy(0.5), 3), QUERIES),
    "NegativeMiner": (NegativeMiner(RETRIEVER, num_negatives=2, depth=10), QUERIES),
    "RerankTop": (RerankTop(LENGTHS, 5), RESULTS),
    "ScoreFusion": (ScoreFusion(LENGTHS), RESULTS),
    "ScoreFusion.fit": (lambda r, q: ScoreFusion(LENGTHS).fit(r, q).tuning, RESULTS, QRELS),
    "hold_out": (lambda e: hold_out(e, 0.2, 0)[1], EXAMPLES),
    "default_share": (lambda e: pd.DataFrame([default_share(e)]), EXAMPLES),
    "check_examples": (checked, EXAMPLES),
    "with_labels": (with_labels, EXAMPLES, QRELS),
    "balanced": (balanced, EXAMPLES),
    "listings": (lists, EXAMPLES),
    "compare": (lambda q, r: evaluation.compare(SYSTEMS, q, by_type=True, qrels=r), QUERIES, QRELS),
    "results": (lambda r, q: evaluation.compare({"a": r, "b": RESULTS}, q), RESULTS, QUERIES),
    "select": (lambda q: evaluation.select(SYSTEMS, q).table, QUERIES),
    "agreement": (lambda *a: evaluation.agreement(SYSTEMS, *a).table, QUERIES, TOPICS, QRELS),
    "pseudo_qrels": (lambda q: evaluation.pseudo_qrels([*SYSTEMS.values()], q), QUERIES),
    "similar_qrels": (lambda q: evaluation.similar_qrels(q, Noisy(0.5), 2), QUERIES),
    "split": (lambda q: evaluation.split(q, 0.5)[0], QUERIES),
    "overlap": (lambda q: evaluation.overlap(q).to_frame(), QUERIES),
    "leaked_topics": (evaluation.leaked_topics, QUERIES, TOPICS),
    "exclude_fewshot_topics": (evaluation.exclude_fewshot_topics, TOPICS, TOPICS.head(3)),
    "JudgedOnly": (lambda r, q: evaluation.JudgedOnly(q)(r), RESULTS, QRELS),
    "ExcludeQueryDocument": (evaluation.ExcludeQueryDocument(), RESULTS),
}


def categorical(frame):
    columns = frame.columns.intersection(["qid", "docno", "query", "text", "type"])
    return frame.assign(
        **{c: pd.Categorical(frame[c], [*frame[c].unique(), "unused"]) for c in columns}
    )


def plain(frame):
    kinds = {c: object for c in frame if not pd.api.types.is_numeric_dtype(frame[c])}
    return frame.astype(kinds).reset_index(drop=True)


@pytest.mark.parametrize("name", CASES)
def test_categories(name):
    function, *frames = CASES[name]
    expected = plain(function(*(frame.copy() for frame in frames)))
    found = plain(function(*map(categorical, frames)))
    assert len(expected) and list(found) == list(expected)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
