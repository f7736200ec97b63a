"""Kills a generating process at random moments until it finishes; no query may be lost or doubled.

    python tests/faults/kill.py [--kills 50] [--at-borders] [--documents 240] [--seed 0]

Each process generates queries with a tiny random model for the same artifact, and receives SIGKILL
at a random moment; with ``--at-borders``, directly before or after a file is renamed into place. A
complete artifact must equal that of an uninterrupted run byte for byte; then the next artifact is
started, until the given number of processes has been killed. Prints the progress after each kill,
and finally the number of kills and of lost and doubled rows. Takes half a minute on one core.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["HF_HUB_OFFLINE"] = "1"

import pandas as pd
import tiny_llm
import torch

from pyterrier_inpars import CopyFilter, QueryGenerator, SyntheticQueries
from pyterrier_inpars.queries import _lock as lock
from pyterrier_inpars.queries._manifest import stored_documents


def documents(n):
    words = tiny_llm.WORDS
    for i in range(n):
        yield {
            "docno": f"d{i}",
            "text": " ".join(words[(i * j) % len(words)] for j in range(1, 30)),
        }


def run(generator, path, n, border=None):
    """Indexes; with a ``border``, dies directly before or after the n-th rename."""
    if border is not None:
        call, after = border
        calls, replace = 0, os.replace

        def killed(source, target):
            nonlocal calls
            calls += 1
            if calls == call and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)
            if calls == call and after:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = killed
    queries = SyntheticQueries(path, shard_size=16)
    (generator >> CopyFilter() >> queries).index(documents(n), batch_size=8)


def content(path):
    return {f.name: f.read_bytes() for f in Path(path).iterdir() if f.name != lock.LOCK}


def done(path):
    queries = SyntheticQueries(path)
    manifest = queries._manifest() if Path(path).exists() else None
    assert manifest is None or queries.verify() == {}, queries.verify()
    return stored_documents(manifest) if manifest else 0


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--documents", type=int, default=240)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--at-borders", action="store_true")
    options = options.parse_args()
    draw = random.Random(options.seed)
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(1)  # children are forked with the model loaded
        generator = QueryGenerator(
            tiny_llm.save(Path(folder, "model")),
            prompt="zero-shot",
            max_new_tokens=16,
            dtype="float32",
            device="cpu",
        )
        generator.transform(pd.DataFrame(documents(1)))
        whole, path = f"{folder}/whole", f"{folder}/killed"
        begin = time.perf_counter()
        run(generator, whole, options.documents)
        length = time.perf_counter() - begin
        print(f"an uninterrupted run takes {length:.1f} s", flush=True)
        kills, rounds = 0, 0
        while kills < options.kills:
            border = (draw.randint(1, 6), draw.random() < 0.5) if options.at_borders else None
            child = fork.Process(target=run, args=(generator, path, options.documents, border))
            child.start()
            if border is None:
                child.join(draw.uniform(0, length / 3))
                child.kill()
            child.join()
            kills += child.exitcode == -signal.SIGKILL
            if child.exitcode not in (0, -signal.SIGKILL):
                print("a process failed without being killed")
                return 1
            print(f"kill {kills}: {done(path)} documents done", flush=True)
            if SyntheticQueries(path).built():
                rounds += 1
                if content(path) != content(whole):
                    break
                os.rename(path, f"{folder}/round-{rounds}")
        run(generator, path, options.documents)
        got = Counter(row["qid"] for row in SyntheticQueries(path).iter_results())
        expected = Counter(row["qid"] for row in SyntheticQueries(whole).iter_results())
        lost, doubled = sum((expected - got).values()), sum((got - expected).values())
        equal = content(path) == content(whole)
        print(
            f"kills survived: {kills}, artifacts completed: {rounds + 1}, "
            f"rows: {sum(expected.values())}, lost: {lost}, doubled: {doubled}, "
            f"equal byte for byte: {equal}"
        )
        return 0 if equal and not lost and not doubled else 1


if __name__ == "__main__":
    sys.exit(main())
