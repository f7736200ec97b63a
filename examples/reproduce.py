"""Reproduces a published method on a BEIR collection, and prints published figures beside its own.

    pip install -c examples/constraints.txt ".[pyserini]"
    python examples/reproduce.py --collection scifact --method inpars-v1

Needs the Hugging Face hub and, for the default models with three to seven billion parameters, a
GPU with 80 GB. Index, topics and qrels are those of Pyserini. Each stage stores its result in the
output folder, so that an interrupted run resumes.

Methods:
    inpars-v1     Queries by GPT-3 (published), the 10,000 of highest log-probability; trains monoT5
                  (arXiv 2202.05144).
    inpars-v2     Queries by GPT-J 6B (published), the 10,000 of highest monoT5-3B score; trains
                  monoT5 (arXiv 2301.01820).
    promptagator  Eight queries per document by --language_model, with the collection's examples,
                  whose document BM25 ranks first; trains monoT5 (arXiv 2209.11755).
    gpl           Queries as in inpars-v2, scored by a cross-encoder; trains a bi-encoder on the
                  score margins (arXiv 2112.07577), which reranks BM25.
"""

import argparse
import json
from pathlib import Path

import pandas as pd
import pyterrier as pt
from pyterrier.measures import RR, R, nDCG

from pyterrier_inpars import (
    BiEncoder,
    CrossEncoder,
    FewShotPrompt,
    LuceneIndex,
    MonoT5,
    NegativeMiner,
    QueryGenerator,
    RoundTripFilter,
    ScoreFilter,
    SyntheticQueries,
    datasets,
    evaluation,
    load_prompt,
    load_reranker,
)
from pyterrier_inpars.datasets import beir, published

RERANKERS = {
    "inpars-v1": "castorini/monot5-3b-msmarco-10k",
    "inpars-v2": "castorini/monot5-3b-msmarco-10k",
    "promptagator": "castorini/monot5-3b-msmarco-10k",
    "gpl": "sentence-transformers/msmarco-distilbert-base-tas-b",
}
TEACHER = "cross-encoder/ms-marco-MiniLM-L-6-v2"

PUBLISHED = pd.DataFrame(
    [
        ("scifact", "BM25", 0.6789),
        ("scifact", "InPars", 0.7700),
        ("scifact", "InPars+ (chain of thought)", 0.7857),
        ("trec-covid", "BM25", 0.5947),
        ("trec-covid", "InPars", 0.8237),
        ("trec-covid", "InPars+ (chain of thought)", 0.8563),
        ("nfcorpus", "BM25", 0.3218),
        ("nfcorpus", "InPars", 0.3728),
        ("nfcorpus", "InPars+ (chain of thought)", 0.3896),
    ],
    columns=["collection", "published system", "nDCG@10"],
)
"""Figures of the result files of InPars+ (arXiv 2508.13930, github.com/danilotpnta/IR2-project)."""


def main(settings: argparse.Namespace) -> pd.DataFrame:
    """Runs generation or download, filtering, training and evaluation; returns the results."""
    folder = settings.folder or Path(f"reproduce-{settings.collection}-{settings.method}")
    folder.mkdir(parents=True, exist_ok=True)
    source = settings.dataset or settings.collection
    dataset = datasets.collection(source, "pyserini")
    index = index_of(dataset, folder)
    bm25, text = index.bm25(num_results=settings.depth), dataset.text_loader()
    topics = dataset.get_topics()

    model = folder / "model"
    if not model.exists():
        queries = filtered(settings, folder, dataset, bm25)
        print(f"{len(queries):,} queries, for example:", *queries["query"].head(3), sep="\n  ")
        train(settings, queries, bm25, dataset).save(model)
    if settings.method == "promptagator":
        topics = evaluation.exclude_fewshot_topics(topics, prompt_of(settings, dataset))

    own = [evaluation.ExcludeQueryDocument()] * (settings.collection in beir.QUERY_IS_DOCUMENT)
    first_stage = pt.Compose(bm25, *own) if own else bm25
    table = pt.Experiment(
        [first_stage, first_stage >> text >> load_reranker(model, batch_size=settings.batch_size)],
        topics,
        dataset.get_qrels(),
        [nDCG @ 10, RR @ 10, R @ 100],
        names=["BM25", settings.method],
        baseline=0,
    )
    table.to_csv(folder / "results.tsv", sep="\t", index=False)
    provenance = {name: str(value) for name, value in vars(settings).items()}
    (folder / "settings.json").write_text(json.dumps(provenance, indent=2) + "\n")
    return table


