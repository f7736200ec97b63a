"""Help, examples, completion and suggestions of the commands."""

import json
import re
import shlex
from pathlib import Path

import click
import pytest
import tiny
import tiny_llm
from click.shell_completion import ShellComplete

from pyterrier_inpars import cli, prompt_names
from pyterrier_inpars.datasets import beir

pytestmark = pytest.mark.usefixtures("one_thread")
COMMANDS = cli.commands.commands
ORDER = ["generate", "filter", "judge", "triples", "train", "rerank", "evaluate", "report"]
OPTIONS = {
    name: [p.opts[0] for p in c.params if p.opts[0][0] == "-"] for name, c in COMMANDS.items()
}
"""Options of each command."""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def collection(tmp_path, monkeypatch):
    """The folder ``collection`` of the examples, with a topic for each of six documents."""
    words = (tiny_llm.WORDS * 3)[:48]
    folder = tmp_path / "collection"
    (folder / "qrels").mkdir(parents=True)
    texts = [" ".join(words[i * 8 : i * 8 + 8]) for i in range(6)]
    for name, field in (("corpus", 8), ("queries", 2)):
        rows = [{"_id": f"{i}", "text": " ".join(t.split()[:field])} for i, t in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = "".join(f"{i}\t{i}\t1\n" for i in range(6))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    monkeypatch.chdir(tmp_path)


def test_the_examples_run_in_the_order_of_the_help(
    collection, tmp_path, tmp_path_factory, monkeypatch, capfd
):
    """As printed, on a small collection, with tiny models in place of the demo's."""
    pytest.importorskip("pyterrier_pisa")
    pytest.importorskip("matplotlib")
    models = tmp_path_factory.mktemp("models")
    llm, bert = tiny_llm.save(models / "llm", "llama"), tiny.tiny_bert(models / "bert")
    config = models / "llm" / "config.json"  # the examples of the prompt are too long for 512
    longer = json.loads(config.read_text()) | {"max_position_embeddings": 2048}
    config.write_text(json.dumps(longer))
    for name, path in (("language_model", llm), ("instruct_model", llm), ("encoder", str(bert))):
        monkeypatch.setattr(f"pyterrier_inpars.demo.{name}", lambda path=path: path)
    assert [name for name in COMMANDS if name in ORDER] == ORDER
    for name in ORDER:
        program, *words = shlex.split(COMMANDS[name].example.replace("\\\n", " "))
        assert (program, words[0]) == (cli.NAME, name)
        cli.main(words)
    assert re.search(r"nDCG@10 .*\(p \d", capfd.readouterr().out)


@pytest.mark.parametrize("name", ["", *COMMANDS])
@pytest.mark.parametrize("width", [80, 100])
def test_help_fits_the_terminal(name, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    cli.main([name, "--help"] if name else ["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) < width
    assert name or not any(line.endswith("...") for line in lines[1:])  # no summary is cut


@pytest.mark.parametrize("name", COMMANDS)
def test_arguments_are_in_the_usage_and_in_the_text(name, capsys):
    cli.main([name, "--help"])
    usage, text = capsys.readouterr().out.split("\n", 1)
    for argument in COMMANDS[name].params:
        if isinstance(argument, click.Argument) and argument.metavar:
            assert argument.metavar in usage and f"  {argument.metavar} " in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_a_section(name):
    options = [option for option in COMMANDS[name].params if isinstance(option, click.Option)]
    assert all(option.section for option in options)


def completed(*words):
    """Returns the values that the shell shows for the last word."""
    *given, incomplete = words
    shell = ShellComplete(cli.commands, {}, cli.NAME, "_COMPLETE")
    return [item.value for item in shell.get_completions(list(given), incomplete)]


@pytest.mark.parametrize(
    "words, found",
    [
        (["t"], ["triples", "train"]),
        (["generate", "--prompt", "three-shot-"],
         [name for name in prompt_names() if name.startswith("three-shot-")]),
        (["generate", "--prompt", "au"], ["auto"]),
        (["generate", "--base_model", "d"], ["demo"]),
        (["filter", "--dataset", "scif"], ["scifact"]),
        (["filter", "--filter_strategy", "r"], ["reranker", "round_trip"]),
        (["train", "--loss", "p"], ["pointwise", "pairwise"]),
        (["train", "--recipe", ""], ["inpars", "inpars-light"]),
        (["train", "--device", "c"], ["cpu", "cuda"]),
        (["rerank", "--input_run", "b"], ["bm25"]),
        (["evaluate", "--measure", "nDCG"], ["nDCG@10", "nDCG@20"]),
        (["evaluate", "--correction", "h"], ["holm"]),
    ],
)  # fmt: skip
def test_values_are_completed(words, found):
    assert completed(*words) == found


@pytest.mark.parametrize("name", [name for name in OPTIONS if "--device" in OPTIONS[name]])
def test_devices_are_those_that_the_command_supports(name, capsys):
    """Rerankers run on a TPU, language models do not."""
    devices = ["cpu", "cuda", "mps"] + ["xla"] * (name not in ("generate", "judge"))
    assert completed(name, "--device", "") == devices
    cli.main([name, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{', '.join(devices[:-1])} or {devices[-1]}. By default, the best available." in shown


def test_the_page_names_every_option():
    page = (ROOT / "pyterrier_inpars" / "pt_docs" / "command_line.rst").read_text()
    for name, options in OPTIONS.items():
        assert not [option for option in options if not re.search(rf"{option}\b", page)], name


def test_names_of_collections_and_files_are_completed():
    found = completed("generate", "--dataset", "")
    assert set(beir.COLLECTIONS) <= set(found) and "vaswani" in found
    shell = ShellComplete(cli.commands, {}, cli.NAME, "_COMPLETE")
    for command, option in (("evaluate", "--run"), ("train", "--triples"), ("filter", "--input")):
        (item,) = shell.get_completions([command, option], "folder/x")
        assert (item.value, item.type) == ("folder/x", "file")


@pytest.mark.parametrize(
    "words, error",
    [
        (["generat"], "Did you mean 'generate'?"),
        (["generate", "--promt", "x"], "'--prompt'"),
        (["filter", "--filter_strategy", "roundtrip"], "Did you mean 'round_trip'?"),
        (["train", "--loss", "listwize"], "Did you mean 'listwise'"),
        (["train", "--dtype", "float23"], "Did you mean 'float32'"),
        (["evaluate", "--measure", "ndcg@10"], "did you mean 'nDCG@10'"),
        (["evaluate", "--measure", "nDCG@x"], "'nDCG@x' is not a measure"),
        (["evaluate", "--measure", "P"], "most measures need a cutoff, such as P @ 10"),
        (["evaluate", "--run", "a", "--measure", "RR", "--relevance_threshold", "2"],
         "such as RR(rel=2)"),
    ],
)  # fmt: skip
def test_wrong_values_are_answered_with_the_nearest(words, error, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2 and error in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, error",
    [
        (["--dataset", "scifct"], "did you mean 'scifact'"),
        (["--dataset", "collection", "--prompt", "three-shott"], "did you mean 'three-shot'"),
    ],
)
def test_unknown_collections_and_prompts(collection, words, error, capfd):
    with pytest.raises(SystemExit) as end:
        cli.main(["generate", "--output", "out", *words])
    assert end.value.code == 1 and error in capfd.readouterr().err


def test_measures_of_ir_measures(collection, tmp_path, capsys):
    (tmp_path / "a.run").write_text("0 Q0 0 1 2 r\n1 Q0 0 1 2 r\n1 Q0 1 2 1 r\n")
    command = ["evaluate", "--run", "a.run", "--dataset", "collection", "--json"]
    cli.main([*command, "--measure", "RR", "--measure", "P@1"])
    values = json.loads(capsys.readouterr().out)
    assert values == {"run": "a.run", "RR": 1.5 / 6, "P@1": 1 / 6, "NumRet": 3, "NumQ": 6}
