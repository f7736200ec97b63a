"""Compares ways of training a small encoder as a reranker on synthetic queries.

    python examples/effectiveness_training.py path/to/collection [--prompt topics] [--ways WAY ...]

The collection is in BEIR's folder layout, see beir_folder.py. The demo language model generates
queries from a prompt with five topics of the collection (``--prompt topics``) or without examples
(``--prompt about``). Both evaluations exclude those five topics. Each trained model reranks the top
results of BM25, alone and in score fusion with BM25. Every run appends one line to a results file,
and a later call skips the runs in that file. Without ``--ways``, all ways in ``Bench.ways`` run.
With the default options this takes days on two cores; smaller ``--sizes``, ``--few``, ``--depth``
and ``--max-length`` reduce it to hours. Use one folder per combination of these options. See
effectiveness.md for results.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
from pyterrier.measures import nDCG
from pyterrier_pisa import PisaIndex
from scipy.stats import ttest_rel

from pyterrier_inpars import (
    BiEncoder,
    CopyFilter,
    CrossEncoder,
    DuplicateFilter,
    FalseNegativeFilter,
    FewShotPrompt,
    LengthFilter,
    NegativeMiner,
    QueryGenerator,
    QueryLikelihood,
    RoundTripFilter,
    ScoreFusion,
    StaticPrompt,
    SyntheticQueries,
)
from pyterrier_inpars.datasets import BeirFolder, judged_pairs
from pyterrier_inpars.demo import encoder, language_model
from pyterrier_inpars.evaluation import exclude_fewshot_topics

TOPICS = "{document}\nThis abstract is about {query}\n\n"
ABOUT = "Abstract: {document}\n\nThis article is about the {query}"
SAMPLED = 4
"""Queries per document if they are sampled."""
LISTED = 10
"""Documents per query if the student learns the teacher's scores of a whole list."""
LONGER = {"num_train_epochs": 3, "learning_rate": 5e-5}
"""Longer than the default of the package: one epoch at 2e-5."""
LIKELIHOOD = "query likelihood"
"""The untrained language model as reranker."""


