"""Freed memory stays with the process."""

import math
import platform
import subprocess
import sys

import pytest

from pyterrier_inpars._compute import cpu_memory

COUNT = """
import resource
import sys

import numpy as np

from pyterrier_inpars._compute.cpu_memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
np.ones(2**26, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**26, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_large_blocks_are_not_allocated_anew():
    faults = {}
    for mode in ("default", "kept"):
        command = [sys.executable, "-c", COUNT, mode]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        faults[mode] = int(run.stdout)
    # huge pages, where the system has them, take fewer faults: one for 2 MiB
    assert faults["default"] >= 10 * 2**26 // 2**21
    assert faults["kept"] < faults["default"] / 10


@pytest.mark.parametrize(
    "meminfo, limit, anon, expected",
    [
        ("MemTotal: 9 kB\nMemAvailable:  4 kB\n", None, None, 4096),
        ("MemAvailable: 4 kB", "3000", "anon 1000", 2000),
        ("MemAvailable: 4 kB", "3000", "file 7\nanon 9000", 0),
        ("MemAvailable: 4 kB", "max", "anon 1000", 4096),
        (None, None, None, math.inf),
    ],
)
def test_available_memory(meminfo, limit, anon, expected, tmp_path, monkeypatch):
    """That of the machine, or of the container; other systems have no such files."""
    files = {"meminfo": meminfo, "memory.max": limit, "memory.stat": anon}
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_text(content)
    monkeypatch.setattr(cpu_memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(cpu_memory, "CGROUP", tmp_path)
    assert cpu_memory.available_memory() == expected
