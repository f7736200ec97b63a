"""A generator without a model, whose queries are known in advance, and a corpus for it."""

import gzip
from collections import Counter
from pathlib import Path

import numpy as np

from pyterrier_inpars import SyntheticQueries
from pyterrier_inpars._stage import as_frame, with_columns
from pyterrier_inpars.queries._resume import DocumentStage

SETTINGS = {"model": "none", "generation": {"max_new_tokens": 64}, "versions": {"torch": "1"}}


class Writer(DocumentStage):
    """Generates ``queries[i % len(queries)]`` queries for the document with docno ``i``."""

    schematic = {"label": "Writer", "help_url": None}

    def __init__(self, queries=(1,), *, settings=SETTINGS, fail_at=None):
        self.queries = queries
        self._settings = settings
        self.fail_at = fail_at
        self.written = Counter()

    def settings(self):
        return self._settings

    def _required_columns(self):
        return ["docno", "text"]

    def _output_columns(self, columns):
        return with_columns(columns, "qid", "query", "score", "log_probs", "finish_reason")

    def _transform(self, inp):
        rows = []
        for document in inp.to_dict("records"):
            docno = document["docno"]
            if docno == self.fail_at:
                raise KeyboardInterrupt
            self.written[docno] += 1
            for n in range(self.queries[int(docno) % len(self.queries)]):
                log_probs = [-1 / (3 + int(docno)), -float(n)]
                rows.append(
                    document
                    | {
                        "qid": f"{docno}-{n}",
                        "query": f"what of {document['text'][:20]}",
                        "score": float(np.mean(log_probs)),
                        "log_probs": log_probs,
                        "finish_reason": "stop",
                    }
                )
        return as_frame(rows, self._output_columns(list(inp.columns)))


def corpus(n, text="document {}", stop=None):
    for i in range(n):
        if i == stop:
            raise OSError("the disk of the corpus is gone")
        yield {"docno": str(i), "text": text.format(i)}


def index(path, documents, writer=None, *, batch=3, shard_size=5):
    queries = SyntheticQueries(path, shard_size=shard_size)
    return ((writer or Writer()) >> queries).index(documents, batch_size=batch)


def files(path):
    return {file.name: file.read_bytes() for file in Path(path).iterdir()}


def rows(n):
    return [
        {"qid": f"q{i}", "query": f"query {i}", "docno": str(i), "text": f"document {i}"}
        for i in range(n)
    ]


def damage(file, how):
    """Damages a shard in one of several ways."""
    data = file.read_bytes()
    if how == "gone":
        file.unlink()
    elif how == "packed again":
        file.write_bytes(gzip.compress(gzip.decompress(data), mtime=1))
    else:
        file.write_bytes(
            {"cut": data[:-9], "empty": b"", "flipped": bytes([data[0] ^ 1]) + data[1:]}[how]
        )
