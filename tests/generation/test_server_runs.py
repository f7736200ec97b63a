"""Queries of a server: interrupted runs, failed documents, addresses as models, estimates."""

import math
import re
import shutil
import time
import warnings
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyterrier as pt
import pytest
from fault_server import FaultServer, Reply
from plain_generation import documents, generator

from pyterrier_inpars import (
    FewShotPrompt,
    QueryGenerator,
    ScoreFilter,
    StaticPrompt,
    SyntheticQueries,
)
from pyterrier_inpars.backends.base import Sampling
from pyterrier_inpars.backends.openai import FAILURES_IN_A_ROW, OpenAIBackend
from pyterrier_inpars.backends.openai_batch import OpenAIBatch
from pyterrier_inpars.datasets import toolkit_files
from pyterrier_inpars.queries._answers import AnswerLog
from pyterrier_inpars.queries._resume import ResumeState, activated

PROMPT = StaticPrompt("{document}\nQuery:")
FRAME = documents(60)
FRAME["text"] = FRAME["docno"] + " " + FRAME["text"]
FRAME = FRAME[["docno", "text"]]
CORPUS = FRAME.to_dict("records")


class Faults:
    """Fault function by docno; each is used ``most`` times."""

    def __init__(self, most=10**6, **kinds):
        self.most, self.kinds, self.used = most, kinds, Counter()

    def __call__(self, prompt, attempt):
        docno = prompt.split()[0]
        if docno in self.kinds and self.used[docno] < self.most:
            self.used[docno] += 1
            return self.kinds[docno]
        return None


def index(server, path, batch_size=10, **options):
    options = {"prompt": PROMPT, "concurrency": 4, "max_retries": 0, **options}
    queries = QueryGenerator(server.url, endpoint="completions", **options)
    artifact = SyntheticQueries(path, shard_size=20)
    (queries >> artifact).index(CORPUS, batch_size=batch_size)
    return artifact


def content(artifact):
    files = {file.name: file.read_bytes() for file in artifact.path.iterdir()}
    files["pt_meta.json"] = files["pt_meta.json"].replace(
        artifact.metadata["versions"][0]["packages"]["server"].encode(), b"SERVER"
    )
    return files


