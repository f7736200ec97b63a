"""Single attempts at requests over aiohttp, and the HTTP client through which openai makes them.

The package openai takes several times as long to prepare a request as aiohttp to send it. So
`Connection.post` makes the first attempt by itself, with `AttemptClient.attempt`, and most answers
never reach openai. An attempt that failed is replayed: openai repeats the request, and receives the
outcome of the first attempt instead of sending it. Retries, pauses and errors are openai's then,
and its further attempts arrive at `AttemptClient.send`.
"""

from __future__ import annotations

import asyncio
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from ipaddress import ip_address, ip_network
from ssl import SSLContext
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2

from pyterrier_inpars.backends._rate_limit import RateLimit

CONNECT_SECONDS = 30.0
"""Maximum time in which a connection must be made; the time-out is that of a whole attempt."""
CLIENT_WAITS = 120.0
"""The longest ``Retry-After`` in seconds that the package openai obeys."""
LONGEST_WAIT = 3_600.0
"""The longest ``Retry-After`` in seconds that is obeyed here."""
COMPLETIONS = "/completions"
"""End of the addresses whose answers may hold an error in spite of their status."""
REFUSED_BY_PROXY = HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
_OF_CONNECTION = ("accept-encoding", "connection", "content-length", "host", "transfer-encoding")
"""Headers of a request that aiohttp sets itself."""


_replayed: ContextVar[Answer | Exception | None] = ContextVar("replayed", default=None)
"""Outcome of the next request of this task."""


class Answer(NamedTuple):
    """The answer to one attempt.

    Attributes:
        status: HTTP status; that of an error in the body, if the server sent it with status 200.
        headers: Headers.
        body: Body, decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class AttemptClient(httpx2.AsyncClient):
    """Client for ``openai.AsyncOpenAI`` whose requests are attempts with limits.

    Args:
        base_url: Address of the server.
        concurrency: Maximum number of attempts in progress at once.
        requests: Rate limit in requests, of all attempts.
        tokens: Rate limit in tokens, of attempts that name theirs.
        timeout: Seconds after which an attempt has failed, unless a request has a time-out of its
            own.
        max_retries: Number of further attempts for a request.

    Attributes:
        proxy: Host and port of the HTTP proxy of the environment for the server, None for none.

    Raises:
        ValueError: The proxy of the environment is not an HTTP proxy, or its address is invalid.
    """

    def __init__(
        self,
        base_url: str,
        concurrency: int,
        requests: RateLimit,
        tokens: RateLimit,
        timeout: float,
        max_retries: int,
    ):
        # aiohttp sends all requests and verifies certificates
        super().__init__(timeout=timeout, verify=False, trust_env=False)
        self._ssl: SSLContext | bool = True
        if urlsplit(base_url).scheme == "https":  # reading the certificates takes 50 ms
            self._ssl = httpx2.create_ssl_context()  # with SSL_CERT_FILE and SSL_CERT_DIR
        self._server = base_url
        self._proxy = _proxy_of(base_url)
        self.proxy = (
            None if self._proxy is None else urlsplit(self._proxy).netloc.rpartition("@")[2]
        )
        self._slots = asyncio.Semaphore(concurrency)
        self._requests, self._tokens = requests, tokens
        self._seconds, self._max_retries = timeout, max_retries
        self._session: aiohttp.ClientSession | None = None

    async def attempt(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        timeout: float | None = None,
        tokens: float = 0,
    ) -> Answer:
        """Sends a request once, and reads the answer.

        Args:
            method: HTTP method.
            url: Address.
            headers: Headers.
            body: Body.
            timeout: Seconds after which the attempt has failed; None for those of the client.
            tokens: Number of tokens of the prompt and its completions at most.

        Raises:
            httpx2.TransportError: There is no answer.
        """
        seconds = timeout or self._seconds
        limit = aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, CONNECT_SECONDS))
        async with self._slots:
            # once there is a slot, as requests whose turns had passed would be sent together
            await self._tokens.wait(tokens)
            await self._requests.wait()
            with _translated_errors():
                try:
                    async with self._open_session().request(
                        method, url, headers=headers, data=body or None, timeout=limit
                    ) as response:
                        answer = Answer(response.status, response.headers, await response.read())
                    if answer.status == REFUSED_BY_PROXY and self._proxy is not None:
                        answer = answer._replace(body=b"407 Proxy Authentication Required")
                except aiohttp.ClientHttpProxyError as error:
                    answer = self._refused_by_proxy(error)
        await asyncio.sleep(0)  # requests that waited for the slot are sent first
        if url.endswith(COMPLETIONS) and _has_error(answer):
            return answer._replace(status=_status_in_body(answer.body))
        return answer

    def replay(self, outcome: Answer | Exception) -> None:
        """Makes this the outcome of the next request of this task."""
        _replayed.set(outcome)

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Sends a request of the package openai once, or replays its outcome."""
        outcome = _replayed.get()
        _replayed.set(None)
        if outcome is None:
            body = await request.aread()
            fields = request.headers.items()
            headers = {name: value for name, value in fields if name not in _OF_CONNECTION}
            timeout = request.extensions["timeout"]["read"]
            outcome = await self.attempt(request.method, str(request.url), headers, body, timeout)
        if isinstance(outcome, Exception):
            raise outcome
        left_out = ["content-encoding", "content-length"]  # those of the body as it was sent
        retries = int(request.headers.get("x-stainless-retry-count", 0))
        if retries < self._max_retries and await self._has_waited(outcome):
            left_out.append("retry-after")
        fields = outcome.headers.items()
        headers = {name: value for name, value in fields if name.lower() not in left_out}
        if outcome.status == 424:  # a failed generation of TGI, which openai would not repeat
            headers["x-should-retry"] = "true"
        return httpx2.Response(
            outcome.status, headers=headers, content=outcome.body, request=request
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()
        await super().aclose()

    def _refused_by_proxy(self, error: aiohttp.ClientHttpProxyError) -> Answer:
        """Returns an answer in place of that of a proxy that makes no connection to the server.

        Raises:
            httpx2.ConnectError: It may make one at a further attempt.
        """
        reason = f"{error.status} {error.message}".strip()
        if error.status >= 500 or error.status in (408, 429):
            raise httpx2.ConnectError(f"the proxy {self.proxy} answers {reason}") from None
        return Answer(REFUSED_BY_PROXY, {}, reason.encode("utf-8", "replace"))

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:  # in the event loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._ssl),
                cookie_jar=aiohttp.DummyCookieJar(),
                proxy=self._proxy,
            )
        return self._session

    async def _has_waited(self, answer: Answer) -> bool:
        """Waits if a server asks for more time than the package openai would wait."""
        seconds = _seconds(answer.headers.get("retry-after", ""))
        if answer.status not in (429, 503) or not CLIENT_WAITS < seconds <= LONGEST_WAIT:
            return False
        warnings.warn(
            f"the server {self._server} answers with HTTP status {answer.status} and asks to wait "
            f"{seconds:.0f} seconds before the next attempt: waiting",
            stacklevel=2,
        )
        await asyncio.sleep(seconds)
        return True