def index_of(dataset, folder: Path) -> LuceneIndex:
    """Returns Pyserini's prebuilt index of the collection, or one that is built for a folder."""
    if hasattr(dataset, "index"):
        return dataset.index
    index = LuceneIndex(folder / "index")
    if not index.built():
        index.index(dataset.get_corpus_iter())
    return index


def filtered(settings, folder: Path, dataset, bm25) -> pd.DataFrame:
    """Returns the synthetic queries of a method after its filter."""
    if settings.method == "promptagator":
        return RoundTripFilter(bm25, 1)(generated(settings, folder, dataset).get_results())
    version = "inpars-v1" if settings.method == "inpars-v1" else "inpars-v2"
    queries = pd.DataFrame(published.read_queries(version, settings.collection))
    if "text" not in queries:
        queries = dataset.text_loader()(queries)
    select = ScoreFilter(settings.num_queries)
    if settings.method != "inpars-v1":
        select = MonoT5(RERANKERS["inpars-v2"], batch_size=settings.batch_size) >> select
    return select(queries)


def generated(settings, folder: Path, dataset) -> SyntheticQueries:
    """Returns queries that the language model writes for a sample of the documents."""
    queries = SyntheticQueries(folder / "queries")
    generator = QueryGenerator(
        settings.language_model,
        prompt=prompt_of(settings, dataset),
        num_queries=8,
        sampling={"temperature": 0.7, "seed": settings.seed},
    )
    documents = datasets.sample(
        dataset.get_corpus_iter(), max(1, settings.num_queries // 8), seed=settings.seed
    )
    (generator >> queries).index(documents)
    return queries


def prompt_of(settings, dataset) -> FewShotPrompt:
    """Returns the prompt with published examples, or with judged pairs of a folder's collection."""
    name = f"promptagator-{settings.collection}"
    if settings.dataset:
        return load_prompt(name, examples=datasets.judged_pairs(dataset))
    return load_prompt(name)


def train(settings, queries: pd.DataFrame, bm25, dataset):
    """Returns the reranker of a method, trained on the queries."""
    miner = NegativeMiner(bm25, depth=settings.depth, texts=dataset, seed=settings.seed)
    model = settings.reranker or RERANKERS[settings.method]
    if settings.method == "gpl":
        training = {"recipe": "gpl", "held_out": 0, "seed": settings.seed}
        reranker = BiEncoder(model, training=training)
        examples = (miner >> CrossEncoder(TEACHER, batch_size=settings.batch_size))(queries)
    else:
        reranker = MonoT5(model, training={"recipe": "inpars", "seed": settings.seed})
        examples = miner(queries)
    reranker.fit(examples)
    return reranker


def show(settings: argparse.Namespace, table: pd.DataFrame) -> None:
    """Prints the results, and below them the published figures for the collection."""
    columns = ["name", "nDCG@10", "RR@10", "R@100", "nDCG@10 p-value"]
    print(table[columns].to_string(index=False, float_format="{:.4f}".format))
    known = PUBLISHED[PUBLISHED["collection"] == settings.collection].drop(columns="collection")
    if known.empty:
        print(f"\nNo published figures for {settings.collection} are part of this script.")
    else:
        print("\nInPars+ (arXiv 2508.13930), result files:")
        print(known.to_string(index=False, float_format="{:.4f}".format))


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--collection", default="scifact", choices=beir.COLLECTIONS, metavar="NAME")
    parser.add_argument("--method", default="inpars-v1", choices=RERANKERS)
    parser.add_argument("--dataset", help="collection in BEIR's folder layout, to be indexed here")
    parser.add_argument("--reranker", help="model to train, in place of the method's own")
    parser.add_argument("--language_model", default="EleutherAI/gpt-j-6B")
    parser.add_argument(
        "--num_queries", type=int, default=10_000, help="queries to select, or to generate"
    )
    parser.add_argument("--depth", type=int, default=1000, help="documents to rerank and mine from")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="folder of the results")
    return parser.parse_args(words)


if __name__ == "__main__":
    settings = arguments()
    show(settings, main(settings))
