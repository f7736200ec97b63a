"""The progress bar of ``SyntheticQueries.index``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from pyterrier_inpars._counted import counted
from pyterrier_inpars._progress import Progress, hidden_bars, rate


class RunProgress:
    """Progress of one run of ``index()``: documents, queries, and what each stage dropped.

    While its bar is shown, those of the stages are hidden.

    Args:
        stored: Number of documents, and of their queries, that earlier runs stored.

    Attributes:
        queries: Number of queries, those of earlier runs included.
        failed: Number of documents whose prompts failed in this run.
    """

    def __init__(self, stored: tuple[int, int] = (0, 0)):
        self._stored = stored
        self.queries = 0
        self.failed = 0
        self._bar: Progress | None = None
        self._stages: list[Any] = []
        self._more: Callable[[], Sequence[str]] = tuple
        self._before = 0
        self._finished = 0
        self._answers = 0
        self._lock = threading.Lock()  # answers arrive in other threads
        self._exit = ExitStack()

    def begin(
        self,
        unit: str,
        *,
        verbose: bool,
        total: int | None,
        stages: Iterable[Any] = (),
        resumes: bool = True,
        more: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """Shows the bar.

        Args:
            unit: What is counted, in the plural.
            verbose: Whether to show it; also if a stage is verbose.
            total: Number of documents of the corpus, if known.
            stages: Stages of the pipeline.
            resumes: Whether it starts at what earlier runs stored.
            more: Function that returns what else to show.
        """
        self._stages, self._more = list(stages), more
        self._finished, self.queries = self._stored if resumes else (0, 0)
        self._before = self.queries
        self._bar = self._exit.enter_context(
            Progress(
                title="synthetic queries",
                total=None if total is None else max(total, self._finished),
                unit=unit,
                verbose=verbose or any(getattr(stage, "verbose", False) for stage in self._stages),
                initial=self._finished,
                details=self._details,
            )
        )
        if not self._bar.disable:
            self._exit.enter_context(hidden_bars())

    @property
    def begun(self) -> bool:
        """Whether `begin` was called."""
        return self._bar is not None

    def answered(self, answers: int, per_document: int) -> None:
        """Counts answers of the model for the present batch.

        Args:
            answers: Number of answers.
            per_document: Number of answers that a document gets.
        """
        with self._lock:
            self._answers += answers
            self._move(self._finished + self._answers // per_document)

    def finish(self, documents: int) -> None:
        """Counts documents whose queries have been written."""
        with self._lock:
            self._finished += documents
            self._answers = 0
            self._move(self._finished)

    def refresh(self) -> None:
        """Shows what changed though no document has ended, such as a lost worker."""
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        """Ends the bar."""
        self._exit.close()

    def _move(self, documents: int) -> None:
        if self._bar is not None and documents > self._bar.n:
            self._bar.update(documents - self._bar.n)

    def _details(self, seconds: float) -> list[str | tuple[str, str]]:
        speed = rate(self.queries - self._before, seconds)
        drops = [
            (name.rpartition(": ")[2], dropped)
            for stage in self._stages
            for name, _, dropped in getattr(stage, "_drops", list)()
            if dropped
        ]
        named = ", ".join(f"{dropped:,} {name}" for name, dropped in drops)
        total = sum(dropped for _, dropped in drops)
        return [
            counted(self.queries, "query") + (f" ({speed})" if speed else ""),
            (f"dropped: {named}", f"{total:,} dropped") if drops else "",
            f"{self.failed:,} failed" if self.failed else "",
            *self._more(),
        ]
