"""Compares CrossEncoder and BiEncoder with sentence-transformers, at its best batch size.

    python tests/benchmarks/reranking_encoders.py [--texts 500] [--runs 3] [--beir FOLDER]...
        [--only CrossEncoder] [--dtype bfloat16]... [--peer-backend openvino] [--cpu-time]

The network is MiniLM (``demo.encoder``: 6 layers of size 384); as a cross-encoder it gets a random
scoring head, which does not change the time. The texts are drawn from the demo's collection, or
from collections in BEIR's layout. Queries are the beginnings of other texts, 2 to 12 words, with 50
pairs each. Timed, after loading:

- ``CrossEncoder.transform`` and ``sentence_transformers.CrossEncoder.predict``, from pairs to
  scores,
- ``BiEncoder.encode`` and ``SentenceTransformer.encode``, from texts to unit vectors,

in float32, and in bfloat16 where the processor is faster in it, or in each ``--dtype``; the peer
then has its weights in bfloat16. Ours computes with torch, and where OpenVINO is installed (extra
``openvino``) also with ``backend="openvino"``. The peer's batch size is the fastest of 8, 32 and
128 in one run each. ``--peer-backend`` is ``onnx`` or ``openvino``, which sentence-transformers
installs as extras, in an environment of its own: optimum-intel 2.2 needs transformers 5.5.
``--cpu-time`` counts processor time, for a machine with other work and ``OMP_NUM_THREADS=1``.

Checked first: in float32 the scores and vectors equal the peer's to within 1e-4. In bfloat16, the
scores correlate with the peer's in float32 by more than 0.99, and so do the vectors.

Prints the time of each run, and for each precision the median of the ratios.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from paired import median_ratios, processor, seconds
from precisions import precisions

from pyterrier_inpars import BiEncoder, CrossEncoder, demo
from pyterrier_inpars._quiet import quiet
from pyterrier_inpars.datasets import BeirFolder

BATCH_SIZES = (8, 32, 128)
CLOSE = 1e-4
ALIKE = 0.99
BACKENDS = ["torch"] + ["openvino"] * bool(find_spec("openvino"))
Compute = Callable[[], np.ndarray]
Sides = tuple[dict[str, Compute], Callable[[int], np.ndarray]]


def drawn(folders: list[str], number: int, rng: np.random.Generator) -> list[str]:
    """Returns distinct texts, as many of each collection."""
    collections = [BeirFolder(folder) for folder in folders] or [demo.StdlibDocs()]
    found: list[str] = []
    for collection in collections:
        distinct = {row["text"]: None for row in collection.get_corpus_iter() if row["text"]}
        share = -(-number // len(collections))
        found += rng.permutation(np.array([*distinct], dtype=object))[:share].tolist()
    return found[:number]


def pairs(texts: list[str], rng: np.random.Generator) -> pd.DataFrame:
    """Returns an R frame of the texts, with 50 for each query."""
    lengths = rng.integers(2, 13, -(-len(texts) // 50))
    queries = [" ".join(texts[-1 - i].split()[:n]) for i, n in enumerate(lengths)]
    rows = [
        (str(i // 50), queries[i // 50], f"d{i}", text, 0.0, i % 50) for i, text in enumerate(texts)
    ]
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "score", "rank"])


def with_head(encoder: str, path: Path) -> str:
    """Saves the encoder with a random scoring head, large enough to tell the pairs apart."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=1)
    network.classifier.weight.data.mul_(10)
    network.save_pretrained(path)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(path)
    return str(path)


def peer_options(dtype: str, backend: str) -> dict[str, Any]:
    """Returns arguments of the peer's classes; OpenVINO chooses bfloat16 unless told otherwise."""
    import torch

    precision = {"dtype": getattr(torch, dtype)}
    if backend == "openvino":
        precision = {
            "ov_config": {"INFERENCE_PRECISION_HINT": {"float32": "f32"}.get(dtype, "bf16")}
        }
    elif backend == "onnx":
        precision = {}
    return {"device": "cpu", "backend": backend, "model_kwargs": precision}


