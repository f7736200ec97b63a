"""Compares the training throughput with a plain training loop, in examples/s.

    python tests/benchmarks/training.py [--encoder 128] [--t5 64] [--runs 3] [--noise 0.1]

The peer pads each input to 300 tokens, computes in float32, and takes the examples in random order.
``CrossEncoder`` and ``MonoT5`` train with their defaults, in batches of similar length, in float32
and in the precision of ``dtype="auto"``. Both sides have the same initial weights, examples, loss,
batch size, AdamW, learning rate and gradient clipping, one epoch, and no dropout, whose randomness
would hide a difference. The cross-encoder is the demo's MiniLM with 22M parameters. The T5 has the
shape of t5-small and random weights, trained on short pairs until it generates one of the two
labels. The median length of the texts is 75 tokens; no input exceeds 300, so nothing is truncated.
The whole ``fit`` is timed, with the network loaded before.

Checked first: one optimizer step on as many examples, where the order has no effect, changes their
loss to the same value, in float32 to within 1e-4 nats, else to 0.01. After a whole training, order
and weights differ; there the loss of all examples, computed by the peer's network in float32, must
be equal to within ``--noise`` nats. Each run has another seed for the order.

Prints the time and that loss of each run, and the median of the ratios.
"""

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

import reranking
import tiny
from precisions import precisions

from pyterrier_inpars import CrossEncoder, MonoT5
from pyterrier_inpars.demo.models import encoder

TOKENS = 300
BATCH = 8
STEP = 16
"""Examples per optimizer step: the gradients of two batches are accumulated."""
RATE = 5e-5
"""Learning rate, low enough that the loss depends little on the order of the examples."""
STEP_NOISE = {"float32": 1e-4, "bfloat16": 0.01}
CLASSES: dict[str, type] = {"CrossEncoder": CrossEncoder, "MonoT5": MonoT5}


class Plain:
    """A network and the peer's training loop."""

    def __init__(self, kind: str, path: str):
        from transformers import (
            AutoModelForSeq2SeqLM,
            AutoModelForSequenceClassification,
            AutoTokenizer,
        )

        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.is_t5 = kind == "MonoT5"
        cls = AutoModelForSeq2SeqLM if self.is_t5 else AutoModelForSequenceClassification
        self.network = cls.from_pretrained(path)

    def loss(self, frame: pd.DataFrame) -> Any:
        import torch

        queries, texts = frame["query"].tolist(), frame["text"].tolist()
        options = {"padding": "max_length", "max_length": TOKENS, "return_tensors": "pt"}
        if self.is_t5:
            shown = [
                f"Query: {q} Document: {t} Relevant:" for q, t in zip(queries, texts, strict=True)
            ]
            said = ["true" if label else "false" for label in frame["label"]]
            labels = self.tokenizer(said, return_tensors="pt")["input_ids"]
            return self.network(**self.tokenizer(shown, **options), labels=labels).loss
        logits = self.network(**self.tokenizer(queries, texts, **options)).logits[:, 0]
        labels = torch.tensor(frame["label"].to_numpy(), dtype=torch.float32)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)

    def fit(self, frame: pd.DataFrame, seed: int) -> None:
        import torch

        self.network.train()
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=RATE, weight_decay=0.0)
        frame = frame.sample(frac=1, random_state=seed)
        for i in range(0, len(frame), STEP):
            optimizer.zero_grad()
            for j in range(i, i + STEP, BATCH):
                (self.loss(frame.iloc[j : j + BATCH]) * BATCH / STEP).backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            optimizer.step()

    def mean_loss(self, frame: pd.DataFrame) -> float:
        import torch

        self.network.eval()
        with torch.no_grad():
            parts = [frame.iloc[i : i + BATCH] for i in range(0, len(frame), BATCH)]
            return sum(self.loss(part).item() * len(part) for part in parts) / len(frame)


