"""Bad training examples."""

import pandas as pd
import pytest
from bad_input import (
    NAN,
    Error,
    gives,
    is_no_string,
    queries,
    rows,
)

from pyterrier_inpars.training.examples import check_examples, with_labels
from pyterrier_inpars.training.model_selection import Validation

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "changes, error",
    rows(
        *is_no_string("qid"),
        *is_no_string("query"),
        *is_no_string("docno"),
        *is_no_string("text"),
        ({"label": None}, Error("label must be 1 .relevant. or 0 .negative., not None")),
        ({"label": "0"}, Error("label must be 1 .* not '0'")),
        ({"label": 0.5}, Error("label must be 1 .* not 0.5")),
        ({"label": 2}, Error("label must be 1 .* not 2")),
    ),
)
def test_training_examples(changes, error):
    gives(lambda: check_examples(queries(**changes), "text"), error)


@pytest.mark.parametrize(
    "label, expected",
    [
        (None, Error("label is not a number at qid 'q2', docno 'd2': got None")),
        ("high", Error("label is not a number at qid 'q2', docno 'd2': got 'high'")),
        (NAN, Error("label is not a number at qid 'q2'")),
        ("1", 2),
        (2.0, 2),
        (-1, 1),
        (True, 2),
        (0.5, 2),
    ],
)
def test_labels_of_qrels(label, expected):
    qrels = queries(label=label)[["qid", "docno", "label"]]
    gives(lambda: int(with_labels(queries(), qrels)["label"].sum()), expected)


@pytest.mark.parametrize("label", [0.5, float("inf"), NAN, "high"])
def test_labels_of_a_validation(label):
    qrels = queries(label=label)[["qid", "docno", "label"]]
    gives(lambda: Validation(queries(), qrels, lambda results: results), Error("label .* qid 'q2'"))


def test_training_examples_that_are_none():
    gives(lambda: check_examples(queries().iloc[:0], "text"), Error("no examples to train on"))
    gives(lambda: check_examples(queries(label=0)[1:], "text"), Error("no example has label 1"))
    doubled = pd.concat([queries(), queries()], axis=1)
    gives(lambda: check_examples(doubled, "text"), Error("two columns are called 'qid'"))
