"""Measures what training on more synthetic queries gives, where human topics can tell.

    python examples/effectiveness_curve.py path/to/collection

The queries, the index and the teacher are those of effectiveness.py, in the same ``--folder``.
Trained encoders rerank the top results of BM25, alone and in score fusion with it. No topic and no
label is used in training. Every training appends a line to ``curve.jsonl``, and a later call skips
what is there. One table answers one question:

1. Does a sentence encoder (all-MiniLM-L6-v2) gain from more queries, and from which training?
2. What do synthetic queries alone teach a language model (Gemma 3 270M) about retrieval?

See effectiveness.md for results.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
from effectiveness import OVERLAP, PROMPTS, VECTORS, Bench, evaluation_topics, markdown
from pyterrier.measures import nDCG
from scipy.stats import ttest_rel
from transformers import AutoModel, AutoTokenizer

from pyterrier_inpars import (
    BiEncoder,
    DuplicateFilter,
    OverlapFilter,
    ScoreFusion,
    TeacherScores,
    evaluation,
)
from pyterrier_inpars.demo import encoder, language_model, mute_native_log

TOP, RANDOM = 4, 3
"""Number of a list's first documents by the teacher, and of random others, beside the source."""
HELD_OUT = 100
"""Number of synthetic queries that choose the weight of a language model's score."""
ADAPTER = {"adapter": True, "learning_rate": 1e-3, "num_train_epochs": 5}
MINILM: dict[str, dict[str, Any]] = {
    "adapter, in-batch": ADAPTER,
    "adapter, gpl": ADAPTER | {"recipe": "gpl"},
    "adapter, cadet": ADAPTER | {"recipe": "cadet"},
    "in-batch": {},
    "cadet": {"recipe": "cadet"},
}
"""Training options of the sentence encoder; the recipes learn from lists that a fusion scored."""
LORA = {"learning_rate": 1e-3, "lora": {"r": 16, "lora_alpha": 32}}
LOW_OVERLAP = "low overlap"
"""Part of the name of a way that leaves out queries which repeat much of their document."""
LANGUAGE_MODEL: dict[str, dict[str, Any]] = {
    "adapter": ADAPTER,
    "all weights": {"learning_rate": 3e-5, "mini_batch_size": 8},
    "LoRA": LORA,
    f"LoRA, {LOW_OVERLAP}, two epochs": LORA | {"num_train_epochs": 2},
}
DECODERS: dict[str, tuple[int | None, str]] = {
    "mean": (None, "mean"),
    "lasttoken": (None, "lasttoken"),
    "9 layers, mean": (9, "mean"),
}
"""Encoders of the language model by name: number of its first layers, and pooling."""
Row = dict[str, Any]


