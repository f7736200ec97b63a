"""OpenAI-compatible servers on the loopback: requests, answers, faults and limits."""

import multiprocessing
import pickle
import sys
import threading
import time

import pytest
from fault_server import MODEL, FaultServer, answer

from pyterrier_inpars import QueryGenerator
from pyterrier_inpars.backends._turns import TURN_SECONDS
from pyterrier_inpars.backends.base import PromptError, Sampling
from pyterrier_inpars.backends.openai import OpenAIBackend
from pyterrier_inpars.backends.openai_batch import OpenAIBatch

PROMPTS = [f"document {i}: the spectrum of a plasma" for i in range(30)]


def by_prompt(**faults):
    """Fault function that fails the prompts with these numbers, at the first attempts or always."""
    table = {
        PROMPTS[int(number[1:])]: value if isinstance(value, tuple) else (value, 10**6)
        for number, value in faults.items()
    }

    def fault(prompt, attempt):
        kind, most = table.get(prompt, (None, 0))
        return kind if attempt <= most else None

    return fault


def test_answers_come_in_the_order_of_the_prompts_with_their_log_probabilities():
    for endpoint in ("chat", "completions"):
        with FaultServer() as server:
            backend = OpenAIBackend(server.url, endpoint=endpoint)
            done = []
            found = backend.complete(PROMPTS, max_new_tokens=4, progress=done.append)
        for prompt, completion in zip(PROMPTS, found, strict=True):
            words = answer(prompt).split()
            assert completion.text == " ".join(words[:4])
            assert completion.finish_reason == ("length" if len(words) > 4 else "stop")
            assert len(completion.log_probs) == len(words[:4]) == len(completion.ends)
            assert [completion.text[:end] for end in completion.ends] == [
                " ".join(words[: i + 1]) for i in range(len(words[:4]))
            ]
        assert done == [1] * len(PROMPTS) and len(server.requests) == len(PROMPTS)
        assert backend.usage["requests"] == len(PROMPTS)
        assert backend.usage["prompt_tokens"] == sum(len(prompt.split()) for prompt in PROMPTS)
        assert backend.usage["completion_tokens"] == sum(len(c.log_probs) for c in found)


@pytest.mark.parametrize(
    "token",
    ["<|im_end|>", "<｜User｜>", "<|channel>", "<channel|>", "<end_of_turn>", "</s>", "[/THINK]"],
)
def test_special_tokens_in_a_message_are_sent_as_text(token):
    with FaultServer() as server:
        OpenAIBackend(server.url).complete([f"a {token}b"])
        (request,) = server.requests
    assert request["messages"][0]["content"] == f"a {token[0]} {token[1:]}b"


def test_requests_have_the_fields_that_are_set_and_no_others():
    schema = {"type": "object"}
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Query:"}]
    with FaultServer(log_probs=False) as server:
        OpenAIBackend(server.url, endpoint="completions", log_probs=False).complete(["a"])
        greedy = server.requests.pop()
        backend = OpenAIBackend(server.url, parameters={"top_k": 5, "max_tokens": None, "n": 2})
        sampling = Sampling(temperature=0.5, top_p=0.9)
        backend.complete([messages], sampling=sampling, seeds=[2**40 + 7], stop=(), schema=schema)
        (sampled,) = server.requests
    assert greedy == {
        "model": MODEL,
        "prompt": "a",
        "max_tokens": 64,
        "temperature": 0,
        "stop": ["\n"],
    }
    assert sampled == {
        "model": MODEL,
        "messages": messages,
        "continue_final_message": True,
        "add_generation_prompt": False,
        "logprobs": True,
        "top_logprobs": 1,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "top_k": 5,
        "n": 2,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": schema},
        },
    }


@pytest.mark.parametrize(
    "text",
    ["list[int] a[0] [NOTE] [1]", "a < b, <b>x</b> <span> <T>", "x <| y |> z", "if a<|b| and c|>d"],
)
def test_other_text_is_sent_as_it_is(text):
    fields = OpenAIBackend("http://127.0.0.1:9/v1", MODEL).fields(text, 9, Sampling(), (), None)
    assert fields["messages"][0]["content"] == text


def test_without_log_probabilities_there_are_none():
    with FaultServer(log_probs=False) as server:
        (completion,) = OpenAIBackend(server.url).complete(PROMPTS[:1])
    assert completion.text and completion.log_probs is None and completion.ends is None


