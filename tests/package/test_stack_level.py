"""Warnings name the line of the user, whatever PyTerrier puts between it and the stage."""

import sys
import warnings

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_inpars import (
    ChatPrompt,
    LengthFilter,
    NegativeMiner,
    RoundTripFilter,
    ScoreFilter,
    StaticPrompt,
)
from pyterrier_inpars._stack_level import user_level

QUERIES = pd.DataFrame(
    {
        "qid": [f"q{i}" for i in range(6)],
        "query": [f"coral reef {i}" for i in range(6)],
        "docno": [f"d{i}" for i in range(6)],
        "text": "some text",
        "score": [np.nan, 1.0, 2.0, 3.0, 4.0, 5.0],
        "log_probs": [None, *[[-1.0]] * 5],
    }
)
RETRIEVER = pt.Transformer.from_df(
    QUERIES[["qid"]].assign(docno="other", text="another text", score=1.0, rank=0)
)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RoundTripFilter(RETRIEVER, 1), "source document of none"),
        (lambda: RoundTripFilter(RETRIEVER, 5), "at most 1 documents"),
        (lambda: NegativeMiner(RETRIEVER), "at most 1 documents"),
        (lambda: ScoreFilter(min_score=0), "have no score"),
        (lambda: LengthFilter(min_tokens=1), "have no log_probs"),
    ],
)
@pytest.mark.parametrize("first", [None, pt.Transformer.identity(), LengthFilter(1)])
@pytest.mark.parametrize("as_records", [False, True])
def test_the_line_that_runs_a_pipeline(make, message, first, as_records):
    pipeline = make() if first is None else first >> make()
    queries = QUERIES.to_dict("records") if as_records else QUERIES
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = sys._getframe().f_lineno + 1
        pipeline(queries)
    (found,) = [warning for warning in caught if message in str(warning.message)]
    assert (found.filename, found.lineno) == (__file__, line)


def test_the_line_that_makes_a_prompt():
    examples = [{"query": "deep seas", "text": "x", "answer": "Seas."}]
    for make in (
        lambda: StaticPrompt("Of {title}.\n\n{document}"),
        lambda: ChatPrompt("{document}", system="Of {title}."),
        lambda: ChatPrompt("{document}", examples=examples),
    ):
        with pytest.warns(UserWarning) as caught:
            make()
        assert [warning.filename for warning in caught] == [__file__]


def test_the_first_frame_outside():
    """A function of PyTerrier is between."""
    names = {"__name__": "pyterrier.run"}
    exec("def call(function): return function()", names)
    assert names["call"](user_level) == 2  # this module is the first one outside
    assert user_level() == 1
