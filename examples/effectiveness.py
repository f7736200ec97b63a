"""Measures how well synthetic queries choose and tune a system, where human topics can tell.

    python examples/effectiveness.py path/to/collection

The collection is in BEIR's folder layout, see beir_folder.py. The demo language model writes four
types of queries for each of ``--documents`` documents, which each seed draws anew. Twenty-nine
systems over BM25's top 100 are compared on these queries and on the collection's topics, which are
not used for anything else. One table answers one question:

1. Which systems are good, by people and by synthetic queries?
2. Which types, filters and judgements make synthetic queries agree with people?
3. How many queries are needed?
4. What do the chosen, the simplest and the tuned system gain over BM25?
5. Is a small language model a better judge than the source document?

Queries and results of systems are stored in ``--folder``, and a later call resumes after them. See
effectiveness.md for results.
"""

import argparse
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyterrier as pt
from pyterrier.measures import nDCG
from pyterrier_pisa import PisaIndex
from scipy.stats import ttest_rel

from pyterrier_inpars import (
    BiEncoder,
    CopyFilter,
    DuplicateFilter,
    LengthFilter,
    OverlapFilter,
    QueryGenerator,
    RelevanceJudge,
    ScoreFusion,
    StaticPrompt,
    SyntheticQueries,
    VectorPRF,
    evaluation,
)
from pyterrier_inpars.datasets import BeirFolder
from pyterrier_inpars.demo import (
    encoder,
    instruct_model,
    language_model,
    mute_native_log,
    strong_encoder,
)

PROMPTS = {
    "question": StaticPrompt("Abstract: {document}\n\nA researcher asks: how {query}"),
    "keywords": StaticPrompt("Abstract: {document}\n\nKeywords: {query}"),
    "claim": StaticPrompt("Abstract: {document}\n\nThe authors show that {query}"),
    "title": StaticPrompt("Abstract: {document}\n\nTitle of a review of this field: {query}"),
}
"""Prompts by the type of the queries that they ask for."""
OVERLAP = 0.7
"""Largest share of a query's words that may be in its document."""
SIMILAR = 5
"""Number of documents beside the source that count as partly relevant."""
DEPTH = 100
BASELINE = "BM25"
VECTORS = 200_000
"""Number of vectors that an encoder keeps in memory."""
STORED = 64
"""Number of queries after which they are stored."""
FEWEST = 25
"""Number of queries below which a setting is not measured."""
GRADED = 40
"""Number of queries whose pool the language model judges."""
POOLED = 5
"""Number of documents of each pooled system."""


