"""What native libraries write to the process's standard output and standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def redirected(targets: dict[int, int]) -> Iterator[None]:
    """Redirects file descriptors of the process, to which native libraries write."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {number: os.dup(number) for number in targets}
    for number, target in targets.items():
        os.dup2(target, number)
    try:
        yield
    finally:
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)


@contextmanager
def silenced() -> Iterator[None]:
    """Drops what native libraries write to standard output and standard error."""
    with open(os.devnull, "w") as nothing, redirected({1: nothing.fileno(), 2: nothing.fileno()}):
        yield
