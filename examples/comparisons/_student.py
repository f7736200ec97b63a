"""Measures what a small model learns about retrieval from synthetic queries; see _measure.py."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt
from pyterrier.measures import nDCG
from scipy.stats import ttest_rel
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from transformers import AutoModelForCausalLM, AutoTokenizer

from pyterrier_inpars import BiEncoder, ScoreFusion

if TYPE_CHECKING:
    from _measure import Bench

DEPTH = 30
"""Depth of the BM25 ranking that is reranked."""
SEEDS = 3
TRAINING: dict[str, Any] = {
    "adapter": True,
    "learning_rate": 1e-3,
    "num_train_epochs": 5,
    "held_out": 0.0,
}


class Student:
    """A bi-encoder that knows nothing about retrieval: a linear layer learns it from queries.

    The vector of a text is the mean of its tokens' vectors in the base language model. They are
    frozen, so that a training takes seconds, and what the student learns comes from the queries.

    Args:
        bench: Collection, and folder of what is stored.
    """

    def __init__(self, bench: Bench):
        self.bench = bench

    @cached_property
    def path(self) -> str:
        """The folder of the untrained student, a model of sentence-transformers."""
        folder = self.bench.arguments.folder / "student"
        if not folder.exists():
            base = self.bench.arguments.base_model
            network = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
            weights = network.get_input_embeddings().weight.detach()
            vectors = StaticEmbedding(AutoTokenizer.from_pretrained(base), weights)
            with pt.io.finalized_directory(str(folder)) as unfinished:
                SentenceTransformer(modules=[vectors]).save(unfinished, create_model_card=False)
        return str(folder)

    @cached_property
    def candidates(self) -> pd.DataFrame:
        """The results of BM25 on the human topics, which the student reranks."""
        bench = self.bench.bench
        return (bench.first % DEPTH)(bench.topics)

    def by_topic(self, rerankers: dict[str, pt.Transformer]) -> pd.DataFrame:
        """Returns nDCG@10 by human topic (row) and reranker (column)."""
        bench = self.bench.bench
        table = pt.Experiment(
            [reranker(self.candidates) for reranker in rerankers.values()],
            bench.topics,
            bench.qrels,
            [nDCG @ 10],
            names=[*rerankers],
            perquery=True,
        )
        return table.pivot(index="qid", columns="name", values="value")

    def values(self, name: str, queries: pd.DataFrame | None = None) -> pd.DataFrame:
        """Returns nDCG@10 on the human topics, alone and fused with BM25.

        Args:
            name: Name of what is stored.
            queries: Queries to train on; none to measure the untrained student.

        Returns:
            Frame ``qid, seed, alone, fused``.
        """

        def compute() -> pd.DataFrame:
            parts = []
            for seed in range(SEEDS if queries is not None else 1):
                model = BiEncoder(self.path, training=TRAINING | {"seed": seed}, dtype="float32")
                if queries is not None:
                    model.fit(queries.assign(label=1))
                values = self.by_topic({"alone": model, "fused": ScoreFusion(model)})
                parts.append(values.reset_index().assign(seed=seed))
            return pd.concat(parts, ignore_index=True)

        return self.bench.stored(f"{name}-student", compute)

    def untrained(self) -> list[dict[str, Any]]:
        """Returns the first rows of a table: BM25 and the untrained student."""
        bm25 = self.by_topic({"alone": pt.Transformer.identity()})["alone"]
        start = self.values("untrained")
        return [
            {"from": "BM25", "queries": None, "alone": f"{bm25.mean():.4f}"},
            {"from": "untrained"} | {c: f"{start[c].mean():.4f}" for c in ("alone", "fused")},
        ]

    def learned(
        self, name: str, queries: pd.DataFrame, first: dict[str, pd.DataFrame]
    ) -> dict[str, Any]:
        """Returns what the student has after training on queries, with p-values.

        Args:
            name: Name of the queries.
            queries: The queries.
            first: Values of the first queries, which their call adds.
        """
        values = self.values(name, queries)
        by_topic = values.groupby("qid")[["alone", "fused"]].mean()
        untrained = self.values("untrained").set_index("qid")
        other = first.setdefault("first", by_topic)
        row: dict[str, Any] = {"from": name, "queries": len(queries)}
        for column in ("alone", "fused"):
            seeds = values.groupby("seed")[column].mean()
            row |= {
                column: f"{seeds.mean():.4f} ± {seeds.std(ddof=0):.4f}",
                f"p {column}, untrained": p_value(by_topic[column], untrained[column]),
                f"p {column}": p_value(by_topic[column], other[column]),
            }
        return row


def p_value(one: pd.Series, other: pd.Series) -> str:
    """Returns p of a paired t-test over topics, as text; empty if all values are equal."""
    p = ttest_rel(one, other[one.index]).pvalue
    return "" if np.isnan(p) else f"{p:.1g}"
