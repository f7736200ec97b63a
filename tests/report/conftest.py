"""Queries, a retriever and an encoder of the reports."""

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

TEXTS = {
    "d1": "Coral polyps expel the algae that live in them when water is warm.",
    "d2": "<script>alert(1)</script> A glacier moves by its own weight & melts.",
    "d3": "Bees dance to tell the others where flowers are.",
    "d4": "Rivers carry sand to the sea, where it settles.",
}


@pytest.fixture
def queries():
    rows = [
        ("q1", "why do corals bleach", "d1", [-1.0, -2.0], "question", "stop"),
        ("q2", "coral polyps expel the algae", "d1", [-0.5], "question", "stop"),
        ("q3", "<script>alert('q')</script> & <b>", "d2", [-3.0], "keywords", "length"),
        ("q4", "why do bees dance", "d3", [-1.5], "question", "stop"),
        ("q5", "Why do  bees dance", "d3", [-2.5], "question", "stop"),
        ("q6", "sand", "d4", [-2.0, -2.0], "keywords", "stop"),
    ]
    frame = pd.DataFrame(
        rows, columns=["qid", "query", "docno", "log_probs", "type", "finish_reason"]
    )
    return frame.assign(
        text=frame["docno"].map(TEXTS), score=[float(np.mean(v)) for v in frame["log_probs"]]
    )


class FirstWord(pt.Transformer):
    """Ranks first the documents that contain the first word of the query."""

    def transform(self, inp):
        rows = []
        for qid, query in zip(inp["qid"], inp["query"], strict=True):
            word = query.split()[0]
            found = sorted(TEXTS, key=lambda d: (word not in TEXTS[d].lower(), d))[:3]
            rows += [(qid, query, docno, -float(rank), rank) for rank, docno in enumerate(found)]
        return pd.DataFrame(rows, columns=["qid", "query", "docno", "score", "rank"])


@pytest.fixture
def retriever():
    return FirstWord()


class Letters:
    """Encodes a text by the numbers of its letters."""

    def encode(self, texts):
        return np.array(
            [[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], dtype=float
        )


@pytest.fixture
def encoder():
    return Letters()


@pytest.fixture
def examples(queries):
    """A positive and two negatives for each query."""
    rows = []
    for qid, query, source in queries[["qid", "query", "docno"]].itertuples(index=False):
        negatives = [docno for docno in TEXTS if docno != source][:2]
        for docno in [source, *negatives]:
            rows.append((qid, query, docno, TEXTS[docno], int(docno == source)))
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "label"])


@pytest.fixture
def values():
    """nDCG@10 and RR of two systems on three queries, as ``pt.Experiment(perquery=True)``."""
    rows = [
        (name, f"t{i}", measure, value)
        for measure, factor in (("nDCG@10", 1.0), ("RR", 0.5))
        for name, found in (("BM25", [0.2, 0.4, 0.9]), ("new", [0.6, 0.4, 0.8]))
        for i, value in enumerate(factor * np.array(found))
    ]
    return pd.DataFrame(rows, columns=["name", "qid", "measure", "value"])
