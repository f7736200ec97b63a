"""Output of native libraries, such as the log of PISA, which they write to file descriptors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_STREAMS = {1: "stdout", 2: "stderr"}
"""Python's streams by their usual file descriptors."""


@contextmanager
def redirected(targets: Mapping[int, int]) -> Iterator[None]:
    """Redirects file descriptors of the process, to which native libraries write."""
    saved = {number: os.dup(number) for number in targets}
    _redirect(targets)
    try:
        yield
    finally:
        _redirect(saved)
        for copy in saved.values():
            os.close(copy)


@contextmanager
def silenced() -> Iterator[None]:
    """Drops what is written to standard output and standard error, by Python too."""
    with open(os.devnull, "w") as nothing, redirected(dict.fromkeys(_STREAMS, nothing.fileno())):
        yield


def mute_native_log() -> None:
    """Discards what native code prints, such as the log of PISA, for the rest of the process.

    What Python prints stays: ``sys.stdout`` and ``sys.stderr`` become streams of their own. Call it
    first in a script or a notebook.
    """
    for number, name in _STREAMS.items():
        stream = getattr(sys, name)
        if _number(stream) == number:
            stream.flush()
            own = os.fdopen(os.dup(number), "w", 1, encoding=stream.encoding, errors=stream.errors)
            setattr(sys, name, own)
    with open(os.devnull, "w") as nothing:
        _redirect(dict.fromkeys(_STREAMS, nothing.fileno()))


def _redirect(targets: Mapping[int, int]) -> None:
    """Makes file descriptors copies of others, after what Python has buffered for them."""
    for name in _STREAMS.values():
        getattr(sys, name).flush()
    for number, target in targets.items():
        os.dup2(target, number)


def _number(stream: object) -> int | None:
    """Returns the file descriptor of a stream; None if it has none, as in a notebook."""
    try:
        return stream.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return None
