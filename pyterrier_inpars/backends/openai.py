"""OpenAI-compatible servers: vLLM, SGLang, llama.cpp, Ollama, ``transformers serve``, APIs."""

from __future__ import annotations

import functools
import json
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, TypedDict
from urllib.parse import SplitResult, urlsplit

from pyterrier_inpars._arguments import finite, one_of, positive_int
from pyterrier_inpars._errors import LanguageModelError
from pyterrier_inpars.backends._chat import check_fast
from pyterrier_inpars.backends._choices import checked, completions_of
from pyterrier_inpars.backends._server import (
    OPENAI_HOST,
    Connection,
    PromptFailure,
    not_installed,
)
from pyterrier_inpars.backends._special_tokens import without_special_tokens
from pyterrier_inpars.backends._streaming import count_failed, wait
from pyterrier_inpars.backends._tokens import count_tokens
from pyterrier_inpars.backends._turns import short_turns
from pyterrier_inpars.backends.base import (
    NEWLINE,
    SAMPLING_FIELDS,
    Completion,
    Messages,
    PromptError,
    Run,
    Sampling,
)

OPENAI_KEY = "OPENAI_API_KEY"
"""Environment variable whose value goes to `OPENAI_HOST` unless another variable is named."""
OPENAI_URL = f"https://{OPENAI_HOST}/v1"
NAME_OF_MODEL = "served_model= (model= of OpenAIBackend)"
"""Parameter for the name of a model at a server, of a stage and of the backend, in errors."""
OPENAI_STOPS = 4
"""Most stop strings that `OPENAI_HOST` takes; the others end a text when it has arrived."""
LIMITS = ("max_tokens", "max_completion_tokens")
"""Fields of a request with the maximum number of tokens of a completion."""
PATHS = {"chat": "/chat/completions", "completions": "/completions"}
MALFORMED_ANSWERS = 3
"""Number of malformed answers to one request after which its prompt has failed."""
FAILURES_IN_A_ROW = 20
"""Number of failed prompts without an answer between them after which the run fails."""

_CONNECTING = threading.Lock()
"""Held while a connection is made; of the module, since backends are pickled."""


class _Calls:
    """The calls of `OpenAIBackend.complete` up to one that fails, as a `Run`."""

    def __init__(self) -> None:
        self.counts_refusals = True
        self.failures_in_a_row = 0
        self.refused: list[Callable[[], object]] = []


class ServerOptions(TypedDict, total=False):
    """Keyword parameters of `OpenAIBackend`, which stages with a ``model`` accept too.

    ``served_model`` is its parameter ``model``.
    """

    served_model: str | None
    endpoint: Literal["chat", "completions"]
    api_key_env: str | None
    concurrency: int
    requests_per_minute: float | None
    tokens_per_minute: float | None
    timeout: float
    max_retries: int
    on_error: Literal["skip", "raise"]
    log_probs: bool
    parameters: Mapping[str, Any] | None
    tokenizer: Any
    context: int | None


