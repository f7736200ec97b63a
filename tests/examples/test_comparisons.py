"""The comparisons of language models, prompts and filters, on tiny models and a tiny collection."""

import importlib
import json
import re
import sys
from pathlib import Path

import chat_templates
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import tiny
import tiny_llm
from transformers import AutoModelForCausalLM, AutoTokenizer

from pyterrier_inpars import BiEncoder

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # few queries, small models
]
COMPARISONS = Path(__file__).parents[2] / "examples" / "comparisons"
DOCS, DOCUMENTS = 16, 8
NAMES = (
    *("effectiveness", "_tables", "_choice", "_student", "_summary", "_measure"),
    *("llms", "prompts", "filters"),
)


@pytest.fixture(scope="module")
def scripts():
    """The modules of the comparisons by name."""
    path = list(sys.path)
    sys.path[:0] = [str(COMPARISONS), str(COMPARISONS.parent)]
    before = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    yield {name: importlib.import_module(name) for name in NAMES}
    sys.path[:] = path
    for name in NAMES:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture(scope="module")
def measure(scripts, tmp_path_factory):
    encoder = str(tiny.tiny_bert(tmp_path_factory.mktemp("bert")))
    effectiveness = scripts["effectiveness"]
    effectiveness.encoder = effectiveness.strong_encoder = lambda: encoder
    effectiveness.BiEncoder = lambda model, max_length, **options: BiEncoder(
        model, max_length=32, **options
    )
    return scripts["_measure"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The command line, with a collection in BEIR's layout and tiny models."""
    folder = tmp_path_factory.mktemp("comparisons")
    texts = [" ".join((tiny_llm.WORDS * 2)[i : i + 14]) + f" w{i}" for i in range(DOCS)]
    corpus = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)]
    queries = [{"_id": f"t{i}", "text": " ".join(texts[i].split()[1:4])} for i in range(6)]
    (folder / "tiny" / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "tiny" / f"{name}.jsonl").write_text(lines)
    lines = ["query-id\tcorpus-id\tscore", *(f"t{i}\td{i}\t1" for i in range(6))]
    (folder / "tiny" / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    base = tiny_llm.save(folder / "base", "llama")
    instruct = chat_templates.save(folder / "instruct", chat_templates.QWEN)
    models = {"base": base, "small": instruct, "instruct": instruct}
    for path in (base, instruct):  # the prompts are longer than 512 tokens of these models
        config = json.loads((Path(path) / "config.json").read_text())
        config["max_position_embeddings"] = 8192
        (Path(path) / "config.json").write_text(json.dumps(config))
    return [
        str(folder / "tiny"),
        *(f"--documents={DOCUMENTS}", "--judged=4", f"--folder={folder / 'results'}"),
        *(f"--{name}_model={path}" for name, path in models.items()),
    ]


@pytest.mark.parametrize("name, seeds", [("llms", [0, 1]), ("prompts", [0])])
def test_runs_are_compared_and_stored(scripts, measure, words, monkeypatch, capsys, name, seeds):
    arguments = measure.arguments_of("A comparison.", [*words, "--seed", *map(str, seeds)])
    runs = [
        run._replace(options={**run.options, "max_new_tokens": 12})
        for run in scripts[name].runs(arguments)
    ]
    measure.compare(arguments, runs)
    shown = tables(capsys.readouterr().out)
    assert len(shown) == 4 * len(seeds) + 1
    samples = list(measure.benches(arguments))
    assert len(
        {row["docno"] for bench in samples for row in bench.sample}
    ) > DOCUMENTS or seeds == [0]
    for i, bench in enumerate(samples):
        written, hard, chosen, learned = shown[4 * i : 4 * i + 4]
        names = [run.name for run in runs if len(bench.generate(run)[0])]
        assert len(names) > 1
        assert [row[0] for row in written[1:]] == [run.name for run in runs]
        assert [row[0] for row in hard[1:]] == [row[0] for row in chosen[1:]] == names
        assert [row[0] for row in learned[1:]] == ["BM25", "untrained", *names]
        for run in runs:
            assert set(bench.generate(run)[0]["docno"]) <= {row["docno"] for row in bench.sample}
    head, first = shown[-1][:2]
    found = [hard[1][hard[0].index("found@10")] for hard in shown[1:-1:4]]
    expected = f"{np.mean([float(value) for value in found]):.2f}"
    assert first[0] == runs[0].name
    assert first[head.index("found@10")].startswith(expected)
    assert ("(" in first[head.index("student")]) == (len(seeds) > 1)

    # A second call reads what is stored.
    monkeypatch.setattr(measure, "QueryGenerator", None)
    monkeypatch.setattr(measure, "RelevanceJudge", None)
    monkeypatch.setattr(BiEncoder, "fit", None)
    measure.compare(arguments, runs)
    assert tables(capsys.readouterr().out) == shown


def test_summary_is_of_all_samples(scripts):
    rng = np.random.default_rng(0)
    choice_of = scripts["_choice"].Choice
    summary = scripts["_summary"].Summary("run")
    taus = rng.normal([[0.5], [0.6], [0.8], [0.8]], 0.1, size=(4, 1000))
    students = []
    for i, name in enumerate(["a", "a", "b", "b"]):
        choice = choice_of(i / 10, taus[i], i / 100, None)
        values = [{"qid": q, "seed": s, "alone": rng.random()} for q in range(9) for s in range(3)]
        students.append(pd.DataFrame(values))
        summary.add(name, scripts["_summary"].Outcome({"copies": i / 4}, choice, students[-1]))
    first, second = summary.rows()
    assert first["run"] == "a" and first["p tau"] == first["p student"] == ""
    assert second["copies"] == "0.62 (0.50 to 0.75)" and second["tau"] == "0.25 (0.20 to 0.30)"
    assert second["gain"] == "+2.5% (+2.0% to +3.0%)"
    difference = taus[2:].mean(0) - taus[:2].mean(0)
    assert second["p tau"] == f"{2 * ((difference <= 0).sum() + 1) / 1001:.1g}"
    a, b = (sum(s.groupby("qid")["alone"].mean() for s in students[i : i + 2]) for i in (0, 2))
    assert second["p student"] == f"{scipy.stats.ttest_rel(b, a).pvalue:.1g}"


def test_filters_are_compared(scripts, measure, words, capsys):
    filters = scripts["filters"]
    bench = next(measure.benches(measure.arguments_of("A comparison.", words)))
    queries = pd.DataFrame(bench.sample).assign(
        qid=[f"q{i}" for i in range(DOCUMENTS)], score=[-float(i) for i in range(DOCUMENTS)]
    )
    queries["query"] = queries["text"].str.split().str[2:5].str.join(" ")  # copies
    queries.loc[3:, "query"] = [f"noise {text[-8:]} spectrum" for text in queries["text"][3:]]
    bench.generate = lambda run: (queries.copy(), {})
    bench.folder = bench.folder / "filters"
    bench.folder.mkdir()
    summary = scripts["_summary"].Summary("filter")
    filters.compare_filters(bench, summary)
    rows, chosen, learned = tables(capsys.readouterr().out)
    left = {row[0]: int(row[rows[0].index("queries")]) for row in rows[1:]}
    assert [row[0] for row in chosen[1:]] == [name for name, count in left.items() if count]
    assert "tau, similar" in chosen[0] and len(chosen) > 5
    assert [row[0] for row in learned[3:]] == [row[0] for row in chosen[1:]]
    assert [row["filter"] for row in summary.rows()] == [row[0] for row in chosen[1:]]
    assert left["none"] == DOCUMENTS and left["copies"] == DOCUMENTS - 3
    halves = ("scores", "reranker", "likelihood", "judge", "random half")
    assert {left[name] for name in halves} == {DOCUMENTS // 2}
    assert left["round trip, top 1"] <= left["round trip, top 10"]


def test_student_starts_as_the_mean_of_token_vectors_and_learns(
    scripts, measure, words, monkeypatch
):
    student_of = scripts["_student"]
    monkeypatch.setitem(student_of.TRAINING, "learning_rate", 0.1)  # there are few steps
    bench = next(measure.benches(measure.arguments_of("A comparison.", words)))
    bench.folder = bench.folder / "learning"
    bench.folder.mkdir()
    student = student_of.Student(bench)
    base = bench.arguments.base_model
    weights = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().weight.detach()
    tokenizer = AutoTokenizer.from_pretrained(base)

    def vector(text):
        mean = weights[tokenizer(text, add_special_tokens=False)["input_ids"]].mean(0).numpy()
        return mean / np.linalg.norm(mean)

    rows = student.candidates.to_dict("records")
    scores = BiEncoder(student.path, dtype="float32")(student.candidates)["score"]
    expected = [vector(row["query"]) @ vector(row["text"]) for row in rows]
    np.testing.assert_allclose(np.sort(scores), np.sort(expected), atol=1e-6)

    queries = pd.DataFrame(bench.sample).assign(
        qid=[f"q{i}" for i in range(DOCUMENTS)],
        query=[f"{row['text'].split()[2]} of {row['text'].split()[-1]}" for row in bench.sample],
    )
    start = student.values("untrained").set_index("qid")
    found = student.values("few", queries)
    assert len(found) == student_of.SEEDS * len(start)
    trained = found.groupby("qid")["alone"].mean()
    assert not np.allclose(trained, start["alone"])
    row = student.learned("few", queries, {})
    expected = scipy.stats.ttest_rel(trained, start["alone"]).pvalue
    assert row["p alone, untrained"] == f"{expected:.1g}" and row["p alone"] == ""
    assert row["alone"].startswith(f"{found['alone'].mean():.4f}")


@pytest.mark.parametrize(
    "text, reason, expected",
    [
        ("how is noise measured in a receiver", "stop", True),
        ("document retrieval with transistors", "stop", True),
        ("transistor gain", "stop", True),
        ("noise", "stop", False),
        ("12 34", "stop", False),
        ("how is noise measured", "length", False),
        ("Sure! Here is a query", "stop", False),
        ("Here is the query: noise in a receiver", "stop", False),
        ("The document describes noise in a receiver", "stop", False),
        ('{"query": "noise in a receiver"}', "stop", False),
        ("word " * 31, "stop", False),
    ],
)
def test_answers_that_are_not_queries(measure, text, reason, expected):
    assert measure.is_query(text, reason) is expected


def test_shares_are_of_all_answers(measure):
    queries = pd.DataFrame(
        {
            "query": ["gain of noise", "Gain of  noise", "noise limits", "Sure, a query"],
            "text": "noise limits the gain",
            "finish_reason": "stop",
        }
    )
    found = measure.properties(queries, {"seconds": 2.0, "copied": 3, "empty": 1}, 8)
    assert found["queries"] == 4 and found["per CPU second"] == 4
    assert found["not a query"] == "25.0%" and found["leaked"] == "37.5%"
    assert found["copies"] == "25.0%" and found["duplicates"] == "25.0%"
    assert found["words"] == pytest.approx((3 + 3 + 2 + 3) / 4)


def test_p_value_is_paired_by_document(measure):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=9), rng.normal(0.5, size=9)
    first = pd.DataFrame({"docno": list("abcdefghi"), "grade": a})
    other = pd.DataFrame({"docno": list("abcdefghi"), "grade": b})
    expected = f"{scipy.stats.ttest_rel(a[:8], b[:8]).pvalue:.1g}"
    assert measure.p_value(first, other[:8].sample(frac=1, random_state=1), "grade") == expected
    assert measure.p_value(first, first, "grade") == ""


def tables(shown):
    """Returns the rows of each table of Markdown, its head first."""
    parts = re.findall(r"(?:^\|.*\n)+", shown, re.MULTILINE)
    rows = [[line.strip("| ").split(" | ") for line in part.splitlines()] for part in parts]
    return [[head, *body] for head, _, *body in rows]
