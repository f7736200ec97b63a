"""Answers of a language model that are not yet in a shard, kept on disk as they arrive."""

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

ANSWERS = "answers-"
"""Beginning of the names of its files."""
SYNC_SECONDS = 1.0
"""Time between two writes to the disk itself: what a power failure can lose."""


class StoredAnswers:
    """Answers in the files of a folder, which are read again only where another process wrote.

    Attributes:
        folder: The folder.
        answers: Position at which its batch ends, and answer, by key.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.answers: dict[str, tuple[int, Any]] = {}
        self._states: dict[Path, tuple[int, int, int]] = {}

    def read(self) -> None:
        """Reads what was appended since the last `mark`, or all if a file is not as it was."""
        states = self._current()
        if not all(map(_has_grown, self._states.values(), map(states.get, self._states))):
            self.answers.clear()
            self._states.clear()
        for file, state in states.items():
            if state == (read := self._states.get(file)):
                continue
            with file.open("rb") as stream:
                stream.seek(read[1] if read else 0)
                for line in stream.read().splitlines():
                    with suppress(ValueError):  # a killed run may leave a part of a line
                        entry = json.loads(line)
                        self.answers[entry["key"]] = _end_of(file), entry["answer"]

    def mark(self) -> None:
        """Notes that ``answers`` has all that the files do."""
        self._states = self._current()

    def _current(self) -> dict[Path, tuple[int, int, int]]:
        """Returns number, size and time of change of each file."""
        stats = {file: file.stat() for file in self.folder.glob(f"{ANSWERS}*.jsonl")}
        return {file: (s.st_ino, s.st_size, s.st_mtime_ns) for file, s in stats.items()}


def _has_grown(before: tuple[int, int, int], now: tuple[int, int, int] | None) -> bool:
    """Returns whether a file has what it had before, to which more may be appended."""
    return now == before or (now is not None and now[0] == before[0] and now[1] > before[1])


class AnswerLog:
    """Log of the answers to the documents of unfinished shards, in the folder of an artifact.

    An answer is written when it arrives, as a line of JSON, so that a killed run loses none that
    it got. The answers of one batch share a file, named after the position in the corpus at which
    the batch ends. A file is removed once these documents are in a shard.

    Args:
        folder: Folder of the artifact.
        stored: The answers in it, as an earlier log left them. None to read all of them.

    Attributes:
        requested: Answers that have been requested and not yet used, by key.
        counts_refusals: See `backends.base.Run`.
        failures_in_a_row: Number of failed prompts of this run since the last answer.
        refused: Functions that store these failures; see `backends.base.Run`.
    """

    def __init__(self, folder: Path, stored: StoredAnswers | None = None):
        self.requested: dict[str, Future[Any]] = {}
        self.counts_refusals = True
        self.failures_in_a_row = 0
        self.refused: list[Callable[[], object]] = []
        self._folder = folder
        self._stored = StoredAnswers(folder) if stored is None else stored
        self._stored.read()
        self._answers = self._stored.answers
        self._files: dict[int, BinaryIO] = {}
        self._lock = threading.Lock()  # answers arrive in other threads
        self._closed = False
        self._synced = 0.0

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Any:
        """Returns the answer with this key, or None."""
        return self._answers.get(key, (0, None))[1]

    def add(self, key: str, answer: Any, end: int) -> None:
        """Stores an answer, unless the log is closed: then another run may own the files.

        Args:
            key: Its key.
            answer: A value that JSON can represent.
            end: Position in the corpus at which the batch of its document ends.
        """
        line = json.dumps({"key": key, "answer": answer}, ensure_ascii=False) + "\n"
        with self._lock:
            if self._closed:
                return
            file = self._file(end)
            file.write(line.encode("utf-8", "replace"))
            file.flush()
            self._answers[key] = end, answer
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self._synced = time.monotonic()
                # in a thread of its own: it takes milliseconds, in which other answers arrive
                threading.Thread(target=_sync, args=[os.dup(file.fileno())], daemon=True).start()

    def _file(self, end: int) -> BinaryIO:
        if end not in self._files:
            self._files[end] = (self._folder / f"{ANSWERS}{end}.jsonl").open("ab")
            if self._files[end].tell():  # perhaps after a part of a line
                self._files[end].write(b"\n")
        return self._files[end]

    def discard(self, end: int) -> None:
        """Removes the answers of all batches that end at or before a position in the corpus."""
        with self._lock:
            for key in [key for key, (batch_end, _) in self._answers.items() if batch_end <= end]:
                del self._answers[key]
            for batch_end in [batch_end for batch_end in self._files if batch_end <= end]:
                self._files.pop(batch_end).close()
            for file in self._folder.glob(f"{ANSWERS}*.jsonl"):
                if _end_of(file) <= end:
                    file.unlink(missing_ok=True)

    def close(self) -> None:
        """Cancels what is requested, and closes the files."""
        for future in self.requested.values():
            future.cancel()
        self.requested.clear()
        with self._lock:
            self._closed = True
            for end in list(self._files):
                self._files.pop(end).close()
            self._stored.mark()


def _sync(descriptor: int) -> None:
    """Writes a file to the disk itself, and closes its descriptor."""
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _end_of(file: Path) -> int:
    return int(file.stem.removeprefix(ANSWERS))