@pytest.mark.parametrize("most", [1, 2, 100])
def test_missing_completions_are_requested_again(most):
    """Servers that return fewer than n completions, such as only one."""
    with FaultServer(n=most) as server:
        backend = OpenAIBackend(server.url)
        found = backend.complete(
            PROMPTS[:2],
            num_samples=3,
            sampling=Sampling(temperature=1),
            seeds=[1, 2, 3, 4, 5, 6],
        )
    assert len(found) == 6 and all(completion.text for completion in found)
    sent = sorted((request["seed"], request.get("n", 1)) for request in server.requests)
    expected = {
        1: [(1, 3), (2, 2), (3, 1), (4, 3), (5, 2), (6, 1)],
        2: [(1, 3), (3, 1), (4, 3), (6, 1)],
        100: [(1, 3), (4, 3)],
    }
    assert sent == expected[most]


def test_prompts_that_fail_once_are_answered():
    kinds = ["429", "500", "503", "cut", "malformed", "html", "no choices"]
    fault = by_prompt(**{f"p{i}": (kind, 1) for i, kind in enumerate(kinds)})
    with FaultServer(fault) as server:
        found = OpenAIBackend(server.url).complete(PROMPTS)
    assert [completion.text for completion in found] == list(map(answer, PROMPTS))
    assert [server.attempts[prompt] for prompt in PROMPTS] == [2] * 7 + [1] * 23


def test_prompts_that_fail_for_good_are_skipped_with_the_reason():
    kinds = {
        "too long": "HTTP status 400: This model's maximum context length",
        "refused prompt": "HTTP status 400: The response was filtered",
        "refusal": "refused to answer: 'I cannot help",
        "content filter": "content filter",
        "500": "HTTP status 500: The server had an error",
        "malformed": "3 malformed answers",
        "no choices": "3 malformed answers",
        "timeout": "no complete answer within the timeout",
    }
    fault = by_prompt(**{f"p{i}": kind for i, kind in enumerate(kinds)})
    with FaultServer(fault) as server:
        backend = OpenAIBackend(server.url, max_retries=1, timeout=1)
        found = backend.complete(PROMPTS)
    for completion, reason in zip(found, kinds.values(), strict=False):
        assert reason in completion.error and completion.finish_reason == "error"
        assert not completion.text and completion.log_probs is None
    assert [c.text for c in found[len(kinds) :]] == list(map(answer, PROMPTS[len(kinds) :]))
    assert backend.failed == len(kinds)
    assert [server.attempts[prompt] for prompt in PROMPTS[:4]] == [1, 1, 1, 1]


def test_prompts_that_fail_for_good_can_be_an_error():
    with FaultServer(by_prompt(p3="too long")) as server:
        backend = OpenAIBackend(server.url, on_error="raise")
        with pytest.raises(PromptError, match="at prompt 3: HTTP status 400: .*context length"):
            backend.complete(PROMPTS)


def test_an_empty_answer_is_an_answer():
    with FaultServer(by_prompt(p0="empty")) as server:
        (completion,) = OpenAIBackend(server.url).complete(PROMPTS[:1])
    assert completion.text == "" and completion.error is None and completion.log_probs is None


@pytest.mark.parametrize("wait", ["0.3", "date"])
def test_retry_after_is_obeyed(wait):
    with FaultServer(by_prompt(p0=("429", 1))) as server:
        server.retry_after = wait
        start = time.monotonic()
        OpenAIBackend(server.url).complete(PROMPTS[:1])
        assert time.monotonic() - start > (0.29 if wait == "0.3" else 1)


def test_no_more_requests_are_in_progress_than_allowed():
    with FaultServer(latency=0.02) as server:
        OpenAIBackend(server.url, concurrency=5).complete(PROMPTS)
    assert server.most == 5


def test_rate_limits_count_attempts_and_tokens():
    with FaultServer(by_prompt(p0=("429", 2))) as server:
        start = time.monotonic()
        OpenAIBackend(server.url, requests_per_minute=1_200).complete(PROMPTS[:6])
        assert time.monotonic() - start > 7 * 60 / 1_200
        assert sum(server.attempts.values()) == 8
        start = time.monotonic()  # 10 tokens a prompt by the rule of thumb, and 30
        backend = OpenAIBackend(server.url, tokens_per_minute=60_000)
        backend.complete(["x" * 40] * 6, max_new_tokens=30)
        assert time.monotonic() - start > 5 * 40 / 1_000


