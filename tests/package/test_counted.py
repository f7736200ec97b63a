"""Numbers with their nouns."""

import pytest

from pyterrier_inpars._counted import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "document", "0 documents"),
        (1, "document", "1 document"),
        (1, "query", "1 query"),
        (2, "query", "2 queries"),
        (12_000, "topic", "12,000 topics"),
    ],
)
def test_one_is_singular(number, noun, text):
    assert counted(number, noun) == text
