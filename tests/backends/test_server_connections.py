"""Connections to servers: TLS, proxies, forks, interruptions, threads and rate limits."""

import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import warnings

import pytest
from fault_server import FaultServer, answer

from pyterrier_inpars.backends._turns import TURN_SECONDS
from pyterrier_inpars.backends.openai import OpenAIBackend

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