class Bench:
    """A collection with its systems, its synthetic queries and the results of both.

    Args:
        collection: Folder of the collection.
        folder: Folder of the queries and the results.
        documents: Number of documents to write queries for.
        types: Types of the queries.
    """

    def __init__(
        self, collection: Path, folder: Path, documents: int, types: Iterable[str] = tuple(PROMPTS)
    ):
        self.folder, self.documents = folder, documents
        self.prompts = {name: PROMPTS[name] for name in types}
        self.dataset = BeirFolder(collection)
        corpus = pd.DataFrame(self.dataset.get_corpus_iter())
        self.corpus = corpus[corpus["text"].str.split().str.len() > 12]
        self.index = PisaIndex(str(folder / "index"), text_field="text")
        if not self.index.built():
            self.index.index(corpus[corpus["text"].str.strip() != ""].to_dict("records"))
        qrels = self.dataset.get_qrels()
        topics = self.dataset.get_topics()
        self.topics, self.qrels = topics[topics["qid"].isin(qrels["qid"])], qrels
        self.first = self.index.bm25(num_results=DEPTH) >> self.dataset.text_loader()
        self.mini = BiEncoder(encoder(), max_length=256, vector_cache=VECTORS)
        self.mpnet = BiEncoder(strong_encoder(), max_length=256, vector_cache=VECTORS)
        self.fused = ScoreFusion([self.mini, self.mpnet])
        self.values = cache(self._values)
        self.similar = cache(self._similar)
        self.graded = cache(self._graded)

    @cached_property
    def systems(self) -> dict[str, pt.Transformer]:
        """The systems by name, of which ``BASELINE`` is the first."""
        index, first, mini, mpnet = self.index, self.first, self.mini, self.mpnet
        parameters = [(1.2, 0.75), (0.9, 0.0), (0.4, 0.2), (3.0, 0.9)]
        systems = {
            BASELINE: index.bm25(num_results=DEPTH),
            **{
                f"BM25 k1={k1} b={b}": index.bm25(k1=k1, b=b, num_results=DEPTH)
                for k1, b in parameters
            },
            "query likelihood (Dirichlet)": index.qld(num_results=DEPTH),
            "DPH": index.dph(num_results=DEPTH),
            "PL2": index.pl2(num_results=DEPTH),
            "MiniLM": first >> mini,
            "mpnet": first >> mpnet,
            "MiniLM, top 20": first % 20 >> mini,
            "mpnet, top 20": first % 20 >> mpnet,
            "MiniLM + mpnet": first >> ScoreFusion([mini, mpnet], (0, 1, 1)),
            "feedback MiniLM": first >> self.fused >> VectorPRF(mini),
            "feedback mpnet": first >> self.fused >> VectorPRF(mpnet),
        }
        for a, b in [(1, 1), (2, 1), (1, 2)]:
            systems[f"{a} BM25 + {b} MiniLM"] = first >> ScoreFusion(mini, (a, b))
            systems[f"{a} BM25 + {b} mpnet"] = first >> ScoreFusion(mpnet, (a, b))
        for weights in [(1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 1, 2)]:
            parts = "{} BM25 + {} MiniLM + {} mpnet".format(*weights)
            systems[parts] = first >> ScoreFusion([mini, mpnet], weights)
            systems[f"{parts}, feedback"] = first >> self.feedback(weights)
        return systems

    def feedback(self, weights: tuple[float, ...] | None = None) -> ScoreFusion:
        """Returns the fusion of BM25 with both encoders after feedback from a first fusion."""
        after = [self.fused >> VectorPRF(model) for model in (self.mini, self.mpnet)]
        return ScoreFusion(after, weights)

    @cache  # noqa: B019  (one bench a run)
    def queries(self, seed: int) -> pd.DataFrame:
        """Returns the queries of a sample of documents, without short ones, copies, duplicates.

        They are shuffled, so that any number of the first ones has all types.
        """
        queries = SyntheticQueries(self.folder / f"{self.documents}-{seed}.queries")
        sample = self.corpus.sample(min(self.documents, len(self.corpus)), random_state=seed)
        generator = QueryGenerator(
            language_model(),
            prompt=self.prompts,
            stop=["\n", "."],
            max_doc_tokens=128,
            max_new_tokens=24,
            verbose=True,
        )
        batch_size = STORED // len(self.prompts)
        (generator >> queries).index(sample.to_dict("records"), batch_size=batch_size)
        usable = LengthFilter(3) >> CopyFilter() >> DuplicateFilter()
        return usable(queries.get_results().sample(frac=1, random_state=seed))

    def results(self, key: str, name: str, topics: pd.DataFrame) -> pd.DataFrame:
        """Returns the results of a system, from the folder if an earlier run stored them."""
        file = self.folder / key / f"{name}.parquet"
        if not file.exists():
            print(f"{key}: {name}", flush=True)
            file.parent.mkdir(exist_ok=True)
            found = self.systems[name](topics[["qid", "query"]])[["qid", "docno", "score"]]
            found.to_parquet(part := file.with_suffix(".part"))
            part.replace(file)
        return pd.read_parquet(file)

    def runs(self, seed: int | None) -> dict[str, pd.DataFrame]:
        """Returns the results of all systems on queries, or on the human topics without a seed."""
        if seed is None:
            key, topics = "topics", self.topics
        else:
            key, topics = f"{self.documents}-{seed}", evaluation_topics(self.queries(seed))
        return {name: self.results(key, name, topics) for name in self.systems}

    def _values(self, seed: int | None, judgements: str = "source") -> pd.DataFrame:
        """Returns nDCG@10 by query (row) and system (column)."""
        if seed is None:
            topics, qrels = self.topics, self.qrels
        else:
            topics, qrels = evaluation_topics(self.queries(seed)), self.judged(seed, judgements)
        table = pt.Experiment(
            list((runs := self.runs(seed)).values()),
            topics[["qid", "query"]],
            qrels,
            [nDCG @ 10],
            names=list(runs),
            perquery=True,
        )
        return table.pivot(index="qid", columns="name", values="value")[list(runs)]

    def judged(self, seed: int, judgements: str) -> pd.DataFrame:
        """Returns qrels of synthetic queries."""
        if judgements == "source":
            return self.queries(seed)[["qid", "docno"]].assign(label=1)
        if judgements == "similar":
            return self.similar(seed)
        if judgements == "judge":
            return self.graded(seed)
        names = [BASELINE, "DPH", "MiniLM", "mpnet"]
        runs = {name: self.runs(seed)[name] for name in names}
        return evaluation.pseudo_qrels(runs, self.queries(seed))

    def _graded(self, seed: int) -> pd.DataFrame:
        """Returns a language model's grades of a pool, for the first queries that are kept."""
        file = self.folder / f"{self.documents}-{seed}-graded.parquet"
        if not file.exists():
            queries = self.queries(seed).set_index("qid")
            asked = queries.loc[self.kept(seed, DEFAULT)[:GRADED], ["query"]].reset_index()
            runs = [self.runs(seed)[name] for name in (BASELINE, "MiniLM", "mpnet")]
            best = [run.sort_values("score").groupby("qid").tail(POOLED) for run in runs]
            pool = pd.concat(best)[["qid", "docno"]].drop_duplicates().merge(asked, on="qid")
            judge = RelevanceJudge(instruct_model(), max_doc_tokens=192, verbose=True)
            judge.qrels(self.dataset.text_loader()(pool)).to_parquet(file)
        return pd.read_parquet(file)

    def _similar(self, seed: int) -> pd.DataFrame:
        file = self.folder / f"{self.documents}-{seed}-similar.parquet"
        if not file.exists():
            similar = evaluation.similar_qrels(
                self.queries(seed), self.first >> self.fused, SIMILAR
            )
            similar.to_parquet(file)
        return pd.read_parquet(file)

    def kept(self, seed: int, setting: "Setting") -> pd.Index:
        """Returns the qids of the queries of a type that a filter keeps."""
        queries = self.queries(seed)
        if setting.types != "all":
            queries = queries[queries["type"] == setting.types]
        if setting.filters == "overlap":
            queries = OverlapFilter(OVERLAP)(queries)
        if setting.filters == "hard":
            first = self.values(seed)[BASELINE]
            queries = queries[queries["qid"].map(first) < 1]
        return pd.Index(queries["qid"])

    def agreement(
        self, seed: int, setting: "Setting", number: int | None = None, feedback: bool = True
    ) -> evaluation.Agreement:
        """Returns how well queries of a seed agree with the human topics."""
        synthetic = self.values(seed, setting.judgements).loc[self.kept(seed, setting)[:number]]
        synthetic = synthetic.dropna()  # nothing is judged for a query that finds nothing
        names = [name for name in self.systems if feedback or "feedback" not in name]
        return evaluation.agreement_of_values(synthetic[names], self.values(None)[names])


