"""Memory of large tensors on the CPU."""

from __future__ import annotations

import ctypes
import functools
import sys

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
"""Parameters of glibc's ``mallopt``."""
KEPT = 2**29
"""Bytes of freed memory that the process keeps, and the size from which blocks are not kept."""


@functools.cache
def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next tensor, in this process.

    By default it returns a block of more than 32 MiB to the operating system at once. The logits of
    a batch over a large vocabulary are such a block: each decoding step would get 64 MiB anew, page
    by page, which takes a tenth of its time. Other C libraries are left as they are.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        if library.mallopt(M_MMAP_THRESHOLD, KEPT):  # old versions refuse it
            library.mallopt(M_TRIM_THRESHOLD, KEPT)
