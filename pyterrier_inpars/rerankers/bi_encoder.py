"""BiEncoder: query and document encoded apart, scored by their cosine."""

from __future__ import annotations

import os
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_inpars.rerankers.base import Reranker
from pyterrier_inpars.training.examples import groups
from pyterrier_inpars.training.losses import (
    FROM_TEACHER,
    as_module,
    checked_loss,
    checked_temperature,
    listings,
    objective,
    padded,
)
from pyterrier_inpars.training.trainer import Training

IN_BATCH = "in_batch"

if TYPE_CHECKING:
    import numpy as np
    import torch


class BiEncoder(Reranker):
    """Promptagator's dual encoder: the score of a document is its cosine with the query, -1 to 1.

    By default it is trained by a softmax over the documents of the batch: its own document against
    those of the other queries and all mined negatives (Dai et al. 2022, "Promptagator", arXiv
    2209.11755, section 3; the loss is sentence-transformers' ``MultipleNegativesRankingLoss``).
    Positives alone do. The batch is that of all processes together, and no text occurs twice in it,
    so that no query has its own document among its negatives. Where queries have different numbers
    of negatives, those with fewer repeat their own up to the largest number, and those with none
    take other queries', which the batch compares them with in any case.

    On a TPU a program is compiled for each way in which the lengths of the queries, the positives
    and the negatives of a batch come together: few where they are of like length.

    A model with prompts for queries and documents gets them, in training as in scoring.

    Args:
        model: what ``SentenceTransformer`` loads: its own models, or any encoder (mean pooling).
        max_length: most tokens of a query or a document; ``None`` for the model's own.
        scale: the cosines are multiplied by it in the loss.
        loss: ``"in_batch"``, as above; or with a teacher's scores in a column ``score``,
            ``"margin_mse"``, the squared error of the difference between a positive and a negative
            of its qid to the teacher's (Hofstätter et al. 2020, arXiv 2010.02666), or
            ``"distillation"``, the Kullback-Leibler divergence of the softmax over the documents of
            a qid from the teacher's. With these two a list stays in one batch,
            ``per_device_train_batch_size`` counts lists, and those of one document, which teach
            nothing, are left out.
        temperature: of both softmaxes in ``"distillation"``; the others do not read it.

    The other parameters are those of :class:`Reranker`.

    Raises:
        ValueError: there is no such loss, or the temperature is not above 0.
    """

    schematic = {"label": "BiEncoder", "help_url": None}

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        max_length: int | None = None,
        scale: float = 20.0,
        loss: str = IN_BATCH,
        temperature: float = 1.0,
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
        self.loss = checked_loss(loss, (IN_BATCH, *FROM_TEACHER))
        self.temperature = checked_temperature(temperature)

    def _load(self, device: torch.device) -> Any:
        import torch
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(
            os.fspath(self.model), device=str(device), model_kwargs={"dtype": torch.float32}
        )

    def _score(self, queries: list[str], texts: list[str]) -> np.ndarray:
        query_prompt, document_prompt = self._prompts()
        query_vectors = self._encode("query", queries, query_prompt)
        text_vectors = self._encode("document", texts, document_prompt)
        return (query_vectors * text_vectors).sum(axis=1)

    def _encode(self, task: str, texts: list[str], prompt: str | None) -> np.ndarray:
        """Unit vectors of the texts, of which each distinct one is encoded once.

        The same as of ``encode_query`` and ``encode_document``, which do not run on XLA.
        """
        from sentence_transformers.util import batch_to_device
        from torch.nn.functional import normalize

        network = self.network
        codes, distinct = pd.factorize(pd.Series(texts))

        def forward(rows: list[int]) -> torch.Tensor:
            batch = network.preprocess([distinct[r] for r in rows], prompt=prompt, task=task)
            vectors = network(batch_to_device(batch, network.device), task=task)
            return normalize(vectors["sentence_embedding"])

        return self._in_batches(self._tokens(distinct), forward)[codes]

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

        if self.loss == IN_BATCH:
            columns = self._in_batch(examples)
            loss: Any = MultipleNegativesRankingLoss(
                self.network, scale=self.scale, gather_across_devices=True
            )
        else:
            columns = self._lists(examples)
            loss = as_module(
                self.network, self._list_scores, objective(self.loss, self.temperature)
            )
        query_prompt, document_prompt = self._prompts()
        prompts = {c: query_prompt if c == "query" else document_prompt for c in columns}
        sampler = "NO_DUPLICATES" if self.loss == IN_BATCH else "BATCH_SAMPLER"
        training.run(
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
            self.network,
            "bi_encoder",
            arguments={
                "batch_sampler": BatchSamplers[sampler],
                "prompts": {column: prompt for column, prompt in prompts.items() if prompt},
            },
            train_dataset=Dataset.from_dict(columns),
            loss=loss,
        )

    def _in_batch(self, examples: pd.DataFrame) -> dict[str, list]:
        """Columns: the query, its positive, and as many negatives as the query with most has."""
        rows = groups(examples, self.text_field)
        width = max(len(row.negatives) for row in rows)
        others = cycle(chain.from_iterable(row.negatives for row in rows))
        negatives = [
            list(islice(cycle(row.negatives) if row.negatives else others, width)) for row in rows
        ]
        columns = {"query": [row.query for row in rows], "positive": [row.positive for row in rows]}
        for i in range(width):
            columns[f"negative_{i + 1}"] = [row[i] for row in negatives]
        return columns

    def _lists(self, examples: pd.DataFrame) -> dict[str, list]:
        """Columns: the query, the documents of its list, and their targets, NaN for an absent one.

        An absent document is an empty text.
        """
        rows = listings(examples, self.text_field, self.loss)
        targets = padded([row.targets for row in rows])
        columns: dict[str, list] = {"query": [row.query for row in rows]}
        for i in range(targets.shape[1]):
            columns[f"document_{i + 1}"] = [(row.texts[i : i + 1] or [""])[0] for row in rows]
        return columns | {"label": targets.tolist()}

    def _list_scores(self, network: Any, inputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """The scaled cosines of the batch's lists, (lists, longest list)."""
        import torch

        query, *documents = (network(column)["sentence_embedding"] for column in inputs)
        cosines = [torch.cosine_similarity(query, document) for document in documents]
        return self.scale * torch.stack(cosines, dim=1)
