"""Fixtures of the tests of rerankers: tiny models, results to rerank and training examples."""

import numpy as np
import pandas as pd
import pytest
import tiny
from tiny_training import cls, examples, models, plain_models  # noqa: F401


@pytest.fixture(scope="session")
def frame() -> pd.DataFrame:
    """Results of five queries, some documents longer than the networks' inputs, one empty."""
    rng = np.random.default_rng(0)
    rows = []
    for i, length in enumerate([3, 80, 1, 0, 12, 40, 7, 25, 60, 5, 33, 2, 18, 90, 9]):
        query = f"what is {tiny.WORDS[i % 5]}"
        text = " ".join(rng.choice(tiny.WORDS, length))
        rows.append((f"q{i % 5}", query, f"d{i}", text, float(-i), i // 5, f"kept {i}"))
    columns = ["qid", "query", "docno", "text", "score", "rank", "extra"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def make(cls, models):  # noqa: F811
    return lambda **options: cls(models[cls], **{"dtype": "float32", "device": "cpu", **options})