def first_weights(kind: str, folder: Path) -> str:
    """Saves the initial weights of both sides, with the scoring head and without dropout."""
    from transformers import AutoConfig

    if kind == "MonoT5":
        training = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
        t5 = MonoT5(reranking.build(folder / "t5", []), training=training)
        short = examples(240)
        short["text"] = short["text"].str.split().str[-8:].str.join(" ")
        path = str(t5.fit(short).save(folder / "taught"))
        fields = {"dropout_rate": 0.0}
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the new head
            path = str(CrossEncoder(encoder(), dtype="float32").save(folder / "encoder"))
        fields = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = AutoConfig.from_pretrained(path)
    config.update(fields)
    config.save_pretrained(path)
    return path


def examples(number: int) -> pd.DataFrame:
    """Returns pairs with log-normal text lengths; half of the texts contain the query words."""
    rng = np.random.default_rng(0)
    rows = []
    for i, length in enumerate(np.clip(rng.lognormal(4.2, 0.7, number), 5, 270).astype(int)):
        query = list(rng.choice(tiny.WORDS[:10], 2))
        text = [*rng.choice(tiny.WORDS[10:], length), *query * (1 - i % 2)]
        rows.append((f"q{i // 2}", " ".join(query), f"d{i}", " ".join(text), 1 - i % 2))
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "label"])


def trained(kind: str, name: str, path: str, frame: pd.DataFrame, seed: int) -> tuple[float, float]:
    """Returns the training time in seconds and the loss after it."""
    plain, reranker = Plain(kind, path), None
    if name != "peer":
        training = {
            "learning_rate": RATE,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": STEP // BATCH,
            "loss": "pointwise",
            "held_out": 0,
            "seed": seed,
        }
        options = {"max_length": TOKENS, "dtype": name, "device": "cpu"}
        reranker = CLASSES[kind](path, training=training, **options)
        assert reranker.network is not None  # loaded before the clock starts
    start = time.perf_counter()
    if reranker is None:
        plain.fit(frame, seed)
    else:
        reranker.fit(frame)
    took = time.perf_counter() - start
    if reranker is not None:
        with tempfile.TemporaryDirectory() as folder:
            plain = Plain(kind, str(reranker.save(Path(folder) / name)))
    return took, plain.mean_loss(frame)


def compare(kind: str, frame: pd.DataFrame, runs: int, noise: float) -> None:
    ratios: dict[str, list[float]] = {name: [] for name in precisions()}
    with tempfile.TemporaryDirectory() as folder:
        path = first_weights(kind, Path(folder))
        few = frame[:STEP]
        expected, before = trained(kind, "peer", path, few, 0)[1], Plain(kind, path).mean_loss(few)
        for name in ratios:
            found = trained(kind, name, path, few, 0)[1]
            print(
                f"{kind} in {name}: one step from {before:.5f} to {found:.5f}, peer {expected:.5f}"
            )
            if abs(found - expected) > STEP_NOISE[name]:
                sys.exit("the step differs from the peer's")
        print(f"{kind}: loss {Plain(kind, path).mean_loss(frame):.3f} before", flush=True)
        for run in range(runs):
            order = ["peer", *ratios] if run % 2 else ["peer", *ratios][::-1]
            took, losses = {}, {}
            for name in order:
                took[name], losses[name] = trained(kind, name, path, frame, run)
            report = ", ".join(
                f"{n} {took[n]:.1f} s, loss {losses[n]:.3f}" for n in ["peer", *ratios]
            )
            print(f"{kind}: {report}", flush=True)
            for name in ratios:
                if abs(losses[name] - losses["peer"]) > noise:
                    sys.exit(f"the loss of {kind} in {name} differs from the peer's")
                ratios[name].append(took["peer"] / took[name])
    for name, values in ratios.items():
        print(f"{kind} in {name}: median speedup ×{statistics.median(values):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--encoder", type=int, default=128, help="number of examples for CrossEncoder"
    )
    parser.add_argument("--t5", type=int, default=64, help="number of examples for MonoT5")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--noise", type=float, default=0.1)
    args = parser.parse_args()
    if args.encoder % STEP or args.t5 % STEP:
        parser.error(f"--encoder and --t5 must be multiples of {STEP}")
    for kind, number in (("CrossEncoder", args.encoder), ("MonoT5", args.t5)):
        if number:
            compare(kind, examples(number), args.runs, args.noise)


if __name__ == "__main__":
    main()
