"""Connections to servers: TLS, proxies, forks, interruptions, threads and rate limits."""

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from contextlib import ExitStack, suppress

import pytest
from fault_server import FaultServer, Reply, answer

from pyterrier_inpars.backends._attempts import _proxy_of
from pyterrier_inpars.backends._turns import TURN_SECONDS
from pyterrier_inpars.backends.openai import OpenAIBackend
from pyterrier_inpars.backends.openai_batch import OpenAIBatch

PROMPTS = [f"document {i}: the spectrum of a plasma" for i in range(12)]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Files of a certificate of 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    files = [folder / "certificate.pem", folder / "key.pem"]
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run(
            [*command.split(), *names, "-out", files[0], "-keyout", files[1]],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("needs openssl")
    return files


@pytest.fixture
def https(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with FaultServer(ssl=context) as server:
        yield server


def test_a_server_is_verified_by_the_authorities_of_the_environment(
    monkeypatch, https, certificate
):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    (found,) = OpenAIBackend(https.url, max_retries=0).complete(PROMPTS[:1])
    assert found.text == answer(PROMPTS[0]) and https.url.startswith("https://")
    another_name = https.url.replace("127.0.0.1", "localhost")
    with pytest.raises(RuntimeError, match="certificate"):
        OpenAIBackend(another_name, "m", max_retries=0).complete(["another name"])
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(RuntimeError, match="certificate"):
        OpenAIBackend(https.url, "m", max_retries=0).complete(["another authority"])
    assert list(https.attempts) == PROMPTS[:1]


def test_a_proxy_of_the_environment_is_used_but_for_the_loopback(monkeypatch):
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://user:word@127.0.0.1:9")
    with FaultServer() as server:
        for host in ("127.0.0.1", "localhost"):
            url = server.url.replace("127.0.0.1", host)
            assert OpenAIBackend(url, max_retries=0).complete(["a"])[0].text
    remote = OpenAIBackend("http://server.invalid/v1", "m", max_retries=0)
    with pytest.raises(RuntimeError, match="Cannot connect to host 127.0.0.1:9") as error:
        remote.complete(["a"])
    assert "word" not in str(error.value)


def test_a_proxy_gets_requests_to_other_machines(monkeypatch):
    with FaultServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "direct.invalid:8000")
        (found,) = OpenAIBackend("http://server.invalid/v1", "m").complete(PROMPTS[:1])
        assert found.text == answer(PROMPTS[0]) and proxy.headers["host"] == "server.invalid"
        direct = OpenAIBackend("http://direct.invalid:8000/v1", "m", max_retries=0)
        with pytest.raises(RuntimeError, match="host direct.invalid:8000"):
            direct.complete(["direct"])
    assert list(proxy.attempts) == PROMPTS[:1]


def test_a_proxy_that_is_not_http_is_an_error(monkeypatch):
    monkeypatch.setenv("all_proxy", "socks5://user:word@127.0.0.1:9")
    with pytest.raises(ValueError, match="not one of socks5: set https_proxy, or name") as error:
        OpenAIBackend("https://server.invalid/v1", "m").complete(["a"])
    assert "word" not in str(error.value)


@pytest.fixture
def refusing_proxy():
    """Returns a function that starts a proxy with one answer to all requests, for its address."""
    with ExitStack() as stack:

        def start(status, reason):
            def serve():
                with suppress(OSError):  # the socket is closed
                    while True:
                        connection, _ = listener.accept()
                        with connection:
                            requests.append(connection.recv(65536))
                            connection.sendall(
                                f"HTTP/1.1 {status} {reason}\r\ncontent-type: text/html\r\n"
                                "content-length: 13\r\n\r\n<html></html>".encode()
                            )

            requests = []
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            threading.Thread(target=serve, daemon=True).start()
            return f"127.0.0.1:{listener.getsockname()[1]}", requests

        yield start


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "method", ["post", "get", "batch"], ids=["prompts", "the names of models", "batches"]
)
def test_a_proxy_that_refuses_ends_the_run_and_is_named_without_its_password(
    monkeypatch, refusing_proxy, scheme, method
):
    proxy, requests = refusing_proxy(407, "Proxy Authentication Required")
    monkeypatch.setenv(f"{scheme}_proxy", f"http://user:PASS@{proxy}")
    url, model = f"{scheme}://server.invalid/v1", None if method == "get" else "m"
    backend = (OpenAIBatch if method == "batch" else OpenAIBackend)(url, model)
    message = (
        f"the proxy {proxy} refuses requests to the server {url}: 407 Proxy Authentication "
        f"Required. Set user and password in {scheme}_proxy, or name the server in no_proxy"
    )
    with pytest.raises(RuntimeError, match=re.escape(message)) as error:
        backend.complete(PROMPTS[:1])
    assert len(requests) == 1 and "PASS" not in str(error.value)


def test_a_proxy_that_finds_no_server_is_asked_again(monkeypatch, refusing_proxy):
    proxy, requests = refusing_proxy(503, "Service Unavailable")
    monkeypatch.setenv("https_proxy", f"http://user:PASS@{proxy}")
    backend = OpenAIBackend("https://server.invalid/v1", "m", max_retries=1)
    with pytest.raises(RuntimeError, match=f"the proxy {proxy} answers 503 Service Unav") as error:
        backend.complete(PROMPTS[:1])
    assert len(requests) == 2 and "PASS" not in str(error.value)


def test_a_proxy_that_forbids_the_server_ends_the_run(monkeypatch, refusing_proxy):
    proxy, requests = refusing_proxy(403, "Forbidden")
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(RuntimeError, match=f"the proxy {proxy} refuses .*: 403 Forbidden"):
        OpenAIBackend("https://server.invalid/v1", "m").complete(PROMPTS[:1])
    assert len(requests) == 1


