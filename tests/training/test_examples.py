import pandas as pd
import pytest

from pyterrier_inpars.training.examples import groups

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


def test_a_group_is_a_positive_with_the_negatives_of_its_qid():
    rows = [("1", "a", "n1", 0), ("2", "b", "p2", 1), ("1", "a", "p1", 1), ("1", "a", "n2", 0)]
    rows += [("1", "a", "p3", 1), ("3", "c", "n3", 0)]
    frame = pd.DataFrame(rows, columns=["qid", "query", "body", "label"])
    assert groups(frame, "body") == [
        ("b", "p2", []),
        ("a", "p1", ["n1", "n2"]),
        ("a", "p3", ["n1", "n2"]),
    ]
