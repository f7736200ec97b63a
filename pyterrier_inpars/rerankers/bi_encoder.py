"""BiEncoder: query and document encoded apart, scored by their cosine."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_inpars.rerankers._base import Reranker
from pyterrier_inpars.training import Training, groups

if TYPE_CHECKING:
    import numpy as np
    import torch


class BiEncoder(Reranker):
    """Promptagator's dual encoder: the score of a document is its cosine with the query, -1 to 1.

    Trained by a softmax over the documents of the batch: its own document against those of the
    other queries and all mined negatives (Dai et al. 2022, "Promptagator", arXiv 2209.11755,
    section 3; the loss is sentence-transformers' ``MultipleNegativesRankingLoss``). Positives alone
    do. No text occurs twice in a batch, so that no query has its own document among its negatives.
    Where queries have different numbers of negatives, those with fewer repeat their own up to the
    largest number, and those with none take other queries', which the batch compares them with in
    any case.

    A model with prompts for queries and documents gets them, in training as in scoring.

    Args:
        model: what ``SentenceTransformer`` loads: its own models, or any encoder (mean pooling).
        max_length: most tokens of a query or a document; ``None`` for the model's own.
        scale: the cosines are multiplied by it in the loss (one divided by the temperature).

    The other parameters are those of :class:`Reranker`.
    """

    schematic = {"label": "BiEncoder", "help_url": None}

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        max_length: int | None = None,
        scale: float = 20.0,
        training: dict[str, Any] | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        seed: int = 0,
        batch_size: int = 64,
        text_field: str = "text",
        dtype: str | torch.dtype = "auto",
        compile: bool = False,
        device: str | None = None,
        verbose: bool = False,
    ):
        super().__init__(
            model,
            max_length=max_length,
            training=training,
            output_dir=output_dir,
            seed=seed,
            batch_size=batch_size,
            text_field=text_field,
            dtype=dtype,
            compile=compile,
            device=device,
            verbose=verbose,
        )
        self.scale = scale

    def _load(self, device: torch.device) -> Any:
        import torch
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(
            os.fspath(self.model), device=str(device), model_kwargs={"dtype": torch.float32}
        )

    def _score(self, queries: list[str], texts: list[str]) -> np.ndarray:
        query_prompt, document_prompt = self._prompts()
        query_vectors = self._encode(self.network.encode_query, queries, query_prompt)
        text_vectors = self._encode(self.network.encode_document, texts, document_prompt)
        return (query_vectors * text_vectors).sum(axis=1)

    def _encode(
        self, encode: Callable[..., np.ndarray], texts: list[str], prompt: str | None
    ) -> np.ndarray:
        """Unit vectors of the texts, of which each distinct one is encoded once."""
        codes, distinct = pd.factorize(pd.Series(texts))
        vectors = encode(
            distinct.tolist(),
            prompt=prompt,
            batch_size=self.batch_size,
            show_progress_bar=self.verbose,
            normalize_embeddings=True,
        )
        return vectors[codes]

    def _prompts(self) -> tuple[str | None, str | None]:
        """The model's prompts for queries and for documents.

        ``encode_document`` looks for the same names, but stops at "document", which
        sentence-transformers adds to every model as an empty prompt.
        """
        known = self.network.prompts
        names = (known.get(name) for name in ("document", "passage", "corpus"))
        return known.get("query") or None, next(filter(None, names), None)

    def _train(self, examples: pd.DataFrame, training: Training) -> None:
        from datasets import Dataset
        from sentence_transformers import (
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
        )
        from sentence_transformers.base.training_args import BatchSamplers
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        rows = groups(examples, self.text_field)
        width = max(len(row.negatives) for row in rows)
        others = cycle(chain.from_iterable(row.negatives for row in rows))
        negatives = [
            list(islice(cycle(row.negatives) if row.negatives else others, width)) for row in rows
        ]
        columns = {"query": [row.query for row in rows], "positive": [row.positive for row in rows]}
        for i in range(width):
            columns[f"negative_{i + 1}"] = [row[i] for row in negatives]
        query_prompt, document_prompt = self._prompts()
        prompts = {c: query_prompt if c == "query" else document_prompt for c in columns}
        training.run(
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
            self.network,
            "bi_encoder",
            arguments={
                "batch_sampler": BatchSamplers.NO_DUPLICATES,
                "prompts": {column: prompt for column, prompt in prompts.items() if prompt},
            },
            train_dataset=Dataset.from_dict(columns),
            loss=MultipleNegativesRankingLoss(self.network, scale=self.scale),
        )
