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


class AnswerLog:
    """Log of the answers to the documents of unfinished shards, in the folder of an artifact.

    An answer is written when it arrives, as a line of JSON, so that a killed run loses none that
    it got. The answers of one batch share a file, named after the position in the corpus at which
    the batch ends. A file is removed once these documents are in a shard.

    Args:
        folder: Folder of the artifact.

    Attributes:
        requested: Answers that have been requested and not yet used, by key.
        failures_in_a_row: Number of failed prompts of this run since the last answer.
        refused: Functions that store these failures; see `backends.base.Run`.
    """

    def __init__(self, folder: Path):
        self.requested: dict[str, Future[Any]] = {}
        self.failures_in_a_row = 0
        self.refused: list[Callable[[], object]] = []
        self._folder = folder
        self._answers: dict[str, tuple[int, Any]] = {}
        self._files: dict[int, BinaryIO] = {}
        self._lock = threading.Lock()  # answers arrive in other threads
        self._closed = False
        self._synced = 0.0
        for file in folder.glob(f"{ANSWERS}*.jsonl"):
            for line in file.read_bytes().splitlines():
                with suppress(ValueError):  # a killed run may leave a part of a line
                    entry = json.loads(line)
                    self._answers[entry["key"]] = _end_of(file), entry["answer"]

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
            self._answers[key] = end, answer
            file = self._file(end)
            file.write(line.encode("utf-8", "replace"))
            file.flush()
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


def _sync(descriptor: int) -> None:
    """Writes a file to the disk itself, and closes its descriptor."""
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _end_of(file: Path) -> int:
    return int(file.stem.removeprefix(ANSWERS))
