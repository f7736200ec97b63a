"""Compares the reranking time of MonoT5 and pyterrier_t5's MonoT5ReRanker with its defaults.

    python tests/benchmarks/reranking.py [--shape t5-base] [--pairs 2000] [--runs 3] [--check 100]

Both score the same pairs with the same T5 with random weights, of the shape of t5-small (6 + 6
layers of size 512, 8 heads) or of t5-base (12 + 12 of size 768, 12 heads), with a vocabulary of
32,128. Queries have 2 to 12 words and 50 documents each, whose lengths are log-normal: 100 tokens
on average, one in a hundred longer than the 512 tokens of the input. ``transform`` is timed, from
texts to scores. The network is loaded before.

Checked first, on ``--check`` pairs (the longest, the shortest and others): in float32 the scores
equal the peer's at batch size 1, where they are exact, to within 1e-4; in bfloat16 the correlation
is above 0.99. On all pairs: both networks get the same number of tokens, except for an end token
that the peer leaves in the middle of the shorter rows of a batch. (The peer truncates the columns
of a batch, so it reads as much of a long document as MonoT5 does.)

Prints the time of each run, and for each precision the median of the ratios.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

import tiny
from paired import median_ratios, processor
from precisions import precisions

from pyterrier_inpars import MonoT5
from pyterrier_inpars._quiet import quiet

LIMIT = 512
SHAPES: dict[str, dict[str, int]] = {
    "t5-small": {"d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "t5-base": {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
}


def words(number: int, rng: np.random.Generator) -> list[str]:
    letters = np.array([*"abcdefghijklmnopqrstuvwxyz"])
    found: dict[str, None] = {}
    while len(found) < number:
        found["".join(rng.choice(letters, rng.integers(3, 9)))] = None
    return [*found]


def build(path: Path, vocabulary: list[str], shape: str) -> str:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = tiny.t5_tokenizer(("true", "false"), vocabulary)
    config = T5Config(
        vocab_size=32128,
        d_kv=64,
        **SHAPES[shape],
        n_positions=LIMIT,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    T5ForConditionalGeneration(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def results(pairs: int, vocabulary: list[str], rng: np.random.Generator) -> pd.DataFrame:
    """Returns an R frame; three words in ten have a suffix of one or two subword tokens."""
    chance = 1 / np.arange(1, len(vocabulary) + 1)
    chance /= chance.sum()

    def text(length: int) -> str:
        stems = rng.choice(vocabulary, length, p=chance)
        return " ".join(stem + rng.choice(["", "s", "ed"], p=[0.7, 0.2, 0.1]) for stem in stems)

    lengths = np.clip(rng.lognormal(3.9, 0.8, pairs), 5, 600).astype(int)
    queries = [text(n) for n in rng.integers(2, 13, -(-pairs // 50))]
    rows = [
        (str(i // 50), queries[i // 50], f"d{i}", text(n), 0.0, i % 50)
        for i, n in enumerate(lengths)
    ]
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "score", "rank"])


def tokens_read(reranker: Any, network: Any, frame: pd.DataFrame) -> tuple[int, int]:
    """Returns the number of tokens of the encoder input, without and with padding."""
    import torch
    from transformers.modeling_outputs import Seq2SeqLMOutput

    found = []

    def note(attention_mask: torch.Tensor, **_: Any) -> Seq2SeqLMOutput:
        found.append((int(attention_mask.sum()), attention_mask.numel()))
        return Seq2SeqLMOutput(logits=torch.zeros(len(attention_mask), 1, 32128))

    network.forward = note
    reranker(frame)
    del network.forward
    text, padded = np.sum(found, axis=0).tolist()
    return text, padded


def check(peer: Any, ours: dict[str, Any], frame: pd.DataFrame, number: int) -> None:
    """Exits with an error unless both sides do the same work."""
    read, padded = tokens_read(peer, peer.model, frame)
    ends = len(frame)
    for name, reranker in ours.items():
        text, full = tokens_read(reranker, reranker.network, frame)
        if not read - ends <= text <= read:
            sys.exit(f"MonoT5 gets {text:,} tokens, but the peer {read:,}")
        print(f"{name}: {text:,} tokens, {full:,} with padding; the peer {read:,} and {padded:,}")
    by_length = np.argsort(frame["text"].str.len(), kind="stable").to_numpy()
    ends_of_it = [*by_length[: number // 4], *by_length[-(number // 4) :]]
    some = frame.iloc[list(dict.fromkeys([*ends_of_it, *range(number)]))[:number]]
    batch_size, peer.batch_size = peer.batch_size, 1
    expected = peer(some)["score"].to_numpy()
    peer.batch_size = batch_size
    print(f"{len(some)} pairs, scores from {expected.min():.2f} to {expected.max():.2f}")
    for name, reranker in ours.items():
        scores = reranker(some)["score"].to_numpy()
        furthest = np.abs(scores - expected).max()
        alike = np.corrcoef(scores, expected)[0, 1]
        print(
            f"{name}: largest difference from the peer's scores at batch size 1 {furthest:.1e}, "
            f"correlation {alike:.4f}"
        )
        right = furthest < 1e-4 if name == "float32" else alike > 0.99
        if not right:  # also for NaN
            sys.exit("the scores differ from the peer's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=[*SHAPES], default="t5-small")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--check", type=int, default=100)
    args = parser.parse_args()
    import torch

    with quiet():
        from pyterrier_t5 import MonoT5ReRanker

    print(f"{processor()}, {torch.get_num_threads()} threads")
    rng = np.random.default_rng(0)
    vocabulary = words(31_900, rng)
    frame = results(args.pairs, vocabulary, rng)
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = build(Path(folder) / "t5", vocabulary, args.shape)
        peer = MonoT5ReRanker(model=path, tok_model=path, verbose=False)
        ours = {d: MonoT5(path, dtype=d, device=str(peer.device)) for d in precisions()}
        check(peer, ours, frame, args.check)
    runs = {name: partial(reranker, frame) for name, reranker in ours.items()}
    for name, ratio in median_ratios(partial(peer, frame), runs, args.runs).items():
        print(f"median ratio, peer to {name}: {ratio:.2f}")


if __name__ == "__main__":
    main()