def rows_of(files):
    return {name: data for name, data in files.items() if name.endswith(".gz")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with FaultServer() as server:
        return content(index(server, tmp_path_factory.mktemp("whole") / "queries"))


@pytest.mark.parametrize("stopped_at", ["d3", "d17", "d27", "d59"])
def test_an_interrupted_run_asks_for_no_answer_twice(tmp_path, whole, stopped_at):
    fault = Faults(1, **{stopped_at: "unauthorized"})
    with FaultServer(fault, latency=0.005) as server, pytest.raises(RuntimeError, match="401"):
        index(server, tmp_path / "queries")
    stored = len(AnswerLog(tmp_path / "queries"))
    stored += 20 * len(list((tmp_path / "queries").glob("queries-*.gz")))
    assert stored >= int(stopped_at[1:]) // 10 * 10
    with FaultServer() as other, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* resumes with other package versions")
        artifact = index(other, tmp_path / "queries")
    assert len(other.requests) == 60 - stored
    assert rows_of(content(artifact)) == rows_of(whole)
    assert not list(artifact.path.glob("answers-*"))


def test_answers_of_other_settings_are_not_used(tmp_path):
    with FaultServer(Faults(1, d8="unauthorized"), latency=0.005) as server:
        with pytest.raises(RuntimeError, match="401"):
            index(server, tmp_path / "queries")
        assert len(AnswerLog(tmp_path / "queries")) > 3
        index(server, tmp_path / "queries", max_new_tokens=2)
    assert sum(request["max_tokens"] == 2 for request in server.requests) == 60


def test_a_run_with_and_without_log_probabilities_is_not_mixed(tmp_path):
    with FaultServer(Faults(1, d28="unauthorized")) as server:
        with pytest.raises(RuntimeError, match="401"):
            index(server, tmp_path / "queries", log_probs=False)
        with pytest.raises(ValueError, match="log_probs: was False, is None"):
            index(server, tmp_path / "queries")
        assert len(index(server, tmp_path / "queries", log_probs=False)) == 60


@pytest.mark.filterwarnings("ignore:a prompt failed at docno 'd0'")
def test_a_retry_with_the_same_object_counts_failures_anew(tmp_path):
    kinds = {d["docno"]: "too long" for d in CORPUS}
    with FaultServer(Faults(**kinds), latency=0.001) as server:
        queries = QueryGenerator(server.url, endpoint="completions", prompt=PROMPT)
        pipeline = queries >> SyntheticQueries(tmp_path / "queries", shard_size=20)
        with pytest.raises(RuntimeError, match=f"{FAILURES_IN_A_ROW} prompts in a row"):
            pipeline.index(CORPUS, batch_size=10)
        for number in range(FAILURES_IN_A_ROW - 1, 60):
            del server.fault.kinds[f"d{number}"]
        artifact = pipeline.index(CORPUS, batch_size=10)
    assert len(artifact.failed) == FAILURES_IN_A_ROW - 1 and len(artifact) == 41


def test_a_failed_prompt_of_several_queries_is_named_once(tmp_path):
    state = ResumeState("queries", answers=AnswerLog(tmp_path))
    with FaultServer(Faults(d1="too long")) as server, activated(state):
        queries = QueryGenerator(
            server.url,
            endpoint="completions",
            prompt=PROMPT,
            num_queries=3,
            sampling={"temperature": 1.0},
        )
        with pytest.warns(UserWarning, match="failed at docno 'd1'"):
            queries(FRAME.head(3))
    assert [document.docno for document in state.failed] == ["d1"]
    state.close()


def test_a_document_with_several_failed_types_is_counted_once(tmp_path):
    prompts = dict.fromkeys(("a", "b"), PROMPT)
    state = ResumeState("queries", answers=AnswerLog(tmp_path))
    with FaultServer(Faults(d1="too long")) as server, activated(state):
        queries = QueryGenerator(server.url, endpoint="completions", prompt=prompts)
        with pytest.warns(UserWarning, match="failed at docno 'd1'.* It gives no query"):
            queries(FRAME.head(3))
    assert state.progress.failed == len(queries.failed) == 1
    state.close()


@pytest.mark.filterwarnings("ignore:a prompt failed")
def test_failures_of_a_copy_are_added():
    with FaultServer(Faults(d1="too long", d4="too long")) as server:
        whole, copy = (
            QueryGenerator(server.url, endpoint="completions", prompt=PROMPT) for _ in range(2)
        )
        for part in (FRAME.head(3), FRAME[3:6]):
            copy(part)
            whole._add_call(copy._last_call())
    assert list(whole.failed) == ["d1", "d4"] and whole.failed == copy.failed


def test_a_repaired_artifact_keeps_no_answers(tmp_path, whole):
    with FaultServer() as server:
        artifact = index(server, tmp_path / "queries")
        (artifact.path / "queries-00001.jsonl.gz").unlink()
        again = index(server, tmp_path / "queries")
    assert again.verify() == {} and rows_of(content(again)) == rows_of(whole)
    assert not list(artifact.path.glob("answers-*"))


def test_documents_that_fail_for_good_are_named_and_lose_no_other(tmp_path, whole):
    kinds = {"d0": "too long", "d19": "content filter", "d20": "refused prompt", "d59": "500"}
    with FaultServer(Faults(**kinds)) as server:
        with pytest.warns(UserWarning, match=r"a prompt failed at docno 'd\d+'.*attribute failed"):
            artifact = index(server, tmp_path / "queries")
        assert artifact.failed["docno"].tolist() == ["d0", "d19", "d20", "d59"]
        assert "maximum context length" in artifact.failed["error"][0]
        queries = artifact.get_results()
        assert set(queries["docno"]) == {d["docno"] for d in CORPUS} - set(kinds)
        server.fault = lambda prompt, attempt: None
        alone = [d for d in CORPUS if d["docno"] in set(artifact.failed["docno"])]
        again = QueryGenerator(server.url, endpoint="completions", prompt=PROMPT)
        rest = SyntheticQueries(tmp_path / "rest")
        (again >> rest).index(alone)
    joined = {row["qid"]: row for part in (artifact, rest) for row in part.iter_results()}
    with FaultServer() as server:
        expected = index(server, tmp_path / "whole").iter_results()
        assert joined == {row["qid"]: row for row in expected}


@pytest.mark.filterwarnings("ignore:a prompt failed at docno 'd41'")
def test_failures_survive_an_interruption(tmp_path):
    kinds = {"d2": "too long", "d13": "too long", "d41": "too long", "d45": "unauthorized"}
    with FaultServer(Faults(**kinds)) as server:
        with pytest.warns(UserWarning, match="failed"), pytest.raises(RuntimeError, match="401"):
            index(server, tmp_path / "queries")
        del server.fault.kinds["d45"]
        artifact = index(server, tmp_path / "queries")
        assert artifact.failed["docno"].tolist() == ["d2", "d13", "d41"]
        assert server.fault.used["d2"] == 1  # in a batch that was finished


def test_a_refused_prompt_is_not_asked_again_but_one_that_the_server_failed_at_is(tmp_path):
    kinds = {"d2": "too long", "d3": "500", "d5": "content filter", "d8": "unauthorized"}
    with FaultServer(Faults(**kinds), latency=0.01) as server:
        with pytest.raises(RuntimeError, match="401"):
            index(server, tmp_path / "queries", concurrency=2)
        answers = AnswerLog(tmp_path / "queries")
        assert len(answers) >= 5 and not list((tmp_path / "queries").glob("*.gz"))
        del server.fault.kinds["d3"], server.fault.kinds["d8"]
        with pytest.warns(UserWarning, match="failed at docno 'd2': HTTP status 400"):
            artifact = index(server, tmp_path / "queries")
    assert artifact.failed["docno"].tolist() == ["d2", "d5"] and len(artifact) == 58
    assert server.fault.used == {"d2": 1, "d3": 1, "d5": 1, "d8": 1}


def test_failures_of_a_resumed_run_are_those_of_the_artifact(tmp_path):
    """Whether the backend met them, or an earlier run had stored them."""
    kinds = {"d2": "too long", "d3": "500", "d5": "content filter", "d8": "unauthorized"}
    with FaultServer(Faults(**kinds), latency=0.01) as server:
        options = {"endpoint": "completions", "concurrency": 2, "max_retries": 0}
        used, fresh = OpenAIBackend(server.url, **options), OpenAIBackend(server.url, **options)

        def resume(backend, path):
            queries = QueryGenerator(backend, prompt=PROMPT)
            (queries >> (artifact := SyntheticQueries(path, shard_size=20))).index(CORPUS)
            return artifact

        with pytest.raises(RuntimeError, match="401"):
            resume(used, tmp_path / "queries")
        shutil.copytree(tmp_path / "queries", tmp_path / "copy")
        del server.fault.kinds["d3"], server.fault.kinds["d8"]
        for backend, path in ((used, "queries"), (fresh, "copy")):
            with pytest.warns(UserWarning, match="failed at docno 'd2'"):
                artifact = resume(backend, tmp_path / path)
            assert artifact.failed["docno"].tolist() == ["d2", "d5"]
            assert backend.failed == 2
        assert server.fault.used["d2"] == server.fault.used["d5"] == 1


def test_an_answer_without_numbers_is_not_stored(tmp_path):
    """The remedy is another data type at the server, which changes no setting."""
    choice = {
        "text": "a b",
        "logprobs": {"tokens": ["a", " b"], "token_logprobs": [-1.0, math.nan]},
    }
    faults = {"d5": Reply({"choices": [choice]})}
    with FaultServer(lambda prompt, attempt: faults.get(prompt.split()[0])) as server:
        with pytest.raises(ValueError, match="NaN instead of log-probabilities at docno 'd5'"):
            index(server, tmp_path / "queries")
        faults.clear()
        assert len(index(server, tmp_path / "queries")) == 60
    attempts = {prompt.split()[0]: count for prompt, count in server.attempts.items()}
    assert [attempts[f"d{i}"] for i in range(10)] == [1, 1, 1, 1, 1, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("least", [-math.inf, -3.4028234663852886e38, -9999.0])
def test_a_token_of_unknown_low_probability_counts_least(tmp_path, least):
    """vLLM, llama.cpp and OpenAI write it in these ways; minus infinity is not JSON."""
    log_probs = {"tokens": ["a", " b"], "token_logprobs": [-1.0, least]}
    reply = Reply({"choices": [{"text": "a b", "logprobs": log_probs}]})
    with FaultServer(lambda prompt, attempt: reply if prompt.startswith("d5 ") else None) as server:
        artifact = index(server, tmp_path / "queries")
    rows = artifact.get_results().set_index("docno")
    assert rows["log_probs"]["d5"] == [-1.0, -9999.0] and rows["score"]["d5"] == -5000.0
    kept = ScoreFilter(59)(artifact.get_results())
    assert len(rows) == 60 and "d5" not in set(kept["docno"])
    toolkit_files.write_queries(rows.reset_index(), tmp_path / "queries.jsonl")  # strict JSON


def test_failures_can_stop_the_run_at_the_docno(tmp_path):
    message = "at docno 'd14': HTTP status 400"
    with FaultServer(Faults(d14="too long")) as server, pytest.raises(RuntimeError, match=message):
        index(server, tmp_path / "queries", on_error="raise")


def test_a_server_without_log_probabilities(tmp_path):
    with FaultServer(log_probs=False) as server:
        rows = index(server, tmp_path / "queries").get_results()
    assert len(rows) == 60 and "score" not in rows and "log_probs" not in rows


def test_requests_are_in_progress_across_the_borders_of_batches(tmp_path):
    """While a batch is filtered, the next one is answered."""

    class Waiting(pt.Transformer):
        def transform(self, inp):
            waited.append(min(20 + 10 * len(waited), 60))
            end = time.monotonic() + 60
            while server.answered.total() < waited[-1] and time.monotonic() < end:
                time.sleep(0.01)
            assert server.answered.total() == waited[-1]
            return inp

    waited = []
    with FaultServer(latency=0.005) as server:
        generator = QueryGenerator(server.url, endpoint="completions", prompt=PROMPT)
        (generator >> Waiting() >> SyntheticQueries(tmp_path)).index(CORPUS, batch_size=10)
    assert waited == [20, 30, 40, 50, 60, 60] and max(server.answered.values()) == 1


def test_what_the_corpus_breaks_loses_no_answer(tmp_path):
    def broken():
        yield from CORPUS[:25]
        yield {"docno": "d25", "text": 25}
        yield from CORPUS[26:]

    with FaultServer() as server:
        generator = QueryGenerator(server.url, endpoint="completions", prompt=PROMPT)
        queries = SyntheticQueries(tmp_path / "queries", shard_size=20)
        with pytest.raises(ValueError, match="text must be a string, but is 25"):
            (generator >> queries).index(broken(), batch_size=10)
        (generator >> queries).index(CORPUS, batch_size=10)
    assert len(queries) == 60
    attempts = {prompt.split()[0]: count for prompt, count in server.attempts.items()}
    assert [attempts[f"d{i}"] for i in range(20)] == [1] * 20  # the batches before the document


def test_a_part_of_a_line_is_no_answer(tmp_path):
    log = AnswerLog(tmp_path)
    log.add("a", ["first"], 10)
    log.close()
    (file,) = tmp_path.glob("answers-*")
    file.write_bytes(file.read_bytes() + b'{"key": "b", "ans')
    log = AnswerLog(tmp_path)
    assert log.get("a") == ["first"] and log.get("b") is None
    log.add("c", ["third"], 10)
    log.add("d", ["fourth"], 20)
    log.discard(10)
    assert [log.get(key) for key in "acd"] == [None, None, ["fourth"]]
    log.close()
    log = AnswerLog(tmp_path)
    assert [log.get(key) for key in "acd"] == [None, None, ["fourth"]]


def test_an_answer_after_the_end_of_a_run_is_ignored(tmp_path):
    log = AnswerLog(tmp_path)
    log.add("a", ["first"], 10)
    log.close()
    log.add("b", ["late"], 10)
    log.add("c", ["late"], 20)
    (file,) = tmp_path.glob("answers-*")
    assert file.read_bytes().count(b"\n") == 1


def test_options_of_an_address_can_be_set():
    with FaultServer() as server:
        queries = QueryGenerator(server.url, endpoint="completions", prompt=PROMPT, concurrency=2)
        queries.set_parameter("concurrency", 7)
        assert queries.get_parameter("concurrency") == 7
        assert queries._backend.concurrency == 7 and len(queries(FRAME.head(9))) == 9
        named = QueryGenerator(server.url, served_model="other", endpoint="completions")
        assert named.settings()["model"] == "other"
    with pytest.raises(TypeError, match="no parameter 'concurency': did you mean 'concurrency'"):
        QueryGenerator(server.url, concurency=3)
    with pytest.raises(TypeError, match="no parameter 'concurrency'"):
        QueryGenerator("a/model", concurrency=3)


def test_a_chat_server_gets_messages():
    with FaultServer() as server:
        found = QueryGenerator(server.url)(FRAME.head(3))
        messages = [request["messages"] for request in server.requests]
    assert len(found) == 3 and messages[0][-1]["role"] == "user"
    assert all(any("d" in m["content"] for m in chat) for chat in messages)


def test_estimates_are_what_is_sent(model):
    with FaultServer() as server:
        backend = OpenAIBackend(server.url, "m", endpoint="completions", tokenizer=model)
        queries = QueryGenerator(backend, prompt=PROMPT, max_new_tokens=9)
        blank = {"docno": "blank", "text": " "}
        found = queries.estimate(iter([*CORPUS, blank]), prices=(2.0, 8.0))
        assert not server.requests
        queries(FRAME)
    sent = [request["prompt"] for request in server.requests]
    tokens = sum(len(backend.tokenizer(prompt)["input_ids"]) for prompt in sent)
    assert found[:3] == (60, tokens, 60 * 9)
    assert found.cost == pytest.approx((tokens * 2 + 540 * 8) / 1e6)
    backend = OpenAIBackend("http://127.0.0.1:9/v1", "m", endpoint="completions")
    rough = QueryGenerator(backend, prompt=PROMPT).estimate(CORPUS)
    assert rough.prompt_tokens == sum(math.ceil(len(prompt) / 4) for prompt in sent)
    assert rough.cost is None
    assert generator(model).estimate(CORPUS).requests == 60


def chat_reply(text):
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return Reply({"choices": [choice]})


ANSWERS = [
    "why does rain fall",
    '"why does rain fall"',
    "**Query:** why does rain fall",
    "<think>\nThe user wants a query about rain.\n</think>\n\nwhy does rain fall",
    'Sure! Here is a search query:\n\n"why does rain fall"',
    "why does rain fall\n\nExample 5:\nDocument: wind",
]
"""Answers of instruct models with the same query."""
TEXT_PROMPTS = {
    "static": "three-shot",
    "few-shot": FewShotPrompt([{"query": "what is wind", "text": "wind blows"}], num_examples=1),
    "types": {"a": "three-shot", "b": "chat"},
}


@pytest.mark.parametrize("text", ANSWERS)
@pytest.mark.parametrize("prompt", TEXT_PROMPTS.values(), ids=TEXT_PROMPTS)
def test_the_answer_to_a_text_prompt_is_read_as_that_to_messages(text, prompt):
    with FaultServer(lambda prompt, attempt: chat_reply(text)) as server:
        found = QueryGenerator(server.url, prompt=prompt)(FRAME.head(2))
        assert len(found) and set(found["query"]) == {"why does rain fall"}
        assert all("stop" not in request for request in server.requests)
        QueryGenerator(server.url, prompt=prompt, stop="###")(FRAME.head(1))
        assert server.requests[-1]["stop"] == ["###"]


class Chat:
    """An object of pyterrier_rag that makes messages of texts."""

    model_id, supports_message_input, supports_logprobs = "chat", True, False

    def generate(self, prompts, stop_sequences=(), **options):
        assert not stop_sequences
        return [SimpleNamespace(text=ANSWERS[3]) for _ in prompts]


@pytest.mark.parametrize("kind", ["batch", "pyterrier_rag"])
def test_other_backends_that_make_messages_of_texts(kind):
    with FaultServer(lambda prompt, attempt: chat_reply(ANSWERS[3])) as server:
        backend = Chat() if kind == "pyterrier_rag" else OpenAIBatch(server.url, poll_seconds=0.001)
        found = QueryGenerator(backend, prompt="three-shot")(FRAME.head(2))
    assert found["query"].tolist() == ["why does rain fall"] * 2


def test_a_text_prompt_is_continued_at_the_other_endpoint():
    with FaultServer() as server:
        QueryGenerator(server.url, prompt=PROMPT, endpoint="completions")(FRAME.head(1))
    assert server.requests[0]["stop"] == ["\n"]


@pytest.mark.parametrize("text", ["how does rain fall", '"How does rain fall"', "does rain fall"])
def test_the_beginning_of_a_query_in_a_text_prompt_is_not_doubled(text):
    prompt = StaticPrompt("Text: {document}\nA reader asks: {query}", prefill="how")
    with FaultServer(lambda prompt, attempt: chat_reply(text)) as server:
        stage = QueryGenerator(server.url, prompt=prompt, extract=re.compile(".+"))
        assert stage(FRAME.head(1))["query"][0].lower() == "how does rain fall"


@pytest.mark.parametrize(
    ("parameters", "sampling", "sent", "stored"),
    [
        ({}, {}, (0, None, None), (0, 1, 0)),
        ({}, {"temperature": 0.5, "top_p": 0.8, "seed": 7}, (0.5, 0.8, int), (0.5, 0.8, 7)),
        ({"temperature": 0.7}, {"top_p": 0.8, "seed": 7}, (0.7, 0.8, int), (0.7, 0.8, 7)),
        ({"temperature": 0}, {"temperature": 0.5, "seed": 7}, (0, None, None), (0, 1, 7)),
        ({"temperature": None}, {"top_p": 0.8, "seed": 7}, (None,) * 3, (None,) * 3),
        ({"temperature": None, "seed": 3}, {"temperature": 0.5}, (None, None, 3), (None, None, 3)),
        ({"top_p": None}, {"temperature": 0.5}, (0.5, None, int), (0.5, None, 0)),
    ],
)
def test_the_stored_sampling_is_what_is_sent(parameters, sampling, sent, stored):
    names = ("temperature", "top_p", "seed")
    with FaultServer() as server:
        stage = QueryGenerator(server.url, parameters=parameters, sampling=sampling)
        stage(FRAME.head(1))
        settings = stage.settings()
        shown = stage._shown_sampling()
    for name, value in zip(names, sent, strict=True):
        found = server.requests[0].get(name)
        assert type(found) is int if value is int else found == value
    assert tuple(settings[name] for name in names) == stored
    assert settings.get("parameters", {}) == parameters
    assert shown is None or "None" not in shown


def test_numbers_of_numpy_are_those_of_python(tmp_path):
    sampling = {"temperature": np.float32(0.5), "top_p": np.float64(0.5), "seed": np.int64(3)}
    with FaultServer() as server:
        queries = SyntheticQueries(tmp_path / "queries")
        (QueryGenerator(server.url, sampling=sampling) >> queries).index(CORPUS[:2])
        with pytest.raises(ValueError, match=r"parameters .* JSON can represent, but 'min_p' is"):
            QueryGenerator(server.url, parameters={"min_p": np.float32(0.1)})
    assert queries.metadata["settings"]["seed"] == 3
    assert vars(Sampling(temperature=1, seed=2)) == {"temperature": 1, "top_p": 1.0, "seed": 2}
    assert type(Sampling(temperature=1).temperature) is int  # settings stay as they were stored


@pytest.mark.parametrize(
    ("parameters", "num_queries", "requests", "most"),
    [
        ({}, 1, 1, 64),
        ({}, 5, 1, 5 * 64),
        ({"max_tokens": 4000}, 1, 1, 4000),
        ({"max_completion_tokens": 4000}, 2, 1, 8000),
        ({"max_tokens": None, "max_completion_tokens": 30}, 1, 1, 30),
        ({"n": None}, 5, 5, 5 * 64),
        ({"n": 2}, 5, 3, 6 * 64),
        ({"n": 3}, 1, 1, 3 * 64),
        ({"max_tokens": None}, 1, 1, None),
    ],
)
def test_an_estimate_is_what_the_requests_take_at_most(parameters, num_queries, requests, most):
    sampling = {"temperature": 0.5}
    for kind in (OpenAIBackend, OpenAIBatch):
        backend = kind("http://127.0.0.1:9/v1", "m", parameters=parameters)
        stage = QueryGenerator(backend, num_queries=num_queries, sampling=sampling)
        found = stage.estimate(CORPUS, prices=(2.0, 8.0))
        assert found.requests == 60 * requests
        assert found.completion_tokens == (None if most is None else 60 * most)
        if most is None:
            assert found.cost is None
        else:
            tokens = found.prompt_tokens * 2 + found.completion_tokens * 8
            assert found.cost == pytest.approx(tokens / 1e6)
    with FaultServer() as server:
        backend = OpenAIBackend(server.url, parameters=parameters)
        QueryGenerator(backend, num_queries=num_queries, sampling=sampling)(FRAME)
    assert len(server.requests) == 60 * requests
