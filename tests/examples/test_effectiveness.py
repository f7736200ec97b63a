"""The experiments of effectiveness.md, on tiny models and a tiny collection."""

import importlib
import json
import sys
from pathlib import Path

import chat_templates
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import tiny
import tiny_llm

from pyterrier_inpars import BiEncoder, SyntheticQueries

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # few queries, small models
]
EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("effectiveness", "effectiveness_curve")
DOCS, TOPICS = 32, 6


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The scripts by name, with tiny models."""
    folder = tmp_path_factory.mktemp("models")
    encoder = str(tiny.tiny_bert(folder / "bert"))
    writer = tiny_llm.save(folder / "writer", "llama")
    judge = chat_templates.save(folder / "judge", chat_templates.QWEN)
    path = list(sys.path)
    sys.path.insert(0, str(EXAMPLES))
    before = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    modules = {name: importlib.import_module(name) for name in NAMES}
    for module in modules.values():
        module.encoder = module.strong_encoder = lambda: encoder
        module.language_model, module.instruct_model = lambda: writer, lambda: judge
        module.BiEncoder = lambda model, max_length, **options: BiEncoder(
            model, max_length=32, **options
        )
    modules["effectiveness"].FEWEST = 1
    yield modules
    sys.path[:] = path
    for name in NAMES:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """A collection in BEIR's layout, whose topics repeat words of their document."""
    folder = tmp_path_factory.mktemp("collection")
    texts = [" ".join((tiny_llm.WORDS * 2)[i : i + 14]) + f" w{i}" for i in range(DOCS)]
    corpus = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)]
    topics = [{"_id": f"t{i}", "text": " ".join(texts[i].split()[1:4])} for i in range(TOPICS)]
    for name, rows in (("corpus", corpus), ("queries", topics)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels").mkdir()
    lines = ["query-id\tcorpus-id\tscore", *(f"t{i}\td{i}\t1" for i in range(TOPICS))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Queries and results of the scripts."""
    return tmp_path_factory.mktemp("results")


def run(script, monkeypatch, capsys, *words):
    """Runs a script, and returns its tables by their titles."""
    monkeypatch.setattr(sys, "argv", [script.__file__, *words])
    script.main()
    parts = capsys.readouterr().out.split("### ")[1:]
    return {title: rows(table) for title, _, table in (part.partition("\n") for part in parts)}


def rows(table):
    lines = [line for line in table.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


@pytest.mark.slow
def test_choosing(scripts, collection, folder, monkeypatch, capsys):
    script = scripts["effectiveness"]
    words = (collection, "--documents=10", "--seeds=1", f"--folder={folder}")
    tables = run(script, monkeypatch, capsys, *words)
    assert [title[0] for title in tables] == ["1", "2", "3", "4", "5"]
    systems, settings, _, gains, judges = tables.values()
    assert len(systems) == 29
    values = [float(row["topics"]) for row in systems]
    assert values == sorted(values, reverse=True) and 0 < values[-1] < values[0] <= 1
    assert {row[""] for row in settings} >= {"source only: all", "similar, OverlapFilter: question"}
    assert [row[""] for row in judges] == ["source", "similar", "judge"]
    taus = np.array([float(row["tau"].split()[0]) for row in [*settings, *judges]])
    known = taus[np.isfinite(taus)]  # a few queries can have the same value for all systems
    assert len(known) > len(taus) / 2 and (np.abs(known) <= 1).all()
    best = next(row for row in gains if row["system"].startswith("best of 29"))
    assert float(best["nDCG@10"]) == values[0]
    assert float(gains[0]["nDCG@10"]) == next(
        float(row["topics"]) for row in systems if row[""] == "BM25"
    )

    # A second call reads what is stored.
    stored = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.is_file()}
    monkeypatch.setattr(script, "RelevanceJudge", None)
    names = [*script.Bench(Path(collection), folder, 10).systems]
    monkeypatch.setattr(script.Bench, "systems", dict.fromkeys(names))
    monkeypatch.setattr(script, "tuned", lambda bench, seed: ((), bench.values(None)["BM25"]))
    again = run(script, monkeypatch, capsys, *words)
    assert again.keys() == tables.keys()
    assert all(again[title] == tables[title] for title in tables if not title.startswith("4"))
    assert stored == {path: path.stat().st_mtime_ns for path in stored}


def test_gain_is_paired_by_topic(scripts):
    rng = np.random.default_rng(0)
    baseline, values = (
        pd.Series(rng.uniform(size=12), index=[f"t{i}" for i in range(12)]) for _ in range(2)
    )
    found = scripts["effectiveness"].gain("a system", values.sample(frac=1), baseline)
    assert found["p"] == f"{scipy.stats.ttest_rel(values, baseline).pvalue:.1g}"
    assert found["gain"] == f"{values.mean() / baseline.mean() - 1:+.1%}"
    low, high = map(float, found["95% interval"].split(" to "))
    assert low < values.mean() - baseline.mean() < high


def test_curve(scripts, collection, folder, monkeypatch, capsys):
    script = scripts["effectiveness_curve"]
    adapter = script.ADAPTER | {"num_train_epochs": 1}
    monkeypatch.setattr(script, "MINILM", {"adapter, in-batch": adapter})
    monkeypatch.setattr(script, "LANGUAGE_MODEL", {"all weights": {"learning_rate": 1e-2}})
    monkeypatch.setattr(script, "DECODERS", {"2 layers, mean": (2, "mean")})
    words = (collection, "--documents=32", "--samples=2", f"--folder={folder}")
    words += ("--numbers", "50", "1000", "--seeds=2")
    (only,) = run(script, monkeypatch, capsys, *words, "--ways", "BM25").values()
    assert [row["training"] for row in only] == ["BM25"]
    first, second = run(script, monkeypatch, capsys, *words).values()
    assert [row["training"] for row in first] == ["BM25", "MiniLM", *2 * ["adapter, in-batch"]]
    assert [row["seeds"] for row in second] == ["1", "1", "1", "2"]
    stored = script.read(folder / "curve.jsonl")
    trained = [row for row in stored if row["way"] == "all weights, 2 layers, mean"]
    most = trained[-1]["number"]
    assert most > 50
    assert [(row["number"], row["seed"]) for row in trained] == [(50, 0), (most, 0), (most, 1)]
    assert [row["queries"] for row in second] == ["", "", "50", str(most)]
    means = [np.mean([*row["fusion"].values()]) for row in trained[1:]]
    assert second[-1]["fused with BM25"].startswith(f"{np.mean(means):.4f} ± {np.std(means):.4f}")

    # A second call measures nothing.
    monkeypatch.setattr(script.Curve, "measured", pytest.fail)
    monkeypatch.setattr(script.Curve, "trained", pytest.fail)
    run(script, monkeypatch, capsys, *words)
    assert script.read(folder / "curve.jsonl") == stored


def test_curve_of_one_type(scripts, collection, tmp_path, monkeypatch, capsys):
    script = scripts["effectiveness_curve"]
    words = (collection, "--documents=8", "--samples=1", f"--folder={tmp_path}", "--ways", "BM25")
    run(script, monkeypatch, capsys, *words, "--types", "question")
    queries = SyntheticQueries(tmp_path / "8-0.queries").get_results()
    assert set(queries["type"]) == {"question"} and queries["docno"].is_unique


def test_p_of_the_curve_is_of_the_mean_over_seeds(scripts):
    rng = np.random.default_rng(0)
    topics = [f"t{i}" for i in range(9)]
    start, *seeds = (dict(zip(topics, rng.uniform(size=9), strict=True)) for _ in range(3))
    rows = [{"way": "BM25", "number": 0, "seed": 0, "alone": start}]
    rows += [
        {"way": "all weights, 2 layers, mean", "number": 9, "seed": i, "alone": values}
        for i, values in enumerate(seeds)
    ]
    shown = scripts["effectiveness_curve"].table(
        rows, ["BM25", "all weights, 2 layers, mean"], "BM25"
    )
    mean = np.mean([[*values.values()] for values in seeds], axis=0)
    p = scipy.stats.ttest_rel(mean, [*start.values()]).pvalue
    assert shown["nDCG@10 alone"].iloc[1].endswith(f"(p = {p:.2g})")
    assert shown["nDCG@10 alone"].iloc[1].startswith(f"{mean.mean():.4f} ± ")
