"""Bad topics, judgements and cutoffs."""

import re

import pandas as pd
import pytest
from bad_input import (
    MISSING,
    NO_STRING,
    NOT_ONE_OR_MORE,
    PROMPT,
    TWO,
    Error,
    gives,
)

from pyterrier_inpars import evaluation

TOPICS = pd.DataFrame({"qid": ["1", "2"], "query": ["a", "b"]})
QRELS = pd.DataFrame({"qid": ["1"], "docno": ["d1"], "label": [1]})
FOUND = pd.DataFrame({"qid": ["1", "1"], "docno": ["d1", "d2"], "score": [2.0, 1.0]})


@pytest.mark.parametrize(
    "call, expected",
    [
        (
            lambda: evaluation.exclude_fewshot_topics(TOPICS, "queries.jsonl"),
            Error("queries must be SyntheticQueries, a Prompt, a dict of them, or a fr", TypeError),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics(TOPICS, [{"qid": "1"}]),
            Error("queries must be SyntheticQueries", TypeError),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics(TOPICS, {"a": PROMPT, "b": "auto"}),
            Error("a dict of them, .* not {'a': ", TypeError),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics(TOPICS, {}),
            Error("a dict of them, .* not {}", TypeError),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics(TOPICS, None),
            Error("queries must be SyntheticQueries.*not None", TypeError),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics(TOPICS, TWO),
            Error("a frame with qid or query", TypeError),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics([], PROMPT),
            Error("a DataFrame is needed", TypeError),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics(TWO, PROMPT),
            Error("missing_columns=.'qid'", MISSING),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics(TOPICS.assign(qid=[1, 2]), TOPICS),
            Error(f"qid {NO_STRING} 1"),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics(TOPICS, TOPICS.assign(qid=[1, 2])),
            Error(f"qid {NO_STRING} 1"),
        ),
        (
            lambda: evaluation.exclude_fewshot_topics(TOPICS, TOPICS),
            Error("all 2 topics are few-shot examples"),
        ),
        (lambda: list(evaluation.exclude_fewshot_topics(TOPICS, TOPICS[:1])["qid"]), ["2"]),
        (
            lambda: list(
                evaluation.exclude_fewshot_topics(TOPICS.set_axis([7, 7]), TOPICS[:1])["qid"]
            ),
            ["2"],
        ),
        (lambda: list(evaluation.exclude_fewshot_topics(TOPICS, TOPICS[:0])["qid"]), ["1", "2"]),
        (lambda: list(evaluation.exclude_fewshot_topics(TOPICS, PROMPT)["qid"]), ["1", "2"]),
        (lambda: evaluation.JudgedOnly(None), Error("a DataFrame is needed", TypeError)),
        (lambda: evaluation.JudgedOnly(TOPICS), Error("missing_columns=.'docno'", MISSING)),
        (lambda: evaluation.JudgedOnly(QRELS.assign(qid=1)), Error(f"qid {NO_STRING} ")),
        (lambda: evaluation.JudgedOnly(QRELS.assign(docno=None)), Error(f"docno {NO_STRING}")),
        (lambda: evaluation.JudgedOnly(pd.concat([QRELS, QRELS], axis=1)), Error("two columns")),
        (lambda: list(evaluation.JudgedOnly(QRELS)(FOUND)["docno"]), ["d1"]),
        (lambda: list(evaluation.JudgedOnly(QRELS[:0])(FOUND)["docno"]), []),
        (lambda: list(evaluation.JudgedOnly(QRELS.astype("category"))(FOUND)["docno"]), ["d1"]),
        (
            lambda: evaluation.JudgedOnly(QRELS)(FOUND.assign(score=None)),
            Error("score is not a number at qid '1'"),
        ),
        (lambda: evaluation.JudgedOnly(QRELS)(FOUND.assign(qid=1)), Error(f"qid {NO_STRING} ")),
        (lambda: evaluation.JudgedOnly(QRELS)(TOPICS), Error("missing_columns", MISSING)),
    ],
)
def test_topics_and_judgements(call, expected):
    gives(call, expected)


@pytest.mark.parametrize("value", NOT_ONE_OR_MORE)
@pytest.mark.parametrize(
    "make",
    [
        lambda k: evaluation.measures(k),
    ],
)
def test_a_number_that_must_be_one_or_more(make, value):
    gives(
        lambda: make(value),
        Error(f"whole number of at least 1, not {re.escape(repr(value))}"),
    )
