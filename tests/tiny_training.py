"""Tiny rerankers and examples to train them on, and the fixtures of the tests that do."""

import math
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5

CLASSES = [MonoT5, CrossEncoder, BiEncoder]
NAMES, PLACES, FILLER = tiny.WORDS[:8], tiny.WORDS[10:18], tiny.WORDS[18:26]
QUICK = {
    "max_steps": 3,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "held_out": 0,  # trains on every example, so that oracles see the same
}


def build(folder: Path, dropout: float) -> dict[type, str]:
    bert = tiny.tiny_bert(folder / "bert", dropout)
    t5 = tiny.tiny_t5(folder / "t5", dropout=dropout)
    return {MonoT5: t5, CrossEncoder: bert, BiEncoder: bert}


def make_examples(num_queries: int, num_negatives: int, seed: int, rule: str) -> pd.DataFrame:
    """Examples of a rule that only the labels show.

    Rule "class": a document is relevant if it contains one of four places, and not if it contains
    one of the other four. Rule "pair": if it contains the place that belongs to the query's name,
    as north to apple.
    """
    rng = random.Random(seed)
    rows = []
    for i in range(num_queries):
        name = i % len(NAMES)
        if rule == "class":
            places = [rng.choice(PLACES[::2]), *rng.sample(PLACES[1::2], num_negatives)]
        else:
            others = [place for place in PLACES if place != PLACES[name]]
            places = [PLACES[name], *rng.sample(others, num_negatives)]
        for j, place in enumerate(places):
            text = [place, *rng.choices(FILLER, k=4)]
            rng.shuffle(text)
            query = f"what is {NAMES[name]}"
            rows.append((f"q{i}", query, f"d{i}.{j}", " ".join(text), int(j == 0)))
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "label"])


def weights(reranker) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in reranker.network.parameters()])


def scores(reranker, frame: pd.DataFrame) -> np.ndarray:
    return reranker(frame)["score"].to_numpy()


def shapes_of(reranker) -> list[tuple[int, ...]]:
    """The shapes of the encoder's inputs from now on."""
    found = []

    def note(module, args, options):
        found.append(tuple((options or args[0])["input_ids"].shape))

    network = reranker.network
    encoder = network.encoder if isinstance(reranker, MonoT5) else network[0]
    encoder.register_forward_pre_hook(note, with_kwargs=True)
    return found


def ndcg(reranker, results: pd.DataFrame, qrels: pd.DataFrame) -> float:
    """nDCG@10 of lists of at most ten documents with labels 0 and 1, by its formula."""
    out = reranker(results).drop(columns="label").merge(qrels, on=["qid", "docno"])
    values = []
    for _, found in out.groupby("qid"):
        gains = found["label"] / np.log2(found["rank"] + 2)
        best = sum(1 / math.log2(rank + 2) for rank in range(found["label"].sum()))
        values.append(gains.sum() / best)
    return float(np.mean(values))


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[type, str]:
    return build(tmp_path_factory.mktemp("models"), dropout=0.1)


@pytest.fixture(scope="session")
def plain_models(tmp_path_factory) -> dict[type, str]:
    """Without dropout, so that a loss can be computed by hand."""
    return build(tmp_path_factory.mktemp("plain_models"), dropout=0.0)


@pytest.fixture(scope="session")
def examples() -> pd.DataFrame:
    return make_examples(12, 2, 0, "pair")


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.__name__)
def cls(request) -> type:
    return request.param
