"""Compares the start time of the package and of its command line with importing PyTerrier.

    python tests/benchmarks/start.py [--runs 7]

Checks first that neither imports torch, transformers, sentence-transformers, a Java bridge or any
other heavy library besides PyTerrier's own. Then times new processes alternately, and prints the
median ratio of each to ``import pyterrier``.

All processes have compiled modules (``.pyc``), as installed packages do. Under
``PYTHONDONTWRITEBYTECODE``, a checkout would be compiled anew by each process, and PyTerrier, which
pip has compiled, would not.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

HEAVY = {"torch", "transformers", "sentence_transformers", "datasets", "jnius", "pyserini", "ray"}
COMMANDS = {
    "import pyterrier": "import pyterrier",
    "import pyterrier_inpars": "import pyterrier_inpars",
    "pyterrier-inpars --help": "import sys; sys.argv = ['', '--help']; "
    "from pyterrier_inpars.cli import main; main()",
}


Environment = dict[str, str]


def loaded(code: str, environment: Environment) -> set[str]:
    """Returns the modules that a new process has imported when it exits."""
    program = (
        f"import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); {code}"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stderr.split())


def seconds(code: str, environment: Environment) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as compiled:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        compare(environment, runs)


def compare(environment: Environment, runs: int) -> None:
    peer, *ours = COMMANDS
    theirs = loaded(COMMANDS[peer], environment)
    for name in ours:
        heavy = HEAVY & (loaded(COMMANDS[name], environment) - theirs)
        if heavy:
            sys.exit(f"{name} imports {', '.join(sorted(heavy))}")
    ratios: dict[str, list[float]] = {name: [] for name in ours}
    for _ in range(runs):
        base = seconds(COMMANDS[peer], environment)
        for name in ours:
            ratios[name].append(seconds(COMMANDS[name], environment) / base)
    for name, found in ratios.items():
        print(f"{name}: median ×{statistics.median(found):.2f} the time of {peer}")


if __name__ == "__main__":
    main()
