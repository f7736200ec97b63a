"""Bad arguments and files of the commands."""

import json
import re

import pytest
import tiny_llm
from bad_input import CORPUS, rows

from pyterrier_inpars import cli
from pyterrier_inpars.datasets import toolkit_files

pisa = pytest.importorskip("pyterrier_pisa")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return tiny_llm.save(tmp_path_factory.mktemp("llm"), "llama")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, llm):
    """Files for the commands; ``{name}`` in an argument is the path of one."""
    home = tmp_path_factory.mktemp("cli")
    contents = {
        "corpus.jsonl": "".join(json.dumps(document) + "\n" for document in CORPUS),
        "queries.jsonl": '{"doc_id": "d1", "text": "a", "query": "a b c", "score": -1}\n',
        "half.jsonl": r'{"doc_id": "d1", "text": "a", "query": "a b \ud800", "score": -1}' + "\n",
        "unscored.jsonl": '{"doc_id": "d1", "text": "a", "query": "a b c"}\n',
        "blank.jsonl": '{"doc_id": "d1", "text": "a", "query": " "}\n',
        "empty.jsonl": "",
        "bad.jsonl": "{}\n",
        "run": "1 Q0 d1 0 1.0 x\n1 Q0 d2 1 0.5 x\n",
        "nan.run": "1 Q0 d1 0 nan x\n",
        "qrels": "1 0 d1 1\n",
        "other.qrels": "2 0 d1 1\n",
        "huge.qrels": "1 0 d1 " + "9" * 30,
        "topics.tsv": "1\tnoise\n",
        "prompt.txt": "no field",
        "text.txt": "About {document}: {query}",
        "list.yaml": "- a\n",
    }
    for name, content in contents.items():
        (home / name).write_text(content)
    (home / "latin.txt").write_bytes("é {document}".encode("latin-1"))
    paths = {name: str(home / name) for name in [*contents, "latin.txt", "new", "nowhere"]}
    return paths | {"llm": llm}


GENERATE = "generate --base_model {llm} --prompt zero-shot --dataset {corpus.jsonl} --output {new}"


TYPES = "generate --base_model {llm} --prompt_type chat --dataset {corpus.jsonl} --output {new}"


CHAT = "generate --base_model {llm} --chat --dataset {corpus.jsonl} --output {new}"


FILTER = "filter --filter_strategy scores --output {new}"


STRATEGY = "filter --output {new} --input {queries.jsonl} --filter_strategy"


MODEL = ["--model_name_or_path x", "--dtype int8", "--torch_compile", "--device cpu",
         "--batch_size 7"]  # fmt: skip


BM25 = ["--index x", "--threads 3"]


UNUSED = {"scores": [*BM25, *MODEL], "reranker": ["--k 2", *BM25], "round_trip": MODEL}


TRIP = "filter --filter_strategy round_trip --output {new} --input {queries.jsonl}"


JUDGE = "judge --base_model {llm} --output {new}"


EVALUATE = "evaluate --run {run} --qrels {qrels}"


