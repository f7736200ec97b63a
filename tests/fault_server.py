"""An OpenAI-compatible server on the loopback that answers at once, after a latency, or fails.

Which requests fail is a function of the prompt and of the number of times that it has been sent,
so every run of a test sees the same faults. As a program, it prints its address and serves until it
is terminated::

    python tests/fault_server.py --latency 0.1 --fail-once 0.1 --fail-for-good 0.02
"""

import argparse
import asyncio
import itertools
import json
import socket
import struct
import threading
import time
from collections import Counter
from email.utils import formatdate
from typing import Any, NamedTuple
from zlib import crc32

MODEL = "fault-model"
TRANSIENT = ("429", "500", "503", "cut", "malformed", "html", "no choices", "timeout")
"""Faults after which the same request can succeed."""
FOR_GOOD = ("too long", "refusal", "content filter")
"""Faults that another request would meet again."""
ERRORS = {
    "429": (429, "Rate limit reached"),
    "500": (500, "The server had an error"),
    "503": (503, "The server is overloaded"),
    "too long": (400, "This model's maximum context length is 512 tokens"),
    "refused prompt": (400, "The response was filtered"),
    "unauthorized": (401, "Incorrect API key provided: {key}"),
    "no model": (404, "The model does not exist"),
}


class Reply(NamedTuple):
    """What the server sends in place of an answer.

    Attributes:
        body: Bytes or a text, sent as they are, or a value that is sent as JSON.
        status: HTTP status.
        headers: Headers, in place of those of the server if they have the same names.
        reset: Whether the connection is reset in the middle of the body.
    """

    body: Any
    status: int = 200
    headers: dict[str, str] = {}
    reset: bool = False


def share(*parts: object) -> float:
    """Returns a number in [0, 1) that depends on ``parts`` only."""
    return crc32("\0".join(map(str, parts)).encode()) / 2**32


def answer(prompt: str) -> str:
    """Returns the answer to a prompt: some of its last words."""
    words = prompt.split()[-40:]
    return " ".join(sorted(set(words), key=lambda word: share(prompt, word))[:8])


