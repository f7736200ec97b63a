"""Compares ``fit`` of CrossEncoder and BiEncoder with the trainers of sentence-transformers.

    python tests/benchmarks/training_encoders.py [--queries 96] [--runs 3] [--beir FOLDER]...
        [--only "BiEncoder, in_batch"] [--dtype bfloat16] [--cpu-time]

The network is MiniLM (``demo.encoder``: 6 layers of size 384), with a random scoring head as a
cross-encoder. Texts are drawn from the demo's collection, or from collections in BEIR's layout. A
query consists of 2 to 12 consecutive words of its positive; negatives are other texts, and the
teacher's scores are random. The peer is ``CrossEncoderTrainer`` or ``SentenceTransformerTrainer``
with the same loss, number of examples per step, learning rate and precision, and with its loader:
batches in random order (without duplicates for ``in_batch``), padded to the longest text of a
column. Its model card, which reads the data once more, is switched off. The whole training is
timed, with the network loaded before.

Checked first, without dropout: two steps on one batch have the losses of the peer, in float32 to
within 1e-4 of the value, in bfloat16 to within 2 %. The timed runs have the network's dropout, one
epoch, and another order on each side, so only the number of steps is the same there.

Prints the time of each run, and for each loss and precision the median of the ratios.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from paired import median_ratios, processor
from precisions import precisions
from reranking_encoders import drawn, with_head

from pyterrier_inpars import BiEncoder, CrossEncoder, demo
from pyterrier_inpars._quiet import quiet

RATE = 2e-5
CLOSE = {"float32": 1e-4, "bfloat16": 0.02}


@dataclass
class Case:
    """A loss of a reranker.

    Attributes:
        loss: Name of ours.
        negatives: Negatives of each query.
        batch: Queries of a step.
        peer: Returns the peer's loss for its network.
        columns: Returns the peer's data set.
    """

    loss: str
    negatives: int
    batch: int
    peer: Callable[[Any], Any]
    columns: Callable[[pd.DataFrame], dict[str, list]]


def by_query(examples: pd.DataFrame, scores: str = "") -> dict[str, list]:
    """Returns query, documents and, as ``label``, the teacher's scores or their margins."""
    groups = [group for _, group in examples.groupby("qid", sort=False)]
    columns = {"query": [group["query"].iloc[0] for group in groups]}
    for i in range(len(groups[0])):
        columns[f"document_{i}"] = [group["text"].iloc[i] for group in groups]
    if scores:
        values = [group["score"].to_numpy() for group in groups]
        margins = [of[0] - of[1:] for of in values]
        columns["label"] = [of.tolist() for of in (margins if scores == "margins" else values)]
    return columns


def pairs(examples: pd.DataFrame) -> dict[str, list]:
    columns = {"query": examples["query"].tolist(), "text": examples["text"].tolist()}
    return columns | {"label": examples["label"].astype(float).tolist()}


def scaled_cosine(queries: Any, documents: Any) -> Any:
    from sentence_transformers.util import pairwise_cos_sim

    return 20 * pairwise_cos_sim(queries, documents)


def cases() -> dict[str, tuple[type, Case]]:
    from sentence_transformers.cross_encoder import losses as of_pairs
    from sentence_transformers.sentence_transformer import losses as of_vectors

    margins = partial(by_query, scores="margins")
    cosine = {"similarity_fct": scaled_cosine}
    ranking = of_vectors.MultipleNegativesRankingLoss
    found = {
        "CrossEncoder": [
            Case("pointwise", 1, 8, of_pairs.BinaryCrossEntropyLoss, pairs),
            Case("margin_mse", 4, 4, of_pairs.MarginMSELoss, margins),
        ],
        "BiEncoder": [
            Case("in_batch", 1, 32, ranking, by_query),
            Case("margin_mse", 4, 8, partial(of_vectors.MarginMSELoss, **cosine), margins),
            Case(
                "distillation",
                4,
                8,
                partial(of_vectors.DistillKLDivLoss, **cosine),
                partial(by_query, scores="scores"),
            ),
        ],
    }
    classes = {"CrossEncoder": CrossEncoder, "BiEncoder": BiEncoder}
    return {
        f"{name}, {case.loss}": (classes[name], case) for name, own in found.items() for case in own
    }


def examples(texts: list[str], queries: int, negatives: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(queries):
        words = texts[i].split()
        start = int(rng.integers(max(1, len(words) - 12)))
        query = " ".join(words[start : start + int(rng.integers(2, 13))])
        # texts of no query: BiEncoder puts no text into a batch where it is another's positive
        chosen = [i, *rng.choice(np.arange(queries, len(texts)), negatives, replace=False)]
        rows += [
            (f"q{i}", query, f"d{j}", texts[j], int(j == i), float(rng.normal())) for j in chosen
        ]
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "label", "score"])


def without_dropout(network: Any) -> None:
    import torch

    for layer in network.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0