class Bench:
    """A collection with its first stage, its synthetic queries, and the ways to train on them.

    Args:
        collection: Folder of the collection.
        folder: Folder of the queries and the results.
        prompt: ``topics`` or ``about``.
        sizes: Numbers of synthetic queries, ascending.
        few: Number of queries for cross-encoders and teachers.
        depth: Depth of the BM25 ranking.
        max_length: Number of tokens of the encoder's input.
    """

    def __init__(
        self,
        collection: Path,
        folder: Path,
        prompt: str,
        sizes: list[int],
        few: int,
        depth: int,
        max_length: int,
    ):
        self.sizes, self.few, self.depth, self.max_length = sizes, few, depth, max_length
        self.dataset = BeirFolder(collection)
        self.folder = folder
        corpus = pd.DataFrame(self.dataset.get_corpus_iter())
        self.corpus = corpus[corpus["text"].str.strip() != ""]
        index = PisaIndex(str(folder / "index"), text_field="text")
        if not index.built():
            index.index(self.corpus.to_dict("records"))
        self.bm25 = index.bm25(num_results=depth)
        pairs = judged_pairs(self.dataset).groupby("qid").head(1)
        shown = FewShotPrompt(pairs, num_examples=5, seed=1, template=TOPICS)
        self.name = prompt
        self.prompt = shown if prompt == "topics" else StaticPrompt(ABOUT)
        self.topics = exclude_fewshot_topics(self.dataset.get_topics(), shown.examples)
        qrels = self.dataset.get_qrels()
        self.qrels = qrels[qrels["qid"].isin(self.topics["qid"])]
        self.first = self.bm25(self.topics).merge(self.corpus, on="docno")
        self.teacher = QueryLikelihood(
            language_model(), prompt=self.prompt, max_doc_tokens=160, verbose=True
        )
        self.queries = cache(self._queries)
        self.returned = cache(self._returned)
        self.teacher_pairs = cache(partial(self._stored, "teacher", self._teacher_pairs))
        self.fusion_lists = cache(partial(self._stored, "fusion", self._fusion_lists))

    def written(self, per_document: int) -> pd.DataFrame:
        """Returns all queries: one per document, or several sampled ones for fewer documents."""
        most = self.sizes[-1] if per_document == 1 else self.sizes[0] // per_document
        documents = self.corpus.sample(frac=1, random_state=0)[:most]
        sampling = {"temperature": 0.7} if per_document > 1 else None
        generator = QueryGenerator(
            language_model(),
            prompt=self.prompt,
            max_doc_tokens=160,
            max_new_tokens=32,
            num_queries=per_document,
            sampling=sampling,
            verbose=True,
        )
        name = f"{self.name}-{len(documents)}x{per_document}.queries"
        queries = SyntheticQueries(self.folder / name, shard_size=256)
        if not queries.built():
            (generator >> queries).index(documents.to_dict("records"), batch_size=256)
        return queries.get_results()

    def _queries(self, number: int, per_document: int = 1) -> pd.DataFrame:
        """Returns the queries of the first documents, without short ones, copies and duplicates."""
        written = self.written(per_document)
        documents = written["docno"].drop_duplicates()[: number // per_document]
        chosen = written[written["docno"].isin(documents)]
        return (LengthFilter(3) >> CopyFilter() >> DuplicateFilter())(chosen)

    def _returned(self, number: int, per_document: int = 1) -> pd.DataFrame:
        """Returns the queries whose source document BM25 ranks first."""
        return RoundTripFilter(self.bm25, 1)(self.queries(number, per_document))

    def few_returned(self) -> pd.DataFrame:
        """Returns the first of them, for slow training or a slow teacher."""
        return self.returned(self.sizes[-1])[: self.few]

    def mined(
        self,
        queries: pd.DataFrame,
        number: int,
        seed: int,
        retriever: pt.Transformer | None = None,
    ) -> pd.DataFrame:
        """Returns examples with negatives of BM25, or of another retriever."""
        miner = NegativeMiner(
            retriever or self.bm25,
            num_negatives=number,
            depth=self.depth,
            texts=self.dataset,
            seed=seed,
        )
        return miner(queries)

    def _stored(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Returns the scores of a teacher, from the folder if an earlier run stored them."""
        file = self.folder / f"{self.name}-{name}.parquet"
        if not file.exists():
            part = file.with_suffix(".part")
            make().to_parquet(part)
            part.replace(file)
        return pd.read_parquet(file)

    def _teacher_pairs(self) -> pd.DataFrame:
        """Returns a few queries with 4 mined negatives, scored by the language model."""
        return self.teacher(self.mined(self.few_returned(), 4, seed=0))

    def _fusion_lists(self) -> pd.DataFrame:
        """Returns the top results of BM25 for a few queries, scored by fusion of three systems.

        The systems are BM25, the language model and the untrained encoder. There are no labels.
        """
        queries = self.few_returned()[["qid", "query"]]
        returned = (self.bm25 % LISTED)(queries).merge(self.corpus, on="docno")
        return (ScoreFusion(self.teacher) >> ScoreFusion(self.bi_encoder()))(returned)

    def dense(self, model: BiEncoder) -> pt.Transformer:
        """Returns an exhaustive dense retriever over all documents."""
        network = model.network
        documents = network.encode_document(
            self.corpus["text"].tolist(), normalize_embeddings=True, batch_size=64
        )
        docnos = self.corpus["docno"].to_numpy()

        def retrieve(topics: pd.DataFrame) -> pd.DataFrame:
            vectors = network.encode_query(topics["query"].tolist(), normalize_embeddings=True)
            scores = vectors @ documents.T
            best = np.argsort(-scores, axis=1)[:, : self.depth]
            rows = topics.loc[topics.index.repeat(best.shape[1])].reset_index(drop=True)
            rows["docno"] = docnos[best.ravel()]
            rows["score"] = np.take_along_axis(scores, best, axis=1).ravel()
            return pt.model.add_ranks(rows)

        return pt.apply.generic(retrieve)

    def bi_encoder(self, seed: int = 0, **training: Any) -> BiEncoder:
        return BiEncoder(encoder(), max_length=self.max_length, training={"seed": seed, **training})

    def cross_encoder(self, seed: int, **training: Any) -> CrossEncoder:
        return CrossEncoder(
            encoder(),
            max_length=self.max_length,
            # A high learning rate for a new scoring head and few examples.
            training={"seed": seed, "learning_rate": 1e-4, **training},
        )

    # Each way takes a seed and returns a trained reranker.

    def in_batch(self, seed: int, queries: pd.DataFrame, **training: Any) -> BiEncoder:
        return self.bi_encoder(seed, **training).fit(queries.assign(label=1))

    def second_round(self, seed: int, number: int) -> BiEncoder:
        """Trains, filters by its own round trip, and trains on (arXiv 2209.11755, section 3.2)."""
        queries = self.queries(number)
        model = self.in_batch(seed, queries)
        kept = RoundTripFilter(self.dense(model), 1)(queries)
        return model.fit(kept.assign(label=1))

    def without_false_negatives(self, seed: int) -> BiEncoder:
        examples = FalseNegativeFilter()(self.teacher_pairs())
        return self.bi_encoder(seed).fit(examples)

    def by_halves(self, seed: int, **training: Any) -> pt.Transformer:
        """Reranks each half of the topics with a model trained on the qrels of the other half.

        Human queries and judgements give an upper bound for synthetic queries.
        """
        pairs = judged_pairs(self.dataset, topics=self.topics, qrels=self.qrels)
        shuffled = self.topics["qid"].sample(frac=1, random_state=seed)
        halves = [set(shuffled.iloc[half::2]) for half in (0, 1)]
        learned = [
            self.in_batch(seed, pairs[~pairs["qid"].isin(half)], **training) for half in halves
        ]

        def rerank(results: pd.DataFrame) -> pd.DataFrame:
            parts = zip(learned, halves, strict=True)
            return pd.concat([model(results[results["qid"].isin(half)]) for model, half in parts])

        return pt.apply.generic(rerank)

    def ways(self) -> dict[str, Callable[[int], Any]]:
        small, middle = self.sizes[0], self.sizes[min(1, len(self.sizes) - 1)]
        encoded = cache(lambda: self.dense(self.bi_encoder()))
        unfiltered = cache(lambda: self.queries(self.sizes[-1])[: self.few])

        def in_batch(number: int, returned: bool) -> Callable[[int], BiEncoder]:
            chosen = self.returned if returned else self.queries
            return lambda s: self.in_batch(s, chosen(number))

        def crossed(
            loss: str, negatives: int, queries: Any = self.few_returned
        ) -> Callable[[int], CrossEncoder]:
            return lambda s: self.cross_encoder(s, loss=loss).fit(
                self.mined(queries(), negatives, s)
            )

        return {
            **{f"in-batch, {n}": in_batch(n, False) for n in self.sizes},
            **{f"in-batch, {n}, round trip": in_batch(n, True) for n in self.sizes},
            f"in-batch, {small}, {SAMPLED} per document, round trip": lambda s: self.in_batch(
                s, self.returned(small, SAMPLED)
            ),
            f"in-batch, {middle}, longer": lambda s: self.in_batch(
                s, self.queries(middle), **LONGER
            ),
            f"second round, {middle}": lambda s: self.second_round(s, middle),
            f"mined, {middle}, round trip": lambda s: self.bi_encoder(s).fit(
                self.mined(self.returned(middle), 1, s)
            ),
            f"mined by the encoder, {middle}, round trip": lambda s: self.bi_encoder(s).fit(
                self.mined(self.returned(middle), 1, s, encoded())
            ),
            "teacher, margin-MSE": lambda s: self.bi_encoder(s, loss="margin_mse").fit(
                self.teacher_pairs()
            ),
            "teacher, distillation": lambda s: self.bi_encoder(s, loss="distillation").fit(
                self.teacher_pairs()
            ),
            "fusion teacher": lambda s: self.bi_encoder(s, loss="distillation").fit(
                self.fusion_lists()
            ),
            "no false negatives": self.without_false_negatives,
            "qrels of the other half": self.by_halves,
            "qrels of the other half, longer": lambda s: self.by_halves(s, **LONGER),
            "CE pointwise, 1 negative": crossed("pointwise", 1),
            "CE pairwise, 4 negatives": crossed("pairwise", 4),
            "CE listwise, 4 negatives": crossed("listwise", 4),
            "CE listwise, 8 negatives": crossed("listwise", 8),
            "CE listwise, 4 negatives, no round trip": crossed("listwise", 4, unfiltered),
            "CE fusion teacher": lambda s: self.cross_encoder(s, loss="distillation").fit(
                self.fusion_lists()
            ),
        }

    def measure(self, model: pt.Transformer | None) -> dict[str, dict[str, float]]:
        """Returns nDCG@10 of each topic: BM25 reranked by the model, alone and in score fusion."""
        runs = {"alone": self.first}
        if model is not None:
            reranked = model(self.first)
            fused = ScoreFusion(pt.apply.generic(lambda _: reranked))(self.first)
            runs = {"alone": reranked, "fusion": fused}
        table = pt.Experiment(
            list(runs.values()),
            self.topics,
            self.qrels,
            [nDCG @ 10],
            names=list(runs),
            perquery=True,
        )
        by_run = table.assign(value=table["value"].round(5)).groupby("name", sort=False)
        return {run: dict(zip(rows["qid"], rows["value"], strict=True)) for run, rows in by_run}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("collection", type=Path)
    parser.add_argument("--ways", nargs="*", metavar="WAY", help="ways to run; default: all")
    parser.add_argument("--prompt", choices=["topics", "about"], default="topics")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[1_000, 4_000, 10_000],
        help="numbers of synthetic queries; the smallest also with 4 sampled queries per document",
    )
    parser.add_argument(
        "--few", type=int, default=500, help="number of queries for cross-encoders and teachers"
    )
    parser.add_argument("--depth", type=int, default=100, help="depth of the BM25 ranking")
    parser.add_argument("--max-length", type=int, default=128, help="number of tokens of the input")
    parser.add_argument("--folder", type=Path, help="folder of the queries and the results")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    folder = arguments.folder or Path(f"inpars-effectiveness-{arguments.collection.name}")
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        arguments.collection,
        folder,
        arguments.prompt,
        sorted(arguments.sizes),
        arguments.few,
        arguments.depth,
        arguments.max_length,
    )
    file = folder / f"{arguments.prompt}.jsonl"
    ways = bench.ways()
    untrained = {"BM25": None, "untrained": bench.bi_encoder(), LIKELIHOOD: bench.teacher}
    known = [*ways, LIKELIHOOD]
    chosen = arguments.ways or known
    for way in chosen:
        if way not in known:
            sys.exit(f"unknown way {way!r}: choose from {', '.join(known)}")
    results = read(file)
    for seed in range(arguments.seeds):
        for way in ["BM25", "untrained", *chosen]:
            if (way in untrained and seed > 0) or (way, seed) in results:
                continue
            start = time.monotonic()
            model = untrained[way] if way in untrained else ways[way](seed)
            row = {"way": way, "seed": seed}
            provenance = getattr(model, "provenance", None)
            row |= {"loss": getattr(model, "train_loss", None)}
            row |= {"examples": provenance and provenance["settings"]["examples"]["rows"]}
            row |= {"seconds": round(time.monotonic() - start)}
            print(row, flush=True)
            with file.open("a") as out:
                out.write(json.dumps(row | bench.measure(model)) + "\n")
    show(pd.DataFrame(read(file).values()), [*untrained, *ways])


def read(file: Path) -> dict[tuple[str, int], dict[str, Any]]:
    if not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {(row["way"], row["seed"]): row for row in rows}


def show(results: pd.DataFrame, ways: list[str]) -> None:
    """Prints a Markdown table: mean and standard deviation over seeds, p against the untrained.

    Rows follow the order of the ways; ways of an earlier version come last. The p-value is that of
    a paired t-test over topics, with the mean over seeds for each topic.
    """
    print("| way | examples | nDCG@10 | p | fused with BM25 | p | seeds |")
    print("|---|---|---|---|---|---|---|")
    untrained = results[results["way"] == "untrained"].iloc[0]
    place = {way: number for number, way in enumerate(ways)}
    ordered = results.sort_values("way", key=lambda names: names.map(place), kind="stable")
    for way, runs in ordered.groupby("way", sort=False):
        cells = []
        for run in ("alone", "fusion"):
            if runs[run].isna().any():
                cells += ["", ""]
                continue
            topics = pd.DataFrame(runs[run].tolist())  # one row per seed
            seeds, base = topics.mean(axis=1), pd.Series(untrained[run])
            spread = f" ± {seeds.std(ddof=0):.4f}" if len(seeds) > 1 else ""
            p = ttest_rel(topics.mean(), base[topics.columns]).pvalue
            cells += [f"{seeds.mean():.4f}{spread}", "" if np.isnan(p) else f"{p:.2g}"]
        examples = runs["examples"].iloc[0]
        count = "" if pd.isna(examples) else f"{examples:,.0f}"
        print(f"| {way} | {count} | {' | '.join(cells)} | {len(runs)} |")


if __name__ == "__main__":
    main()
