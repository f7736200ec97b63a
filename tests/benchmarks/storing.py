"""Measures the cost of storing synthetic queries: rows/s, bytes per query, and reading.

    python tests/benchmarks/storing.py [--rows 50000] [--runs 3]

Stores rows of the size of MS MARCO's, with 270 characters of text and the log-probabilities of
twelve tokens, with ``SyntheticQueries.index`` in shards of 1,024 documents. The peer writes the
same lines to one gzip file of the same level, and reads them, without checks, shards or a manifest.
Both must have the same rows. The words are random with Zipfian frequencies, and compress less well
than natural text.

Prints the rates of each run, the medians of the ratios, and the size on disk.
"""

import argparse
import gzip
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyterrier_inpars import SyntheticQueries

CHARACTERS = 270
TOKENS = 12


def made(count: int) -> list[dict[str, Any]]:
    rng = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(30_000)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))
    rows = []
    for i in range(count):
        drawn = rng.choices(words, cum_weights=weights, k=CHARACTERS // 4)
        log_probs = [-rng.expovariate(1) for _ in range(TOKENS)]
        rows.append(
            {
                "qid": f"{i}-1",
                "query": " ".join(drawn[:8]),
                "docno": str(i),
                "text": " ".join(drawn)[:CHARACTERS],
                "score": sum(log_probs) / TOKENS,
                "log_probs": log_probs,
                "finish_reason": "stop",
            }
        )
    return rows


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    with gzip.open(file, "wb") as out:
        out.writelines(json.dumps(row).encode() + b"\n" for row in rows)


def read(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file) as lines:
        return list(map(json.loads, lines))


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work(*arguments)
    return time.perf_counter() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    rows = made(args.rows)
    ratios: dict[str, list[float]] = {"storing": [], "reading": []}
    for _ in range(args.runs):
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "plain.jsonl.gz"
            queries = SyntheticQueries(Path(folder) / "queries", shard_size=1024)
            stored, _ = timed(queries.index, rows)
            written, _ = timed(write, plain, rows)
            verified, faults = timed(queries.verify)
            again, expected = timed(read, plain)
            assert not faults and queries.get_results().to_dict("records") == expected == rows
            size = sum(file.stat().st_size for file in queries.path.iterdir())
        ratios["storing"].append(stored / written)
        ratios["reading"].append(verified / again)
        print(
            f"stored {len(rows) / stored:,.0f} rows/s (peer {len(rows) / written:,.0f}), "
            f"verified {len(rows) / verified:,.0f} (peer read {len(rows) / again:,.0f}); "
            f"{size / len(rows):.0f} bytes per query",
            flush=True,
        )
    for work, found in ratios.items():
        print(f"{work}: median ×{statistics.median(found):.2f} the peer's time")


if __name__ == "__main__":
    main()
