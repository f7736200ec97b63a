"""Answers of servers in forms that OpenAI's do not have: read, requested again, or refused."""

import gzip
import json
import time

import pandas as pd
import pytest
from fault_server import MODEL, FaultServer, Reply, answer

from pyterrier_inpars import QueryGenerator
from pyterrier_inpars.backends import _attempts
from pyterrier_inpars.backends._choices import checked
from pyterrier_inpars.backends.base import CUT, Sampling
from pyterrier_inpars.backends.openai import OpenAIBackend

OTHER = "the spectrum of a plasma"


def asked(reply, **options):
    """Returns the completions of a prompt that gets this reply, and the number of attempts."""
    with FaultServer(lambda prompt, attempt: reply if prompt == "odd" else None) as server:
        backend = OpenAIBackend(server.url, MODEL, max_retries=1, timeout=60)
        found = backend.complete(["odd", OTHER], **options)
        assert found[-1].text == answer(OTHER)  # one odd answer spoils no other
        return found[:-1], server.attempts["odd"]


def chat(*contents, **fields):
    """Returns the body of an answer with these contents."""
    return {
        "choices": [
            {
                "index": i,
                "message": {"role": "assistant", "content": content},
                "finish_reason": "stop",
                **fields,
            }
            for i, content in enumerate(contents)
        ]
    }


PARTS = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(chat("a b")),
        Reply({"choices": [{"message": {"content": "a b"}}]}),  # neither index nor reason
        Reply(chat(PARTS)),
        Reply(chat("a b") | {"usage": None}),
        Reply(chat("a b") | {"usage": [1]}),
        Reply(chat("a b") | {"usage": {"prompt_tokens": "3", "completion_tokens": None}}),
        Reply(json.dumps(chat("a b")), headers={"content-type": "text/plain"}),
        Reply(
            gzip.compress(json.dumps(chat("a b")).encode()), headers={"content-encoding": "gzip"}
        ),
        Reply(b"\xef\xbb\xbf" + json.dumps(chat("a b")).encode()),
        Reply(chat("a b", logprobs=None)),
        Reply(chat("a b", logprobs={"content": None, "refusal": []})),
        Reply(chat("a b", logprobs=[-1.0, -2.0])),
        Reply(chat("a b", logprobs={"content": "a b"})),
        Reply(chat("a b", logprobs={"content": [{"token": "a b"}]})),
        Reply(chat("a b", logprobs={"content": [{"token": "a b", "logprob": "-1"}]})),
        Reply(chat("a b", logprobs={"content": [{"token": "a", "logprob": -1, "bytes": [300]}]})),
        Reply(chat("a b", logprobs={"tokens": ["a b"], "token_logprobs": [None]})),
    ],
)
def test_an_answer_in_an_unusual_form_is_read(reply):
    (found,), attempts = asked(reply)
    assert found.text == "a b" and found.error is None and attempts == 1
    assert found.log_probs is None and found.ends is None


@pytest.mark.parametrize(
    "message", [{"content": None}, {"content": ""}, {"reasoning_content": "hm", "content": None}]
)
def test_an_answer_without_text_is_an_empty_answer(message):
    reply = Reply({"choices": [{"message": message, "finish_reason": "length"}]})
    (found,), attempts = asked(reply)
    assert (found.text, found.error, found.finish_reason, attempts) == ("", None, "length", 1)


@pytest.mark.parametrize(
    "reply",
    [
        Reply({"choices": 3}),
        Reply({"choices": {"a": 1}}),
        Reply({"choices": [{}]}),
        Reply({"choices": [{"message": "a b"}]}),
        Reply(chat(7)),
        Reply(chat([{"type": "text", "text": 7}])),
        Reply(chat("a b", finish_reason="abort")),  # vLLM and SGLang when they stop
        Reply(chat("a b", finish_reason="error")),  # gateways
        Reply("null"),
        Reply(""),
        Reply("[]"),
        Reply(b'{"choices": [{"message": {"content": "caf\xe9"}}]}'),
        Reply('data: {"choices": []}\n\n', headers={"content-type": "text/event-stream"}),
    ],
)
def test_a_malformed_or_unfinished_answer_is_requested_again(reply):
    (found,), attempts = asked(reply)
    assert "3 malformed answers, at last" in found.error and attempts == 3


FLAGGED = {
    "error": {
        "code": 403,
        "message": 'a model requires moderation on a provider. Your input was flagged for "x".',
        "metadata": {"reasons": ["x"], "flagged_input": "odd", "provider_name": "a provider"},
    }
}
"""Answer of OpenRouter."""


UPSTREAM = {
    "error": {
        "message": "Provider returned error",
        "code": 400,
        "metadata": {"raw": {"detail": "no logprobs"}, "provider_name": "a provider"},
    }
}
"""Answer of OpenRouter, with that of the provider as text or JSON."""


