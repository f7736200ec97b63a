"""From a document collection to a trained reranker, on the docstrings of the standard library.

    pip install -c examples/constraints.txt ".[demo]" && python examples/quickstart.py

A language model generates queries for docstrings, filters drop the bad ones, BM25 provides
negatives, two rerankers are trained on the result, and all are evaluated on 100 topics written by
hand. Takes about 8 minutes on two cores. If generation is interrupted, the next run resumes it.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyterrier as pt
from pyterrier.measures import RR, R, nDCG
from pyterrier_pisa import PisaIndex

from pyterrier_inpars import (
    BiEncoder,
    CopyFilter,
    CrossEncoder,
    DuplicateFilter,
    LengthFilter,
    NegativeMiner,
    Prompt,
    QueryGenerator,
    RoundTripFilter,
    StaticPrompt,
    SyntheticQueries,
)
from pyterrier_inpars.datasets import Collection
from pyterrier_inpars.demo import StdlibDocs, encoder, language_model

# The prompt contains the beginning of the query. Without it, a model this small copies the first
# words of the document.
HOW_DO_I = StaticPrompt(
    "Python documentation: {document}\n\nStack Overflow question: How do I {query}"
)


@dataclass
class Settings:
    """Settings of a run; the defaults suit documents of a few lines.

    Attributes:
        prompt: Prompt of the language model.
        documents: Number of documents to generate a query for.
        max_doc_tokens: Number of tokens of a document in the prompt.
        round_trip: Rank within which a query must retrieve its source document.
        max_length: Number of tokens of the encoder's input.
        cross_encoder: Whether to train a cross-encoder as well.
        seed: Seed of the document sample and the negatives.
    """

    prompt: Prompt
    documents: int = 640
    max_doc_tokens: int = 64
    round_trip: int = 100
    max_length: int = 128
    cross_encoder: bool = True
    seed: int = 0


def run(dataset: Collection, settings: Settings, folder: Path) -> pd.DataFrame:
    """Generates, filters, mines, trains and evaluates; prints the counts of each stage.

    Args:
        dataset: Collection with topics and qrels.
        settings: Settings of the run.
        folder: Folder of the index and the queries.

    Returns:
        Table of ``pt.Experiment``.
    """
    corpus = pd.DataFrame(dataset.get_corpus_iter())
    index = PisaIndex(str(folder / "index"), text_field="text")
    if not index.built():
        index.index(corpus.to_dict("records"))
    text = dataset.text_loader()
    bm25 = index.bm25(num_results=100)

    step("generate")
    sample = corpus.sample(min(settings.documents, len(corpus)), random_state=settings.seed)
    queries = SyntheticQueries(folder / "queries", shard_size=320)
    generator = QueryGenerator(
        language_model(),
        prompt=settings.prompt,
        max_doc_tokens=settings.max_doc_tokens,
        max_new_tokens=24,
        verbose=True,
    )
    (generator >> queries).index(sample.to_dict("records"), batch_size=320)
    written = queries.get_results()
    print(f"{len(sample):,} documents, {len(written):,} queries, for example:")
    for query, docno in written[["query", "docno"]].head(5).itertuples(index=False):
        print(f"  {docno}: {query}")

    step("filter and mine negatives")
    stages = [
        LengthFilter(3),
        CopyFilter(),
        DuplicateFilter(),
        RoundTripFilter(bm25, settings.round_trip),
        NegativeMiner(bm25, num_negatives=1, depth=100, texts=dataset, seed=settings.seed),
    ]
    examples = pt.Compose(*stages)(written)
    for stage in stages:
        print(f"{type(stage).__name__}: {stage.seen:,} queries in, {stage.dropped:,} dropped")
    print(f"{len(examples):,} examples, {examples['label'].sum():,} of them positive")

    step("train")
    bi_encoder = BiEncoder(encoder(), max_length=settings.max_length, verbose=True)
    # In-batch negatives only: in a collection this small, many of the mined ones are relevant.
    bi_encoder.fit(examples[examples["label"] == 1])
    print(f"bi-encoder: mean training loss {bi_encoder.train_loss:.3f}")
    models = {
        "untrained bi-encoder": BiEncoder(encoder(), max_length=settings.max_length),
        "trained bi-encoder": bi_encoder,
    }
    if settings.cross_encoder:
        cross_encoder = CrossEncoder(
            encoder(),
            max_length=settings.max_length // 2,  # encodes each document once per query
            training={"learning_rate": 1e-4},  # for a new scoring head and few examples
            verbose=True,
        )
        cross_encoder.fit(examples)
        print(f"cross-encoder: mean training loss {cross_encoder.train_loss:.3f}")
        models["trained cross-encoder"] = cross_encoder

    step("evaluate")
    return pt.Experiment(
        [bm25, *(bm25 >> text >> model for model in models.values())],
        dataset.get_topics(),
        dataset.get_qrels(),
        [nDCG @ 10, RR @ 10, R @ 100],
        names=["BM25", *models],
        baseline=0,
        verbose=True,
    )


def step(name: str) -> None:
    """Prints a heading and the seconds since the start."""
    print(f"\n== {name} ({time.monotonic() - START:.0f} s)", flush=True)


def show(table: pd.DataFrame) -> None:
    """Prints the measures and the p-values of paired t-tests against BM25."""
    columns = [c for c in table.columns if c == "name" or c.endswith(("@10", "@100", "p-value"))]
    columns = [c for c in columns if not c.endswith((" +", " -"))]
    print(table[columns].to_string(index=False, float_format="{:.4f}".format))
    step("done")


START = time.monotonic()

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", type=int, default=640, help="number of source documents")
    parser.add_argument(
        "--folder", type=Path, default=Path("inpars-quickstart"), help="folder of the results"
    )
    arguments = parser.parse_args()
    show(run(StdlibDocs(), Settings(HOW_DO_I, documents=arguments.documents), arguments.folder))
