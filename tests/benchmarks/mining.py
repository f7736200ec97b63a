"""Compares mining with PISA and mining with Pyserini's ``LuceneSearcher.batch_search``.

    python tests/benchmarks/mining.py [path/to/collection] [--queries 5000] [--depth 1000]

The collection is in BEIR's folder layout; default is the demo collection. A query consists of
consecutive words of a document. The peer uses Pyserini's searcher with the BM25 parameters of
InPars, and a plain implementation of the miner's documented draws. Both engines use two threads;
indexing is not timed.

The engines tokenize differently, so their rankings differ. Checked first: a ``NegativeMiner`` over
the same Lucene index returns the peer's negatives, and with PISA it returns those that the plain
draws select from PISA's own ranking.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
from pyterrier_pisa import PisaIndex

from pyterrier_inpars import NegativeMiner
from pyterrier_inpars._retrieval import clean, fold
from pyterrier_inpars.datasets import BeirFolder
from pyterrier_inpars.datasets.lucene import LuceneIndex
from pyterrier_inpars.demo import StdlibDocs

THREADS = 2
SEED = 0
TOGETHER = 500
"""Queries per call of the peer's batch search: more exceed the JVM's heap, fewer are slower."""

Negatives = dict[str, str]


def queries(documents: pd.DataFrame, number: int) -> pd.DataFrame:
    """Returns queries of four to twelve consecutive words of a document."""
    rng = np.random.default_rng(SEED)
    rows: list[tuple[str, str, str, str]] = []
    while len(rows) < number:
        docno, text = documents.iloc[rng.integers(len(documents))]
        words = clean(text).split()
        length = int(rng.integers(4, 13))
        if len(words) > length:
            start = rng.integers(len(words) - length)
            query = " ".join(words[start : start + length])
            rows.append((f"q{len(rows)}", query, docno, text))
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text"])


def draw(
    topics: pd.DataFrame, rankings: Iterable[tuple[str, list[str]]], texts: dict[str, str]
) -> Negatives:
    """Draws one negative per ranking, as the documentation of NegativeMiner specifies."""
    source = {row.qid: row.docno for row in topics.itertuples()}
    negatives = {}
    for qid, docnos in rankings:
        number = int.from_bytes(sha256(f"{SEED} {qid}".encode()).digest(), "big")
        own = fold(texts[source[qid]])
        for i in np.random.default_rng(number).permutation(len(docnos)):
            if docnos[i] != source[qid] and fold(texts[docnos[i]]) != own:
                negatives[qid] = docnos[i]
                break
    return negatives


def searched(searcher, topics: pd.DataFrame, depth: int) -> Iterator[tuple[str, list[str]]]:
    for start in range(0, len(topics), TOGETHER):
        batch = topics[start : start + TOGETHER]
        hits = searcher.batch_search(
            batch["query"].tolist(), batch["qid"].tolist(), k=depth, threads=THREADS
        )
        for qid, found in hits.items():
            yield qid, [hit.docid for hit in found]


def mined(miner: NegativeMiner, topics: pd.DataFrame) -> Negatives:
    examples = miner(topics)
    examples = examples[examples["label"] == 0]
    return dict(zip(examples["qid"], examples["docno"], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("collection", nargs="?", type=Path)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    dataset = BeirFolder(arguments.collection) if arguments.collection else StdlibDocs()
    documents = pd.DataFrame(dataset.get_corpus_iter())[["docno", "text"]]
    texts = dict(zip(documents["docno"], documents["text"], strict=True))
    topics = queries(documents, arguments.queries)
    depth = arguments.depth
    loader = pt.apply.generic(lambda frame: frame.assign(text=frame["docno"].map(texts)))

    with tempfile.TemporaryDirectory() as folder:
        records = documents.to_dict("records")
        pisa = PisaIndex(f"{folder}/pisa", text_field="text", threads=THREADS)
        pisa.index(records)
        lucene = LuceneIndex(f"{folder}/lucene")
        lucene.index(records)  # starts the JVM, which Pyserini's import would not find
        os.environ.setdefault("OPENAI_API_KEY", "unused, but required by the import of Pyserini")
        from pyserini.search.lucene import LuceneSearcher

        searcher = LuceneSearcher(f"{folder}/lucene")
        searcher.set_bm25(k1=0.9, b=0.4)

        def ours(retriever: pt.Transformer) -> NegativeMiner:
            return NegativeMiner(retriever, depth=depth, seed=SEED, texts=loader)

        def peer() -> Negatives:
            return draw(topics, searched(searcher, topics, depth), texts)

        bm25 = pisa.bm25(num_results=depth, threads=THREADS)
        miner = ours(bm25)
        few = topics[:500]
        same = mined(ours(lucene.bm25(num_results=depth)), few)
        if same != draw(few, searched(searcher, few, depth), texts):
            sys.exit("the negatives from the same index differ from the peer's")
        ranking = bm25(few[["qid", "query"]]).groupby("qid")["docno"]
        ranked = ((qid, docnos.tolist()) for qid, docnos in ranking)
        if mined(miner, few) != draw(few, ranked, texts):
            sys.exit("the negatives differ from plain draws from PISA's ranking")
        print(f"the negatives of {len(few)} queries are equal")

        ratios = []
        for run in range(arguments.runs):
            seconds, found = {}, {}
            for side in ("peer", "ours")[:: 1 if run % 2 else -1]:
                start = time.perf_counter()
                found[side] = len(peer() if side == "peer" else mined(miner, topics))
                seconds[side] = time.perf_counter() - start
            ratios.append(seconds["peer"] / seconds["ours"])
            print(
                f"peer {seconds['peer']:.1f} s for {found['peer']} negatives, "
                f"ours {seconds['ours']:.2f} s for {found['ours']}",
                flush=True,
            )
        print(f"mining: median speedup ×{statistics.median(ratios):.1f}")


if __name__ == "__main__":
    main()