@pytest.mark.parametrize(
    "reply, reason, attempts",
    [
        (Reply({"error": {"message": "upstream", "code": 502}}), "502: upstream", 2),
        (Reply({"error": "upstream"}), "500: upstream", 2),
        (Reply(UPSTREAM, 400), "400: Provider returned error: {'detail': 'no logprobs'}", 1),
        (Reply({"error": {"message": "too long", "code": 400}}), "400: too long", 1),
        (
            Reply({"error": {"message": "too long", "type": "invalid_request_error"}}),
            "400: too long",
            1,
        ),
        (Reply([{"error": {"message": "too long"}}], 400), "400: too long", 1),
        (Reply({"object": "error", "message": "too long"}, 400), "400: too long", 1),
        (Reply({"detail": "too long"}, 422), "422: too long", 1),
        (Reply({"error": {"message": "not here"}}, 451), "451: not here", 1),
        (Reply({"error": {"message": "slow"}}, 408), "408: slow", 2),
        (Reply({"error": "generation failed", "error_type": "generation"}, 424), "424: gener", 2),
        (Reply(FLAGGED, 403), "403: a model requires moderation", 1),
        (Reply(FLAGGED), "403: a model requires moderation", 1),
        (Reply(chat("a b"), reset=True), "no complete answer at any attempt", 2),
        (Reply(chat("a b"), headers={"content-encoding": "gzip"}), "no complete answer", 2),
        (Reply("zz", headers={"transfer-encoding": "chunked"}), "no complete answer", 2),
    ],
)
def test_errors_in_any_form_fail_one_prompt(reply, reason, attempts):
    (found,), sent = asked(reply)
    assert reason in found.error and sent == attempts


def test_a_redirection_is_followed():
    reply = Reply("", 307, {"location": "/v1/other/chat/completions"})
    with FaultServer(lambda prompt, attempt: reply if attempt == 1 else None) as server:
        (found,) = OpenAIBackend(server.url, MODEL, max_retries=0).complete([OTHER])
    assert found.text == answer(OTHER) and server.attempts[OTHER] == 2


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_errors_that_every_prompt_would_meet_end_the_call_at_once(status):
    for reply in (
        Reply({"detail": "no"}, status),
        Reply({"error": {"message": "no", "code": status}}),
        Reply({"error": {"message": "no", "metadata": {"provider_name": "a provider"}}}, status),
    ):
        with FaultServer(lambda prompt, attempt, reply=reply: reply) as server:
            with pytest.raises(RuntimeError, match=f"HTTP status {status}: no.*Check the address"):
                OpenAIBackend(server.url, MODEL).complete([OTHER])
            assert server.attempts[OTHER] == 1


def test_choices_are_taken_in_the_order_of_their_index():
    body = chat("first", "second", "third")
    body["choices"].reverse()
    with FaultServer(lambda prompt, attempt: Reply(body)) as server:
        backend = OpenAIBackend(server.url, MODEL)
        found = backend.complete([OTHER], num_samples=3, sampling=Sampling(temperature=1))
    assert [completion.text for completion in found] == ["first", "second", "third"]


def rows(*tokens):
    return [
        {"token": token, "logprob": -float(i), "bytes": None, "top_logprobs": []}
        for i, token in enumerate(tokens)
    ]


@pytest.mark.parametrize(
    "tokens, log_probs, ends",
    [
        (["a", " b"], [0, -1], [1, 3]),
        (["a", " b", "<|im_end|>"], [0, -1], [1, 3]),
        # the tokens of reasoning come first
        (["<think>", "a b", "</think>", "\n", "a", " b"], [-4, -5], [1, 3]),
        (["<think>", "a", " b", "</think>", "a", " b", "<eos>"], [-4, -5], [1, 3]),
        # tokens that are not the text: their number is all that is known
        (["\ufffd", "\ufffd"], [0, -1], None),
    ],
)
def test_log_probabilities_are_those_of_the_tokens_of_the_text(tokens, log_probs, ends):
    (found,), _ = asked(Reply(chat("a b", logprobs={"content": rows(*tokens)})))
    assert (found.log_probs, found.ends) == (log_probs, ends)


def test_the_log_probabilities_of_reasoning_are_not_those_of_the_text():
    body = chat("a b", logprobs={"content": rows("hm", "\ufffd", "\ufffd")})
    body["choices"][0]["message"]["reasoning_content"] = "hm"
    (found,), _ = asked(Reply(body))
    assert found.text == "a b" and found.log_probs is None


@pytest.mark.parametrize(
    "content, query",
    [
        ("<think>\nwhat is a list", None),  # the token limit ends the reasoning
        ("<think>so</think>\nwhat is a list?", "what is a list?"),
        ("so</think>what is a list?", "what is a list?"),
    ],
)
def test_reasoning_is_no_query(content, query):
    reply = Reply(chat(content, finish_reason="length"))
    with FaultServer(lambda prompt, attempt: reply) as server:
        generator = QueryGenerator(server.url)
        found = generator(pd.DataFrame([{"docno": "d1", "text": "Lists are mutable."}]))
    assert found["query"].tolist() == ([query] if query else [])
    assert generator.empty == (0 if query else 1) and not generator.failed


