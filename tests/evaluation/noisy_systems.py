"""Systems that find the source document of a query as often as their noise lets them."""

import zlib

import numpy as np
import pandas as pd
import pyterrier as pt

DOCUMENTS = 30


class Noisy(pt.Transformer):
    """Ranks all documents: the query's own first, plus noise that depends on query and seed."""

    schematic = {"label": "Noisy", "help_url": None}

    def __init__(self, noise, seed=0):
        self.noise, self.seed, self.calls = noise, seed, 0

    def transform(self, topics):
        pt.validate.query_frame(topics, ["query"])
        self.calls += 1
        rows = []
        for qid, query in zip(topics["qid"], topics["query"], strict=True):
            rng = np.random.default_rng(zlib.crc32(f"{qid}/{self.seed}".encode()))
            scores = self.noise * rng.normal(size=DOCUMENTS)
            scores[int(query.split()[-1])] += 1
            rows += [(qid, query, f"d{n}", score) for n, score in enumerate(scores)]
        return pt.model.add_ranks(pd.DataFrame(rows, columns=["qid", "query", "docno", "score"]))


def queries(number=60, prefix="q"):
    """Synthetic queries of two types, two or more for each document."""
    return pd.DataFrame(
        {
            "qid": [f"{prefix}{n}" for n in range(number)],
            "query": [f"Word, number {n % DOCUMENTS}?" for n in range(number)],
            "docno": [f"d{n % DOCUMENTS}" for n in range(number)],
            "text": [f"text number {n % DOCUMENTS}" for n in range(number)],
            "type": ["question", "keywords"] * (number // 2),
        }
    )


def topics_of(frame):
    """The queries without punctuation, as systems get them."""
    return frame[["qid", "query"]].assign(query=frame["query"].str.replace("[,?]", "", regex=True))


def qrels_of(frame):
    return frame[["qid", "docno"]].assign(label=1)


def ranked(ranks):
    """Results with the source document of each query at a rank from 0, among others."""
    rows = [
        (f"q{n}", f"d{n % DOCUMENTS}" if place == rank else f"x{place}", 10.0 - place)
        for n, rank in enumerate(ranks)
        for place in range(5)
    ]
    return pd.DataFrame(rows, columns=["qid", "docno", "score"])
