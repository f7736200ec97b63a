"""``generate`` with a server, chat prompts, types of queries and extraction."""

import json

import pytest
from fault_server import FaultServer

from pyterrier_inpars import SyntheticQueries, cli


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.tsv"
    path.write_text("doc_id\ttext\nd1\tcold rain falls on hills\nd2\twarm wind blows over seas\n")
    return path


def test_types_of_queries_of_a_server(corpus, tmp_path):
    output = tmp_path / "out.jsonl"
    with FaultServer(log_probs=False) as server:
        cli.main(["generate", "--base_model", server.url, "--prompt_type", "question",
                  "--prompt_type", "three-shot-title", "--concurrency", "2", "--stop", "###",
                  "--extract", r"regex:(\S+ \S+)", "--dataset", str(corpus),
                  "--output", str(output)])  # fmt: skip
        stops = [request["stop"] for request in server.requests]
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert {row["type"] for row in rows} == {"question", "three_shot_title"}
    assert {"d1-question-1", "d1-question-1.2", "d2-three_shot_title-1"} <= {r["qid"] for r in rows}
    assert all(len(row["query"].split()) == 2 for row in rows)
    assert all(stop == ["###"] for stop in stops)
    settings = SyntheticQueries(f"{output}.queries").metadata["settings"]
    assert settings["extract"]["regex"] == r"(\S+ \S+)" and settings["stop"] == ["###"]


def test_the_chat_prompt_of_a_server(corpus, tmp_path):
    with FaultServer() as server:
        cli.main(["generate", "--base_model", server.url, "--chat", "--dataset", str(corpus),
                  "--output", str(tmp_path / "queries")])  # fmt: skip
        roles = [message["role"] for message in server.requests[0]["messages"]]
    assert roles[0] == "system" and roles[-1] == "user"
    assert len(SyntheticQueries(tmp_path / "queries")) == 2


def test_the_name_of_a_prompt_is_for_the_yaml_file_among_the_types(corpus, tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text('plain: {mode: static, template: "About {document}: {query}"}\n')
    output = tmp_path / "out.jsonl"
    with FaultServer() as server:
        cli.main(["generate", "--base_model", server.url, "--prompt_type", str(file),
                  "--prompt_type", "zero-shot", "--prompt_name", "plain", "--dataset",
                  str(corpus), "--output", str(output)])  # fmt: skip
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert {row["type"] for row in rows} == {"plain", "zero_shot"}
    for row in rows:
        assert row["prompt_text"].startswith("About ") == (row["type"] == "plain")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--base_model", "http://127.0.0.1:9/v1", "--dtype", "float32"], "--dtype cannot be used"),
        (
            ["--base_model", "tiny", "--concurrency", "2"],
            "--concurrency cannot be used with a model",
        ),
        (["--base_model", "tiny", "--extract", "regex:("], "is not a regular expression"),
        (["--base_model", "tiny", "--prompt_type", "four"], "there is no prompt 'four'"),
    ],
)
def test_options_that_do_not_fit_are_refused(corpus, tmp_path, capfd, options, message):
    output = str(tmp_path / "queries")
    with pytest.raises(SystemExit) as error:
        cli.main(["generate", *options, "--dataset", str(corpus), "--output", output])
    assert error.value.code
    assert message in capfd.readouterr().err
