"""From a document collection to a trained reranker, on a collection that every Python carries.

    pip install -c examples/constraints.txt ".[demo]" && python examples/quickstart.py

A language model writes queries for docstrings of the standard library, filters drop the bad ones,
BM25 mines negatives, two rerankers are trained on the result, and all are judged on 100 topics
written by hand. Stopped and run again, it goes on where it was.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from pyterrier_inpars.demo import StdlibDocs, encoder, language_model

# The beginning of the query belongs to the prompt: so small a model, left to begin it, copies the
# document's first words.
HOW_DO_I = StaticPrompt(
    "Python documentation: {document}\n\nStack Overflow question: How do I {query}"
)


@dataclass
class Settings:
    """What a run depends on besides the collection, and what suits documents of a few lines."""

    prompt: Prompt
    documents: int = 640
    max_doc_tokens: int = 64
    round_trip: int = 100
    max_length: int = 128
    cross_encoder: bool = True
    seed: int = 0


def run(dataset: Any, settings: Settings, folder: Path) -> pd.DataFrame:
    """Generates, filters, mines, trains and evaluates; prints what each stage did.

    Args:
        dataset: a PyTerrier dataset: ``get_corpus_iter``, ``get_topics`` and ``get_qrels``.
        settings: see ``Settings``.
        folder: where the index, the queries and the trained rerankers are kept.

    Returns:
        The table of ``pt.Experiment``.
    """
    corpus = pd.DataFrame(dataset.get_corpus_iter())
    index = PisaIndex(str(folder / "index"), text_field="text")
    if not index.built():
        index.index(corpus.to_dict("records"))
    text = pt.apply.generic(lambda frame: frame.merge(corpus, on="docno"))
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
    print(f"{len(sample):,} documents, {len(written):,} queries, such as:")
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
    dual_encoder = BiEncoder(encoder(), max_length=settings.max_length, verbose=True)
    # in-batch negatives alone: of those mined in so small a collection, many are relevant
    dual_encoder.fit(examples[examples["label"] == 1])
    print(f"dual encoder: mean training loss {dual_encoder.train_loss:.3f}")
    models = {
        "untrained dual encoder": BiEncoder(encoder(), max_length=settings.max_length),
        "trained dual encoder": dual_encoder,
    }
    if settings.cross_encoder:
        cross_encoder = CrossEncoder(
            encoder(),
            max_length=settings.max_length // 2,  # it reads each document once for each query
            training={"learning_rate": 1e-4},  # its head starts from nothing, on few examples
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
    """Prints a heading with the time since the start."""
    print(f"\n== {name} ({time.monotonic() - START:.0f} s)", flush=True)


def show(table: pd.DataFrame) -> None:
    """Prints the measures and their p-values against BM25, by a paired t-test."""
    columns = [c for c in table.columns if c == "name" or c.endswith(("@10", "@100", "p-value"))]
    columns = [c for c in columns if not c.endswith((" +", " -"))]
    print(table[columns].to_string(index=False, float_format="{:.4f}".format))
    step("done")


START = time.monotonic()

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--folder", type=Path, default=Path("inpars-quickstart"), help="for results"
    )
    show(run(StdlibDocs(), Settings(HOW_DO_I), parser.parse_args().folder))