class Setting(NamedTuple):
    """Which queries are used, and which documents are relevant to them."""

    types: str
    filters: str
    judgements: str


DEFAULT = Setting("question", "overlap", "similar")
"""Questions agree better with people than the other types, and than all types together."""


def evaluation_topics(queries: pd.DataFrame) -> pd.DataFrame:
    """Returns synthetic queries as topics that any search engine can parse."""
    words = queries["query"].str.lower().str.findall(r"\w+").str.join(" ")
    return queries[["qid"]].assign(query=words)


def systems_table(bench: Bench, seeds: range) -> pd.DataFrame:
    """1. Which systems are good, by people and by synthetic queries?"""
    chosen = [bench.values(s, DEFAULT.judgements).loc[bench.kept(s, DEFAULT)] for s in seeds]
    plain = [bench.values(seed) for seed in seeds]
    return pd.DataFrame(
        {
            "topics": bench.values(None).mean(),
            "synthetic queries": sum(values.mean() for values in chosen) / len(seeds),
            "no filter, source only": sum(values.mean() for values in plain) / len(seeds),
        }
    ).sort_values("topics", ascending=False)


FILTERS = {"none": "", "overlap": ", OverlapFilter", "hard": ", not first in BM25"}
JUDGEMENTS = {"source": "source only", "similar": "similar", "pseudo": "fused rankings"}


