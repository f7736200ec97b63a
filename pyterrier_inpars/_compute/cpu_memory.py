"""Memory on the CPU: how much there is, and that of large tensors."""

from __future__ import annotations

import ctypes
import functools
import math
import re
import sys
from pathlib import Path

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
"""Parameters of glibc's ``mallopt``."""
KEPT = 2**29
"""Bytes of freed memory that the process keeps, and the size from which blocks are not kept."""


MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
"""Where Linux says how much memory the machine has, and how much this container may use."""


def available_memory() -> float:
    """Returns the bytes that this process can fill on Linux; infinite on other systems.

    Linux promises more memory than there is. A process that fills it is ended, without an error
    that it could handle.
    """
    found = [math.inf]
    if known := re.search(r"MemAvailable:\s+(\d+) kB", _text(MEMINFO)):
        found.append(int(known[1]) * 1024)
    limit = re.match(r"\d+", _text(CGROUP / "memory.max"))
    used = re.search(r"^anon (\d+)", _text(CGROUP / "memory.stat"), re.MULTILINE)
    if limit and used:
        found.append(max(0, int(limit[0]) - int(used[1])))
    return min(found)


def _text(file: Path) -> str:
    """Returns the content of a file, empty if it cannot be read."""
    try:
        return file.read_text()
    except OSError:
        return ""


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
