"""BiEncoder: encodes query and document separately, and scores them by their cosine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_inpars.rerankers._sentence_transformers import SentenceTransformersReranker
from pyterrier_inpars.training.examples import groups, listings
from pyterrier_inpars.training.losses import FROM_TEACHER, list_loss, padded
from pyterrier_inpars.training.options import TrainingOptions

if TYPE_CHECKING:
    import numpy as np
    import torch
    from typing_extensions import Unpack

    from pyterrier_inpars.rerankers.base import LoadingOptions
    from pyterrier_inpars.training.trainer import TrainingRun

IN_BATCH = "in_batch"


class BiEncoder(SentenceTransformersReranker):
    """Bi-encoder: the score of a document is its cosine with the query, from -1 to 1.

    Query and document are encoded separately, as in Promptagator (Dai et al. 2022, arXiv
    2209.11755, section 3). Each distinct text of a frame is encoded once. If the model defines
    prompts for queries and documents, they are used in training and in scoring.

    The losses of ``training``:

    - ``"in_batch"`` (the default) is the softmax cross-entropy of a query's positive against the
      other documents of the batch: its own negatives, and the positives and negatives of the other
      queries (sentence-transformers' ``MultipleNegativesRankingLoss``). It needs positives only;
      larger batches give more negatives. A batch spans all processes. No query has its own document
      among its negatives: queries with the same text or with the same document are in different
      batches, which are smaller if there is no other way to train on all examples. A negative that
      several queries of a batch share counts several times. If queries have different numbers of
      negatives, those with fewer repeat their own up to the largest number; those without any take
      negatives of other queries, which the loss includes anyway.
    - ``"margin_mse"`` and ``"distillation"`` learn from the scores of a teacher in the column
      ``score``: the margin between a positive and a negative of its qid, or the distribution over
      all documents of a qid. See :mod:`pyterrier_inpars.training.losses`. A list stays in one
      batch, ``per_device_train_batch_size`` counts lists, and lists of one document are dropped.

    On a TPU, one program is compiled per combination of the padded lengths of queries, positives
    and negatives in a batch, so texts of similar length are faster.

    Args:
        model: What ``SentenceTransformer`` loads: its own models, or any encoder (mean pooling).
        max_length: Maximum number of tokens of a query or a document; ``None`` for the model's own
            limit.
        scale: Factor of the cosines in the loss, the inverse of a softmax temperature.
        training: See :class:`Reranker`.
        batch_size: Maximum number of texts encoded at once.
        text_field: Column with the text of the document, or several, such as ``["title", "text"]``,
            whose texts are joined by spaces.
        verbose: Whether to show progress bars and the libraries' own notices.
        **loading: See :class:`LoadingOptions`.

    Raises:
        TypeError: An option is unknown.
        ValueError: A value is out of range.
    """

    schematic = {"label": "BiEncoder", "help_url": None}

    _method = "bi_encoder"
    _losses = (IN_BATCH, *FROM_TEACHER)
    _default_loss = IN_BATCH

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        max_length: int | None = None,
        scale: float = 20.0,
        training: TrainingOptions | Mapping[str, Any] | str | None = None,
        batch_size: int = 64,
        text_field: str | list[str] = "text",
        verbose: bool = False,
        **loading: Unpack[LoadingOptions],
    ):
        super().__init__(
            model,
            max_length=max_length,
            training=training,
            batch_size=batch_size,
            text_field=text_field,
            verbose=verbose,
            **loading,
        )
        self.scale = scale

    def _load(self, device: torch.device) -> Any:
        from sentence_transformers import SentenceTransformer

        return self._load_as(SentenceTransformer, device)

    def _score(self, queries: list[str], texts: list[str]) -> np.ndarray:
        query_prompt, document_prompt = self._prompts()
        query_vectors = self._encode("query", queries, query_prompt)
        text_vectors = self._encode("document", texts, document_prompt)
        return (query_vectors * text_vectors).sum(axis=1)

    def _encode(self, task: str, texts: list[str], prompt: str | None) -> np.ndarray:
        """Returns unit vectors of the texts, (texts, dimensions), encoding each distinct one once.

        They equal those of ``encode_query`` and ``encode_document``, which do not run on XLA.
        """
        from sentence_transformers.util import batch_to_device
        from torch.nn.functional import normalize

        network = self.network
        codes, distinct = pd.factorize(pd.Series(texts))

        def forward(rows: list[int]) -> torch.Tensor:
            batch = network.preprocess([distinct[r] for r in rows], prompt=prompt, task=task)
            vectors = network(batch_to_device(batch, network.device), task=task)
            return normalize(vectors["sentence_embedding"])

        return self._in_batches(self._estimated_tokens(distinct), forward)[codes]

    def _prompts(self) -> tuple[str | None, str | None]:
        """Returns the model's prompts for queries and for documents.

        ``encode_document`` looks for the same names, but stops at "document", which
        sentence-transformers adds to every model as an empty prompt.
        """
        known = self.network.prompts
        names = (known.get(name) for name in ("document", "passage", "corpus"))
        return known.get("query") or None, next(filter(None, names), None)

    def _train(self, examples: pd.DataFrame, run: TrainingRun) -> None:
        from datasets import Dataset
        from sentence_transformers import (
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
        )
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        from pyterrier_inpars.rerankers._in_batch import InBatchSampler
        from pyterrier_inpars.rerankers._list_training import ListLoss

        name = str(run.options.loss)
        if name == IN_BATCH:
            columns = self._in_batch_columns(examples)
            loss: Any = MultipleNegativesRankingLoss(
                self.network, scale=self.scale, gather_across_devices=True
            )
        else:
            columns = self._list_columns(examples, name)
            objective = list_loss(name, run.options.temperature)
            loss = ListLoss(self.network, self._list_scores, objective)
        query_prompt, document_prompt = self._prompts()
        prompts = {c: query_prompt if c == "query" else document_prompt for c in columns}
        run.train(
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
            self.network,
            arguments={
                "batch_sampler": InBatchSampler if name == IN_BATCH else "batch_sampler",
                "prompts": {column: prompt for column, prompt in prompts.items() if prompt},
            },
            train_dataset=Dataset.from_dict(columns),
            loss=loss,
        )

    def _in_batch_columns(self, examples: pd.DataFrame) -> dict[str, list]:
        """Returns query, positive, and as many negatives per query as the largest number."""
        rows = groups(examples, "text")
        width = max(len(row.negatives) for row in rows)
        known = [text for row in rows for text in row.negatives]
        others, distinct = cycle(known), set(known)
        negatives = []
        for row in rows:
            texts: Iterator[str] = cycle(row.negatives) if row.negatives else others
            if not row.negatives and distinct != {row.positive}:
                texts = filter(row.positive.__ne__, others)
            negatives.append(list(islice(texts, width)))
        columns = {"query": [row.query for row in rows], "positive": [row.positive for row in rows]}
        for i in range(width):
            columns[f"negative_{i + 1}"] = [row[i] for row in negatives]
        return columns

    def _list_columns(self, examples: pd.DataFrame, loss: str) -> dict[str, list]:
        """Returns query, documents and targets of each list.

        Shorter lists are padded with empty texts, whose targets are NaN.
        """
        rows = listings(examples, "text", loss)
        targets = padded([row.targets for row in rows])
        columns: dict[str, list] = {"query": [row.query for row in rows]}
        for i in range(targets.shape[1]):
            columns[f"document_{i + 1}"] = [(row.texts[i : i + 1] or [""])[0] for row in rows]
        return columns | {"label": targets.tolist()}

    def _list_scores(self, network: Any, inputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """Returns the scaled cosines of a batch of lists, (lists, longest list)."""
        import torch

        query, *documents = (network(column)["sentence_embedding"] for column in inputs)
        cosines = [torch.cosine_similarity(query, document) for document in documents]
        return self.scale * torch.stack(cosines, dim=1)
