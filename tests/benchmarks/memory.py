"""Whether the memory of generation depends on the size of the corpus.

    python tests/benchmarks/memory.py [--documents 2000] [--times 10]

Indexes a corpus that a generator function makes, ``QueryGenerator >> SyntheticQueries``, with a
tiny random model, and one so many times larger, each in a process of its own. Checks that each has
a query for nearly all its documents, and prints the peak of each (resident set) and, last, the
ratio.
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


def corpus(count: int) -> Iterator[dict[str, str]]:
    import tiny_llm

    rng = random.Random(0)
    for i in range(count):
        words = rng.choices(tiny_llm.WORDS, k=rng.randint(5, 60))
        yield {"docno": f"d{i}", "text": " ".join(words)}


def index(model: str, count: int) -> None:
    """Prints the number of queries and the peak in MiB."""
    import torch

    from pyterrier_inpars import QueryGenerator, SyntheticQueries

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        generator = QueryGenerator(model, max_new_tokens=8, dtype="float32", prompt="zero-shot")
        queries = SyntheticQueries(Path(folder) / "queries")
        written = len((generator >> queries).index(corpus(count)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(written, peak / 1024 if sys.platform == "darwin" else peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--model", help="index in this process with this model")
    args = parser.parse_args()
    if args.model:
        return index(args.model, args.documents)
    import tiny_llm

    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_llm.save(Path(folder), "llama")
        for count in (args.documents, args.documents * args.times):
            command = [sys.executable, __file__, "--model", model, "--documents", str(count)]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            written, peak = run.stdout.split()[-2:]
            if int(written) < 0.8 * count:
                sys.exit(f"{written} queries for {count} documents")
            print(f"{count} documents, {written} queries: {float(peak):.0f} MiB", flush=True)
            peaks.append(float(peak))
    print(f"ratio of the peaks: {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
