"""``generate`` with a server, chat prompts, types of queries and extraction."""

import json
import warnings
from contextlib import suppress

import pandas as pd
import pytest
from fault_server import FaultServer, Reply

from pyterrier_inpars import SyntheticQueries, cli
from pyterrier_inpars.cli._errors import in_options
from pyterrier_inpars.cli._source import rows


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


def fewshot_file(tmp_path, **fields):
    file = tmp_path / "examples.jsonl"
    example = {"query_id": "7", "query": "deep seas", "doc_id": "7", "document": "Trenches."}
    file.write_text(json.dumps({**example, **fields}) + "\n")
    return str(file)


def test_types_of_queries_that_have_the_same_examples_give_a_warning(corpus, tmp_path):
    with FaultServer(log_probs=False) as server:
        command = ["generate", "--base_model", server.url, "--dataset", str(corpus),
                   "--fewshot_examples", fewshot_file(tmp_path),
                   "--prompt_type", "question"]  # fmt: skip
        with pytest.warns(UserWarning, match="types question, keywords have examples from the sam"):
            cli.main([*command, "--prompt_type", "keywords", "--output", str(tmp_path / "a")])
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="the prompts of the types")
            cli.main([*command, "--output", str(tmp_path / "b")])


def test_examples_in_a_file_have_whole_answers(corpus, tmp_path):
    answer = "It is about the sea.\nQuery: deep seas"
    with FaultServer(log_probs=False) as server:
        cli.main(["generate", "--base_model", server.url, "--dataset", str(corpus),
                  "--fewshot_examples", fewshot_file(tmp_path, answer=answer),
                  "--prompt", "chain-of-thought", "--extract", "regex:(.+)",
                  "--output", str(tmp_path / "queries")])  # fmt: skip
        contents = [message["content"] for message in server.requests[0]["messages"]]
    assert contents[2] == answer


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


SERVER = ["--parameters", '{"seed": null, "reasoning_effort": "low"}', "--no_log_probs",
          "--endpoint", "completions", "--requests_per_minute", "1e6",
          "--tokens_per_minute", "1e9"]  # fmt: skip


@pytest.mark.parametrize("command", ["generate", "judge", "quickstart"])
def test_every_option_of_a_server_reaches_it(command, corpus, tmp_path, capfd):
    with FaultServer(lambda prompt, attempt: "no model") as server:
        words = {
            "generate": ["--dataset", str(corpus), "--output", str(tmp_path / "out"),
                         "--temperature", "0.5"],
            "judge": ["--input", str(written(tmp_path)), "--output", str(tmp_path / "out")],
            "quickstart": [str(folder_of_texts(tmp_path)), "--output", str(tmp_path / "out")],
        }[command]  # fmt: skip
        with pytest.raises(SystemExit):  # at the first request
            cli.main([command, *words, "--base_model", server.url, *SERVER])
        request = server.requests[0]
    assert "HTTP status 404" in capfd.readouterr().err
    assert request["reasoning_effort"] == "low" and "prompt" in request
    assert "seed" not in request and "logprobs" not in request


def written(folder):
    path = folder / "written.jsonl"
    path.write_text('{"doc_id": "d1", "text": "rain", "query": "a b c", "score": -1}\n')
    return path


def folder_of_texts(folder):
    texts = folder / "texts"
    texts.mkdir()
    for i, line in enumerate(("rain falls on hills", "wind blows over seas", "snow covers roofs")):
        (texts / f"{i}.txt").write_text(f"{line} in winter and in spring, as people say.")
    return texts


def test_quickstart_asks_a_server_by_a_chat_prompt(tmp_path, capfd):
    texts, output = folder_of_texts(tmp_path), tmp_path / "out"
    with FaultServer() as server, suppress(SystemExit):  # no query passes the filters
        cli.main(["quickstart", str(texts), "--output", str(output), "--base_model", server.url])
    assert len(server.requests) == 3
    for request in server.requests:
        assert [m["role"] for m in request["messages"]][-1] == "user" and "stop" not in request


@pytest.mark.parametrize(
    ("parameters", "message"),
    [("{seed: 1}", "is not JSON"), ("[1]", "must be an object, such as '{\"temperature\": null}'")],
)
def test_parameters_must_be_an_object(corpus, tmp_path, capfd, parameters, message):
    with pytest.raises(SystemExit):
        cli.main(["generate", "--base_model", "http://127.0.0.1:9/v1", "--dataset", str(corpus),
                  "--output", str(tmp_path / "x"), "--parameters", parameters])  # fmt: skip
    assert message in capfd.readouterr().err


