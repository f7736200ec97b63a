"""Freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest

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