def parsed(body: bytes) -> Any:
    """Returns the JSON of a body, whatever its type is said to be, or the beginning of its text."""
    try:
        return json.loads(body)
    except ValueError:
        return body[:200].decode("utf-8", "replace")


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raises the errors of aiohttp as those that the package openai knows."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise httpx2.ConnectError(str(error)) from error
    except TimeoutError as error:
        raise httpx2.ReadTimeout("time-out") from error
    except (aiohttp.ClientError, OSError) as error:  # also an answer that is not HTTP
        raise httpx2.ReadError(str(error)) from error


def _has_error(answer: Answer) -> bool:
    """Returns whether an answer may hold an error in spite of its status 200."""
    start = answer.body[:500]
    return answer.status == 200 and b'"error"' in start and b'"choices"' not in start


def _status_in_body(body: bytes) -> int:
    """Returns the HTTP status of an answer that may hold an error in the body, as of gateways."""
    content = parsed(body)
    error = content.get("error") if isinstance(content, dict) else None
    if not error or content.get("choices"):
        return 200
    fields = error if isinstance(error, dict) else {}
    code = fields.get("code")
    if isinstance(code, int) and 400 <= code < 600:
        return code
    return 400 if fields.get("type") == "invalid_request_error" else 500


def _proxy_of(url: str) -> str | None:
    """Returns the proxy of the environment for a server; none can reach the loopback from there."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_loopback = host in ("localhost", "::1", "0.0.0.0") or host.startswith("127.")
    proxies = getproxies()
    if is_loopback or proxy_bypass(parts.netloc) or _is_within(host, proxies.get("no", "")):
        return None
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy is None:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.startswith(("http://", "https://")):
        raise ValueError(
            f"the proxy of the environment for {url} must be an HTTP proxy, not one of "
            f"{proxy.partition(':')[0]}: set {parts.scheme}_proxy, or name the server in no_proxy"
        )
    if not _is_address(proxy):
        raise ValueError(
            f"{parts.scheme}_proxy must be the address of a proxy, such as http://HOST:3128, or "
            "http://USER:PASSWORD@HOST:3128 with special characters in percent-encoding"
        )
    return proxy


def _is_address(proxy: str) -> bool:
    try:
        parts = urlsplit(proxy)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_within(host: str, networks: str) -> bool:
    """Returns whether a host is an IP address in one of the networks of ``no_proxy``."""
    with suppress(ValueError):
        address = ip_address(host)
        for network in networks.split(","):
            with suppress(ValueError):
                if "/" in network and address in ip_network(network.strip(), strict=False):
                    return True
    return False


def _seconds(value: str) -> float:
    """Returns the seconds of a header ``Retry-After``, a number or a date; 0 if it is neither."""
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(value).timestamp() - time.time()
    except (TypeError, ValueError):
        return 0.0
