"""Compares mining with a BiEncoder and sentence-transformers' ``mine_hard_negatives``.

    python tests/benchmarks/mining_dense.py [path/to/collection] [--documents 4000]
        [--queries 5000] [--depth 100] [--encoded 500] [--dtype bfloat16] [--runs 3] [--cpu-time]

The collection is in BEIR's folder layout; default is the demo collection. A query consists of
consecutive words of a document. Both sides use MiniLM (``demo.encoder``) and return the four
documents nearest to each query that are not its source. Ours are those of
``NegativeMiner(encoder.query_encoder() >> index.retriever(...))``, where ``index`` is a
``FlexIndex`` of ``pyterrier_dr``; the peer's are in its format ``n-tuple``. Timed are

- mining with vectors computed before, which the peer has in its ``cache_folder``, and ours in the
  index and in ``vector_cache``: ``--documents`` documents, ``--queries`` queries;
- mining with the encoding of ``--encoded`` documents and as many queries.

Checked first: 99 % of the queries have the same four negatives, 95 % in bfloat16. Others differ by
rounding.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
from mining import queries
from paired import median_ratios, processor
from precisions import precisions
from pyterrier_dr import FlexIndex

from pyterrier_inpars import BiEncoder, NegativeMiner, demo
from pyterrier_inpars._quiet import quiet
from pyterrier_inpars._retrieval import fold
from pyterrier_inpars.datasets import BeirFolder
from pyterrier_inpars.demo import StdlibDocs

NEGATIVES = 4
ALIKE = {"float32": 0.99, "bfloat16": 0.95}
Mined = dict[str, set[str]]
"""Texts of the negatives by query."""


class Sides:
    """Both sides over one collection.

    Args:
        documents: Frame ``docno, text`` with distinct texts.
        number: Number of queries.
        depth: Last rank to take negatives from.
        dtype: Precision of the encoder.
    """

    def __init__(self, documents: pd.DataFrame, number: int, depth: int, dtype: str):
        import torch
        from datasets import Dataset
        from sentence_transformers import SentenceTransformer

        self.documents, self.depth = documents, depth
        self.topics = topics = queries(documents, number).drop_duplicates("query")
        path = demo.encoder()
        kwargs = {"dtype": getattr(torch, dtype)}
        self.peer_model = SentenceTransformer(path, device="cpu", model_kwargs=kwargs)
        self.encoder = BiEncoder(path, device="cpu", dtype=dtype, vector_cache=2 * len(topics))
        assert self.encoder.network is not None  # loaded before the clock starts
        columns = {"query": topics["query"].tolist(), "positive": topics["text"].tolist()}
        self.pairs = Dataset.from_dict(columns)
        texts = dict(zip(documents["docno"], documents["text"], strict=True))
        self.loader = pt.apply.generic(lambda frame: frame.assign(text=frame["docno"].map(texts)))

    def peer(self, folder: str | None = None) -> Mined:
        from sentence_transformers.util import mine_hard_negatives

        found = mine_hard_negatives(
            self.pairs,
            self.peer_model,
            corpus=self.documents["text"].tolist(),
            range_max=self.depth,
            num_negatives=NEGATIVES,
            output_format="n-tuple",
            batch_size=64,
            cache_folder=folder,
            verbose=False,
        )
        columns = [found[f"negative_{i + 1}"] for i in range(NEGATIVES)]
        return {query: set(texts) for query, *texts in zip(found["query"], *columns, strict=True)}

    def ours(self, index: FlexIndex | None = None) -> Mined:
        if index is None:
            with tempfile.TemporaryDirectory() as folder:
                index = FlexIndex(f"{folder}/index.flex", verbose=False)
                pipeline = self.encoder.doc_encoder() >> index
                pipeline.index(self.documents.to_dict("records"))
                return self.ours(index)
        miner = NegativeMiner(
            self.encoder.query_encoder() >> index.retriever(num_results=self.depth),
            num_negatives=NEGATIVES,
            depth=self.depth,
            sampling_strategy="top",
            texts=self.loader,
            batch_size=1000,
        )
        found = miner(self.topics)
        found = found[found["label"] == 0]
        return found.groupby("query")["text"].agg(set).to_dict()


def compare(name: str, dtype: str, peer: partial, ours: partial, args: argparse.Namespace) -> None:
    name = f"{name}, {dtype}"
    expected, found = peer(), ours()
    same = np.mean([found.get(query) == texts for query, texts in expected.items()])
    print(f"{name}: {len(expected):,} queries, {same:.2%} with the same negatives", flush=True)
    if not same >= ALIKE[dtype]:
        sys.exit("the negatives differ from the peer's")
    clock = time.process_time if args.cpu_time else time.perf_counter
    (ratio,) = median_ratios(peer, {"ours": ours}, args.runs, clock).values()
    print(f"{name}: median speedup ×{ratio:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("collection", nargs="?")
    parser.add_argument("--documents", type=int, default=4000, help="0 for none")
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--encoded", type=int, default=500, help="0 for none")
    parser.add_argument("--dtype", action="append", default=[], help="float32 or bfloat16")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="time the processor, not the clock")
    args = parser.parse_args()
    import torch

    corpus = BeirFolder(args.collection) if args.collection else StdlibDocs()
    documents = pd.DataFrame(corpus.get_corpus_iter())[["docno", "text"]]
    documents = documents[documents["text"].str.strip() != ""]
    documents = documents[~documents["text"].map(fold).duplicated()].reset_index(drop=True)
    print(f"{processor()}, {torch.get_num_threads()} threads")
    with quiet(), tempfile.TemporaryDirectory() as folder:
        for dtype in args.dtype or precisions():
            if args.encoded:
                sides = Sides(documents.head(args.encoded), args.encoded, args.depth, dtype)
                # An own cache would make the second run of ours a run without encoding.
                sides.encoder.vector_cache = 0
                ours, peer = partial(sides.ours), partial(sides.peer)
                compare("with the encoding", dtype, peer, ours, args)
        if args.documents:
            known = documents.head(args.documents)
            cached(Sides(known, args.queries, args.depth, "float32"), Path(folder), args)


def cached(sides: Sides, folder: Path, args: argparse.Namespace) -> None:
    """Compares with vectors that the peer has computed and stored before."""
    sides.peer(str(folder))
    (file,) = folder.glob("corpus_embeddings_*.npy")
    index = FlexIndex(f"{folder}/index.flex", verbose=False)
    vectors = zip(sides.documents["docno"], np.load(file), strict=True)
    index.index([{"docno": docno, "doc_vec": vector} for docno, vector in vectors])
    peer, ours = partial(sides.peer, str(folder)), partial(sides.ours, index)
    compare("cached vectors", "float32", peer, ours, args)


if __name__ == "__main__":
    main()