class OpenAIBackend:
    """Completes prompts with a server that has OpenAI's HTTP interface.

    Up to ``concurrency`` requests are in progress at once. A request that meets a rate limit, an
    overloaded server, a time-out or a cut connection is sent again after an exponential back-off,
    or after the time that the server's ``Retry-After`` header asks for. A malformed answer is
    requested again.

    A prompt fails for good if the server refuses it (too long, content filter), or if no attempt
    was answered. If the server cannot be reached, does not accept the key, or
    ``FAILURES_IN_A_ROW`` prompts fail in a row, the whole call fails. The next call counts anew.

    Most servers read special tokens that are written out in a message, so that a document could end
    its message and begin another one. Messages are sent with a space after the first character of
    such tokens, as in ``< |im_end|>``.

    Log-probabilities are those that the server returns; many servers return none.

    HTTP proxies of the environment are used, but for servers on this machine. Certificates are
    verified; ``SSL_CERT_FILE`` names other authorities than the system's.

    Args:
        base_url: Address of the server up to the version: ``http://127.0.0.1:8000/v1``.
        model: Name of the model at the server. None if the server has one model only.
        endpoint: ``"chat"`` for an instruct model, whose prompts are messages, or
            ``"completions"`` for a base model, which continues a text.
        api_key_env: Name of the environment variable with the API key. The key is read when the
            first request is sent, and stored nowhere. None for ``OPENAI_API_KEY`` at
            ``api.openai.com``, and for no key at other servers.
        concurrency: Maximum number of requests in progress at once.
        requests_per_minute: Rate limit in requests, attempts included. None for no limit.
        tokens_per_minute: Rate limit in tokens: those of the prompts, estimated without a
            ``tokenizer``, and ``max_new_tokens`` for each completion. None for no limit.
        timeout: Seconds after which an attempt has failed.
        max_retries: Number of further attempts for a request.
        on_error: What happens to a prompt that fails for good. ``"skip"``: its completions have an
            ``error``. ``"raise"``: the call raises a `PromptError`.
        log_probs: Whether to request log-probabilities.
        parameters: Further fields of each request, such as ``{"reasoning_effort": "low"}``. They
            replace fields that this class sets; a field that is None is not sent.
        tokenizer: Name or tokenizer of ``transformers`` for the model, to truncate documents by
            tokens. None to truncate by words; see `Backend`.
        context: Maximum number of tokens of a prompt and its completion together, None if unknown.

    Attributes:
        usage: Number of ``requests`` that were answered, and of ``prompt_tokens`` and
            ``completion_tokens`` as the server counts them.
        failed: Number of prompts that failed for good, of those that a call or a run got back. A
            run that resumes counts refusals that an earlier one had stored.

    Raises:
        ValueError: An argument is out of range, or the environment variable is not set.
        ImportError: On use, the package ``openai`` is not installed.
        RuntimeError: On use, the server cannot be reached or does not accept the key.
    """

    def __init__(
        self,
        base_url: str = OPENAI_URL,
        model: str | None = None,
        *,
        endpoint: Literal["chat", "completions"] = "chat",
        api_key_env: str | None = None,
        concurrency: int = 64,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        timeout: float = 600.0,
        max_retries: int = 8,
        on_error: Literal["skip", "raise"] = "skip",
        log_probs: bool = True,
        parameters: Mapping[str, Any] | None = None,
        tokenizer: Any = None,
        context: int | None = None,
    ):
        self.base_url = _checked_url(base_url)
        self._model = model
        self.endpoint = one_of("endpoint", endpoint, PATHS)
        self.api_key_env = api_key_env
        if api_key_env is not None and not os.environ.get(api_key_env):
            raise ValueError(
                f"the environment variable {api_key_env} is not set: set it to the API key for "
                f"{base_url}"
            )
        self.concurrency = positive_int("concurrency", concurrency)
        self.requests_per_minute = _rate_limit("requests_per_minute", requests_per_minute)
        self.tokens_per_minute = _rate_limit("tokens_per_minute", tokens_per_minute)
        self.timeout = finite("timeout", timeout, above=0)
        self.max_retries = positive_int("max_retries", max_retries, least=0)
        self.on_error = one_of("on_error", on_error, ("skip", "raise"))
        self.log_probs = log_probs
        self.parameters = _checked_parameters(parameters)
        self._tokenizer = tokenizer
        self.context = None if context is None else positive_int("context", context)
        self.usage = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0}
        self.failed = 0
        self._calls = _Calls()
        self._open_connection: Connection | None = None

    def __repr__(self) -> str:
        shown = [self.base_url] if self._model is None else [self.base_url, self._model]
        return f"{type(self).__name__}({', '.join(map(repr, shown))}, endpoint={self.endpoint!r})"

    def __getstate__(self) -> dict[str, Any]:
        # what waits for the next answer cannot be pickled, and belongs to a call of this process
        return {**self.__dict__, "_open_connection": None, "_calls": _Calls()}

    @property
    def chat(self) -> bool:
        """Whether prompts are messages; see `Backend.chat`."""
        return self.endpoint == "chat"

    @property
    def wraps_texts(self) -> bool:
        """Whether a text prompt becomes the message of a user; see `RemoteBackend`."""
        return self.chat

    @functools.cached_property
    def _is_openai(self) -> bool:
        return urlsplit(self.base_url).hostname == OPENAI_HOST

    @property
    def batch_size(self) -> int:
        """Prompts of a batch: eight of these are in a call, and the next call is read ahead."""
        return max(1, self.concurrency // 2)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """Tokenizer of the model, None if none was given.

        Raises:
            ValueError: It is not of the tokenizers library.
        """
        if not isinstance(self._tokenizer, str):
            return self._tokenizer
        from transformers import AutoTokenizer

        from pyterrier_inpars._hub import resolved

        # not mistral-common's, which is in Python
        tokenizer = AutoTokenizer.from_pretrained(resolved(self._tokenizer), mistral_format=False)
        check_fast(tokenizer, self._tokenizer, "leave tokenizer out, and words are counted")
        return tokenizer

    @functools.cached_property
    def model(self) -> str:
        """Name of the model at the server.

        Raises:
            ValueError: No name was given, and the server has none or several.
        """
        if self._model is not None:
            return self._model
        names = self.connection.run(self._model_names()).result()
        if not names:
            raise ValueError(
                f"{self.base_url} does not return the name of its model: give it as {NAME_OF_MODEL}"
            )
        if len(names) > 1:
            raise ValueError(
                f"{self.base_url} serves {len(names)} models: give one of {names[:20]} as "
                f"{NAME_OF_MODEL}"
            )
        return names[0]

    @property
    def fixed_sampling(self) -> dict[str, Any]:
        """Fields of `Sampling` that ``parameters`` replace; None if the server decides them."""
        known = {"top_p": None, "seed": None} if self._temperature(0.0) is None else {}
        known |= self.parameters
        return {name: known[name] for name in SAMPLING_FIELDS if name in known}

    def _temperature(self, requested: float) -> float | None:
        """Returns the temperature of a request, None if the server decides it.

        Only with a temperature above 0, ``top_p`` and ``seed`` are sent.
        """
        return self.parameters.get("temperature", requested)

    @property
    def _limit(self) -> str:
        """Field of a request with the maximum number of tokens of a completion."""
        return "max_completion_tokens" if self.chat and self._is_openai else "max_tokens"

    def most(self, max_new_tokens: int, num_samples: int) -> tuple[int, int | None]:
        """Returns what the completions of a prompt take at most; see `RemoteBackend.most`."""
        request: dict[str, Any] = {self._limit: max_new_tokens, "n": num_samples, **self.parameters}
        per_answer = request["n"] or 1
        requests = math.ceil(num_samples / per_answer)
        limits = [request[name] for name in LIMITS if request.get(name) is not None]
        return requests, requests * per_answer * max(limits) if limits else None

    def describe(self) -> dict[str, Any]:
        """Returns the settings that determine the output; see `Backend.describe`.

        The address is among the versions: a run may be resumed at another one. The key is not
        included.
        """
        settings = {
            "model": self.model,
            "backend": "openai",
            "endpoint": self.endpoint,
            "parameters": self.parameters,
            "tokenizer": getattr(self._tokenizer, "name_or_path", self._tokenizer),
            "context": self.context,
        }
        return {
            **{name: value for name, value in settings.items() if value},
            **self.fixed_sampling,
            **({} if self.log_probs else {"log_probs": False}),
            "versions": {"openai": _client_version(self.base_url), "server": self.base_url},
        }

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
        """Completes prompts; see `Backend.complete`."""
        futures: dict[Future[list[Completion]], int] = {}
        run = self._calls
        try:
            for number, prompt in enumerate(prompts):
                future = self.submit(
                    prompt,
                    max_new_tokens=max_new_tokens,
                    sampling=sampling,
                    num_samples=num_samples,
                    seeds=seeds[number * num_samples : (number + 1) * num_samples],
                    stop=stop,
                    schema=schema,
                    run=run,
                )
                futures[future] = number
            found = wait(futures, lambda: progress(num_samples))
        except BaseException:
            self._calls = _Calls()  # requests in progress count for the call that failed
            for future in reversed(futures):  # later ones would take the place of earlier ones
                future.cancel()
            raise
        self.failed += count_failed(found.values())
        return [completion for number in range(len(prompts)) for completion in found[number]]

    def submit(
        self,
        prompt: str | Messages,
        *,
        max_new_tokens: int = 64,
        sampling: Sampling | None = None,
        num_samples: int = 1,
        seeds: Sequence[int] = (),
        stop: Sequence[str] = (NEWLINE,),
        schema: Mapping[str, Any] | None = None,
        answered: Callable[[list[Completion]], object] = lambda completions: None,
        run: Run | None = None,
    ) -> Future[list[Completion]]:
        """Requests the completions of a prompt; see `StreamingBackend.submit`.

        A text as a prompt of the endpoint ``chat`` is sent as the message of a user. The
        completions of a prompt are requested together, with the seed of the first one. If the
        server returns fewer, the others are requested with the seed of the first that is missing.
        Seeds are sent modulo 2³¹, since some servers take no larger ones.
        """
        sampling = sampling or Sampling()
        sampling.check_num_samples(num_samples)
        fields = self.fields(prompt, max_new_tokens, sampling, stop, schema)
        run = self._calls if run is None else run
        connection = self.connection
        return connection.run(self._answer(fields, num_samples, seeds, stop, answered, run))

    async def _answer(
        self,
        fields: dict[str, Any],
        count: int,
        seeds: Sequence[int],
        stop: Sequence[str],
        answered: Callable[[list[Completion]], object],
        run: Run,
    ) -> list[Completion]:
        """Returns the completions of one prompt, or those that say why it failed."""
        try:
            completions = await self._completions(fields, count, seeds, stop)
        except PromptFailure as failure:
            self._count_failure(failure, run)
            unanswered = not failure.is_refused
            failed = [
                Completion("", None, "error", error=str(failure), unanswered=unanswered)
            ] * count
            if failure.is_refused:
                run.refused.append(functools.partial(answered, failed))
            return failed
        run.failures_in_a_row = 0
        while run.refused:
            run.refused.pop()()
        answered(completions)
        return completions

    def _count_failure(self, failure: PromptFailure, run: Run) -> None:
        """Counts a failed prompt, and raises if it ends the run."""
        if self.on_error == "raise":
            raise PromptError(str(failure), 0)
        if failure.is_refused and not run.counts_refusals:
            return
        run.failures_in_a_row += 1
        if run.failures_in_a_row >= FAILURES_IN_A_ROW:
            raise LanguageModelError(
                f"{self.base_url} failed on {FAILURES_IN_A_ROW} prompts in a row, at last with: "
                f"{failure}. Check the server and the parameters ({{'seed': None}}, for example, "
                "leaves out a field that it does not accept); answers that are stored are kept"
            )

    def fields(
        self,
        prompt: str | Messages,
        max_new_tokens: int,
        sampling: Sampling,
        stop: Sequence[str],
        schema: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """Returns the fields of a request but for its seed and number of completions."""
        fields: dict[str, Any] = {"model": self.model}
        if not self.chat:
            if not isinstance(prompt, str):
                raise TypeError(
                    "the endpoint 'completions' takes texts, not messages: use a text prompt, or "
                    "endpoint='chat'"
                )
            fields |= {"prompt": prompt, "logprobs": 1 if self.log_probs else None}
        else:
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            fields["messages"] = [
                {**message, "content": without_special_tokens(message["content"])}
                for message in messages
            ]
            if self.log_probs:
                # llama-cpp-python's server gives none without the number of alternatives
                fields |= {"logprobs": True, "top_logprobs": 1}
            if messages[-1]["role"] == "assistant":
                fields |= {"continue_final_message": True, "add_generation_prompt": False}
        fields |= {self._limit: max_new_tokens, "temperature": sampling.temperature}
        fields["top_p"] = sampling.top_p if self._temperature(sampling.temperature) else None
        fields["stop"] = list(stop)[: OPENAI_STOPS if self._is_openai else None] or None
        if schema is not None:
            json_schema = {"name": "answer", "strict": True, "schema": schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": json_schema}
        return fields

    async def _completions(
        self, fields: dict[str, Any], count: int, seeds: Sequence[int], stop: Sequence[str]
    ) -> list[Completion]:
        """Returns the completions of one prompt.

        Raises:
            PromptFailure: The prompt failed for good.
        """
        answers: list[Completion] = []
        prompt = fields["messages"] if self.chat else fields["prompt"]
        prompt_tokens = count_tokens(self.tokenizer, prompt) if self.tokens_per_minute else 0
        async with self.connection.prompts:
            with short_turns():
                while len(answers) < count:
                    missing = count - len(answers)
                    body = self.body(fields, missing, seeds[len(answers) :])
                    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 0
                    tokens = prompt_tokens + body.get("n", 1) * limit
                    answers += (await self._request(body, tokens, stop))[:missing]
        return checked(answers)

    def body(self, fields: dict[str, Any], count: int, seeds: Sequence[int]) -> dict[str, Any]:
        """Returns a request for a number of completions; see `fields`.

        Args:
            fields: Its other fields.
            count: Number of completions.
            seeds: Their seeds, of which the first is sent.
        """
        own: dict[str, Any] = {"n": count} if count > 1 else {}
        if self._temperature(fields["temperature"]) and seeds:
            own["seed"] = seeds[0] % 2**31
        body = {**fields, **own, **self.parameters}
        return {name: value for name, value in body.items() if value is not None}

    def completions(self, answer: Any, stop: Sequence[str]) -> list[Completion]:
        """Returns the completions of an answer, and counts its tokens.

        Args:
            answer: The body of the answer.
            stop: Stop strings.

        Returns:
            Fewer than were requested, or none, if the answer is malformed or was broken off. Those
            that the model refused, or that a content filter removed, have an error.
        """
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
            return []
        if all(isinstance(choice.get("index"), int) for choice in choices):
            choices = sorted(choices, key=lambda choice: choice["index"])
        usage = answer.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        self.usage["requests"] += bool(choices)
        for name in ("prompt_tokens", "completion_tokens"):
            number = usage.get(name)
            self.usage[name] += number if isinstance(number, int) else 0
        return completions_of(choices, stop)

    async def _request(
        self, body: dict[str, Any], tokens: float, stop: Sequence[str]
    ) -> list[Completion]:
        """Returns the completions of one answer, at least one."""
        for _ in range(MALFORMED_ANSWERS):
            answer = await self.connection.post(PATHS[self.endpoint], body, tokens)
            if completions := self.completions(answer, stop):
                return completions
        last = self.connection.without_secrets(repr(answer))[:100]
        message = f"{MALFORMED_ANSWERS} malformed answers, at last {last}"
        raise PromptFailure(message, is_refused=False)

    async def _model_names(self) -> list[str]:
        try:
            body = await self.connection.get("/models")
        except PromptFailure as failure:
            raise LanguageModelError(
                f"the server {self.base_url} does not return the name of its model: {failure}. "
                f"Try again later, or give it as {NAME_OF_MODEL}"
            ) from None
        models = body.get("data") if isinstance(body, dict) else None
        models = [model for model in models or [] if isinstance(model, dict)]
        return [model["id"] for model in models if isinstance(model.get("id"), str)]

    @property
    def connection(self) -> Connection:
        """The connection to the server, made on first use."""
        connection = self._open_connection
        if connection is None or connection.process != os.getpid():  # a fork has no threads
            with _CONNECTING:
                connection = self._open_connection
                if connection is None or connection.process != os.getpid():
                    connection = self._open_connection = self._connect()
        return connection

    def _connect(self) -> Connection:
        return Connection(
            self.base_url,
            self.api_key_env or (OPENAI_KEY if self._is_openai else None),
            self.concurrency,
            self.requests_per_minute,
            self.tokens_per_minute,
            self.timeout,
            self.max_retries,
        )


@functools.cache  # each look-up reads a file, and the settings are described for each batch
def _client_version(base_url: str) -> str:
    try:
        return version("openai")
    except PackageNotFoundError as error:
        raise not_installed(base_url) from error


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not _is_port(parts):
        raise ValueError(
            f"base_url must be an address such as 'http://127.0.0.1:8000/v1', not {url!r:.200}"
        )
    if parts.username or parts.password:
        raise ValueError(
            "base_url must not contain a user or a password, which would be stored with the "
            "queries: put the key into an environment variable, and name it by api_key_env="
        )
    if parts.query:
        raise ValueError(
            "base_url must not contain a query, such as ?api-version= or ?key=: give the address "
            "of the server's OpenAI-compatible interface, which ends in /v1 at most servers "
            "(Azure: https://RESOURCE.openai.azure.com/openai/v1), and name the environment "
            "variable with the key by api_key_env="
        )
    for path in PATHS.values():
        if parts.path.rstrip("/").endswith(path):
            raise ValueError(
                f"base_url must end before {path}, which is added by endpoint=, not {url!r:.200}"
            )
    return url.strip().rstrip("/")


def _is_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


def _checked_parameters(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    checked = dict(parameters or {})
    if checked.get("stream"):
        raise ValueError("parameters must not have 'stream': an answer is read as a whole")
    for name, value in checked.items():
        try:
            json.dumps([name, value])
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"parameters must be values that JSON can represent, but {name!r:.200} is "
                f"{value!r:.200}: {error}"
            ) from error
    return checked


def _rate_limit(name: str, per_minute: float | None) -> float | None:
    return None if per_minute is None else finite(name, per_minute, above=0)
