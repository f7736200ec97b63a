"""Python's garbage collector while libraries and models are loaded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_garbage_collection() -> Iterator[None]:
    """Pauses the collection of reference cycles until the block ends.

    Importing PyTorch and reading the vocabulary of a tokenizer make millions of objects that stay.
    The collector would visit all of them again and again, for a third of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