def test_remedies_are_options_that_work(tmp_path, corpus, capfd):
    """Each is followed: the name of a model, and a field that is left out."""
    two = Reply({"data": [{"id": "qwen2.5:7b"}, {"id": "llama3"}]})
    command = ["generate", "--dataset", str(corpus), "--output", str(tmp_path / "queries")]
    with FaultServer(models=two, refused_fields=["temperature"]) as server:
        command += ["--base_model", server.url]
        for option in (["--served_model", "llama3"], ["--parameters", '{"temperature": null}']):
            with pytest.raises(SystemExit):
                cli.main(command)
            assert option[0] in capfd.readouterr().err
            command += option
        cli.main(command)
        assert server.requests[-1]["model"] == "llama3"
    with FaultServer(models=Reply({"data": []})) as server, pytest.raises(SystemExit):
        cli.main([*command[:5], "--output", str(tmp_path / "other"), "--base_model", server.url])
    assert "name of its model: give it as --served_model" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "the parameters ({'seed': None}, for example, leaves out a field that it does not "
            "accept); answers",
            "the options (--no_log_probs, or --parameters '{\"seed\": null}', for example, leave "
            "out a field that it does not accept); answers",
        ),
        ("set sampling={'temperature': 0.7}", "set --temperature 0.7"),
        (
            "in Q may get queries from the same index() again, which",
            "the same command with --retry",
        ),
        ("give one as served_model= (model= of OpenAIBackend)", "give one as --served_model "),
        ("longer than max_doc_tokens=256,", "longer than --max_doc_length 256,"),
        ("fit context=2048, of which max_new_tokens=64", "fit --max_prompt_length 2048, of which"),
    ],
)
def test_errors_name_options(message, shown):
    assert shown in in_options(message, cli.commands.commands["generate"])


@pytest.mark.parametrize(("given", "limit"), [([], None), (["--max_prompt_length", "999"], 999)])
def test_a_server_has_no_limit_of_the_prompt_unless_one_is_given(corpus, tmp_path, given, limit):
    command = ["generate", "--dataset", str(corpus), "--output", str(tmp_path / "queries")]
    long = ["--max_new_tokens", "4000"]
    with FaultServer() as server:
        command += ["--base_model", server.url, "--chat", *given]
        if given:
            with pytest.raises(SystemExit):
                cli.main([*command, *long])
        else:
            command += long
        cli.main(command)
    assert SyntheticQueries(command[4]).metadata["settings"]["max_prompt_tokens"] == limit


def test_a_run_keeps_the_limit_of_the_prompt_that_servers_once_had(tmp_path, corpus):
    """Until one was given for it; another one is refused."""
    command = ["generate", "--dataset", str(corpus), "--output", str(tmp_path / "queries"),
               "--max_new_tokens", "16", "--chat"]  # fmt: skip
    for limit, resumes in (("2048", True), ("1024", False)):
        with FaultServer() as server:
            command[4], base = str(tmp_path / limit), ["--base_model", server.url]
            cli.main([*command, *base, "--max_prompt_length", limit])
            queries = SyntheticQueries(command[4])
            before = queries.metadata
            (queries.path / "pt_meta.json").rename(queries.path / "progress.json")
            if resumes:
                cli.main([*command, *base])
                assert queries.metadata == before
            else:
                with pytest.raises(SystemExit):
                    cli.main([*command, *base])
            assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("options", "fields", "refused"),
    [
        ("--temperature 0.7", {"temperature": None}, "--temperature"),
        ("--temperature 0.7", {"temperature": 0}, "--temperature"),
        ("--top_p 0.9", {"temperature": None}, "--top_p"),
        ("--top_p 0.9", {"temperature": 0}, "--top_p"),
        ("--temperature 0.7 --top_p 0.9", {"top_p": None}, "--top_p"),
        ("--stop x", {"stop": ["y"]}, "--stop"),
        ("--max_new_tokens 9", {"max_tokens": 99}, "--max_new_tokens"),
        ("--max_new_tokens 9", {"max_completion_tokens": 99}, "--max_new_tokens"),
        ("--served_model m", {"model": "n"}, "--served_model"),
        ("--no_log_probs", {"logprobs": None}, "--no_log_probs"),
        ("--max_new_tokens 9 --max_prompt_length 999", {"max_tokens": 99}, None),
        ("--top_p 0.9", {"temperature": 0.7}, None),
        ("--temperature 0.7 --top_p 0.9 --seed 3", {"seed": None}, None),
    ],
)
def test_options_that_parameters_replace_are_refused(corpus, capfd, options, fields, refused):
    command = ["generate", "--dataset", str(corpus), "--base_model", "http://127.0.0.1:9/v1",
               "--estimate", *options.split(), "--parameters", json.dumps(fields)]  # fmt: skip
    if refused is None:
        cli.main(command)
        return
    with pytest.raises(SystemExit):
        cli.main(command)
    assert f"{refused} has no effect" in capfd.readouterr().err


