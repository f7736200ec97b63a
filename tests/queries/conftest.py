"""Fixtures of the tests of `SyntheticQueries`."""

import os

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_fsync():
    """Skips the wait for the disk, which no test here can observe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield
