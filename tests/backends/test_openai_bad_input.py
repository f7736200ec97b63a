"""OpenAI-compatible servers: wrong arguments, keys, addresses and servers."""

import contextlib
import json
import pickle
import socket
import subprocess
import sys

import pytest
from fault_server import FaultServer, Reply

from pyterrier_inpars.backends.openai import FAILURES_IN_A_ROW, OpenAIBackend
from pyterrier_inpars.backends.openai_batch import OpenAIBatch

KEY = "sk-a-secret-of-the-tests"
URL = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"base_url": "127.0.0.1:8000"}, "base_url must be an address such as"),
        ({"base_url": "http://127.0.0.1:port/v1"}, "base_url must be an address such as"),
        ({"base_url": "http://host/v1/chat/completions/"}, "must end before /chat/completions"),
        ({"base_url": "http://host/v1/completions"}, "must end before /completions, which"),
        ({"parameters": {"stream": True}}, "parameters must not have 'stream'"),
        ({"base_url": "http://user:word@host/v1"}, "must not contain a user"),
        ({"base_url": "http://host/v1?key=word"}, "must not contain a query"),
        ({"endpoint": "responses"}, "endpoint must be 'chat' or 'completions', not 'responses'"),
        ({"on_error": "ignore"}, "on_error must be 'skip' or 'raise'"),
        ({"concurrency": 0}, "concurrency must be a whole number of at least 1"),
        ({"requests_per_minute": 0}, "requests_per_minute must be above 0"),
        ({"tokens_per_minute": -1}, "tokens_per_minute must be above 0"),
        ({"timeout": float("nan")}, "timeout must be a number"),
        ({"max_retries": -1}, "max_retries must be a whole number"),
        ({"api_key_env": "NO_SUCH_KEY"}, "environment variable NO_SUCH_KEY is not set"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        OpenAIBackend(**{"base_url": URL, **arguments})
    assert "word@" not in str(error.value) and "key=word" not in str(error.value)


def test_the_key_is_sent_and_shown_nowhere(monkeypatch, caplog):
    monkeypatch.setenv("SERVER_KEY", KEY)
    caplog.set_level("DEBUG")
    with FaultServer(lambda prompt, attempt: prompt) as server:  # the prompt names the fault
        backend = OpenAIBackend(server.url, api_key_env="SERVER_KEY", max_retries=0)
        assert backend.complete(["no fault"])[0].text
        assert server.headers["authorization"] == f"Bearer {KEY}"
        with pytest.raises(RuntimeError, match=r"401: Incorrect.*\*\*\*.*\(SERVER_KEY\)") as error:
            backend.complete(["unauthorized"])
        shown = [str(error.value), repr(backend), json.dumps(backend.describe()), caplog.text]
        assert not any(KEY in text for text in shown)
        assert KEY.encode() not in pickle.dumps(backend)


@pytest.mark.parametrize(
    "reply", [Reply({"echo": KEY}), Reply(f"{'x' * 90}{KEY}"), Reply(f"{'x' * 290}{KEY}", 400)]
)
def test_a_key_that_the_server_returns_is_not_shown(monkeypatch, reply):
    """Nor a part of it, where a message is cut."""
    monkeypatch.setenv("SERVER_KEY", KEY)
    with FaultServer(lambda prompt, attempt: reply) as server:
        backend = OpenAIBackend(server.url, "m", api_key_env="SERVER_KEY", max_retries=0)
        (found,) = backend.complete(["a"])
    assert KEY[:5] not in found.error and "**" in found.error


@pytest.mark.parametrize("attempts", [1, 2])
def test_the_key_of_openai_goes_to_openai_only(monkeypatch, attempts):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", KEY)
    monkeypatch.setenv("OPENAI_PROJECT_ID", KEY)
    with FaultServer(lambda prompt, attempt: "429" if attempt < attempts else None) as server:
        assert OpenAIBackend(server.url).complete(["a"])[0].text
        assert server.attempts["a"] == attempts
        assert not any(KEY in value for value in server.headers.values())


@pytest.mark.parametrize("key", ["one\nline", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_not_shown(monkeypatch, key):
    monkeypatch.setenv("SERVER_KEY", key)
    with FaultServer() as server, pytest.raises(ValueError, match="SERVER_KEY has") as error:
        OpenAIBackend(server.url, "m", api_key_env="SERVER_KEY").complete(["a"])
    assert key not in str(error.value)


def test_white_space_around_a_key_is_not_sent(monkeypatch):
    monkeypatch.setenv("SERVER_KEY", f" {KEY}\n")
    with FaultServer() as server:
        OpenAIBackend(server.url, "m", api_key_env="SERVER_KEY").complete(["a"])
        assert server.headers["authorization"] == f"Bearer {KEY}"


def test_a_server_on_the_loopback_of_ipv6():
    if not has_ipv6():
        pytest.skip("no IPv6 here")
    with FaultServer(host="::1") as server:
        assert OpenAIBackend(server.url).complete(["a b"])[0].text == "b a"


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as free:
        free.bind(("::1", 0))
        return True
    return False


def test_an_address_without_version_is_named():
    with FaultServer(lambda prompt, attempt: "no model") as server:
        with pytest.raises(RuntimeError, match=r"The address of most servers ends in /v1\."):
            OpenAIBackend(server.url.removesuffix("/v1"), "m").complete(["a"])
        with pytest.raises(RuntimeError) as error:
            OpenAIBackend(server.url + "/", "m").complete(["a"])
    assert "ends in" not in str(error.value)


@pytest.mark.parametrize(
    "models, message",
    [
        (Reply({"data": []}), "does not return the name of its model: give it as served_model="),
        (Reply({"data": ["a", {"name": "b"}]}), "does not return the name"),
        (Reply("<html>"), "does not return the name"),
        (Reply({"data": [{"id": "a"}, {"id": "b"}]}), r"serves 2 models: .* \['a', 'b'\]"),
        (Reply({"detail": "no"}, 404), "404: no.*Check the address, the model's name"),
        (
            Reply({"detail": "no"}, 500),
            "does not return the name of its model: HTTP status 500: no",
        ),
    ],
)
def test_a_model_that_has_no_name(models, message):
    error = pytest.raises((ValueError, RuntimeError), match=message)
    with FaultServer(models=models) as server, error:
        OpenAIBackend(server.url).complete(["a"])


def test_a_server_that_is_not_there():
    with pytest.raises(RuntimeError, match="127.0.0.1:9/v1 failed with no connection"):
        OpenAIBackend(URL, "model", max_retries=0).complete(["a"])


@pytest.mark.parametrize("fault", ["no model", "429"])
def test_errors_that_are_not_the_prompt_s(fault):
    with FaultServer(lambda prompt, attempt: fault) as server:
        backend = OpenAIBackend(server.url, max_retries=1)
        with pytest.raises(RuntimeError, match="Check the address, the model's name"):
            backend.complete(["a"])


def test_a_server_that_fails_on_every_prompt():
    with FaultServer(lambda prompt, attempt: "too long") as server:
        backend = OpenAIBackend(server.url)
        with pytest.raises(RuntimeError, match=f"{FAILURES_IN_A_ROW} prompts in a row.*400"):
            backend.complete([f"prompt {i}" for i in range(100)])


def test_the_call_after_one_that_failed_counts_failures_anew():
    with FaultServer(lambda prompt, attempt: "too long") as server:
        backend = OpenAIBackend(server.url)
        with pytest.raises(RuntimeError, match="prompts in a row"):
            backend.complete([f"prompt {i}" for i in range(100)])
        found = backend.complete([f"prompt {i}" for i in range(FAILURES_IN_A_ROW - 1)])
        assert all("400" in completion.error for completion in found)
        with pytest.raises(RuntimeError, match="prompts in a row"):  # small calls count together
            backend.complete(["one more"])


def test_a_base_model_takes_no_messages():
    with FaultServer() as server:
        backend = OpenAIBackend(server.url, endpoint="completions")
        with pytest.raises(TypeError, match="takes texts, not messages"):
            backend.complete([[{"role": "user", "content": "a"}]])


@pytest.mark.parametrize("backend", [OpenAIBackend, OpenAIBatch])
def test_a_missing_package_is_named_before_a_run(backend, tmp_path):
    """In a process of its own, without the package and its metadata."""
    code = f"""
import sys
from importlib import metadata
version = metadata.version
def without_openai(name):
    if name == "openai":
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = without_openai
sys.modules["openai"] = None
from pyterrier_inpars import QueryGenerator, SyntheticQueries
from pyterrier_inpars.backends import {backend.__name__}
for model in ("m", None):
    generator = QueryGenerator({backend.__name__}("http://127.0.0.1:9/v1", model))
    try:
        (generator >> SyntheticQueries({str(tmp_path / "queries")!r})).index(
            [{{"docno": "d", "text": "a b"}}]
        )
    except ImportError as error:
        assert type(error) is ImportError and "pip install 'pyterrier_inpars[openai]'" in str(error)
    else:
        raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
