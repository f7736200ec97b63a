"""Connection to an OpenAI-compatible server: its event loop, its requests, and their errors.

`OpenAIBackend` starts a coroutine for each prompt in the loop, which runs in a thread of its own.
`Connection.post` sends the request; the module `_attempts` says who makes which attempt. What fails
for good is an error in the words of this package: a `PromptFailure` concerns one prompt, any other
error ends the run.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import weakref
from collections.abc import Awaitable, Coroutine
from concurrent.futures import Future
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pyterrier_inpars._errors import LanguageModelError
from pyterrier_inpars.backends._rate_limit import RateLimit

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")

OPENAI_HOST = "api.openai.com"
ACCOUNT = ("OpenAI-Organization", "OpenAI-Project")
"""Headers that the client takes from the environment, for `OPENAI_HOST` alone."""
CUSTOM_HEADERS = "OPENAI_CUSTOM_HEADERS"
"""Environment variable with further headers, one a line, for `OPENAI_HOST` alone."""
_USER = re.compile(r"(?<=://)[^/\s\"'<>]*@")
"""User and password in an address."""
REFUSALS = (400, 413, 422, 451)
"""HTTP statuses of a server that does not accept a request because of its content."""
TRANSIENT = (408, 409, 424)
"""HTTP statuses below 500 of a server that failed at a request, which may succeed later."""
PREPARED = 2
"""Number of prompts being answered for each request that may be in progress."""
NO_KEY = "none"
"""Key for servers that need none; the client does not accept an empty one."""


class PromptFailure(LanguageModelError):
    """A prompt failed for good.

    Args:
        reason: The reason, as text.
        is_refused: Whether the prompt itself is the reason, so that it would fail again. Otherwise
            the server failed at all attempts.
    """

    def __init__(self, reason: str, is_refused: bool = True):
        super().__init__(reason)
        self.is_refused = is_refused


class NotFoundError(LanguageModelError):
    """The server does not have what a request names, such as a model or a file."""


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
            import httpx2
            import openai

            from pyterrier_inpars.backends import _attempts
        except ImportError as error:
            raise not_installed(base_url) from error
        self._errors, self._http_errors, self._parsed = openai, httpx2, _attempts.parsed
        self._base_url = base_url
        self._api_key_env = api_key_env
        self._key = _key(api_key_env)
        self.process = os.getpid()
        self.prompts = asyncio.Semaphore(PREPARED * concurrency)
        # explicit, since the client prefers that of the environment variable to its key
        headers: dict[str, Any] = {"Authorization": f"Bearer {self._key}"}
        if urlsplit(base_url).hostname != OPENAI_HOST:
            headers = dict.fromkeys((*ACCOUNT, *_custom_headers()), openai.omit) | headers
        self._attempts = _attempts.AttemptClient(
            base_url,
            concurrency,
            RateLimit(requests_per_minute),
            RateLimit(tokens_per_minute),
            timeout,
            max_retries,
        )
        self.client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=self._key,
            timeout=timeout,
            max_retries=max_retries,
            http_client=self._attempts,
            default_headers=headers,
        )
        fields = self.client.default_headers.items()
        self._headers = {name: value for name, value in fields if isinstance(value, str)}
        self._loop = loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_serve, args=(loop,), name="openai", daemon=True)
        thread.start()
        weakref.finalize(self, _close, loop, thread, self.client)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts a coroutine in the event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def get(self, path: str) -> Any:
        """Returns the body of the answer to a GET request, with one more attempt; see `post`."""
        options: Any = {"max_retries": 1}
        return self._parsed(await self.send(self.client.get(path, cast_to=bytes, options=options)))

    async def post(self, path: str, body: dict[str, Any], tokens: float) -> Any:
        """Returns the body of the answer to a POST request.

        Args:
            path: Path after the address of the server.
            body: Fields of the request.
            tokens: Number of tokens that count for the rate limit.

        Returns:
            The parsed JSON; if it is none, the beginning of the text.

        Raises:
            PromptFailure: The server refused the request, or answered no attempt with success.
            LanguageModelError: The server does not answer at all, or accepts no requests from this
                user.
        """
        data = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        first: Any
        try:
            first = await self._attempts.attempt(
                "POST", self._base_url + path, self._headers, data, tokens=tokens
            )
            if first.status == 200:
                return self._parsed(first.body)
        except self._http_errors.TransportError as error:
            first = error
        self._attempts.replay(first)
        return self._parsed(await self.send(self.client.post(path, content=data, cast_to=bytes)))

    async def send(self, request: Awaitable[T]) -> T:
        """Returns the answer to a request of the client; see `post`."""
        errors = self._errors
        try:
            return await request
        except errors.APIStatusError as error:
            raise self.failure(error.status_code, error.body, error.message) from None
        except errors.APIConnectionError as error:
            cause = error.__cause__
            reason = self.without_secrets(str(cause))[:200]
            if isinstance(cause, self._http_errors.ConnectError):
                raise self._server_error(f"no connection at any attempt: {reason}") from None
            if isinstance(error, errors.APITimeoutError):
                reason = "no complete answer within the timeout at any attempt"
            else:
                reason = f"no complete answer at any attempt: {reason}"
            raise PromptFailure(reason, is_refused=False) from None

    def failure(self, status: int | None, body: Any, reason: str) -> LanguageModelError:
        """Returns the error of an answer with an HTTP status of 400 or more; see `post`.

        Args:
            status: The status.
            body: Body of the answer.
            reason: What is reported if the body says nothing.
        """
        proxy = self._attempts.proxy
        if proxy is not None and status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return LanguageModelError(
                f"the proxy {proxy} refuses requests to the server {self._base_url}: "
                f"{self.without_secrets(str(body))[:100]}. Set user and password in "
                f"{urlsplit(self._base_url).scheme}_proxy, or name the server in no_proxy; answers "
                "that are stored are kept"
            )
        reason = error_message(body) or reason
        message = f"HTTP status {status}: {self.without_secrets(reason)[:300]}"
        if status in REFUSALS or (status == 403 and _is_flagged(body)):
            return PromptFailure(message)
        if status is None or status < 400 or status >= 500 or status in TRANSIENT:
            return PromptFailure(message, is_refused=False)
        if status != 404:
            return self._server_error(message)
        if not re.search(r"/v\d", self._base_url):
            message += ". The address of most servers ends in /v1"
        return self._server_error(message, NotFoundError)

    def _server_error(
        self, message: str, kind: type[LanguageModelError] = LanguageModelError
    ) -> LanguageModelError:
        variable = self._api_key_env or "the variable of api_key_env="
        return kind(
            f"the server {self._base_url} failed with {message}. Check the address, the model's "
            f"name, the API key ({variable}) and the rate limits; answers that are stored are kept"
        )

    def without_secrets(self, text: str) -> str:
        """Returns what is reported, without the API key, and users and passwords in addresses."""
        text = _USER.sub("***@", text)
        return text if self._key == NO_KEY else text.replace(self._key, "***")


def not_installed(base_url: str) -> ImportError:
    """Returns the error of a missing package."""
    return ImportError(
        f"the server {base_url} needs the package openai: pip install 'pyterrier_inpars[openai]'"
    )


def _key(variable: str | None) -> str:
    """Returns the API key in an environment variable, or `NO_KEY`."""
    key = os.environ.get(variable or "", "").strip() or NO_KEY
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"the API key in the environment variable {variable} has characters that cannot be "
            "sent: it must be one line of ASCII characters"
        )
    return key


def _custom_headers() -> list[str]:
    """Returns the names of the headers that the client takes from `CUSTOM_HEADERS`."""
    lines = os.environ.get(CUSTOM_HEADERS, "").split("\n")
    return [line.partition(":")[0].strip() for line in lines if ":" in line]


def _is_flagged(body: Any) -> bool:
    """Returns whether an error is that of a moderation, as of OpenRouter, and not of the user."""
    error = body.get("error", body) if isinstance(body, dict) else None
    details = error.get("metadata") if isinstance(error, dict) else None
    return isinstance(details, dict) and bool({"reasons", "flagged_input"} & details.keys())


def error_message(body: Any) -> str | None:
    """Returns what a server reports in the body of an error, None if it reports nothing."""
    if isinstance(body, list) and body:
        body = body[0]
    if isinstance(body, dict):
        body = body.get("error") or body
    if not isinstance(body, dict):
        return str(body) if body else None
    details = body.get("metadata")  # of OpenRouter: the answer of the provider
    raw = details.get("raw") if isinstance(details, dict) else None
    message = body.get("message") or body.get("detail")
    return ": ".join(str(part) for part in (message, raw) if part) or None


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Runs an event loop until it is stopped."""
    loop.run_forever()
    loop.close()


def _close(loop: asyncio.AbstractEventLoop, thread: threading.Thread, client: AsyncOpenAI) -> None:
    """Ends the tasks, the client and the thread of a loop, from which it may be called too."""

    async def close() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
        loop.stop()

    asyncio.run_coroutine_threadsafe(close(), loop)
    if threading.current_thread() is not thread:
        thread.join(timeout=10)