def settings_table(bench: Bench, seeds: range) -> pd.DataFrame:
    """2. Which types, filters and judgements make synthetic queries agree with people?"""
    settings = [
        Setting(types, filters, judgements)
        for judgements in ("source", "similar")
        for filters in ("none", "overlap")
        for types in ("all", *PROMPTS)
    ]
    settings += [Setting("all", "hard", judgements) for judgements in ("source", "similar")]
    settings += [Setting("all", filters, "pseudo") for filters in ("none", "overlap")]
    rows, counts = {}, []
    for setting in settings:
        kept = [bench.kept(seed, setting) for seed in seeds]
        if min(map(len, kept)) < FEWEST:
            continue
        name = JUDGEMENTS[setting.judgements] + FILTERS[setting.filters] + ": " + setting.types
        rows[name] = [bench.agreement(seed, setting) for seed in seeds]
        counts.append(np.mean([len(qids) for qids in kept]))
    name = "the default, without systems with feedback"
    rows[name] = [bench.agreement(seed, DEFAULT, feedback=False) for seed in seeds]
    table = summary(rows)
    counts.append(np.mean([len(bench.kept(seed, DEFAULT)) for seed in seeds]))
    table.insert(0, "queries", [f"{count:.0f}" for count in counts])
    return table


def judge_table(bench: Bench, seeds: range) -> pd.DataFrame:
    """5. Is a small language model a better judge than the source document?"""
    return summary(
        {
            name: [bench.agreement(s, DEFAULT._replace(judgements=name), GRADED) for s in seeds]
            for name in ("source", "similar", "judge")
        }
    )


def numbers_table(bench: Bench, seeds: range) -> pd.DataFrame:
    """3. How many queries are needed?"""
    most = min(len(bench.kept(seed, DEFAULT)) for seed in seeds)
    numbers = [number for number in (25, 50, 100, 250, 500, 1_000) if number < most] + [most]
    return summary(
        {
            str(number): [bench.agreement(seed, DEFAULT, number) for seed in seeds]
            for number in numbers
        }
    )


def summary(rows: dict[str, list[evaluation.Agreement]]) -> pd.DataFrame:
    """Returns a table of agreements: the mean over seeds, with the range."""
    columns: dict[str, tuple[str, Callable[[float], str]]] = {
        "tau": ("kendall_tau", "{:.2f}".format),
        "tau-AP": ("tau_ap", "{:.2f}".format),
        "significant pairs alike": ("significant_agreement", "{:.0%}".format),
        "regret": ("relative_regret", "{:.1%}".format),
        "gain over BM25": ("relative_gain", "{:.1%}".format),
    }

    def cell(found: list[evaluation.Agreement], field: str, shown: Callable) -> str:
        values = [getattr(one, field) for one in found]
        return f"{shown(np.mean(values))} ({shown(min(values))} to {shown(max(values))})"

    return pd.DataFrame(
        {
            title: [cell(found, field, shown) for found in rows.values()]
            for title, (field, shown) in columns.items()
        },
        index=list(rows),
    )


