"""OpenAI's batch interface: a file of requests that is answered within a day, at a lower price."""

from __future__ import annotations

import asyncio
import functools
import json
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pyterrier_inpars._stage import finite
from pyterrier_inpars.backends._server import PromptFailure
from pyterrier_inpars.backends.base import NEWLINE, Completion, Messages, PromptError, Sampling
from pyterrier_inpars.backends.openai import OPENAI_URL, PATHS, OpenAIBackend, completion_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pyterrier_inpars.backends.openai import ServerOptions

MOST_REQUESTS = 50_000
"""Maximum number of requests of a batch."""
MOST_BYTES = 200_000_000
"""Maximum size of its file."""
RUNNING = ("validating", "in_progress", "finalizing", "cancelling")
"""States of a batch that has not ended."""
DIGEST = "requests_sha256"
"""Key of a batch's metadata with the SHA-256 of its requests."""
UNANSWERED = ("batch_expired", "batch_cancelled")
"""Error codes of requests that an expired or cancelled batch left unanswered."""


class OpenAIBatch:
    """Completes prompts by OpenAI's batch interface, also at other servers that have it.

    All prompts of a call are one batch: a file of requests is uploaded, and the results are
    fetched when the server has finished. More prompts than a batch may have (50,000, or 200 MB) are
    several batches, submitted at once. A batch is marked with the SHA-256 of its requests. If a run
    is interrupted, the same call finds its batches at the server and waits for them, instead of
    submitting them again.

    ``SyntheticQueries`` passes the documents of at most one shard at once, so its ``shard_size`` is
    the number of documents of a batch::

        queries = SyntheticQueries("my.queries", shard_size=20_000)
        (QueryGenerator(OpenAIBatch(model="gpt-4o-mini")) >> queries).index(corpus)

    Args:
        base_url: See `OpenAIBackend`, as for the other arguments.
        model: See there.
        poll_seconds: Seconds between two questions whether a batch has ended.
        **options: See there. Concurrency and rate limits have no effect.

    Raises:
        ValueError: An argument is out of range.
        RuntimeError: On use, a batch failed, or ended without results.
    """

    batch_size = MOST_REQUESTS

    def __init__(
        self,
        base_url: str = OPENAI_URL,
        model: str | None = None,
        *,
        poll_seconds: float = 60.0,
        **options: Unpack[ServerOptions],
    ):
        self._backend = OpenAIBackend(base_url, model, **options)  # type: ignore[misc]
        if finite("poll_seconds", poll_seconds) <= 0:
            raise ValueError(f"poll_seconds must be above 0, not {poll_seconds!r}")
        self.poll_seconds = poll_seconds
        self.context = self._backend.context
        self.chat = self._backend.chat

    def __repr__(self) -> str:
        return repr(self._backend).replace(type(self._backend).__name__, type(self).__name__)

    @property
    def usage(self) -> dict[str, int]:
        """See `OpenAIBackend`."""
        return self._backend.usage

    @property
    def failed(self) -> int:
        """See `OpenAIBackend`."""
        return self._backend.failed

    @functools.cached_property
    def tokenizer(self) -> Any:
        """See `OpenAIBackend`."""
        return self._backend.tokenizer

    def describe(self) -> dict[str, Any]:
        """Returns the settings that determine the output; see `Backend.describe`."""
        return {**self._backend.describe(), "backend": "openai-batch"}

    def complete(
        self,
        prompts: Sequence[str | Messages],
        *,
        prefix: str | Messages = "",
        max_new_tokens: int = 64,
        sampling: Sampling | None = None,
        num_samples: int = 1,
        seeds: Sequence[int] = (),
        progress: Callable[[int], object] = lambda completions: None,
        stop: Sequence[str] = (NEWLINE,),
        schema: Mapping[str, Any] | None = None,
    ) -> list[Completion]:
        """Completes prompts as one batch; see `Backend.complete`."""
        sampling = sampling or Sampling()
        sampling.check_num_samples(num_samples)
        endpoint = "/v1" + PATHS[self._backend.endpoint]
        requests = {}
        for number, prompt in enumerate(prompts):
            fields = self._backend.fields(prompt, max_new_tokens, sampling, stop, schema)
            own = seeds[number * num_samples : (number + 1) * num_samples]
            body = self._backend.body(fields, num_samples, own)
            line = {"custom_id": str(number), "method": "POST", "url": endpoint, "body": body}
            requests[str(number)] = json.dumps(line).encode() + b"\n"
        waiting = self._backend.connection.run(self._results_of_parts(requests))
        try:
            results = waiting.result()
        finally:
            waiting.cancel()
        completions: list[Completion] = []
        for number in range(len(prompts)):
            completions += self._completions(number, results[str(number)], num_samples, stop)
        progress(len(completions))
        return completions

    def _completions(
        self, number: int, result: Mapping[str, Any], count: int, stop: Sequence[str]
    ) -> list[Completion]:
        """Returns the completions of a prompt from its line in the file of results."""
        try:
            response = result.get("response") or {}
            body = response.get("body") or {}
            if error := result.get("error") or body.get("error"):
                status = response.get("status_code")
                raise PromptFailure(f"HTTP status {status}: {error.get('message')}")
            choices = self._backend.choices(body)
            if len(choices) < count:
                raise PromptFailure(f"{len(choices)} completions instead of {count}")
            return [completion_of(choice, stop) for choice in choices[:count]]
        except PromptFailure as failure:
            if self._backend.on_error == "raise":
                raise PromptError(str(failure), number) from None
            self._backend.failed += 1
            return [Completion("", None, "error", error=str(failure))] * count

    async def _results_of_parts(self, requests: dict[str, bytes]) -> dict[str, dict[str, Any]]:
        """Returns the lines of the results of as many batches as are needed; see `_results`."""
        tasks = [asyncio.ensure_future(self._results(part)) for part in _parts(requests)]
        try:
            return dict(ChainMap(*await asyncio.gather(*tasks)))
        except BaseException:
            for task in tasks:
                task.cancel()
            raise

    async def _results(self, requests: dict[str, bytes]) -> dict[str, dict[str, Any]]:
        """Returns the lines of the files of results by ``custom_id``.

        What an expired or cancelled batch left unanswered is submitted as another batch.
        """
        results: dict[str, dict[str, Any]] = {}
        while missing := {name: line for name, line in requests.items() if name not in results}:
            found = await self._run_batch(missing)
            results.update((name, line) for name, line in found.items() if name in missing)
        return results

    async def _run_batch(self, requests: dict[str, bytes]) -> dict[str, dict[str, Any]]:
        """Submits a batch, unless the server has it, and returns its results, at least one."""
        connection = self._backend.connection
        client, send = connection.client, connection.send
        data = b"".join(requests.values())
        digest = sha256(data).hexdigest()
        batch = await self._find(digest)
        if batch is None:
            file = await send(client.files.create(file=("requests.jsonl", data), purpose="batch"))
            batch = await send(
                client.batches.create(
                    input_file_id=file.id,
                    endpoint="/v1" + PATHS[self._backend.endpoint],  # type: ignore[arg-type]
                    completion_window="24h",
                    metadata={DIGEST: digest},
                )
            )
        while batch.status in RUNNING:
            await asyncio.sleep(self.poll_seconds)
            batch = await send(client.batches.retrieve(batch.id))
        results = {}
        for name in filter(None, (batch.output_file_id, batch.error_file_id)):
            content = await send(client.files.content(name))
            lines = map(json.loads, content.content.splitlines())
            results.update({line["custom_id"]: line for line in lines if not _is_unanswered(line)})
        if not results:
            raise RuntimeError(
                f"the batch {batch.id} at {self._backend.base_url} ended as {batch.status!r} "
                f"without results: {batch.errors!r:.300}. The same call submits it again"
            )
        return results

    async def _find(self, digest: str) -> Any:
        """Returns the batch with these requests that an earlier run submitted, or None.

        A batch that ended without results is left out, so that it is submitted again.
        """
        connection = self._backend.connection
        page = await connection.send(connection.client.batches.list(limit=100))
        while True:
            for batch in page.data:
                if (batch.metadata or {}).get(DIGEST) == digest and (
                    batch.status in (*RUNNING, "completed") or batch.output_file_id
                ):
                    return batch
            if not page.has_next_page():
                return None
            page = await connection.send(page.get_next_page())


def _parts(requests: dict[str, bytes]) -> Iterator[dict[str, bytes]]:
    """Yields requests in parts that a batch may have."""
    part: dict[str, bytes] = {}
    size = 0
    for name, line in requests.items():
        if part and (len(part) == MOST_REQUESTS or size + len(line) > MOST_BYTES):
            yield part
            part, size = {}, 0
        part[name] = line
        size += len(line)
    if part:
        yield part


def _is_unanswered(line: Mapping[str, Any]) -> bool:
    return (line.get("error") or {}).get("code") in UNANSWERED
