"""Compares queries that are stored as they are generated with one call for all documents.

    python tests/benchmarks/indexing.py [--beir FOLDER] [--documents 512] [--cpu-time]

Ours is the line that users type, ``(generator >> SyntheticQueries(path)).index(documents)``, which
generates in batches and stores their rows. The peer is ``generator(frame)``: one batch of all
documents, and nothing stored. Both must give the same rows. Prints the median of the ratios.
``--cpu-time`` is for a machine with other work: time of the processor, with ``OMP_NUM_THREADS=1``.
"""

import argparse
import functools
import tempfile
import time
from pathlib import Path

import pandas as pd
from generation import MOST, documents
from paired import median_ratios, processor
from precisions import precisions

from pyterrier_inpars import QueryGenerator, SyntheticQueries
from pyterrier_inpars.demo import language_model


def stored(generator: QueryGenerator, frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of an artifact that was made for the documents."""
    with tempfile.TemporaryDirectory() as folder:
        queries = SyntheticQueries(Path(folder) / "queries")
        (generator >> queries).index(frame.to_dict("records"))
        return queries.get_results()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--beir", help="folder of a collection; default: the demo collection")
    parser.add_argument("--documents", type=int, default=512)
    parser.add_argument("--prompt", default="three-shot")
    parser.add_argument("--dtype", default=precisions()[-1])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    frame = documents(args.beir, args.documents)
    generator = QueryGenerator(
        language_model(), prompt=args.prompt, max_new_tokens=MOST, dtype=args.dtype
    )
    print(f"{processor()}: {len(frame)} documents, {args.dtype}")
    few = frame[:64]  # the check also loads the model
    expected = generator(few)
    columns = ["qid", "query", "docno", "text", "log_probs"]
    pd.testing.assert_frame_equal(stored(generator, few)[columns], expected[columns])
    ratios = median_ratios(
        functools.partial(generator, frame),
        {"index": functools.partial(stored, generator, frame)},
        args.runs,
        time.process_time if args.cpu_time else time.perf_counter,
    )
    print(f"median ratio of index to one call: {ratios['index']:.2f}")


if __name__ == "__main__":
    main()
