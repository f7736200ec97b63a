"""Compares two workers of `distributed.index` with two processes that are started by hand.

    python tests/benchmarks/ray_workers.py [--beir FOLDER] [--few 64] [--many 320] [--runs 3]

Each worker and each process has one thread and a model of its own. The processes by hand get every
second document each, and store their queries in an artifact each. Ray's driver distributes batches
of the same size and stores all queries. Checked first: both sides write the same queries.

The start of processes and models is not compared: the time of a side is the difference between a
run with ``--many`` and one with ``--few`` documents, and its throughput is that of the documents in
between.
"""

import argparse
import logging
import multiprocessing
import os
import sys
import tempfile
import time

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}

import pandas as pd
import ray
from generation import MOST, documents, spread
from paired import processor

from pyterrier_inpars import QueryGenerator, SyntheticQueries, distributed
from pyterrier_inpars.demo import language_model

WORKERS = 2
BATCH = 32
"""Documents of a batch."""


def generator() -> QueryGenerator:
    return QueryGenerator(language_model(), prompt="three-shot", max_new_tokens=MOST)


def process(frame: pd.DataFrame, path: str) -> None:
    """Generates a part of the queries in a process of its own."""
    (generator() >> SyntheticQueries(path)).index(frame, batch_size=BATCH)


def by_hand(frame: pd.DataFrame, folder: str) -> dict[str, str]:
    context = multiprocessing.get_context("spawn")
    paths = [f"{folder}/{number}" for number in range(WORKERS)]
    parts = [(frame[number::WORKERS], path) for number, path in enumerate(paths)]
    processes = [context.Process(target=process, args=part) for part in parts]
    for started in processes:
        started.start()
    for started in processes:
        started.join()
    return {qid: query for path in paths for qid, query in written(path).items()}


def by_ray(frame: pd.DataFrame, folder: str) -> dict[str, str]:
    options = {"num_cpus": WORKERS, "log_to_driver": False, "include_dashboard": False}
    ray.init(**options, logging_level=logging.ERROR)
    try:
        queries = SyntheticQueries(f"{folder}/ray")
        distributed.index(generator(), frame, queries, batch_size=BATCH, workers=WORKERS)
    finally:
        ray.shutdown()
    return written(str(queries.path))


def written(path: str) -> dict[str, str]:
    rows = SyntheticQueries(path).get_results()
    return dict(zip(rows["qid"], rows["query"], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--beir", help="folder of a collection; default: the demo collection")
    parser.add_argument("--few", type=int, default=64)
    parser.add_argument("--many", type=int, default=320)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    corpus = spread(documents(args.beir, 8 * args.many), args.many)
    print(f"{processor()}: {args.many} documents", flush=True)

    sides = {"by hand": by_hand, "Ray": by_ray}
    ratios = []
    for run in range(args.runs):
        rates, found = {}, {}
        for side in sorted(sides, reverse=run % 2 == 1):
            seconds = []
            for count in (args.few, args.many):
                with tempfile.TemporaryDirectory() as folder:
                    start = time.perf_counter()
                    found[side] = sides[side](corpus.head(count), folder)
                    seconds.append(time.perf_counter() - start)
            rates[side] = (args.many - args.few) / (seconds[1] - seconds[0])
            print(f"{side}: {seconds[0]:.1f} and {seconds[1]:.1f} s, {rates[side]:.1f} documents/s")
        if found["Ray"] != found["by hand"]:
            sys.exit("the two sides write different queries")
        ratios.append(rates["Ray"] / rates["by hand"])
    print(f"median ratio of Ray to processes by hand: {sorted(ratios)[len(ratios) // 2]:.2f}")


if __name__ == "__main__":
    main()