def test_answers_before_a_failure_are_received():
    with FaultServer(by_prompt(p9="unauthorized")) as server:
        backend, found = OpenAIBackend(server.url, concurrency=1), []
        futures = [backend.submit(prompt, answered=found.append) for prompt in PROMPTS[:10]]
        with pytest.raises(RuntimeError, match="401"):
            futures[9].result(timeout=60)
    assert [completion.text for (completion,) in found] == list(map(answer, PROMPTS[:9]))


def test_a_used_backend_can_be_pickled():
    with FaultServer() as server:
        backend = OpenAIBackend(server.url)
        expected = backend.complete(PROMPTS[:3])
        again = pickle.loads(pickle.dumps(backend))
        assert again.complete(PROMPTS[:3]) == expected
        assert again.describe() == backend.describe()


def test_a_backend_whose_last_prompt_was_refused_can_be_pickled():
    with FaultServer(by_prompt(p2="too long")) as server:
        backend = OpenAIBackend(server.url, concurrency=1)
        assert backend.complete(PROMPTS[:3])[2].error
        again = pickle.loads(pickle.dumps(backend))
        assert again.failed == 1 and again.complete(PROMPTS[:2])[1].error is None


def test_threads_share_one_connection():
    with FaultServer() as server:
        backend, found = OpenAIBackend(server.url), []
        barrier = threading.Barrier(8)

        def connect():
            barrier.wait()
            found.append(backend.connection)

        threads = [threading.Thread(target=connect) for _ in range(8)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
    assert len(found) == 8 and len(set(map(id, found))) == 1


def test_a_forked_process_makes_a_connection_of_its_own():
    with FaultServer() as server:
        backend = OpenAIBackend(server.url)
        expected = backend.complete(PROMPTS[:1])
        context = multiprocessing.get_context("fork")
        found = context.Queue()
        child = context.Process(target=lambda: found.put(backend.complete(PROMPTS[:1])))
        child.start()
        try:
            assert found.get(timeout=60) == expected
        finally:
            child.kill()
            child.join()
        assert backend.complete(PROMPTS[:1]) == expected


def test_threads_take_short_turns_while_answers_are_awaited():
    before = sys.getswitchinterval()
    turns = []
    with FaultServer(latency=0.01) as server:
        backend = OpenAIBackend(server.url, concurrency=1)
        futures = [
            backend.submit(prompt, answered=lambda _: turns.append(sys.getswitchinterval()))
            for prompt in PROMPTS[:3]
        ]
        for future in futures:
            future.result(timeout=60)
    # the last answer is handed on when none is awaited any more
    assert turns[0] == pytest.approx(TURN_SECONDS) and sys.getswitchinterval() == before


def test_the_description_names_what_is_sent():
    with FaultServer() as server:
        described = OpenAIBackend(server.url, parameters={"top_k": 5}).describe()
        versions = described.pop("versions")
    assert described == {
        "model": MODEL,
        "backend": "openai",
        "endpoint": "chat",
        "parameters": {"top_k": 5},
    }
    assert versions["server"] == server.url and versions["openai"]
    backend = OpenAIBackend("http://127.0.0.1:9/v1", MODEL, log_probs=False)
    assert backend.describe()["log_probs"] is False


def test_settings_have_the_sampling_that_parameters_replace():
    parameters = {"temperature": 1.0, "top_p": None}
    backend = OpenAIBackend("http://127.0.0.1:9/v1", MODEL, parameters=parameters)
    settings = QueryGenerator(backend).settings()
    assert (settings["temperature"], settings["top_p"], settings["seed"]) == (1.0, None, 0)


@pytest.mark.parametrize("cls", [OpenAIBackend, OpenAIBatch])
def test_a_notebook_shows_the_sampling_that_parameters_replace(cls):
    for parameters, shown in [({}, "greedy"), ({"temperature": 0.7}, "temperature=0.7, top_p=1.0")]:
        html = QueryGenerator(cls("http://127.0.0.1:9/v1", parameters=parameters))._repr_html_()
        assert shown in html and ("greedy" in html) == (not parameters)