@pytest.mark.parametrize("content", [None, "half an ans"])
@pytest.mark.parametrize(
    "reason",
    [
        *("content_filter", "content_filter: PROHIBITED_CONTENT", "content_filter: RECITATION"),
        *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "refusal"),
    ],
)
def test_an_answer_that_a_filter_removed_is_a_refusal(reason, content):
    body = chat(content, finish_reason=reason)
    if content is None:
        del body["choices"][0]["message"]
    (found,), attempts = asked(Reply(body))
    assert found.error == f"a content filter removed the answer ({reason})" and attempts == 1


@pytest.mark.parametrize("reason", ["length", "MAX_TOKENS", "max_tokens", "model_length"])
def test_an_answer_at_the_token_limit_is_cut_whatever_the_reason_is_called(reason):
    (found,), _ = asked(Reply(chat(f"a b{CUT}", finish_reason=reason)))
    assert (found.text, found.finish_reason) == ("a b", "length")
    (found,), _ = asked(Reply(chat("a b\nc", finish_reason=reason)))
    assert (found.text, found.finish_reason) == ("a b", "stop")


@pytest.mark.parametrize("reason", ["STOP", "stop", "end_turn", "eos_token", None, 7])
def test_other_reasons_are_those_of_an_answer_that_ended(reason):
    (found,), _ = asked(Reply(chat("a b", finish_reason=reason)))
    assert (found.text, found.finish_reason, found.error) == ("a b", "stop", None)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_filter_removes_one_of_several_answers(one_by_one):
    """It is an empty query, and the others are kept."""
    body = chat("first", "second", "third")
    body["choices"][1 if not one_by_one else 0]["finish_reason"] = "content_filter"
    bodies = [body]
    if one_by_one:
        bodies = [{"choices": [choice]} for choice in body["choices"]]
    with FaultServer(lambda prompt, attempt: Reply(bodies[attempt - 1])) as server:
        generator = QueryGenerator(server.url, num_queries=3, sampling={"temperature": 1})
        found = generator(pd.DataFrame([{"docno": "d1", "text": "Lists are mutable."}]))
    expected = ["second", "third"] if one_by_one else ["first", "third"]
    assert found["query"].tolist() == expected
    assert generator.empty == 1 and not generator.failed and generator._backend.failed == 0


def test_half_a_character_is_replaced():
    """It cannot be written to a file, which would differ between one run and two."""
    (found,), _ = asked(Reply('{"choices": [{"message": {"content": "a \\ud83d b"}}]}'))
    assert found.text == f"a {CUT} b"


@pytest.mark.parametrize("field", ["seed", "n", "logprobs", "stop", "max_tokens", "temperature"])
def test_a_field_that_the_server_does_not_accept_can_be_left_out(field):
    options = {"num_samples": 2, "sampling": Sampling(temperature=1), "seeds": range(60)}
    prompts = [f"{OTHER} {i}" for i in range(30)]
    with FaultServer(refused_fields=[field]) as server:
        with pytest.raises(RuntimeError, match=f"'{field}'.*None}}, for example, leaves out"):
            OpenAIBackend(server.url).complete(prompts, **options)
        found = OpenAIBackend(server.url, parameters={field: None}).complete(prompts, **options)
    assert all(completion.text for completion in found) and len(found) == 60


def test_openai_takes_four_stop_strings():
    stop = ["\n", "a", "b", "c", "d"]
    for url, sent in (("https://api.openai.com/v1", stop[:4]), ("http://127.0.0.1:9/v1", stop)):
        fields = OpenAIBackend(url, MODEL).fields("prompt", 9, Sampling(), stop, None)
        assert fields["stop"] == sent


def test_an_answer_that_trickles_in_is_a_time_out():
    """Each byte comes within the time-out, the whole answer does not."""
    with FaultServer(trickle=0.2) as server:
        backend = OpenAIBackend(server.url, MODEL, max_retries=0, timeout=1)
        (found,) = backend.complete([OTHER])
    assert "no complete answer within the timeout" in found.error


@pytest.mark.parametrize("asked_for", ["0.4", "date"])
def test_a_long_retry_after_is_obeyed(monkeypatch, asked_for):
    """The client obeys two minutes at most; here the limit is lower."""
    monkeypatch.setattr(_attempts, "CLIENT_WAITS", 0.3)
    fault = {1: "429"}
    with FaultServer(lambda prompt, attempt: fault.get(attempt)) as server:
        server.retry_after = asked_for
        start = time.monotonic()
        with pytest.warns(UserWarning, match="429 and asks to wait"):
            (found,) = OpenAIBackend(server.url, MODEL, max_retries=1).complete([OTHER])
        assert found.text == answer(OTHER)
        assert time.monotonic() - start > (0.4 if asked_for == "0.4" else 1)


def test_no_time_is_waited_after_the_last_attempt():
    with FaultServer(lambda prompt, attempt: "429") as server:
        server.retry_after = 600
        with pytest.raises(RuntimeError, match="HTTP status 429"):
            OpenAIBackend(server.url, MODEL, max_retries=0).complete([OTHER])


def test_no_choices_are_no_failure():
    assert checked([]) == []