class Curve:
    """Training data of any size, trainings, and their measurement.

    Args:
        bench: Collection, queries and systems.
        samples: Number of samples of documents whose queries are used.
        depth: Depth of the BM25 ranking that is reranked.
        max_length: Number of tokens of the encoders' input.
    """

    def __init__(self, bench: Bench, samples: int, depth: int, max_length: int):
        self.bench, self.max_length = bench, max_length
        self.candidates = bench.first % depth
        self.first = self.candidates(bench.topics)
        queries = pd.concat([bench.queries(seed) for seed in range(samples)])
        queries = DuplicateFilter()(queries.drop_duplicates("qid"))
        queries = queries.assign(query=evaluation_topics(queries)["query"])
        train, self.held_out = evaluation.split(queries, share=0.15)
        self.train = train.sample(frac=1, random_state=0)
        self.low_overlap = OverlapFilter(OVERLAP)(self.train)
        self.lists = cache(self._lists)

    def _lists(self, number: int) -> pd.DataFrame:
        """Returns lists of the source and other documents, scored by the fusion of all three."""
        queries = self.train[:number].rename(columns={"docno": "source"})
        results = (self.candidates >> self.bench.fused)(queries[["qid", "query"]])
        results = results.merge(queries[["qid", "source"]], on="qid")
        results = results.assign(label=(results["docno"] == results["source"]).astype(int))
        others = results[results["label"] == 0].sort_values("rank")
        top = others.groupby("qid").head(TOP)
        rest = others.drop(top.index).sample(frac=1, random_state=0).groupby("qid").head(RANDOM)
        lists = pd.concat([results[results["label"] == 1], top, rest])
        return lists[lists["qid"].isin(results["qid"][results["label"] == 1])]

    def examples(self, way: str, options: dict[str, Any], number: int) -> pd.DataFrame:
        """Returns examples: positives, or lists with scores of the teacher for a recipe."""
        if "recipe" not in options:
            queries = self.low_overlap if LOW_OVERLAP in way else self.train
            return queries[:number].assign(label=1)
        scale = 1.0 if options["recipe"] == "cadet" else None
        return TeacherScores(scale=scale)(self.lists(number))

    def model(self, decoder: str = "", **training: Any) -> BiEncoder:
        """Returns MiniLM, or an encoder of the language model."""
        layers, pooling = DECODERS.get(decoder, (None, None))
        name = self.first_layers(layers) if decoder else encoder()
        limit = self.max_length
        return BiEncoder(
            name, pooling=pooling, max_length=limit, training=training, vector_cache=VECTORS
        )

    def first_layers(self, number: int | None) -> str:
        """Returns the path of the language model, or of a copy with its first layers only.

        Half of the layers train in half of the time.
        """
        if number is None:
            return language_model()
        folder = self.bench.folder / f"language-model-{number}-layers"
        if not folder.exists():
            with pt.io.finalized_directory(str(folder)) as unfinished:
                AutoTokenizer.from_pretrained(language_model()).save_pretrained(unfinished)
                network = AutoModel.from_pretrained(language_model())
                network.layers = network.layers[:number]
                config = network.config
                config.num_hidden_layers = number
                if getattr(config, "layer_types", None):
                    config.layer_types = config.layer_types[:number]
                network.save_pretrained(unfinished)
        return str(folder)

    def trained(
        self, way: str, options: dict[str, Any], number: int, seed: int, decoder: str = ""
    ) -> Row:
        """Trains, and measures the trained weights whatever the verdict is."""
        training = options | {"seed": seed, "held_out": 0.1, "load_best_model_at_end": False}
        model = self.model(decoder, **training)
        examples = self.examples(way, options, number)
        model.fit(examples)
        measured = model.provenance["verdict"]["systems"]
        row = {"lists": examples["qid"].nunique(), "loss": model.train_loss}
        row |= {"validation": {system["system"]: system["value"] for system in measured}}
        row |= self.measured(model, tune=bool(decoder))
        if not decoder and "adapter" not in options:
            before = dict(self.model().network.named_parameters())
            for name, weight in model.network.named_parameters():
                weight.data.lerp_(before[name].data, 0.5)
            row["averaged"] = self.values(model(self.first))
        return row

    def measured(self, model: BiEncoder, tune: bool) -> Row:
        """Returns nDCG@10 of each topic, of a model alone and in score fusion with BM25.

        The weights of ``fusion`` are equal; those of ``tuned`` are chosen on held-out queries.
        """
        fusion = ScoreFusion(model)
        row = {"alone": self.values(model(self.first)), "fusion": self.values(fusion(self.first))}
        if tune:
            fusion.tune(self.held_out[:HELD_OUT], self.candidates % 20)
            row |= {"weights": fusion.weights, "tuned": self.values(fusion(self.first))}
        return row

    def values(self, results: pd.DataFrame) -> dict[str, float]:
        topics, qrels = self.bench.topics, self.bench.qrels
        table = pt.Experiment([results], topics, qrels, [nDCG @ 10], perquery=True)
        return dict(zip(table["qid"], table["value"].round(5), strict=True))

    def runs(self, numbers: list[int], seeds: int) -> Iterator[tuple[str, int, int, Callable]]:
        """Yields what is measured: its name, number of queries and seed, and what measures it.

        The largest number of queries is measured with all seeds, the others with one.
        """
        yield "BM25", 0, 0, lambda: {"alone": self.values(self.first)}
        yield "MiniLM", 0, 0, lambda: self.measured(self.model(), tune=False)
        for decoder in DECODERS:
            untrained = partial(lambda d: self.measured(self.model(d), tune=True), decoder)
            yield f"language model, {decoder}", 0, 0, untrained
        ways = [("", name, options) for name, options in MINILM.items()]
        ways += [(d, f"{name}, {d}", o) for d in DECODERS for name, o in LANGUAGE_MODEL.items()]
        for seed in range(seeds):
            for number in numbers if seed == 0 else numbers[-1:]:
                for decoder, way, options in ways:
                    run = partial(self.trained, way, options, number, seed, decoder)
                    yield way, number, seed, run