def test_a_judge_refuses_options_that_parameters_replace(tmp_path, capfd):
    with pytest.raises(SystemExit):
        cli.main(["judge", "--input", str(written(tmp_path)), "--estimate", "--base_model",
                  "http://127.0.0.1:9/v1", "--max_new_tokens", "9",
                  "--parameters", '{"max_tokens": 99}'])  # fmt: skip
    assert "--max_new_tokens has no effect: --parameters" in capfd.readouterr().err


def test_an_estimate_needs_no_output_and_refuses_none(corpus, tmp_path, capfd):
    source = str(written(tmp_path))
    base = ["--base_model", "http://127.0.0.1:9/v1", "--estimate"]
    generate = ["generate", *base, "--dataset", str(corpus), "--parameters", '{"max_tokens": 999}']
    for command in (generate, [*generate, "--output", source], ["judge", *base, "--input", source]):
        cli.main(command)
        assert "request" in capfd.readouterr().out
    cli.main(generate)
    assert "at most 1,998 tokens of completions" in capfd.readouterr().out
    with pytest.raises(SystemExit):
        cli.main([*generate[:-2], "--parameters", '{"max_tokens": null}', "--retry_failed"])
    assert "--retry_failed cannot be used with --estimate" in capfd.readouterr().err
    cli.main([*generate[:-2], "--parameters", '{"max_tokens": null}'])
    assert "no limit of the tokens of completions" in capfd.readouterr().out
    for command in (generate, ["judge", *base, "--input", source]):
        with pytest.raises(SystemExit):
            cli.main([word for word in command if word != "--estimate"])
        assert "Missing option '--output'" in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore:a prompt failed", "ignore:.* may get queries from")
@pytest.mark.parametrize("name", ["out.jsonl", "out"])
def test_failed_documents_are_listed_and_tried_again(tmp_path, capfd, name):
    corpus, output = tmp_path / "corpus.tsv", tmp_path / name
    lines = [f"d{i}\tdocument number {i} of rain and wind" for i in range(8)]
    corpus.write_text("doc_id\ttext\n" + "\n".join(lines) + "\n")
    faults = {"number 2 ": "500", "number 5 ": "too long", "number 6 ": "500"}

    def fault(prompt, attempt):
        return next((kind for text, kind in faults.items() if text in prompt), None)

    expected = {f"d{i}" for i in range(8)}
    with FaultServer(fault) as server:
        command = ["generate", "--base_model", server.url, "--endpoint", "completions",
                   "--prompt", "zero-shot", "--dataset", str(corpus),
                   "--output", str(output)]  # fmt: skip
        with pytest.raises(SystemExit):
            cli.main([*command, "--retry_failed"])
        assert "is for a complete --output" in capfd.readouterr().err
        cli.main(command)
        shown = capfd.readouterr().out
        assert "5 queries for 8 documents" in shown and "3 documents whose prompts failed" in shown
        listed = pd.read_json(f"{output}.failed.jsonl", lines=True)
        assert list(listed) == ["docno", "error"] and set(listed["docno"]) == {"d2", "d5", "d6"}
        faults.pop("number 2 "), faults.pop("number 6 ")
        with pytest.raises(SystemExit):
            cli.main(command)
        assert "already exists" in capfd.readouterr().err
        sent = len(server.requests)
        cli.main([*command, "--retry_failed"])
        assert "7 queries for 8 documents" in capfd.readouterr().out
        assert len(server.requests) - sent in (2, 3)  # the refused one perhaps
        assert list(pd.read_json(f"{output}.failed.jsonl", lines=True)["docno"]) == ["d5"]
    queries = pd.DataFrame(rows(output))
    assert set(queries["docno"]) == expected - {"d5"} and queries["qid"].is_unique


@pytest.mark.filterwarnings("ignore:a prompt failed", "ignore:.* holds no query")
@pytest.mark.parametrize("name", ["out.jsonl", "out"])
def test_failed_documents_are_listed_without_a_query(corpus, tmp_path, capfd, name):
    """The others have an empty answer."""
    empty = Reply({"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]})
    command = ["generate", "--dataset", str(corpus), "--output", str(tmp_path / name)]
    with FaultServer(lambda prompt, attempt: "too long" if "rain" in prompt else empty) as server:
        for retry in ([], ["--retry_failed"]):
            with pytest.raises(SystemExit):
                cli.main([*command, "--base_model", server.url, *retry])
            assert "no query for any of" in capfd.readouterr().err
            listed = pd.read_json(tmp_path / f"{name}.failed.jsonl", lines=True)
            assert listed["docno"].tolist() == ["d1"]


def test_the_first_failure_is_named_if_there_is_no_query(corpus, tmp_path, capfd):
    command = ["generate", "--dataset", str(corpus), "--output", str(tmp_path / "queries")]
    with FaultServer(lambda prompt, attempt: "too long") as server, pytest.raises(SystemExit):
        cli.main([*command, "--base_model", server.url])
    said = capfd.readouterr().err
    assert "'d1'" in said and "maximum context length" in said.splitlines()[-1]
    assert "index()" not in said
