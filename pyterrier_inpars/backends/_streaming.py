"""Prompts of a backend that answers one by one: requested ahead, stored as answers arrive."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

from pyterrier_inpars.backends.base import (
    Completion,
    Messages,
    PromptError,
    StreamingBackend,
)


class Answers(Protocol):
    """A store of answers by key, as values that JSON can represent.

    Attributes:
        requested: Answers that have been requested and not yet used, by key.
        counts_refusals: See `Run`.
        failures_in_a_row: See `Run`.
        refused: See `Run`.
    """

    requested: dict[str, Future[Any]]
    counts_refusals: bool
    failures_in_a_row: int
    refused: list[Callable[[], object]]

    def get(self, key: str) -> Any:
        """Returns the answer of a key, or None."""

    def add(self, key: str, answer: Any, end: int) -> None:
        """Stores the answer of a key, with the position at which its batch ends."""


def request(
    backend: StreamingBackend,
    answers: Answers,
    end: int,
    keys: Sequence[str],
    prompts: Sequence[str | Messages],
    *,
    num_samples: int,
    seeds: Sequence[int],
    **options: Any,
) -> None:
    """Requests the answers to prompts that are neither stored nor requested.

    Each answer is stored when it arrives. So is the refusal of a prompt; see `Run`. A prompt that
    failed because the server did is tried again by a later run, and so is one whose answer has NaN,
    which is an error for the caller.

    Args:
        backend: The backend.
        answers: The store.
        end: Position in the corpus at which the batch ends.
        keys: Key of each prompt.
        prompts: The prompts.
        num_samples: Number of completions per prompt.
        seeds: One seed per completion, prompt by prompt.
        **options: Further arguments of `StreamingBackend.submit`.
    """
    for number, (key, prompt) in enumerate(zip(keys, prompts, strict=True)):
        if key not in answers.requested and answers.get(key) is None:
            own = seeds[number * num_samples : (number + 1) * num_samples]
            answers.requested[key] = backend.submit(
                prompt,
                num_samples=num_samples,
                seeds=own,
                answered=partial(_store, answers, key, end),
                run=answers,
                **options,
            )


def collect(
    backend: StreamingBackend,
    answers: Answers,
    keys: Sequence[str],
    num_samples: int,
    progress: Callable[[int], object],
) -> list[Completion]:
    """Returns the completions of requested prompts, in the order of the keys.

    Prompts that failed are added to ``backend.failed``, whether their failure was stored or not.

    Args:
        backend: The backend.
        answers: The store.
        keys: Key of each prompt.
        num_samples: Number of completions per prompt.
        progress: Callback that receives the number of completions that have ended.

    Raises:
        PromptError: A prompt failed for good; see `Backend.complete`.
    """
    futures: dict[Future[list[Completion]], int] = {}
    for number, key in enumerate(keys):
        if key in answers.requested:
            futures[answers.requested.pop(key)] = number
    progress(num_samples * (len(keys) - len(futures)))
    waited = wait(futures, lambda: progress(num_samples), answers.requested.values())
    found = {keys[number]: completions for number, completions in waited.items()}
    collected = [
        found.get(key) or [Completion(**fields) for fields in answers.get(key)] for key in keys
    ]
    backend.failed = getattr(backend, "failed", 0) + count_failed(collected)
    return [completion for completions in collected for completion in completions]


def count_failed(answers: Iterable[Sequence[Completion]]) -> int:
    """Returns the number of prompts that failed, of these with their completions."""
    return sum(any(c.error is not None for c in completions) for completions in answers)


def wait(
    futures: dict[Future[list[Completion]], int],
    progress: Callable[[], object],
    later: Iterable[Future[Any]] = (),
) -> dict[int, list[Completion]]:
    """Waits for the answers to prompts, and cancels the others if one raises an error.

    Args:
        futures: Number of each prompt, by its answer.
        progress: Callback for each answer.
        later: Further answers to cancel.

    Returns:
        The completions by the number of their prompt.

    Raises:
        PromptError: A prompt failed for good; its row is the number.
    """
    for future in futures:
        future.add_done_callback(lambda _: progress())
    try:
        # as_completed would wake this thread for each answer, at the cost of the one that answers
        done, _ = concurrent.futures.wait(futures, return_when="FIRST_EXCEPTION")
        return {futures[future]: _result(future, futures[future]) for future in done}
    except BaseException:
        for future in reversed([*futures, *later]):  # they would take the place of earlier ones
            future.cancel()
        raise


def _result(future: Future[list[Completion]], number: int) -> list[Completion]:
    try:
        return future.result()
    except PromptError as error:
        raise PromptError(error.message, number) from None


def _store(answers: Answers, key: str, end: int, completions: list[Completion]) -> None:
    if not any(completion.has_nan for completion in completions):
        answers.add(key, [vars(completion) for completion in completions], end)