def ours(
    cls: type, case: Case, path: str, dtype: str, frame: pd.DataFrame, check: bool
) -> Callable[[], list[float]]:
    """Returns what trains a new network of ours, loaded before, and returns the losses."""
    size = case.batch * (2 if case.loss == "pointwise" else 1)
    training = {
        "loss": case.loss,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "num_train_epochs": 2 if check else 1,
        "max_steps": -1,
        "per_device_train_batch_size": len(frame) if check else size,
        "gradient_accumulation_steps": 1,
        "held_out": 0,
        "logging_strategy": "steps" if check else "no",
        "logging_steps": 1,
    }
    if check and case.loss != "pointwise":
        training["per_device_train_batch_size"] = frame["qid"].nunique()
    reranker = cls(path, dtype=dtype, device="cpu", training=training)
    if check:
        without_dropout(reranker.network)
    assert reranker.network is not None

    def train() -> list[float]:
        reranker.fit(frame)
        return [entry["loss"] for entry in reranker.history if "loss" in entry]

    return train


def peer(
    cls: type, case: Case, path: str, dtype: str, frame: pd.DataFrame, check: bool
) -> Callable[[], list[float]]:
    """Returns what trains a new network with sentence-transformers' trainer."""
    import sentence_transformers as st
    import torch
    from datasets import Dataset
    from sentence_transformers.cross_encoder import (
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
    )

    columns = case.columns(frame)
    network: Any
    trainer_class: Any
    arguments_class: Any
    if cls is CrossEncoder:
        network = st.CrossEncoder(path, device="cpu", activation_fn=torch.nn.Identity())
        trainer_class, arguments_class = CrossEncoderTrainer, CrossEncoderTrainingArguments
    else:
        network = st.SentenceTransformer(path, device="cpu")
        trainer_class = st.SentenceTransformerTrainer
        arguments_class = st.SentenceTransformerTrainingArguments
    if check:
        without_dropout(network)
    size = case.batch * (2 if case.loss == "pointwise" else 1)
    folder = tempfile.mkdtemp()
    arguments = arguments_class(
        output_dir=folder,
        use_cpu=True,
        bf16=dtype == "bfloat16",
        learning_rate=RATE,
        lr_scheduler_type="constant",
        num_train_epochs=2 if check else 1,
        per_device_train_batch_size=len(columns["query"]) if check else size,
        batch_sampler="no_duplicates" if case.loss == "in_batch" else "batch_sampler",
        logging_strategy="steps" if check else "no",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )

    class Trainer(trainer_class):
        def add_model_card_callback(self, *_: Any) -> None:
            pass

    trainer = Trainer(
        model=network,
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        loss=case.peer(network),
    )

    def train() -> list[float]:
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    return train


def check(name: str, dtype: str, sides: dict[str, Callable[[], list[float]]]) -> None:
    """Exits with an error unless both sides have the same losses."""
    losses = {side: train() for side, train in sides.items()}
    print(f"{name} in {dtype}: losses {losses['ours']}, peer {losses['peer']}", flush=True)
    apart = np.abs(np.array(losses["ours"]) / losses["peer"] - 1).max()
    if not apart < CLOSE[dtype]:  # also for NaN
        sys.exit("the losses differ from the peer's")


def prepared(make: Callable[..., Any], frame: pd.DataFrame, runs: int) -> Callable[[], Any]:
    """Returns what trains another network at each call, loaded before the clock starts."""
    networks = iter([make(frame, False) for _ in range(runs)])
    return lambda: next(networks)()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--queries", type=int, default=96)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--beir", action="append", default=[], help="folder; can be repeated")
    parser.add_argument("--only", action="append", default=[], help="reranker and loss")
    parser.add_argument("--dtype", action="append", default=[], help="float32 or bfloat16")
    parser.add_argument("--cpu-time", action="store_true", help="time the processor, not the clock")
    args = parser.parse_args()
    import torch

    clock = time.process_time if args.cpu_time else time.perf_counter
    rng = np.random.default_rng(0)
    texts = drawn(args.beir, max(1000, args.queries), rng)
    words = np.array([len(text.split()) for text in texts])
    print(f"{processor()}, {torch.get_num_threads()} threads")
    print(f"{len(texts):,} texts of {words.mean():.0f} words, at most {words.max():,}")
    with tempfile.TemporaryDirectory() as folder, quiet():
        encoder = demo.encoder()
        paths = {BiEncoder: encoder, CrossEncoder: with_head(encoder, Path(folder))}
        for name, (cls, case) in cases().items():
            if args.only and name not in args.only:
                continue
            frame = examples(texts, args.queries, case.negatives)
            few = frame[frame["qid"].isin(frame["qid"].unique()[: case.batch])]
            for dtype in args.dtype or precisions():
                made = {
                    side: partial(make, cls, case, paths[cls], dtype)
                    for side, make in (("ours", ours), ("peer", peer))
                }
                check(name, dtype, {side: make(few, True) for side, make in made.items()})
                ready = {side: prepared(make, frame, args.runs) for side, make in made.items()}
                ratios = median_ratios(ready["peer"], {name: ready["ours"]}, args.runs, clock)
                (ratio,) = ratios.values()
                print(f"median ratio in {dtype}, peer to {name}: {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