def gains_table(bench: Bench, seeds: range) -> pd.DataFrame:
    """4. What do the chosen, the simplest and the tuned system gain over BM25?"""
    human = bench.values(None)
    rows = {BASELINE: human[BASELINE]}
    for seed in seeds:
        values = bench.values(seed, DEFAULT.judgements).loc[bench.kept(seed, DEFAULT)]
        chosen, simple = values.mean().idxmax(), simplest(values)
        rows[f"seed {seed}, chosen: {chosen}"] = human[chosen]
        rows[f"seed {seed}, simplest within one standard error: {simple}"] = human[simple]
        weights, of_topics = tuned(bench, seed)
        rows[f"seed {seed}, tuned feedback fusion {weights}"] = of_topics
    best = human.mean().idxmax()
    rows[f"best of {len(bench.systems)} by topics: {best}"] = human[best]
    return pd.DataFrame([gain(name, values, human[BASELINE]) for name, values in rows.items()])


def simplest(values: pd.DataFrame) -> str:
    """Returns the system with the fewest models that is within one standard error of the best."""
    means = values.mean()
    differences = values.rsub(values[means.idxmax()], axis=0)
    near = means.index[differences.mean() <= differences.sem()]
    return min(near, key=lambda name: (models_of(name), -means[name]))


def models_of(name: str) -> int:
    """Returns the number of times that a system computes with vectors."""
    return ("MiniLM" in name) + ("mpnet" in name) + 2 * ("feedback" in name)


def tuned(bench: Bench, seed: int) -> tuple[tuple[float, ...], pd.Series]:
    """Tunes the weights of the fusion with feedback on synthetic queries.

    Returns:
        The weights of BM25, MiniLM and mpnet, and nDCG@10 by topic.
    """
    fusion = bench.feedback()
    queries = bench.queries(seed)
    kept = evaluation_topics(queries[queries["qid"].isin(bench.kept(seed, DEFAULT))])
    fusion.fit(bench.first(kept), bench.judged(seed, DEFAULT.judgements))
    name = f"tuned {fusion.weights}"
    bench.systems[name] = bench.first >> fusion
    results = bench.results("topics", name, bench.topics)
    del bench.systems[name]
    table = pt.Experiment([results], bench.topics, bench.qrels, [nDCG @ 10], perquery=True)
    return fusion.weights, table.set_index("qid")["value"]


def gain(name: str, values: pd.Series, baseline: pd.Series) -> dict[str, str]:
    """Returns a row of the table of gains, with a bootstrap interval over topics."""
    differences = (values - baseline[values.index]).to_numpy()
    rng = np.random.default_rng(0)
    number = len(differences)
    means = [differences[rng.integers(number, size=number)].mean() for _ in range(2_000)]
    low, high = np.quantile(means, [0.025, 0.975])
    same = not differences.any()
    return {
        "system": name,
        "nDCG@10": f"{values.mean():.4f}",
        "gain": "" if same else f"{differences.mean() / baseline.mean():+.1%}",
        "95% interval": "" if same else f"{low:+.3f} to {high:+.3f}",
        "p": "" if same else f"{ttest_rel(values, baseline[values.index]).pvalue:.1g}",
    }


def markdown(table: pd.DataFrame) -> Iterator[str]:
    """Yields the lines of a table in Markdown."""
    if not isinstance(table.index, pd.RangeIndex):
        table = table.rename_axis("").reset_index()
    yield "| " + " | ".join(map(str, table)) + " |"
    yield "|" + "---|" * table.shape[1]
    for row in table.itertuples(index=False):
        cells = (f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row)
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("collection", type=Path)
    parser.add_argument("--documents", type=int, default=150, help="documents with queries")
    parser.add_argument("--seeds", type=int, default=3, help="number of samples of documents")
    parser.add_argument("--folder", type=Path, help="folder of the queries and the results")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    mute_native_log()
    folder = arguments.folder or Path(f"inpars-effectiveness-{arguments.collection.resolve().name}")
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.collection, folder, arguments.documents)
    for table in (systems_table, settings_table, numbers_table, gains_table, judge_table):
        print(f"\n### {table.__doc__}\n")
        print("\n".join(markdown(table(bench, range(arguments.seeds)))), flush=True)


if __name__ == "__main__":
    main()
