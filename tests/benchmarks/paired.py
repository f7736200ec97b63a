"""Paired runs of a benchmark."""

import statistics
import time
from collections.abc import Callable, Mapping


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Returns the time that some work takes.

    On a machine with other work, ``time.process_time`` with ``OMP_NUM_THREADS=1`` is steadier.
    """
    start = clock()
    work()
    return clock() - start


def median_ratios(
    peer: Callable[[], object],
    ours: Mapping[str, Callable[[], object]],
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Runs the sides in turn, in alternating order, and prints the seconds of each run.

    Returns:
        The median over the runs of the peer's seconds divided by those of each other side.
    """
    sides = {"peer": peer, **ours}
    ratios: dict[str, list[float]] = {name: [] for name in ours}
    for run in range(runs):
        order = list(sides) if run % 2 else list(sides)[::-1]
        took = {name: seconds(sides[name], clock) for name in order}
        for name, found in ratios.items():
            found.append(took["peer"] / took[name])
        print(", ".join(f"{name} {took[name]:.1f} s" for name in sides), flush=True)
    return {name: statistics.median(found) for name, found in ratios.items()}


def processor() -> str:
    """Returns the name of the processor and the instructions that decide its speed."""
    with open("/proc/cpuinfo") as file:
        found = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines())
    fields = {name.strip(): value.strip() for name, value in found.items()}
    flags = [f for f in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if f in fields["flags"]]
    return f"{fields['model name']} ({', '.join(flags)})"
