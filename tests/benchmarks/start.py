"""Compares the start time of the package and of its command line with importing PyTerrier.

    python tests/benchmarks/start.py [--runs 7]

Checks first that neither imports torch, transformers, sentence-transformers, a Java bridge or any
other heavy library besides PyTerrier's own. Then times new processes alternately, and prints the
median ratio of each to ``import pyterrier``.
"""

import argparse
import statistics
import subprocess
import sys
import time

HEAVY = {"torch", "transformers", "sentence_transformers", "datasets", "jnius", "pyserini", "ray"}
COMMANDS = {
    "import pyterrier": "import pyterrier",
    "import pyterrier_inpars": "import pyterrier_inpars",
    "pyterrier-inpars --help": "import sys; sys.argv = ['', '--help']; "
    "from pyterrier_inpars.cli import main; main()",
}


def loaded(code: str) -> set[str]:
    """Returns the modules that a new process has imported when it exits."""
    program = (
        f"import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); {code}"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(run.stderr.split())


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    peer, *ours = COMMANDS
    theirs = loaded(COMMANDS[peer])
    for name in ours:
        heavy = HEAVY & (loaded(COMMANDS[name]) - theirs)
        if heavy:
            sys.exit(f"{name} imports {', '.join(sorted(heavy))}")
        seconds(COMMANDS[name])  # fills the disk cache
    ratios: dict[str, list[float]] = {name: [] for name in ours}
    for _ in range(runs):
        base = seconds(COMMANDS[peer])
        for name in ours:
            ratios[name].append(seconds(COMMANDS[name]) / base)
    for name, found in ratios.items():
        print(f"{name}: median ×{statistics.median(found):.2f} the time of {peer}")


if __name__ == "__main__":
    main()
