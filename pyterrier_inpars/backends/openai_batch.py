"""OpenAI's batch interface: a file of requests that is answered within a day, at a lower price."""

from __future__ import annotations

import asyncio
import functools
import json
import warnings
from collections import ChainMap
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pyterrier_inpars._arguments import finite
from pyterrier_inpars._errors import LanguageModelError
from pyterrier_inpars.backends._choices import checked
from pyterrier_inpars.backends._server import (
    TRANSIENT,
    NotFoundError,
    PromptFailure,
)
from pyterrier_inpars.backends.base import NEWLINE, Completion, Messages, PromptError, Sampling
from pyterrier_inpars.backends.openai import (
    FAILURES_IN_A_ROW,
    OPENAI_URL,
    PATHS,
    OpenAIBackend,
)

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
FILE_SECONDS = 3_600.0
"""Seconds in which a file must be sent or received, unless ``timeout`` is longer."""
UNANSWERED = ("batch_expired", "batch_cancelled")
"""Error codes of requests that an expired or cancelled batch left unanswered."""


class OpenAIBatch:
    """Completes prompts by OpenAI's batch interface, also at other servers that have it.

    All prompts of a call are one batch: a file of requests is uploaded, and the results are
    fetched when the server has finished. More prompts than a batch may have (50,000, or 200 MB) are
    several batches, submitted at once. A batch is marked with the SHA-256 of its requests. If a run
    is interrupted, the same call finds its batches at the server and waits for them, instead of
    submitting them again. Requests whose results were deleted there are submitted again, with a
    warning.

    ``SyntheticQueries`` passes the documents of at most one shard at once, so its ``shard_size`` is
    the number of documents of a batch::

        queries = SyntheticQueries("my.queries", shard_size=20_000)
        (QueryGenerator(OpenAIBatch(model="gpt-4o-mini")) >> queries).index(corpus)

    Args:
        base_url: See `OpenAIBackend`, as for the other arguments.
        model: See there.
        poll_seconds: Seconds between two questions whether a batch has ended.
        **options: See there. ``timeout`` has no effect on files, which may take an hour; rate
            limits count the requests for files and batches, not those in the files.

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
        self.poll_seconds = finite("poll_seconds", poll_seconds, above=0)
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

    @property
    def _file_seconds(self) -> float:
        return max(self._backend.timeout, FILE_SECONDS)

    @property
    def wraps_texts(self) -> bool:
        """See `OpenAIBackend`."""
        return self._backend.wraps_texts

    def most(self, max_new_tokens: int, num_samples: int) -> tuple[int, int | None]:
        """See `OpenAIBackend`."""
        return self._backend.most(max_new_tokens, num_samples)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """See `OpenAIBackend`."""
        return self._backend.tokenizer

    @property
    def fixed_sampling(self) -> dict[str, Any]:
        """See `OpenAIBackend`."""
        return self._backend.fixed_sampling

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
            completions += self._completions(number, results.get(str(number)), num_samples, stop)
        errors = [completion.error for completion in completions if completion.error]
        if len(errors) == len(completions) >= FAILURES_IN_A_ROW * num_samples:
            raise LanguageModelError(
                f"{self._backend.base_url} failed on all {len(prompts):,} prompts of a batch, at "
                f"last with: {errors[-1]}. Check the parameters"
            )
        self._backend.failed += len(errors) // num_samples
        progress(len(completions))
        return completions

    def _completions(
        self, number: int, result: Mapping[str, Any] | None, count: int, stop: Sequence[str]
    ) -> list[Completion]:
        """Returns the completions of a prompt from its line in the file of results, if any.

        Raises:
            RuntimeError: The server accepts no requests from this user.
        """
        try:
            if result is None:
                raise PromptFailure("the results have no answer to this prompt", is_refused=False)
            status, body, error = _parts_of(result)
            if error:
                raise self._backend.connection.failure(status, error, repr(error))
            completions = self._backend.completions(body, stop)
            if len(completions) < count:
                raise PromptFailure(f"{len(completions)} completions instead of {count}")
            return checked(completions[:count])
        except PromptFailure as failure:
            if self._backend.on_error == "raise":
                raise PromptError(str(failure), number) from None
            failed = Completion(
                "", None, "error", error=str(failure), unanswered=not failure.is_refused
            )
            return [failed] * count

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

        What a batch left unanswered is submitted as another batch: requests without a line, and
        those at which the server failed. This ends with a batch that answers none of its requests.

        Raises:
            RuntimeError: A batch ended without results.
        """
        results: dict[str, dict[str, Any]] = {}
        missing = requests
        while missing:
            batch, found = await self._run_batch(missing)
            if not found and not (results and batch.status == "completed"):
                reason = self._backend.connection.without_secrets(repr(batch.errors))[:300]
                raise LanguageModelError(
                    f"the batch {batch.id} at {self._backend.base_url} ended as {batch.status!r} "
                    f"without results: {reason}. The same call submits it again"
                )
            results.update(found)
            left = {
                name: line
                for name, line in missing.items()
                if name not in found or _has_server_failed(found[name])
            }
            missing = left if len(left) < len(missing) else {}
        return results

    async def _run_batch(self, requests: dict[str, bytes]) -> tuple[Any, dict[str, dict[str, Any]]]:
        """Returns a batch and its results, of an earlier run if the server has one with answers."""
        connection = self._backend.connection
        client, send = connection.client, connection.send
        data = b"".join(requests.values())
        digest = sha256(data).hexdigest()
        async for earlier in self._earlier(digest):
            batch, results = await self._finished(earlier, requests)
            if any(_parts_of(line)[2] is None for line in results.values()):
                return batch, results
        file = await send(
            client.files.create(
                file=("requests.jsonl", data), purpose="batch", timeout=self._file_seconds
            )
        )
        batch = await send(
            client.batches.create(
                input_file_id=file.id,
                endpoint="/v1" + PATHS[self._backend.endpoint],  # type: ignore[arg-type]
                completion_window="24h",
                metadata={DIGEST: digest},
            )
        )
        return await self._finished(batch, requests)

    async def _finished(
        self, batch: Any, requests: Mapping[str, bytes]
    ) -> tuple[Any, dict[str, dict[str, Any]]]:
        """Waits for the end of a batch, and returns it with its results.

        Files that were deleted at the server are left out, and so are lines that are damaged, that
        answer no request or say that it is unanswered.
        """
        client, send = self._backend.connection.client, self._backend.connection.send
        while batch.status in RUNNING:
            await asyncio.sleep(self.poll_seconds)
            batch = await send(client.batches.retrieve(batch.id))
        results: dict[str, dict[str, Any]] = {}
        for name in filter(None, (batch.output_file_id, batch.error_file_id)):
            try:
                content = await send(client.files.content(name, timeout=self._file_seconds))
            except NotFoundError as error:
                warnings.warn(
                    f"results of the batch {batch.id} were deleted ({name}), so its requests "
                    f"without an answer are submitted again: {error}",
                    stacklevel=2,
                )
                continue
            for line in content.content.splitlines():
                with suppress(ValueError):
                    result = json.loads(line)
                    known = isinstance(result, dict) and result.get("custom_id") in requests
                    if known and not _is_unanswered(result):
                        results.setdefault(result["custom_id"], result)
        return batch, results

    async def _earlier(self, digest: str) -> AsyncIterator[Any]:
        """Yields the batches with these requests that earlier runs submitted.

        Batches that ended without results are left out, so that they are submitted again.
        """
        connection = self._backend.connection
        page = await connection.send(connection.client.batches.list(limit=100))
        while True:
            for batch in page.data:
                if (batch.metadata or {}).get(DIGEST) == digest and (
                    batch.status in (*RUNNING, "completed") or batch.output_file_id
                ):
                    yield batch
            if not page.has_next_page():
                return
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


def _parts_of(line: Mapping[str, Any]) -> tuple[int | None, Any, Any]:
    """Returns HTTP status, body and error of a line of results, None where there are none."""
    response = line.get("response")
    response = response if isinstance(response, dict) else {}
    body, status = response.get("body"), response.get("status_code")
    status = status if isinstance(status, int) else None
    error = line.get("error") or (body.get("error") if isinstance(body, dict) else None)
    if not error and status is not None and status >= 400:
        error = body or "no reason"
    return status, body, error or None


def _has_server_failed(line: Mapping[str, Any]) -> bool:
    """Returns whether a line is an error of the server, which another batch may not meet."""
    status, _, error = _parts_of(line)
    is_transient = status is None or status >= 500 or status in (429, *TRANSIENT)
    return error is not None and is_transient


def _is_unanswered(line: Mapping[str, Any]) -> bool:
    error = line.get("error")
    return isinstance(error, dict) and error.get("code") in UNANSWERED
