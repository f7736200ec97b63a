"""Compares cross-encoder training with batches of similar length and with random batches.

    python tests/benchmarks/loader_by_length.py [--loss listwise] [--runs 5] [--lists 192]

Trains the same small BERT (4 layers of size 256) on the same lists of mixed lengths with both
loaders, in pairs of runs. Prints the time of each run and the median of the ratios.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

import tiny

from pyterrier_inpars import CrossEncoder


def build(path: Path) -> str:
    from transformers import BertConfig, BertModel

    tokenizer = tiny.bert_tokenizer()
    tokenizer.model_max_length = 256
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=256,
    )
    BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def examples(lists: int) -> pd.DataFrame:
    """Returns lists of a positive and four negatives; lengths vary more between than within."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(lists):
        middle = rng.lognormal(3.5, 0.8)
        for j in range(5):
            words = int(np.clip(middle * rng.lognormal(0, 0.3), 3, 250))
            text = " ".join(rng.choice(tiny.WORDS, words))
            rows.append((f"q{i}", "what is apple", f"d{i}.{j}", text, int(j == 0)))
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "label"])


def seconds(path: str, frame: pd.DataFrame, loss: str, sampler: dict) -> float:
    training = {"loss": loss, "max_steps": -1, "num_train_epochs": 1, **sampler}
    reranker = CrossEncoder(path, dtype="float32", training=training)
    assert reranker.network is not None  # loaded before the clock starts
    start = time.perf_counter()
    reranker.fit(frame)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loss", default="listwise")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--lists", type=int, default=192)
    args = parser.parse_args()
    frame, ratios = examples(args.lists), []
    with tempfile.TemporaryDirectory() as folder:
        path = build(Path(folder) / "bert")
        seconds(path, frame.head(80), args.loss, {})  # warm up
        for run in range(args.runs):
            loaders: list[dict] = [{}, {"batch_sampler": "batch_sampler"}]
            order = loaders if run % 2 else loaders[::-1]
            took = {len(loader): seconds(path, frame, args.loss, loader) for loader in order}
            ratios.append(took[1] / took[0])
            print(f"by length {took[0]:.1f} s, random {took[1]:.1f} s, ratio {ratios[-1]:.2f}")
    print(f"median ratio, random to by length: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