@pytest.mark.parametrize(
    "value", ["user:SECRET@", "user:SECRET@[", "user:SECRET@host:port", "SECRET@a:0"]
)
def test_an_invalid_proxy_is_an_error_without_its_password(monkeypatch, value):
    monkeypatch.setenv("https_proxy", f"http://{value}")
    with pytest.raises(ValueError, match="https_proxy must be the address of a proxy") as error:
        OpenAIBackend("https://server.invalid/v1", "m", max_retries=0).complete(PROMPTS[:1])
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize("place", ["header", "body"])
def test_addresses_in_errors_have_no_password(place):
    """Such as that of a redirection to another server, or of the gateway's own."""
    url = "http://user:p@SS@127.0.0.1:9/v1/chat/completions"
    reply = Reply({"error": {"message": f"upstream {url} failed"}}, 400)
    if place == "header":
        reply = Reply("", 307, {"location": url.replace("http", "ftp")})
    with FaultServer(lambda prompt, attempt: reply) as server:
        (found,) = OpenAIBackend(server.url, "m", max_retries=0).complete(["a"])
    assert "127.0.0.1:9/v1" in found.error and "SS" not in found.error


def test_a_network_in_no_proxy_is_reached_without_the_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "a.invalid, 192.0.2.0/24,fe80::/10")
    for url, direct in {
        "http://192.0.2.7:8000/v1": True,
        "http://[fe80::1]/v1": True,
        "http://198.51.100.7/v1": False,
        "http://b.invalid/v1": False,
    }.items():
        assert (_proxy_of(url) is None) == direct


def test_headers_of_the_environment_are_for_openai_alone(monkeypatch):
    """Keys of a gateway in front of it, for example; no other server gets them, at any attempt."""
    seen = []

    def fault(prompt, attempt):
        seen.append(dict(server.headers))
        return "500" if attempt == 1 else None

    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway: SECRET\nauthorization: Bearer SECRET")
    monkeypatch.setenv("KEY", "of-the-server")
    with FaultServer(fault) as server:
        OpenAIBackend(server.url, api_key_env="KEY").complete(["a"])
        OpenAIBackend(server.url, "m").complete(["b"])
        seen.append(server.headers)
        OpenAIBatch(server.url, "m", poll_seconds=0.01).complete(["c"])
        seen.append(server.headers)
    assert "SECRET" not in str(seen)
    keys = [headers["authorization"] for headers in seen]
    assert keys == ["Bearer of-the-server"] * 2 + ["Bearer none"] * 5
    official = OpenAIBackend(api_key_env="KEY").connection._headers
    assert official["X-Gateway"] == "SECRET" and official["Authorization"] == "Bearer of-the-server"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_can_be_forked_while_answers_are_awaited():
    before = sys.getswitchinterval()
    with FaultServer(latency=0.3) as server:
        backend = OpenAIBackend(server.url)
        waiting = [backend.submit(prompt) for prompt in PROMPTS]
        while not server.current:
            time.sleep(0.01)
        assert sys.getswitchinterval() == pytest.approx(TURN_SECONDS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
            child = os.fork()
        if not child:
            code = 1
            try:
                short = sys.getswitchinterval() != before
                (found,) = backend.complete(["in the child"])
                code = int(short or found.text != answer("in the child"))
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        found = [future.result(timeout=60)[0].text for future in waiting]
        assert found == list(map(answer, PROMPTS))
        assert backend.complete(["afterwards"])[0].text == answer("afterwards")
    assert sys.getswitchinterval() == before


def test_turns_are_as_before_when_the_last_of_several_backends_has_ended():
    before = sys.getswitchinterval()
    with FaultServer(lambda p, a: "unauthorized", latency=0.2) as bad, FaultServer() as good:
        failing = threading.Thread(
            target=lambda: pytest.raises(
                RuntimeError, OpenAIBackend(bad.url, max_retries=0).complete, PROMPTS
            )
        )
        failing.start()
        while not bad.current:
            time.sleep(0.01)
        OpenAIBackend(good.url).complete(PROMPTS)
        failing.join(timeout=60)
        deadline = time.monotonic() + 10
        while sys.getswitchinterval() != before and time.monotonic() < deadline:
            time.sleep(0.01)  # until the requests of the call that failed are cancelled
    assert sys.getswitchinterval() == before


def test_an_interrupted_call_sends_no_more():
    """In a process of its own, which shows nothing but the interruption when it ends."""
    with FaultServer(latency=60) as server:
        code = (
            "from pyterrier_inpars.backends.openai import OpenAIBackend\n"
            f"backend = OpenAIBackend({server.url!r}, concurrency=3)\n"
            "backend.complete([f'prompt {i}' for i in range(100)])\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd="/"
        )
        try:
            while server.current < 3 and process.poll() is None:
                time.sleep(0.01)
            time.sleep(1)  # all prompts are submitted
            process.send_signal(signal.SIGINT)
            _, shown = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        sent = len(server.requests)
    assert sent == 3 and shown.rstrip().endswith("KeyboardInterrupt")
    assert shown.count("Traceback") == 1 and "Task" not in shown


def test_requests_that_waited_for_a_server_are_not_sent_together():
    """It does nothing for a while, then answers three requests at once."""
    sent = []

    def fault(prompt, attempt):
        sent.append(time.monotonic())
        if len(sent) == 4:
            time.sleep(1.5)  # in the event loop of the server

    with FaultServer(fault, latency=0.7) as server:
        OpenAIBackend(server.url, "m", concurrency=4, requests_per_minute=300).complete(PROMPTS[:8])
    assert sent[6] - sent[4] > 0.2  # 0.4 by the limit
