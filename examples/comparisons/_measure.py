"""Measures sets of synthetic queries of the same documents; see llms.py, prompts.py, filters.py."""

import argparse
import json
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyterrier as pt
from pyterrier.measures import nDCG
from scipy.stats import ttest_rel

from pyterrier_inpars import (
    CopyFilter,
    DuplicateFilter,
    OverlapFilter,
    QueryGenerator,
    RelevanceJudge,
    RoundTripFilter,
    ScoreFusion,
    SyntheticQueries,
    datasets,
    demo,
    evaluation,
)

sys.path.append(str(Path(__file__).parents[1]))

import effectiveness
from _choice import Choices, choice_of, columns_of
from _student import Student
from _summary import Outcome, Summary
from _tables import show
from effectiveness import BASELINE, OVERLAP, SIMILAR

MIN_WORDS = 12
"""Shorter documents get no query."""
STORED = 50
"""Number of documents after which queries are stored."""
KEPT = 10
"""Number of results per query that are stored: those that nDCG@10 reads."""
_ANSWER = re.compile(
    r"(sure|certainly|of course|sorry|here (is|are|'s)|as an ai|i (am|can|cannot|can't)|"
    r"(the |this )?(document|passage|text|search query|relevant query|query|example)\b.{0,20}"
    r"(:| is | describes | discusses )|[`{<\[])",
    re.IGNORECASE,
)


class Run(NamedTuple):
    """A model with the options of its `QueryGenerator`."""

    name: str
    model: str
    options: dict[str, Any]


