"""``judge``, and ``generate --estimate``."""

import json
import re

import pandas as pd
import pytest
import tiny_llm
from fault_server import FaultServer, Reply

from pyterrier_inpars import RelevanceJudge, cli, datasets
from pyterrier_inpars.cli._errors import in_options
from pyterrier_inpars.datasets import toolkit_files

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*answers have no grade"),
]
pytest.importorskip("pyterrier_pisa")


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return tiny_llm.save(tmp_path_factory.mktemp("llm"), "llama")


@pytest.fixture
def collection(tmp_path):
    """A collection in BEIR's layout, with one judged document per topic."""
    folder = tmp_path / "collection"
    (folder / "qrels").mkdir(parents=True)
    rows = {
        "corpus": [{"_id": f"d{i}", "text": word * 2} for i, word in enumerate(("rain ", "wind "))],
        "queries": [{"_id": "t0", "text": "rain"}, {"_id": "t1", "text": "wind"}],
    }
    for name, records in rows.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text)
    head = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels" / "test.tsv").write_text(head + "t0\td0\t1\nt1\td1\t1\n")
    return folder


def queries_file(tmp_path):
    path = tmp_path / "queries.jsonl"
    rows = [
        {"doc_id": f"d{i}", "text": "rain", "query": f"rain {i}", "score": -1} for i in range(3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_queries_are_graded_and_filtered(llm, tmp_path, capsys):
    source, output = queries_file(tmp_path), tmp_path / "judged.jsonl"
    command = ["judge", "--base_model", llm, "--input", str(source), "--output", str(output)]
    cli.main([*command, "--dtype", "float32", "--scale", "binary"])
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    frame = pd.DataFrame(toolkit_files.read_queries(source))
    judge = RelevanceJudge(llm, scale=(0, 1), dtype="float32")
    expected = judge(frame)
    assert [row["score"] for row in rows] == pytest.approx(expected["score"].tolist())
    assert [row["grade"] for row in rows] == expected["grade"].tolist()
    assert "3 of 3 queries" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main([*command[:-1], str(tmp_path / "none.jsonl"), "--min_score", "3"])
    assert "none of 3 queries has a grade of --min_score 3.0" in capsys.readouterr().err


def test_a_run_becomes_qrels_that_are_compared_with_the_human_ones(
    collection, llm, tmp_path, capsys
):
    output = tmp_path / "judged.qrels"
    command = ["judge", "--input_run", "bm25", "--top_k", "1", "--dataset", str(collection),
               "--output", str(output)]  # fmt: skip
    unparsed = pytest.warns(UserWarning, match="answers have no grade")
    with FaultServer() as server, pytest.raises(SystemExit), unparsed as caught:
        cli.main([*command, "--base_model", server.url])  # the server answers with words
    assert "none of 2 pairs a grade" in capsys.readouterr().err and not output.exists()
    shown = [in_options(str(w.message), cli.commands.commands["judge"]) for w in caught]
    assert any(text.endswith("needs more than --max_new_tokens 16") for text in shown)
    cli.main([*command, "--base_model", llm])
    qrels = datasets.read_qrels(output)
    assert qrels[["qid", "docno"]].to_numpy().tolist() == [["t0", "d0"], ["t1", "d1"]]
    out = capsys.readouterr().out
    assert "2 judgements for 2 topics" in out and "2 pairs: kappa" in out


@pytest.mark.parametrize("given", [[], ["--input", "q.jsonl", "--input_run", "bm25"]])
def test_queries_or_a_run(llm, tmp_path, capsys, given):
    with pytest.raises(SystemExit):
        cli.main(["judge", "--base_model", llm, *given, "--output", str(tmp_path / "out")])
    assert "either --input, synthetic queries, or --input_run" in capsys.readouterr().err


def test_an_estimate_writes_nothing(collection, llm, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    cli.main(["generate", "--base_model", llm, "--prompt", "zero-shot", "--estimate",
              "--max_prompt_length", "400", "--max_new_tokens", "5",
              "--dataset", str(collection), "--output", str(output)])  # fmt: skip
    out = capsys.readouterr().out
    found = re.search(r"2 requests with (\d+) tokens, and at most 10 tokens of completions", out)
    assert found and int(found[1]) > 10
    assert not output.exists() and not (tmp_path / "out.jsonl.queries").exists()


def test_an_estimate_of_judgements_asks_nothing(collection, tmp_path, capsys):
    output = tmp_path / "judged"
    source = ["--input", str(queries_file(tmp_path))]
    run = ["--input_run", "bm25", "--top_k", "1", "--dataset", str(collection)]
    with FaultServer() as server:
        for given, count in ((source, 3), (run, 2)):
            cli.main(["judge", "--base_model", server.url, *given, "--estimate",
                      "--max_new_tokens", "5", "--output", str(output)])  # fmt: skip
            out = capsys.readouterr().out
            found = re.search(r"(\d+) requests with (\d+) tokens, and at most (\d+) tokens of", out)
            assert int(found[1]) == count and int(found[2]) > 50 * count
            assert int(found[3]) == 5 * count
        assert not server.requests
    assert not list(tmp_path.glob("judged*"))


def test_judgements_that_were_paid_for_are_not_asked_for_again(tmp_path, capsys):
    """The server refuses its key after two answers."""
    source, output = queries_file(tmp_path), tmp_path / "judged.jsonl"
    grade = Reply({"choices": [{"message": {"content": "2"}, "finish_reason": "stop"}]})
    refused = ["rain 2"]

    def fault(prompt, attempt):
        return "unauthorized" if any(query in prompt for query in refused) else grade

    with FaultServer(fault) as server:
        command = ["judge", "--base_model", server.url, "--input", str(source), "--concurrency",
                   "1", "--output", str(output)]  # fmt: skip
        with pytest.raises(SystemExit):
            cli.main(command)
        assert "401" in capsys.readouterr().err and not output.exists()
        refused.clear()
        cli.main(command)
        assert "3 of 3 queries" in capsys.readouterr().out
        assert sorted(server.attempts.values()) == [1, 1, 2]
        cli.main([*command, "--min_score", "1"])  # another filter needs no model
        assert server.attempts.total() == 4


def test_a_topic_of_the_run_that_the_dataset_lacks_is_named(collection, llm, tmp_path, capsys):
    run, output = tmp_path / "in.run", tmp_path / "judged.qrels"
    run.write_text("t0 Q0 d0 0 2.0 x\nother Q0 d1 0 1.0 x\n")
    with pytest.raises(SystemExit):
        cli.main(["judge", "--base_model", llm, "--input_run", str(run),
                  "--dataset", str(collection), "--output", str(output)])  # fmt: skip
    error = capsys.readouterr().err
    assert "lacks 1 of 2 topics" in error and "such as 'other': remove them" in error
    assert "--queries" not in error and not output.exists()
