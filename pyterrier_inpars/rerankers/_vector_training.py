"""Training of a bi-encoder on lists: each distinct document of a batch is encoded once.

Importing this module imports sentence-transformers, so the bi-encoder imports it when it trains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin, has_static_embedding_input
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

from pyterrier_inpars.training.losses import padded


@dataclass
class ListCollator(SentenceTransformerDataCollator):
    """Makes a batch of rows ``query, texts, label``: the queries and their distinct documents.

    The feature ``place`` of the documents, (lists, longest list), has the number of each list's
    documents among the distinct ones, and ``list_query``, (lists,), a number for each distinct
    query. Documents are sorted by length, so that those that are
    embedded together need little padding.

    Args:
        longest: Length of all lists, and number of distinct documents for each of them, if an XLA
            device needs constant shapes; ``None`` for what the batch has.
    """

    longest: int | None = None

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        lists, asked = [row["texts"] for row in features], [row["query"] for row in features]
        distinct = sorted(set(chain.from_iterable(lists)), key=lambda text: (len(text), text))
        width = self.longest or max(map(len, lists))
        number = {text: i for i, text in enumerate(distinct)}
        place = [[number[text] for text in own] + [0] * (width - len(own)) for own in lists]
        if self.longest is not None:
            distinct += [""] * (len(lists) * width - len(distinct))
        batch: dict[str, Any] = {
            "label": padded([row["label"] for row in features], width),
            "document_place": torch.tensor(place),
            "document_list_query": torch.tensor([asked.index(query) for query in asked]),
        }
        prompts: Any = self.prompts
        for name, texts in (("query", asked), ("document", distinct)):
            prompt = self._get_prompt_for_column(prompts, name)
            inputs = self.preprocess_fn(texts, prompt=prompt, task=None)
            batch |= {f"{name}_{key}": value for key, value in inputs.items()}
        return batch


class VectorListLoss(CachedLossMixin, torch.nn.Module):
    """A loss over lists of the vectors of queries and distinct documents, on request cached.

    Args:
        network: Network to train; the trainer replaces it by its wrapped one.
        objective: Returns the loss of the vectors of the queries, those of the documents, and
            ``place``, targets and ``list_query`` of the lists; see ``ListCollator``.
        mini_batch_size: Number of texts that are embedded at once, with gradient caching (Gao et
            al. 2021, arXiv 2101.06983); ``None`` to embed all of a batch at once without it.

    Raises:
        ValueError: The network embeds tokens without a transformer, and ``mini_batch_size`` is set.
    """

    def __init__(
        self,
        network: Any,
        objective: Callable[..., torch.Tensor],
        mini_batch_size: int | None = None,
    ):
        super().__init__()
        if mini_batch_size is not None and has_static_embedding_input(network):
            raise ValueError(
                "mini_batch_size is for transformers, and this model has static embeddings: leave "
                "it out"
            )
        self.model, self.objective = network, objective
        self.uses_gradient_cache = mini_batch_size is not None
        self.mini_batch_size = mini_batch_size or 0

    def forward(self, features: list[dict[str, Any]], labels: torch.Tensor) -> torch.Tensor:
        """Returns the loss of a batch."""
        queries, documents = map(dict, features)
        lists: Any = (documents.pop("place"), labels, documents.pop("list_query"))
        if self.uses_gradient_cache:
            return self.forward_cached([queries, documents], lists)
        vectors = [[self.model(part)["sentence_embedding"]] for part in (queries, documents)]
        return self.calculate_loss(vectors, lists)

    def calculate_loss(
        self, reps: list[list[torch.Tensor]], labels: Any = None, *, with_backward: bool = False
    ) -> torch.Tensor:
        """Returns the loss of the vectors, and on request computes their gradients."""
        vectors = [torch.cat(parts).float() for parts in reps]
        with torch.autocast(vectors[0].device.type, enabled=False):  # products in float32
            value = self.objective(*vectors, *labels)
        if with_backward:
            value.backward()
            value = value.detach()
        return value
