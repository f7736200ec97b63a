"""Fixtures of the tests of training: each reranker class, tiny and quickly trained."""

import pytest
from tiny_training import QUICK, cls, examples, models, plain_models  # noqa: F401


@pytest.fixture
def make(cls, models):  # noqa: F811
    """Makes a reranker with training options over the quick ones."""

    def make(training=None, **options):
        options = {"dtype": "float32", "device": "cpu", **options}
        return cls(models[cls], training=QUICK | (training or {}), **options)

    return make
