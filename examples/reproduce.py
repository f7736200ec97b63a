"""Reproduces a published method on a BEIR collection, and prints the method's published figures.

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

The published figures are from table 1 of the InPars Toolkit's paper (arXiv 2307.04601), for eleven
collections: for inpars-v1 and inpars-v2 the toolkit's reproductions, for promptagator the original
result, with queries by FLAN (137B parameters), and InPars-v2 with Promptagator's prompt. There are
none for gpl, whose paper evaluates dense retrieval.
"""

import argparse
import io
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

_PUBLISHED = """
collection        BM25   InPars-v1  InPars-v2  Promptagator  its-prompt
trec-covid        0.594  0.846      0.846      0.762         0.832
nfcorpus          0.321  0.385      0.385      0.370         0.357
hotpotqa          0.633  0.790      0.791      0.736         0.787
fiqa              0.236  0.492      0.509      0.494         0.487
arguana           0.397  0.371      0.369      0.630         0.529
webis-touche2020  0.442  0.260      0.291      0.381         0.327
dbpedia-entity    0.318  0.494      0.498      0.434         0.394
scidocs           0.149  0.206      0.208      0.201         0.192
fever             0.651  0.852      0.872      0.866         0.857
climate-fever     0.165  0.287      0.323      0.203         0.139
scifact           0.678  0.774      0.774      0.731         0.790
"""
PUBLISHED = pd.read_csv(io.StringIO(_PUBLISHED), sep=r"\s+", index_col="collection")
"""nDCG@10 of rows 1a, 3a, 3b, 4a and 4c of table 1 in arXiv 2307.04601."""
SYSTEMS = {
    "inpars-v1": {"BM25": "BM25", "InPars-v1": "InPars-v1"},
    "inpars-v2": {"BM25": "BM25", "InPars-v2": "InPars-v2"},
    "promptagator": {
        "BM25": "BM25",
        "Promptagator": "Promptagator, with FLAN",
        "its-prompt": "InPars-v2, with its prompt",
    },
}
"""Columns of `PUBLISHED` with the figures of a method, and what they are called."""


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


def published_figures(method: str, collection: str) -> pd.DataFrame:
    """Returns the published systems of a method and their nDCG@10; no row if there are none."""
    names = SYSTEMS.get(method, {}) if collection in PUBLISHED.index else {}
    figures = [(name, PUBLISHED.at[collection, column]) for column, name in names.items()]
    return pd.DataFrame(figures, columns=["published system", "nDCG@10"])


def show(settings: argparse.Namespace, table: pd.DataFrame) -> None:
    """Prints the results, and below them the published figures of the method, if there are any."""
    columns = ["name", "nDCG@10", "RR@10", "R@100", "nDCG@10 p-value"]
    print(table[columns].to_string(index=False, float_format="{:.4f}".format))
    known = published_figures(settings.method, settings.collection)
    if known.empty:
        print(f"\nThere are no figures of {settings.method} on {settings.collection} here.")
    else:
        print("\nInPars Toolkit (arXiv 2307.04601), table 1:")
        print(known.to_string(index=False, float_format="{:.3f}".format))


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
