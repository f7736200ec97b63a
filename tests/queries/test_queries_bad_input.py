"""Bad options of `SyntheticQueries`."""

import re

import pytest
from bad_input import NOT_ONE_OR_MORE, Error, gives

from pyterrier_inpars import SyntheticQueries


@pytest.mark.parametrize("value", NOT_ONE_OR_MORE)
@pytest.mark.parametrize(
    "make",
    [
        lambda k: SyntheticQueries("q", shard_size=k),
    ],
)
def test_shard_sizes_below_one_are_refused(make, value):
    gives(
        lambda: make(value),
        Error(f"whole number of at least 1, not {re.escape(repr(value))}"),
    )
