"""Connection to an OpenAI-compatible server: one event loop, retries, rate limits, errors."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from pyterrier_inpars.backends._rate_limit import RateLimit

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")

REFUSALS = (400, 413, 422)
"""HTTP statuses of a server that does not accept a request because of its content."""
PREPARED = 2
"""Number of prompts being answered for each request that may be in progress."""
NO_KEY = "none"
"""Key for servers that need none; the client does not accept an empty one."""


class PromptFailure(RuntimeError):
    """A prompt failed for good.

    Args:
        reason: The reason, as text.
        is_refused: Whether the prompt itself is the reason, so that it would fail again. Otherwise
            the server failed at all attempts.
    """

    def __init__(self, reason: str, is_refused: bool = True):
        super().__init__(reason)
        self.is_refused = is_refused


class Connection:
    """Sends requests to a server from an event loop in a thread of its own.

    Args:
        base_url: Address of the server.
        api_key_env: Environment variable with the API key; None for no key.
        concurrency: Maximum number of requests in progress at once.
        requests_per_minute: Rate limit in requests; None for no limit.
        tokens_per_minute: Rate limit in tokens; None for no limit.
        timeout: Seconds after which an attempt has failed.
        max_retries: Number of further attempts for a request.

    Attributes:
        client: The client.
        prompts: Semaphore to hold while a prompt is being answered. There are more prompts than
            ``concurrency``, so that a request is ready to be sent when another one ends.
        tokens: Rate limit in tokens.

    Raises:
        ImportError: The package ``openai`` is not installed.
    """

    def __init__(
        self,
        base_url: str,
        api_key_env: str | None,
        concurrency: int,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        timeout: float,
        max_retries: int,
    ):
        try:
            import aiohttp
            import openai
        except ImportError as error:
            raise ImportError(
                f"the server {base_url} needs the package openai: "
                "pip install pyterrier_inpars[openai]"
            ) from error
        self._errors = openai
        self._unreachable = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
        self._base_url = base_url
        self._api_key_env = api_key_env
        self._key = os.environ.get(api_key_env or "") or NO_KEY
        self.tokens = RateLimit(tokens_per_minute)
        self.prompts = asyncio.Semaphore(PREPARED * concurrency)
        slots, requests = asyncio.Semaphore(concurrency), RateLimit(requests_per_minute)

        class LimitedClient(openai.DefaultAioHttpClient):  # type: ignore[misc, name-defined]
            async def send(self, *args: Any, **kwargs: Any) -> Any:  # each attempt
                await requests.wait()
                async with slots:
                    return await super().send(*args, **kwargs)

        self.client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=self._key,
            timeout=timeout,
            max_retries=max_retries,
            http_client=LimitedClient(),
        )
        self._loop = loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="openai", daemon=True)
        thread.start()
        weakref.finalize(self, _close, loop, thread, self.client)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts a coroutine in the event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def get(self, path: str) -> Any:
        """Returns the body of the answer to a GET request, with one more attempt; see `post`."""
        options: Any = {"max_retries": 1}
        return await self.send(self.client.get(path, cast_to=object, options=options))

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Returns the body of the answer to a POST request.

        Returns:
            The parsed JSON; None if it is malformed, and perhaps a text if it is no JSON.

        Raises:
            PromptFailure: The server refused the request, or answered no attempt with success.
            RuntimeError: The server does not answer at all, or accepts no requests from this user.
        """
        try:
            return await self.send(self.client.post(path, body=body, cast_to=object))
        except ValueError:  # the body is no JSON
            return None

    async def send(self, request: Awaitable[T]) -> T:
        """Returns the answer to a request of the client; see `post`."""
        errors = self._errors
        try:
            return await request
        except errors.APIStatusError as error:
            reason = self._without_key(_message(error))[:300]
            message = f"HTTP status {error.status_code}: {reason}"
            is_refused = error.status_code in REFUSALS
            if is_refused or error.status_code >= 500:
                raise PromptFailure(message, is_refused) from None
            raise self._server_error(message) from None
        except errors.APIConnectionError as error:
            cause = getattr(error.__cause__, "__cause__", None)
            if isinstance(cause, self._unreachable):
                raise self._server_error(f"no connection at any attempt: {cause}") from None
            message = "no complete answer within the timeout at any attempt"
            raise PromptFailure(message, is_refused=False) from None

    def _server_error(self, message: str) -> RuntimeError:
        variable = self._api_key_env or "the variable of api_key_env="
        return RuntimeError(
            f"the server {self._base_url} failed with {message}. Check the address, the model's "
            f"name, the API key ({variable}) and the rate limits; answers that are stored are kept"
        )

    def _without_key(self, text: str) -> str:
        return text if self._key == NO_KEY else text.replace(self._key, "***")


def _message(error: Any) -> str:
    """Returns what a server reports in an error's body."""
    body = error.body
    message = body.get("message") if isinstance(body, dict) else body
    return str(message or error.message)


def _close(loop: asyncio.AbstractEventLoop, thread: threading.Thread, client: AsyncOpenAI) -> None:
    """Closes the client and ends the thread of its loop, from which it may be called too."""

    async def close() -> None:
        await client.close()
        loop.stop()

    asyncio.run_coroutine_threadsafe(close(), loop)
    if threading.current_thread() is not thread:
        thread.join(timeout=10)
