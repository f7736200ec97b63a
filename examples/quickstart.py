"""Chooses, tunes and trains a ranking without labels, on the docstrings of the standard library.

    pip install -c examples/constraints.txt ".[demo]" && python examples/quickstart.py

A language model writes queries for docstrings. On these queries, lexical, dense and hybrid systems
are compared, a score fusion is tuned, and a small encoder is trained. At the end, 100 topics
written by hand show what the choice is worth; nothing else uses them. An interrupted generation
resumes in the next run.
"""

import argparse
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyterrier as pt
from pyterrier.measures import nDCG
from pyterrier_alpha.fusion import RRFusion
from pyterrier_dr import FlexIndex
from pyterrier_pisa import PisaIndex

from pyterrier_inpars import (
    BiEncoder,
    CopyFilter,
    DuplicateFilter,
    LengthFilter,
    OverlapFilter,
    Prompt,
    QueryGenerator,
    ScoreFusion,
    StaticPrompt,
    SyntheticQueries,
    VectorPRF,
    evaluation,
)
from pyterrier_inpars.datasets import Collection
from pyterrier_inpars.demo import (
    StdlibDocs,
    encoder,
    language_model,
    mute_native_log,
    strong_encoder,
)

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
        max_length: Number of tokens of the encoders' input.
        overlap: Largest share of a query's words that may be in its document.
        seed: Seed of the document sample.
    """

    prompt: Prompt
    documents: int = 400
    max_doc_tokens: int = 64
    max_length: int = 64
    overlap: float = 0.7
    seed: int = 0


def run(dataset: Collection, settings: Settings, folder: Path) -> pd.DataFrame:
    """Generates, filters, compares, tunes, trains and evaluates; prints what each stage gives.

    Args:
        dataset: Collection with topics and qrels.
        settings: Settings of the run.
        folder: Folder of the index and the queries.

    Returns:
        One row per system: nDCG@10 on synthetic queries and on the topics, and the p-value of a
        paired t-test over topics against BM25.
    """
    corpus = pd.DataFrame(dataset.get_corpus_iter())
    index = PisaIndex(str(folder / "index"), text_field="text")
    if not index.built():
        index.index(corpus.to_dict("records"))
    bm25 = index.bm25(num_results=100)

    step("generate")
    sample = corpus.sample(min(settings.documents, len(corpus)), random_state=settings.seed)
    queries = SyntheticQueries(folder / "queries")
    generator = QueryGenerator(
        language_model(),
        prompt=settings.prompt,
        max_doc_tokens=settings.max_doc_tokens,
        max_new_tokens=24,
        stop=["\n", "."],
        verbose=True,
    )
    (generator >> queries).index(sample.to_dict("records"))
    written = queries.get_results()
    print(f"{len(sample):,} documents, {len(written):,} queries, for example:")
    for query, docno in written[["query", "docno"]].head(5).itertuples(index=False):
        print(f"  {docno}: {query}")

    step("filter")
    stages = [
        LengthFilter(3),
        CopyFilter(),
        DuplicateFilter(),
        OverlapFilter(settings.overlap),
    ]
    kept = pt.Compose(*stages)(written)
    for stage in stages:
        print(f"{type(stage).__name__}: {stage.seen:,} queries in, {stage.dropped:,} dropped")
    to_train, to_choose = evaluation.split(kept, share=0.6)
    print(f"{len(to_train):,} queries to train with, {len(to_choose):,} to choose with")

    step("encode")
    # Each text is encoded once, for retrieval and for reranking.
    size = {"max_length": settings.max_length, "vector_cache": 2 * len(corpus)}
    mini, mpnet = BiEncoder(encoder(), **size), BiEncoder(strong_encoder(), **size)
    by_mini = dense(mini, corpus, folder / "minilm.flex")
    by_mpnet = dense(mpnet, corpus, folder / "mpnet.flex")

    step("choose")
    lexical = bm25 >> dataset.text_loader()
    hybrid = RRFusion(bm25, by_mini, by_mpnet, num_results=100) >> dataset.text_loader()
    fused = ScoreFusion([mini, mpnet])
    systems = {
        "BM25": bm25,
        "BM25, k1=1.2, b=0.75": index.bm25(k1=1.2, b=0.75, num_results=100),
        "DPH": index.dph(num_results=100),
        "BM25, reranked by mpnet": lexical >> mpnet,
        "BM25, reranked by fusion": lexical >> fused,
        "MiniLM": by_mini,
        "mpnet": by_mpnet,
        "BM25 + mpnet (RRF)": RRFusion(bm25, by_mpnet, num_results=100),
        "BM25 + MiniLM + mpnet (RRF)": hybrid,
        "RRF, reranked by mpnet": hybrid >> mpnet,
        "RRF, reranked by fusion": hybrid >> fused,
        "RRF, reranked with feedback": hybrid >> ScoreFusion(fused >> VectorPRF(mpnet)),
    }
    # Documents similar to a query's source are partly relevant, as in human judgements.
    qrels = evaluation.similar_qrels(to_choose, hybrid >> fused)
    print(evaluation.select(systems, to_choose, qrels=qrels))

    step("tune")
    # On other queries than those that choose: there, tuned weights look better than they are.
    tuned = ScoreFusion([mini, mpnet])
    tuned.tune(to_train, hybrid, qrels=evaluation.similar_qrels(to_train, hybrid >> fused))
    print(f"weights of RRF, MiniLM and mpnet: {tuned.weights}")
    systems["RRF, reranked by tuned fusion"] = hybrid >> tuned

    step("train")
    # So few queries need a larger share than the default for the check against the start.
    trained = BiEncoder(encoder(), **size, training={"held_out": 0.4})
    trained.fit(to_train.assign(label=1))
    print(trained.verdict.to_string(index=False))
    systems["MiniLM after training"] = dense(trained, corpus, folder / "trained.flex")

    step("evaluate")
    by_queries = evaluation.compare(systems, to_choose, qrels=qrels)
    by_topics = pt.Experiment(
        list(systems.values()),
        dataset.get_topics(),
        dataset.get_qrels(),
        [nDCG @ 10],
        names=list(systems),
        baseline=0,
    )
    table = pd.DataFrame(
        {
            "system": list(systems),
            "synthetic queries": by_queries["nDCG@10"],
            "topics": by_topics["nDCG@10"],
            "p against BM25": by_topics["nDCG@10 p-value"],
        }
    )
    return table.sort_values("synthetic queries", ascending=False, ignore_index=True)


def dense(model: BiEncoder, corpus: pd.DataFrame, path: Path) -> pt.Transformer:
    """Returns retrieval from the whole collection by the vectors of an encoder."""
    vectors = FlexIndex(str(path), verbose=False)
    indexer = vectors.indexer(mode="overwrite")
    documents = pt.tqdm(corpus.to_dict("records"), desc=path.stem, unit="documents")
    (model.doc_encoder() >> indexer).index(documents)
    return model.query_encoder() >> vectors.retriever(num_results=100, drop_query_vec=True)


def step(name: str) -> None:
    """Prints a heading and the seconds since the start."""
    print(f"\n== {name} ({time.monotonic() - START:.0f} s)", flush=True)


def show(table: pd.DataFrame) -> None:
    """Prints nDCG@10 of all systems, and the system that the synthetic queries choose."""
    formats = {"p against BM25": "{:.1g}".format}
    print(table.to_string(index=False, float_format="{:.3f}".format, formatters=formats, na_rep=""))
    chosen, bm25 = table.iloc[0], table[table["system"] == "BM25"].iloc[0]
    print(
        f"chosen by synthetic queries: {chosen['system']}, nDCG@10 {chosen['topics']:.3f} on the "
        f"topics, {chosen['topics'] / bm25['topics'] - 1:+.0%} over BM25 "
        f"(p = {chosen['p against BM25']:.1g})"
    )
    step("done")


START = time.monotonic()

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", type=int, default=400, help="number of source documents")
    parser.add_argument(
        "--folder", type=Path, default=Path("inpars-quickstart"), help="folder of the results"
    )
    arguments = parser.parse_args()
    mute_native_log()
    warnings.filterwarnings("ignore", module="pyterrier")
    show(run(StdlibDocs(), Settings(HOW_DO_I, documents=arguments.documents), arguments.folder))