def read(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(rows: list[Row], ways: list[str], start: str) -> pd.DataFrame:
    """Returns means over seeds, with p of paired t-tests over topics against one of the ways."""
    frame = pd.DataFrame(rows)
    first = frame[frame["way"] == start].iloc[0]

    def cell(runs: pd.DataFrame, column: str) -> str:
        found = [values for values in runs.get(column, []) if isinstance(values, dict)]
        if not found:
            return ""
        topics = pd.DataFrame(found)  # one row per seed
        other = first.get(column)
        other = pd.Series(other if isinstance(other, dict) else first["alone"])[topics.columns]
        seeds = topics.mean(axis=1)
        spread = f" ± {seeds.std(ddof=0):.4f}" if len(seeds) > 1 else ""
        p = ttest_rel(topics.mean(), other).pvalue
        return f"{seeds.mean():.4f}{spread}" + ("" if np.isnan(p) else f" (p = {p:.2g})")

    def lists(runs: pd.DataFrame, column: str) -> list[Any]:
        return [value for value in runs.get(column, []) if isinstance(value, list)]

    def validation(runs: pd.DataFrame) -> str:
        values = pd.DataFrame([v for v in runs.get("validation", []) if isinstance(v, dict)])
        return (
            f"{values['start'].mean():.3f}, {values['trained'].mean():.3f}" if len(values) else ""
        )

    chosen = frame[frame["way"].isin(ways)]
    shown = pd.DataFrame(
        {
            "training": way,
            "queries": next((f"{n:.0f}" for n in runs.get("lists", []) if n > 0), ""),
            "nDCG@10 alone": cell(runs, "alone"),
            "half the start's weights": cell(runs, "averaged"),
            "fused with BM25": cell(runs, "fusion"),
            "fused, tuned": cell(runs, "tuned"),
            "weight": " ".join(sorted({f"{w[1]:.1f}" for w in lists(runs, "weights")})),
            "validation: start, trained": validation(runs),
            "seeds": len(runs),
        }
        for (way, number), runs in chosen.groupby(["way", "number"], sort=False)
    )
    return shown.loc[:, (shown != "").any()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("collection", type=Path)
    parser.add_argument("--documents", type=int, default=150, help="documents of a sample")
    parser.add_argument("--samples", type=int, default=2, help="samples of documents")
    parser.add_argument(
        "--types", nargs="+", choices=PROMPTS, default=list(PROMPTS), help="types of the queries"
    )
    parser.add_argument("--numbers", type=int, nargs="+", default=[250, 500, 1_000, 2_000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=30, help="depth of the BM25 ranking")
    parser.add_argument("--max-length", type=int, default=96, help="number of tokens of the input")
    parser.add_argument("--ways", nargs="*", metavar="WAY", help="ways to run; default: all")
    parser.add_argument("--folder", type=Path, help="folder of the queries and the results")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    mute_native_log()
    folder = arguments.folder or Path(f"inpars-effectiveness-{arguments.collection.resolve().name}")
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.collection, folder, arguments.documents, arguments.types)
    curve = Curve(bench, arguments.samples, arguments.depth, arguments.max_length)
    file = folder / "curve.jsonl"
    most = len(curve.train)
    numbers = sorted({min(number, most) for number in arguments.numbers})
    for way, number, seed, make in curve.runs(numbers, arguments.seeds):
        known = {(row["way"], row["number"], row["seed"]) for row in read(file)}
        if (way, number, seed) in known or (arguments.ways and way not in arguments.ways):
            continue
        start = time.monotonic()
        row = {"way": way, "number": number, "seed": seed} | make()
        row["seconds"] = round(time.monotonic() - start)
        print({key: value for key, value in row.items() if not isinstance(value, dict)}, flush=True)
        with file.open("a") as out:
            out.write(json.dumps(row) + "\n")
    rows = read(file)
    ways = list(dict.fromkeys(row["way"] for row in rows))
    of_language_model = [way for way in ways if way.endswith(tuple(DECODERS))]
    others = [way for way in ways if way not in of_language_model]
    tables = {
        "1. all-MiniLM-L6-v2, p against its start": (others, "MiniLM"),
        "2. Gemma 3 270M, p against BM25": (["BM25", *of_language_model], "BM25"),
    }
    for title, (shown, start) in tables.items():
        if start in ways:
            print(f"\n### {title}\n")
            print("\n".join(markdown(table(rows, shown, start))))


if __name__ == "__main__":
    main()
