"""Measures whether memory and manifest of generation stay small for a corpus of any size.

    python tests/benchmarks/memory.py [--documents 30000] [--times 10] [--runs 3]

Indexes a corpus from a generator function with ``QueryGenerator >> SyntheticQueries`` and a tiny
random model, and a corpus ``--times`` as large, each in its own process. Checks that all documents
were read, that at least half have a query (the model is so small that many completions are empty;
62 % are not), and that ``verify()`` finds no damage. Prints for each run the peak resident memory,
the time to write the last manifests, and the time to verify the artifact; finally the median of the
ratios of the peaks. The first thousands of documents fill caches of the libraries (the words of the
tokenizer, and oneDNN kernels, one for each number of rows in a product), so smaller corpora do not
show the steady state.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))


def corpus(count: int) -> Iterator[dict[str, str]]:
    import tiny_llm

    rng = random.Random(0)
    for i in range(count):
        words = rng.choices(tiny_llm.WORDS, k=rng.randint(5, 30))
        yield {"docno": f"d{i}", "text": " ".join(words)}


def index(model: str, count: int) -> None:
    """Prints the measurements as JSON."""
    import torch

    from pyterrier_inpars import QueryGenerator, SyntheticQueries
    from pyterrier_inpars.queries import _shards as shards

    torch.set_num_threads(1)
    saves: list[float] = []
    save = shards.Writer._save

    def timed(*args: Any) -> None:
        start = time.perf_counter()
        save(*args)
        saves.append(time.perf_counter() - start)

    shards.Writer._save = timed  # type: ignore[method-assign, assignment]
    with tempfile.TemporaryDirectory() as folder:
        generator = QueryGenerator(
            model, max_new_tokens=3, dtype="float32", prompt="zero-shot", batch_size=256
        )
        queries = SyntheticQueries(Path(folder) / "queries")
        start = time.perf_counter()
        found = {"queries": len((generator >> queries).index(corpus(count), batch_size=1024))}
        found["seconds"] = time.perf_counter() - start
        unit = 1024**2 if sys.platform == "darwin" else 1024  # units of ru_maxrss per MiB
        found["documents"] = queries.metadata["documents"]
        found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        start = time.perf_counter()
        if faults := queries.verify():
            sys.exit(str(faults))
        found["verify"] = time.perf_counter() - start
        found["manifest"] = (Path(folder) / "queries" / shards.COMPLETE).stat().st_size / 1024
        found["folder"] = sum(f.stat().st_size for f in queries.path.iterdir()) / 1024**2
    found["save"] = statistics.median(saves[-10:]) * 1000
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", type=int, default=30_000)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", help="model to index with in this process")
    args = parser.parse_args()
    if args.model:
        return index(args.model, args.documents)
    import tiny_llm

    with tempfile.TemporaryDirectory() as folder:
        tiny_llm.SHAPE["num_hidden_layers"] = 1  # the model itself is not measured
        model = tiny_llm.save(Path(folder), "llama")
        ratios = []
        for _ in range(args.runs):
            small = peak(model, args.documents)
            ratios.append(peak(model, args.documents * args.times) / small)
            print(f"ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio of the peaks: {statistics.median(ratios):.3f}")


def peak(model: str, count: int) -> float:
    """Returns the peak memory in MiB of a process that indexes ``count`` documents."""
    command = [sys.executable, __file__, "--model", model, "--documents", str(count)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    if found["documents"] != count or found["queries"] < count / 2:
        sys.exit(f"{found['queries']} queries, {found['documents']} of {count} documents")
    print(
        f"{count:,} documents, {found['queries']:,} queries in {found['seconds']:.0f} s: "
        f"peak {found['peak']:.0f} MiB; manifest {found['manifest']:.0f} KiB, written in "
        f"{found['save']:.1f} ms; {found['folder']:.0f} MiB verified in {found['verify']:.1f} s",
        flush=True,
    )
    return float(found["peak"])


if __name__ == "__main__":
    main()