@pytest.mark.parametrize(
    "arguments, code, message",
    rows(
        # click takes the last of an option that is given twice
        ("other", 2, "No such command 'other'"),
        ("generate", 2, "Missing option"),
        (f"{GENERATE} --nonsense 1", 2, "No such option"),
        (f"{GENERATE} --max_generations 0", 2, "Invalid value for '--max_generations'"),
        (f"{GENERATE} --max_generations 1.5", 2, "Invalid value for '--max_generations'"),
        (f"{GENERATE} --temperature hot", 2, "Invalid value for '--temperature'"),
        (f"{GENERATE} --temperature nan", 1, "temperature must be a number, not nan"),
        (f"{GENERATE} --temperature -1", 1, "temperature must be at least 0, not -1"),
        (f"{GENERATE} --seed -1", 1, "seed must be a whole number of at least 0"),
        (
            f"{GENERATE} --dataset {{nowhere}}",
            1,
            "is not a file or folder, not known",
        ),
        (f"{GENERATE} --dataset {{bad.jsonl}}", 1, "bad.jsonl, line 1: no column docno"),
        (f"{GENERATE} --prompt other", 1, "there is no prompt 'other'"),
        (f"{GENERATE} --prompt {{prompt.txt}}", 1, "contains it 0 times: 'no field'"),
        (f"{GENERATE} --prompt {{latin.txt}}", 1, "latin.txt is not text in UTF-8"),
        (f"{GENERATE} --prompt {{list.yaml}}", 2, "--prompt_name is required"),
        (f"{GENERATE} --prompt {{list.yaml}} --prompt_name x", 1, "must map names to prompts"),
        (f"{GENERATE} --prompt few-shot", 1, "has no topics: give it a file"),
        (
            f"{GENERATE} --prompt auto --fewshot_examples {{nowhere}}",
            2,
            "--fewshot_examples has no effect on --prompt auto: give a prompt with examples",
        ),
        (f"{GENERATE} --prompt {{text.txt}} --fewshot_examples {{nowhere}}", 2, "has no effect"),
        (f"{GENERATE} --prompt {{text.txt}} --n_fewshot_examples 2", 2, "has no effect"),
        (f"{GENERATE} --n_fewshot_examples 2", 2, "no effect on --prompt zero-shot, to which no"),
        (f"{GENERATE} --max_query_length 5", 2, "--max_query_length has no effect"),
        (f"{GENERATE} --prompt auto --max_query_length 5", 2, "has no effect on --prompt auto"),
        (f"{CHAT} --n_fewshot_examples 1", 2, "no effect on --chat, to which no examples are add"),
        (f"{TYPES} --n_fewshot_examples 1", 2, "no effect on --prompt_type chat, to which no"),
        (f"{GENERATE} --top_p 0.5", 2, "--top_p has no effect without a --temperature above 0"),
        (f"{GENERATE} --fewshot_examples {{nowhere}}", 1, "No such file .*nowhere"),
        (f"{GENERATE} --prompt_name x", 2, "--prompt_name is for a YAML file"),
        (f"{GENERATE} --prompt no.yaml --prompt_name x", 1, "there is no prompt 'no.yaml'"),
        (f"{GENERATE} --prompt_type question", 2, "--prompt cannot be used with --prompt_type"),
        (f"{TYPES} --chat", 2, "--chat cannot be used with --prompt_type"),
        (f"{GENERATE} --chat", 2, "--prompt cannot be used with --chat"),
        (f"{TYPES} --prompt_name x", 2, "not for --prompt_type chat"),
        (f"{TYPES} --prompt_type auto --prompt_name x", 2, "not for --prompt_type chat auto"),
        (f"{CHAT} --prompt_name x", 2, "YAML file with prompts, not for --chat"),
        (f"{TYPES} --prompt_type {{list.yaml}}", 2, "--prompt_name is required"),
        (f"{TYPES} --prompt_type {{list.yaml}} --prompt_name chat", 2, "would be the same type"),
        (f"{GENERATE} --torch_compile --base_model http://127.0.0.1:9/v1", 2, "--torch_compile"),
        (f"{GENERATE} --base_model {{nowhere}}", 1, "cannot load a causal language model from"),
        (f"{GENERATE} --output {{queries.jsonl}}", 1, "already exists"),
        (f"{GENERATE} --output {{corpus.jsonl}}", 2, "corpus.jsonl is the file of --dataset"),
        (
            f"{FILTER} --input {{run}} --output {{run}}",
            2,
            "run is the file of --input, which would be",
        ),
        ("triples --input {run} --output {run}", 2, "run is the file of --input"),
        ("rerank --input_run {run} --output_run {run}", 2, "run is the file of --input_run"),
        ("judge --base_model demo --input {run} --output {run}", 2, "the file of --input"),
        (f"{FILTER} --input {{nowhere}}", 1, "No such file .*nowhere"),
        (f"{FILTER} --input {{bad.jsonl}}", 1, "bad.jsonl, line 1: lacks doc_id"),
        (f"{FILTER} --input {{empty.jsonl}}", 1, "empty.jsonl: is empty"),
        (f"{FILTER} --input {{blank.jsonl}}", 1, "blank.jsonl has no queries"),
        (f"{FILTER} --input {{unscored.jsonl}}", 1, "missing_columns=.'score'"),
        (f"{FILTER} --input {{half.jsonl}}", 0, "1 of 1 queries"),
        (f"{FILTER} --input {{queries.jsonl}} --keep_top_k 0", 2, "Invalid value for '--keep_top"),
        (f"{FILTER} --input {{queries.jsonl}} --k 3", 2, "--k has no effect with --filter_strat"),
        (f"{TRIP} --keep_top_k 3", 2, "--keep_top_k has no effect"),
        *(
            (f"{STRATEGY} {name} {option}", 2, f"{option.split()[0]} has no effect with .* {name}")
            for name, options in UNUSED.items()
            for option in options
        ),
        (f"{JUDGE} --input {{queries.jsonl}} --index x", 2, "--index is for --input_run bm25"),
        (f"{JUDGE} --input {{queries.jsonl}} --threads 1", 2, "--threads is for --input_run"),
        (f"{JUDGE} --input_run {{run}} --index x", 2, "--index has no effect on a run from a file"),
        (f"{EVALUATE} --threads 2", 2, "--threads has no effect on a run from a file"),
        ("rerank --input_run {run} --index x --output_run {new}", 2, "--index has no effect on a"),
        (
            f"{JUDGE} --input {{queries.jsonl}} --scale binary --min_score 2",
            2,
            "--min_score 2 is above 1, the highest grade of --scale binary",
        ),
        (f"{JUDGE} --input_run {{run}} --min_score 1", 2, "--min_score is for --input"),
        (f"{JUDGE} --input {{queries.jsonl}} --top_k 1", 2, "--top_k is for --input_run"),
        (f"{TRIP}", 2, "--dataset is required"),
        (f"{TRIP} --dataset {{empty.jsonl}}", 1, "empty.jsonl has no documents to search"),
        ("triples --input {bad.jsonl} --dataset {corpus.jsonl} --output {new}", 1, "lacks doc_id"),
        ("train --output_dir {new}", 2, "exactly one of --triples and --pairs is required"),
        ("train --triples {nowhere} --output_dir {new}", 1, "nowhere|cannot load"),
        ("rerank --model {llm} --input_run {run} --output_run {new}", 1, "which is not a reranker"),
        (f"{EVALUATE} --run {{nowhere}}", 1, "No such file .*nowhere"),
        (f"{EVALUATE} --run {{nan.run}}", 1, "nan.run, line 1: must be .*the score is NaN"),
        (f"{EVALUATE} --run {{qrels}}", 1, "qrels, line 1: must be `qid Q0 docno rank score tag`"),
        (f"{EVALUATE} --qrels {{run}}", 1, "run, line 1: .* is not a judgement"),
        (f"{EVALUATE} --qrels {{huge.qrels}}", 1, "huge.qrels, line 1: .* is not a judgement"),
        (f"{EVALUATE} --qrels {{empty.jsonl}}", 1, "empty.jsonl has no judgements"),
        (f"{EVALUATE} --qrels {{other.qrels}}", 1, "run has no document for any judged topic"),
        (f"{EVALUATE} --relevance_threshold 0", 1, "relevance_threshold must be a whole number"),
        (f"{EVALUATE} --without {{queries.jsonl}}", 1, "has no fewshot_examples"),
    ),
)
def test_commands(folder, capfd, tmp_path, arguments, code, message):
    """One line on standard error, no traceback, no output file."""
    new = str(tmp_path / "new.jsonl")
    words = [
        re.sub(r"\{(.*?)\}", lambda m: {**folder, "new": new}[m[1]], w) for w in arguments.split()
    ]
    try:
        cli.main(words)
        ended = 0
    except SystemExit as end:
        ended = end.code
    out, err = capfd.readouterr()
    assert ended == code and "Traceback" not in err
    said = [line for line in err.splitlines() if line.startswith("pyterrier-inpars: ")]
    assert re.search(message, "".join(said or [out]))
    assert len(said) == (code != 0)
    assert (tmp_path / "new.jsonl").exists() == (code == 0)


def test_unexpected_errors_are_one_line_too(folder, monkeypatch, capfd):
    def fail(path):
        raise AssertionError("impossible")

    monkeypatch.setattr(toolkit_files, "read_run", fail)
    arguments = ["evaluate", "--run", "x", "--qrels", folder["qrels"]]
    for more in ([], ["--debug"]):
        with pytest.raises(SystemExit) as end:
            cli.main([*more, *arguments])
        assert end.value.code == 1
        *shown, last = capfd.readouterr().err.splitlines()
        assert last == "pyterrier-inpars: AssertionError: impossible (--debug shows the traceback)"
        assert bool(shown) == bool(more)
