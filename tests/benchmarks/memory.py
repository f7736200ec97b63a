"""Measures whether memory stays small for data of any size.

    python tests/benchmarks/memory.py [--work index] [--documents 30000] [--times 10] [--runs 3]

``--work index`` indexes a corpus from a generator function with ``QueryGenerator >>
SyntheticQueries`` and a tiny random model, and a corpus ``--times`` as large, each in its own
process. Checks that all documents were read, that at least half have a query (the model is so small
that many completions are empty; 62 % are not), and that ``verify()`` finds no damage. Prints for
each run the peak resident memory, the time to write the last manifests, and the time to verify the
artifact; finally the median of the ratios of the peaks. The first thousands of documents fill
caches of the libraries (the words of the tokenizer, and oneDNN kernels, one for each number of rows
in a product), so smaller corpora do not show the steady state.

``--work mine`` and ``--work rerank`` read queries from a generator in parts of 1,000, as
``pt_docs/scale_and_cost.rst`` shows, and write the output to a file: examples with two negatives
each of BM25's top 100 (PISA, 2,000 documents), and BM25's top 10, reranked by a tiny cross-encoder.
``--documents`` is then the number of queries. Checks that the file has the rows of all queries.
"""

import argparse
import gzip
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

import pyterrier as pt

sys.path.insert(0, str(Path(__file__).parent.parent))

DOCUMENTS = 2000
"""Documents of the collection to mine in."""
ROWS = {"mine": 3, "rerank": 10}
"""Rows for each query."""


def corpus(count: int) -> Iterator[dict[str, str]]:
    import tiny_llm

    return texts(count, tiny_llm.WORDS, 5, 30)


def texts(count: int, words: list[str], least: int, most: int) -> Iterator[dict[str, str]]:
    rng = random.Random(0)
    for i in range(count):
        yield {"docno": f"d{i}", "text": " ".join(rng.choices(words, k=rng.randint(least, most)))}


def topics(count: int, documents: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Yields queries of a few words of a document, as an artifact of synthetic queries does."""
    rng = random.Random(1)
    for i in range(count):
        document = rng.choice(documents)
        words = document["text"].split()[: rng.randint(2, 5)]
        yield {"qid": f"q{i}", "query": " ".join(words), **document}


def in_parts(work: str, model: str, count: int) -> None:
    """Mines for queries, or reranks their results, and prints the measurements as JSON."""
    import tiny
    import torch
    from more_itertools import chunked
    from pyterrier_pisa import PisaIndex

    from pyterrier_inpars import CrossEncoder, NegativeMiner

    torch.set_num_threads(1)
    documents = list(texts(DOCUMENTS, tiny.WORDS, 1, 20))
    text_of = {document["docno"]: document["text"] for document in documents}
    loader = pt.apply.generic(lambda frame: frame.assign(text=frame["docno"].map(text_of)))
    with tempfile.TemporaryDirectory() as folder:
        index = PisaIndex(f"{folder}/index", text_field="text", threads=1)
        index.index(documents)
        bm25 = index.bm25(num_results=100 if work == "mine" else 10, threads=1)
        if work == "mine":
            pipeline = NegativeMiner(bm25, texts=loader, num_negatives=2, depth=100)
        else:
            pipeline = bm25 >> loader >> CrossEncoder(model, device="cpu", dtype="float32")
        start, rows = time.perf_counter(), 0
        with gzip.open(f"{folder}/output", "wt") as file:
            for part in chunked(topics(count, documents), 1000):
                if work == "rerank":
                    part = [{"qid": row["qid"], "query": row["query"]} for row in part]
                for row in pipeline.transform_iter(part):
                    file.write(json.dumps(row, default=str) + "\n")
                    rows += 1
    found = {"rows": rows, "seconds": time.perf_counter() - start, "peak": peak_memory()}
    print(json.dumps(found))


def peak_memory() -> float:
    """Returns the peak resident memory of this process in MiB."""
    unit = 1024**2 if sys.platform == "darwin" else 1024  # units of ru_maxrss per MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


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
        found["documents"] = queries.metadata["documents"]
        found["peak"] = peak_memory()
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
    parser.add_argument("--work", choices=["index", "mine", "rerank"], default="index")
    parser.add_argument("--documents", type=int, default=30_000, help="or queries")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", help="model to work with in this process")
    args = parser.parse_args()
    if args.model:
        if args.work == "index":
            return index(args.model, args.documents)
        return in_parts(args.work, args.model, args.documents)

    with tempfile.TemporaryDirectory() as folder:
        model = tiny_model(args.work, Path(folder))
        ratios = []
        for _ in range(args.runs):
            small = peak(args.work, model, args.documents)
            ratios.append(peak(args.work, model, args.documents * args.times) / small)
            print(f"ratio {ratios[-1]:.3f}", flush=True)
    print(f"{args.work}: median ratio of the peaks {statistics.median(ratios):.3f}")


def tiny_model(work: str, folder: Path) -> str:
    if work != "index":
        import tiny

        return tiny.tiny_classifier(folder, "bert", 1)
    import tiny_llm

    tiny_llm.SHAPE["num_hidden_layers"] = 1  # the model itself is not measured
    return tiny_llm.save(folder, "llama")


def peak(work: str, model: str, count: int) -> float:
    """Returns the peak memory in MiB of a process with ``count`` documents or queries."""
    command = [sys.executable, __file__, "--work", work, "--model", model]
    command += ["--documents", str(count)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    if work != "index":
        if not 0.9 * ROWS[work] * count <= found["rows"] <= ROWS[work] * count:
            sys.exit(f"{found['rows']:,} rows for {count:,} queries")
        print(
            f"{count:,} queries, {found['rows']:,} rows in {found['seconds']:.0f} s: "
            f"peak {found['peak']:.0f} MiB",
            flush=True,
        )
        return float(found["peak"])
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