class FaultServer:
    """Serves ``/v1/completions``, ``/v1/chat/completions`` and ``/v1/models`` in a thread.

    Args:
        fault: Function from the prompt and the number of the attempt, from 1, to the name of a
            fault or a `Reply`, or None for an answer.
        latency: Seconds before each answer, and before each file.
        log_probs: Whether answers have log-probabilities if the request asks for them.
        n: Most choices that one answer has, whatever the request asks for.
        port: Port; 0 for a free one.
        host: Address of the loopback.
        refused_fields: Names of fields that the server does not accept in a request.
        models: `Reply` to the question for the names of models.
        trickle: Seconds between two bytes of an answer that does not end; None for whole answers.
        ssl: Context with the certificate of an HTTPS server; None for HTTP.

    Attributes:
        url: Address for clients.
        retry_after: Seconds after which clients may send a failed request again; ``"date"`` for
            the time in two seconds.
        batches: Batches, in the form of OpenAI.
        batch_ends: States in which the next batches end; ``"completed"`` for the others.
        requests: Bodies of the requests for answers, in order.
        headers: Headers of the last request.
        attempts: Number of requests by prompt.
        answered: Number of complete answers by prompt.
        most: Largest number of requests in progress at once.
    """

    def __init__(
        self,
        fault=None,
        *,
        latency=0.0,
        log_probs=True,
        n=100,
        port=0,
        keep=True,
        host="127.0.0.1",
        refused_fields=(),
        trickle=None,
        models=None,
        ssl=None,
    ):
        self.fault = fault or (lambda prompt, attempt: None)
        self.latency, self.log_probs, self.n, self.port, self.keep = (
            latency,
            log_probs,
            n,
            port,
            keep,
        )
        self.host, self.refused_fields, self.trickle = host, refused_fields, trickle
        self.ssl = ssl
        self.models = models or Reply({"object": "list", "data": [{"id": MODEL}]})
        self.retry_after: float | str = 0.005
        self.files: dict[str, str] = {}
        self._file_numbers = itertools.count()
        self.batches: list[dict] = []
        self.batch_ends: list[str] = []
        self.questions: Counter = Counter()
        self.requests: list[dict] = []
        self.headers: dict[str, str] = {}
        self.attempts: Counter = Counter()
        self.answered: Counter = Counter()
        self.most = self.current = 0

    def __enter__(self):
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()

        def serve():
            self._loop.run_until_complete(self._start())
            ready.set()
            self._loop.run_forever()

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _start(self):
        self._server = await asyncio.start_server(
            self._connection, self.host, self.port, ssl=self.ssl
        )
        self.port = self._server.sockets[0].getsockname()[1]
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"http{'s' if self.ssl else ''}://{host}:{self.port}/v1"

    async def _end(self):
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader, writer):
        try:
            while line := await reader.readline():
                path, headers = line.split()[1].decode(), {}
                while (line := await reader.readline()) not in (b"\r\n", b""):
                    name, _, value = line.decode().partition(":")
                    headers[name.lower()] = value.strip()
                data = await reader.readexactly(int(headers.get("content-length", 0)))
                self.headers = headers
                if not await self._respond(writer, path, data):
                    break
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the server stops
        finally:
            writer.close()

    async def _respond(self, writer, path, data):
        """Writes a response, and returns whether the connection stays open."""
        if path.endswith("/models"):
            return _write(writer, self.models.status, self.models.body)
        if path.endswith("/stats"):
            stats = {"answered": dict(self.answered), "attempts": dict(self.attempts)}
            return _write(writer, 200, {**stats, "most": self.most})
        if "/files" in path:
            await asyncio.sleep(self.latency)
        if "/files" in path or "/batches" in path:
            return self._batch_interface(writer, path, data)
        body = json.loads(data)
        chat = path.endswith("/chat/completions")
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        if self.keep:
            self.requests.append(body)
        self.attempts[prompt] += 1
        fault = self.fault(prompt, self.attempts[prompt])
        self.current += 1
        self.most = max(self.most, self.current)
        try:
            await asyncio.sleep(3600 if fault == "timeout" else self.latency)
        finally:
            self.current -= 1
        for name in self.refused_fields:
            if name in body:
                fault = Reply({"error": {"message": f"Unsupported parameter: '{name}'"}}, 400)
        if isinstance(fault, Reply):
            return _write(writer, fault.status, fault.body, fault.headers, reset=fault.reset)
        if fault in ERRORS:
            status, message = ERRORS[fault]
            message = message.format(key=self.headers.get("authorization"))
            error = {"error": {"message": message, "type": "error", "code": None}}
            return _write(writer, status, error, self._retry_after())
        if fault in ("cut", "malformed", "html"):
            text = "<html>Bad gateway</html>" if fault == "html" else '{"choices": [{"te'
            _write(writer, 200, text, {"content-length": "999"} if fault == "cut" else {})
            return fault != "cut"
        if self.trickle is not None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(self.trickle)
        _write(writer, 200, self._answer(prompt, body, chat, fault))
        self.answered[prompt] += 1
        return True

    def _answer(self, prompt, body, chat, fault):
        choices = [self._choice(prompt, body, chat, fault) for _ in range(body.get("n") or 1)]
        choices = [] if fault == "no choices" else choices[: self.n]
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": 0}
        for choice in choices:
            text = choice["message"]["content"] if chat else choice["text"]
            usage["completion_tokens"] += len((text or "").split())
        return {"model": MODEL, "choices": choices, "usage": usage}

    def _batch_interface(self, writer, path, data):
        """Files and batches in the forms of OpenAI; a batch ends at the third question."""
        if path.endswith("/content"):
            name = path.split("/")[-2]
            if name not in self.files:
                return _write(writer, 404, {"error": {"message": f"No such File object: {name}"}})
            return _write(writer, 200, self.files[name])
        if path.endswith("/files"):
            head, _, content = data.partition(b"requests.jsonl")
            content = content.partition(b"\r\n\r\n")[2].partition(b"\r\n--")[0]
            return _write(writer, 200, {"id": self.add_file(content.decode()), "object": "file"})
        if data:
            self._start_batch(json.loads(data))
            return _write(writer, 200, self.batches[-1])
        if path.partition("?")[0].endswith("/batches"):
            return _write(writer, 200, {"object": "list", "data": self.batches, "has_more": False})
        (batch,) = (batch for batch in self.batches if batch["id"] == path.split("/")[-1])
        self.questions[batch["id"]] += 1
        if batch["status"] == "in_progress" and self.questions[batch["id"]] == 3:
            batch |= {"status": self.batch_ends.pop(0) if self.batch_ends else "completed"}
        if batch["status"] != "in_progress":
            self._end_batch(batch)
        return _write(writer, 200, batch)

    def _start_batch(self, body):
        fields = ("input_file_id", "endpoint", "completion_window", "metadata")
        self.batches.append(
            {
                "id": f"batch-{len(self.batches)}",
                "object": "batch",
                "created_at": 0,
                "status": "in_progress",
                **{name: body[name] for name in fields},
            }
        )

    def _end_batch(self, batch):
        """Answers the requests of a batch; one that has expired only has the first half."""
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        results = []
        if batch["status"] == "failed":
            lines = []
        for line in lines[: len(lines) // 2 if batch["status"] == "expired" else None]:
            body, chat = line["body"], "messages" in line["body"]
            prompt = body["messages"][-1]["content"] if chat else body["prompt"]
            fault = self.fault(prompt, 1)
            if isinstance(fault, Reply):
                status, answer = fault.status, fault.body
            elif fault in ERRORS:
                status, message = ERRORS[fault]
                answer = {"error": {"message": message}}
            else:
                status, answer = 200, self._answer(prompt, body, chat, fault)
            response = {"status_code": status, "body": answer}
            results.append({"custom_id": line["custom_id"], "response": response, "error": None})
        if results:
            results.reverse()  # in any order
            self._write_results(batch, "output_file_id", results)
        if batch["status"] == "expired":
            error = {"code": "batch_expired", "message": "the batch expired"}
            left = [line["custom_id"] for line in lines[len(lines) // 2 :]]
            results = [{"custom_id": name, "response": None, "error": error} for name in left]
            self._write_results(batch, "error_file_id", results)

    def _write_results(self, batch, name, results):
        lines = (json.dumps(result, ensure_ascii=False) for result in results)
        batch[name] = self.add_file("\n".join(lines))

    def add_file(self, content):
        """Stores a file, and returns its name, which no deleted file had."""
        name = f"file-{next(self._file_numbers)}"
        self.files[name] = content
        return name

    def _retry_after(self):
        if self.retry_after == "date":
            return {"retry-after": formatdate(time.time() + 2, usegmt=True)}
        return {"retry-after": str(self.retry_after)}

    def _choice(self, prompt, body, chat, fault):
        text = "" if fault == "empty" else answer(prompt)
        tokens = [f"{' ' * (i > 0)}{word}" for i, word in enumerate(text.split())]
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or 16
        reason = "length" if len(tokens) > limit else "stop"
        tokens = tokens[:limit]
        text, values = "".join(tokens), [-share(prompt, token) for token in tokens]
        choice = {"index": 0, "finish_reason": reason}
        if fault == "content filter":
            choice["finish_reason"] = "content_filter"
        wanted = self.log_probs and body.get("logprobs")
        if not chat:
            log_probs = {"tokens": tokens, "token_logprobs": values} if wanted else None
            return {**choice, "text": text, "logprobs": log_probs}
        message = {"role": "assistant", "content": text}
        if fault == "refusal":
            message |= {"content": None, "refusal": "I cannot help with that"}
        pairs = zip(tokens, values, strict=True)
        content = [{"token": t, "logprob": v, "bytes": list(t.encode())} for t, v in pairs]
        return {**choice, "message": message, "logprobs": {"content": content} if wanted else None}


def _write(writer, status, body, headers=None, *, reset=False):
    """Writes a response, and returns whether the connection stays open."""
    text = body if isinstance(body, (str, bytes)) else json.dumps(body)
    data = text if isinstance(text, bytes) else text.encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(data)),
        **(headers or {}),
    }
    lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in headers.items())]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    if not reset:
        writer.write(head + data)
        return True
    writer.write(head + data[: len(data) // 2])
    linger = struct.pack("ii", 1, 0)  # closes with RST, not FIN
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    return False


def faults_by_share(once: float, for_good: float, kinds=TRANSIENT[:-1]):
    """Returns a fault function: a share of the prompts fails once, another one for good."""

    def fault(prompt, attempt):
        if share("for good", prompt) < for_good:
            return FOR_GOOD[int(share("kind", prompt) * len(FOR_GOOD))]
        if attempt == 1 and share("once", prompt) < once:
            return kinds[int(share("kind", prompt) * len(kinds))]
        return None

    return fault


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--latency", type=float, default=0.0)
    options.add_argument("--fail-once", type=float, default=0.0)
    options.add_argument("--fail-for-good", type=float, default=0.0)
    options = options.parse_args()
    fault = faults_by_share(options.fail_once, options.fail_for_good)
    with FaultServer(fault, latency=options.latency, port=options.port, keep=False) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