def cross_encoders(path: str, dtype: str, frame: pd.DataFrame, backend: str = "torch") -> Sides:
    """Returns what computes scores, by our backend, and at a batch size with the peer."""
    import sentence_transformers
    import torch

    rows = list(zip(frame["query"], frame["text"], strict=True))

    def ours(own: str) -> Compute:
        reranker = CrossEncoder(path, dtype=dtype, device="cpu", backend=own)
        return lambda: reranker(frame).set_index("docno").loc[frame["docno"], "score"].to_numpy()

    peer = sentence_transformers.CrossEncoder(
        path, activation_fn=torch.nn.Identity(), **peer_options(dtype, backend)
    )
    return (
        {f"CrossEncoder, {own}": ours(own) for own in BACKENDS},
        lambda size: peer.predict(rows, batch_size=size, show_progress_bar=False),
    )


def bi_encoders(path: str, dtype: str, frame: pd.DataFrame, backend: str = "torch") -> Sides:
    """Returns what computes vectors, by our backend, and at a batch size with the peer."""
    from sentence_transformers import SentenceTransformer

    texts = frame["text"].tolist()

    def ours(own: str) -> Compute:
        return partial(BiEncoder(path, dtype=dtype, device="cpu", backend=own).encode, texts)

    peer = SentenceTransformer(path, **peer_options(dtype, backend))
    return (
        {f"BiEncoder, {own}": ours(own) for own in BACKENDS},
        lambda size: peer.encode(texts, batch_size=size, show_progress_bar=False),
    )


def check(name: str, dtype: str, found: np.ndarray, expected: np.ndarray) -> None:
    """Exits with an error unless both sides compute the same."""
    furthest = np.abs(found - expected).max()
    alike = np.corrcoef(found.ravel(), expected.ravel())[0, 1]
    print(
        f"{name} in {dtype}: largest difference from the peer in float32 {furthest:.1e}, "
        f"correlation {alike:.4f}; values from {expected.min():.2f} to {expected.max():.2f}"
    )
    if not (furthest < CLOSE if dtype == "float32" else alike > ALIKE):  # also for NaN
        sys.exit("the values differ from the peer's")


def compare(
    sides: Callable[..., Sides],
    runs: int,
    dtypes: list[str],
    backend: str,
    clock: Callable[[], float],
) -> None:
    """Compares a reranker with its peer in each precision."""
    _, exact = sides(dtype="float32")
    expected = exact(BATCH_SIZES[0])
    for dtype in dtypes:
        ours, peer = sides(dtype=dtype, backend=backend)
        for name, compute in ours.items():
            check(name, dtype, compute(), expected)
        took = {size: seconds(partial(peer, size), clock) for size in BATCH_SIZES}
        best = min(took, key=took.__getitem__)
        for name, ratio in median_ratios(partial(peer, best), ours, runs, clock).items():
            print(
                f"median ratio in {dtype}, peer ({backend}, batch size {best}) to {name}: "
                f"{ratio:.2f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--beir", action="append", default=[], help="folder; can be repeated")
    parser.add_argument("--only", choices=["CrossEncoder", "BiEncoder"])
    parser.add_argument("--dtype", action="append", default=[], help="can be repeated")
    parser.add_argument("--peer-backend", choices=["torch", "onnx", "openvino"], default="torch")
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    import torch

    clock = time.process_time if args.cpu_time else time.perf_counter
    rng = np.random.default_rng(0)
    frame = pairs(drawn(args.beir, args.texts, rng), rng)
    words = frame["text"].str.split().str.len()
    print(f"{processor()}, {torch.get_num_threads()} threads")
    print(f"{len(frame):,} texts of {words.mean():.0f} words, at most {words.max():,}")
    with tempfile.TemporaryDirectory() as folder, quiet():
        encoder = demo.encoder()
        with_scores = with_head(encoder, Path(folder))
        sides = {
            "CrossEncoder": partial(cross_encoders, with_scores, frame=frame),
            "BiEncoder": partial(bi_encoders, encoder, frame=frame),
        }
        for name in [args.only] if args.only else sides:
            compare(sides[name], args.runs, args.dtype or precisions(), args.peer_backend, clock)


if __name__ == "__main__":
    main()