class Bench:
    """A collection with its systems, a sample of its documents, and what is measured on them.

    Queries, judgements and results are stored in the folder, which several comparisons may share.

    Args:
        arguments: Arguments of the command line; see `arguments_of`.
        collection: The collection and its systems.
        seed: Seed of the sample.
    """

    def __init__(self, arguments: argparse.Namespace, collection: effectiveness.Bench, seed: int):
        self.arguments, self.bench, self.seed = arguments, collection, seed
        self.folder: Path = arguments.folder / f"seed-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.dataset, self.encoder = self.bench.dataset, self.bench.mini
        corpus = self.dataset.get_corpus_iter()
        long = [row for row in corpus if len(row["text"].split()) >= MIN_WORDS]
        self.sample = datasets.sample(long, arguments.documents, seed)

    @cached_property
    def systems(self) -> dict[str, pt.Transformer]:
        """The systems to choose from, ``BASELINE`` first.

        They are those of effectiveness.py, by default without the second encoder and without
        feedback, which take most of the time.
        """
        systems = self.bench.systems
        if self.arguments.all_systems:
            return systems
        return {
            name: system
            for name, system in systems.items()
            if "feedback" not in name and "mpnet" not in name
        }

    def generate(self, run: Run) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Writes the queries of a run, or reads those of an earlier call.

        Returns:
            The queries, and ``seconds`` (of CPU time), ``copied`` and ``empty`` of the generation.
            There are no seconds of a resumed run, whose counts are those of its last part, and of a
            server.
        """
        queries = SyntheticQueries(self.folder / f"{slug(run.name)}.queries", shard_size=STORED)
        file = self.folder / f"{slug(run.name)}.json"
        if not queries.built():
            say(f"generate: {run.name}")
            resumed, is_server = queries.path.exists(), run.model.startswith("http")
            generator = QueryGenerator(run.model, **run.options)
            generator(pd.DataFrame(self.sample[:1]))  # loads the model
            before, start = (generator.copied, generator.empty), time.process_time()
            (generator >> queries).index(self.sample)
            counts = {
                "seconds": None if resumed or is_server else time.process_time() - start,
                "copied": generator.copied - before[0],
                "empty": generator.empty - before[1],
            }
            file.write_text(json.dumps(counts))
        counts = json.loads(file.read_text()) if file.exists() else {}
        return queries.get_results(), counts

    def results(self, name: str, topics: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Returns the first results of each system for topics."""

        def compute() -> pd.DataFrame:
            found = {
                system: (transformer % KEPT)(topics[["qid", "query"]])
                for system, transformer in self.systems.items()
            }
            parts = [run[["qid", "docno", "score"]].assign(system=s) for s, run in found.items()]
            return pd.concat(parts, ignore_index=True)

        stored = dict(iter(self.stored(f"{name}-results", compute).groupby("system")))
        return {system: stored[system] for system in self.systems}

    def values(self, name: str, topics: pd.DataFrame, qrels: pd.DataFrame) -> pd.DataFrame:
        """Returns nDCG@10 by query (row) and system (column)."""
        results = self.results(name, topics)
        rows = pt.Experiment(
            list(results.values()),
            topics[["qid", "query"]],
            qrels[["qid", "docno", "label"]],
            [nDCG @ 10],
            names=list(results),
            perquery=True,
        )
        table = rows.pivot(index="qid", columns="name", values="value").fillna(0.0)
        return table[list(results)]

    @cached_property
    def of_topics(self) -> pd.DataFrame:
        """nDCG@10 by human topic and system."""
        return self.values("topics", as_topics(self.bench.topics), self.bench.qrels)

    @cached_property
    def similar(self) -> pd.DataFrame:
        """The documents that are similar to those of the sample, as qrels of their docnos."""

        def compute() -> pd.DataFrame:
            sources = pd.DataFrame(self.sample)
            sources = sources.assign(qid=sources["docno"], query=sources["text"])
            retriever = self.bench.first >> ScoreFusion(self.encoder)
            return evaluation.similar_qrels(sources, retriever, SIMILAR)

        return self.stored("similar", compute)

    def grades(self, name: str, queries: pd.DataFrame) -> pd.Series:
        """Returns the grades that the instruct model gives queries, by qid."""

        def compute() -> pd.DataFrame:
            judge = RelevanceJudge(self.arguments.instruct_model)
            return judge(queries)[["qid", "score"]]

        return self.stored(f"{name}-grades", compute).set_index("qid")["score"]

    def stored(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Returns a stored frame, or computes and stores it."""
        file = self.folder / f"{slug(name)}.parquet"
        if not file.exists():
            say(f"measure: {name}")
            compute().to_parquet(part := file.with_suffix(".part"))
            part.replace(file)
        return pd.read_parquet(file)

    def found(self, queries: pd.DataFrame, k: int) -> float:
        """Returns the share of queries whose document is among BM25's top ``k``."""
        return share(RoundTripFilter(self.systems[BASELINE], k), queries)

    def choices(self, name: str, queries: pd.DataFrame, kept: pd.DataFrame) -> Choices:
        """Returns how well a part of a run's queries chooses a system.

        Args:
            name: Name of the run.
            queries: All its queries.
            kept: The queries that choose.
        """
        topics = as_topics(queries)
        source = self.values(name, topics, queries.assign(label=1))
        similar = self.similar.rename(columns={"qid": "source", "docno": "found"})
        similar = queries.merge(similar, left_on="docno", right_on="source")
        similar = similar[["qid", "found", "label"]].rename(columns={"found": "docno"})
        values = self.values(name, topics, similar)
        hard = OverlapFilter(OVERLAP)(kept)
        source = source[source.index.isin(kept["qid"])]
        values = values[values.index.isin(hard["qid"])]
        return Choices(
            len(kept),
            source[BASELINE].mean(),
            choice_of(source, self.of_topics),
            len(hard),
            choice_of(values, self.of_topics),
        )


def benches(arguments: argparse.Namespace) -> Iterator[Bench]:
    """Yields a bench for each seed; all have the same systems."""
    arguments.folder.mkdir(parents=True, exist_ok=True)
    collection = effectiveness.Bench(arguments.collection, arguments.folder, arguments.documents)
    for seed in arguments.seed:
        yield Bench(arguments, collection, seed)


def compare(arguments: argparse.Namespace, runs: list[Run]) -> None:
    """Prints what each run writes, how hard its queries are, and what they choose and teach."""
    summary = Summary("run")
    for bench in benches(arguments):
        compare_sample(bench, runs, summary)
    summary.show(arguments)


def compare_sample(bench: Bench, runs: list[Run], summary: Summary) -> None:
    """Prints the tables of one sample of documents, and adds its values to the summary."""
    student = Student(bench)
    written, hard, chosen = [], [], []
    learned = student.untrained()
    trained: dict[str, pd.DataFrame] = {}
    first: tuple[pd.DataFrame, Choices] | None = None
    for run in runs:
        queries, counts = bench.generate(run)
        if queries.empty:
            written.append({"run": run.name, "queries": 0})
            continue
        found = properties(queries, counts, len(bench.sample))
        written.append({"run": run.name, **found})
        judged = queries[queries["docno"].isin(docnos(bench))]
        queries["overlap"] = evaluation.overlap(queries)
        queries["grade"] = queries["qid"].map(bench.grades(run.name, judged))
        usable = (CopyFilter() >> DuplicateFilter())(queries)
        choices = bench.choices(run.name, queries, usable)
        first = first or (queries, choices)
        hard.append(
            {
                "run": run.name,
                "overlap": queries["overlap"].mean(),
                "p overlap": p_value(first[0], queries, "overlap"),
                "found@1": bench.found(queries, 1),
                "found@10": bench.found(queries, 10),
                "grade": queries["grade"].mean(),
                "p grade": p_value(first[0], queries, "grade"),
            }
        )
        chosen.append({"run": run.name, **columns_of(choices, first[1])})
        learned.append(student.learned(run.name, queries, trained))
        summary.add(
            run.name,
            Outcome(
                {"found@10": hard[-1]["found@10"], "copies": 1 - share(CopyFilter(), queries)},
                choices.similar,
                student.values(run.name),
            ),
        )
    show(bench, "What do they write?", written)
    show(bench, "How hard are the queries?", hard)
    show(bench, "Do they choose as human topics do?", chosen)
    show(bench, "What does a language model learn from them?", learned)


def properties(queries: pd.DataFrame, counts: dict[str, Any], answers: int) -> dict[str, Any]:
    """Returns what can be counted; shares are of the answers, or of the queries if so named."""
    seconds, leaked, empty = (counts.get(name) for name in ("seconds", "copied", "empty"))
    other = sum(
        not is_query(*row) for row in queries[["query", "finish_reason"]].itertuples(index=False)
    )
    return {
        "queries": len(queries),
        "per CPU second": answers / seconds if seconds else None,
        "not a query": None if empty is None else f"{(empty + other) / answers:.1%}",
        "leaked": None if leaked is None else f"{leaked / answers:.1%}",
        "copies": f"{1 - share(CopyFilter(), queries):.1%}",
        "duplicates": f"{1 - share(DuplicateFilter(), queries):.1%}",
        "words": queries["query"].str.split().str.len().mean(),
    }


def is_query(text: str, finish_reason: str) -> bool:
    """Returns whether an answer may be a query.

    It is not if it has fewer than two words of letters or more than 30, if the token limit cut it,
    or if it begins as a remark about the task, such as "Here is" or "The document describes".
    """
    words = re.findall(r"[^\W\d_]{2,}", text)
    whole = finish_reason != "length" and not _ANSWER.match(text.strip())
    return whole and len(words) >= 2 and len(text.split()) <= 30


def share(stage: pt.Transformer, queries: pd.DataFrame) -> float:
    """Returns the share of queries that a filter keeps."""
    return len(stage(queries)) / len(queries)


def docnos(bench: Bench) -> list[str]:
    """Returns the documents whose queries are judged."""
    rows: list[dict[str, Any]] = datasets.sample(bench.sample, bench.arguments.judged, seed=1)
    return [row["docno"] for row in rows]


def p_value(first: pd.DataFrame, other: pd.DataFrame, column: str) -> str:
    """Returns p of a paired t-test over the documents that both have a value for."""
    if first is other:
        return ""
    by_document = [frame.groupby("docno")[column].mean() for frame in (first, other)]
    pairs = pd.concat(by_document, axis=1).dropna().to_numpy()
    return f"{ttest_rel(pairs[:, 0], pairs[:, 1]).pvalue:.1g}"


def as_topics(queries: pd.DataFrame) -> pd.DataFrame:
    """Returns the queries that have words, as topics that any search engine can parse."""
    words = queries["query"].str.lower().str.findall(r"\w+").str.join(" ")
    return queries[["qid"]].assign(query=words)[words != ""]


def slug(name: str) -> str:
    """Returns a name as part of a file name."""
    return re.sub(r"\W+", "-", name.lower()).strip("-")


def say(text: str) -> None:
    """Prints progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def arguments_of(doc: str, words: list[str] | None = None) -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("collection", type=Path, help="folder in BEIR's layout")
    parser.add_argument("--documents", type=int, default=300, help="documents with a query")
    parser.add_argument("--judged", type=int, default=50, help="documents with judged queries")
    parser.add_argument(
        "--seed", type=int, nargs="+", default=[0], help="seeds of the samples of documents"
    )
    parser.add_argument("--all_systems", action="store_true", help="all systems, not half of them")
    parser.add_argument("--base_model", help="Gemma 3 270M by default")
    parser.add_argument("--instruct_model", help="Qwen2.5 0.5B instruct by default")
    parser.add_argument("--small_model", help="SmolLM2 135M instruct by default")
    parser.add_argument("--server", help="address of a server over the instruct model")
    parser.add_argument("--folder", type=Path, help="folder of queries and results")
    arguments = parser.parse_args(words)
    arguments.collection = arguments.collection.resolve()
    arguments.base_model = arguments.base_model or demo.language_model()
    arguments.instruct_model = arguments.instruct_model or demo.instruct_model()
    arguments.small_model = arguments.small_model or demo.small_instruct_model()
    arguments.folder = arguments.folder or Path(f"inpars-comparisons-{arguments.collection.name}")
    return arguments


def start() -> None:
    """Discards the log of PISA, and warnings."""
    demo.mute_native_log()
    warnings.filterwarnings("ignore")
