"""Batches for losses whose negatives are the documents of the other queries of a batch.

Importing this module imports torch, so the rerankers import it when they train.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from sentence_transformers.base.sampler import DefaultBatchSampler

from pyterrier_inpars.training.examples import documents_of


class InBatchSampler(DefaultBatchSampler):
    """Puts each row of an epoch into one batch, in which no query has a relevant negative.

    Two rows are kept apart if they have the same query, or if a positive of the query of one, in
    any row, is among the documents of the other. Rows may share negatives. A row goes into the
    first batch that has room for it, so most batches are full. Each epoch has another order, and as
    many batches.

    Args:
        dataset: Data set with the columns ``query``, ``positive`` and any ``negative_1``, ...
        batch_size: Maximum number of rows of a batch.
        drop_last: Not supported; every row is used.
        seed: Seed of the order.
        **options: Other arguments of a batch sampler.
    """

    def __init__(
        self, dataset: Any, batch_size: int, drop_last: bool = False, seed: int = 0, **options: Any
    ):
        super().__init__(dataset, batch_size, drop_last, seed=seed, **options)
        columns = dataset[:]
        negatives = [columns[name] for name in columns if name.startswith("negative_")]
        self.texts = list(zip(columns["query"], columns["positive"], *negatives, strict=True))
        self.relevant = documents_of(texts[:2] for texts in self.texts)
        self.first = self._filled(self._order(len(self.texts), 0))

    def __len__(self) -> int:
        return len(self.first)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches(self.epoch)

    def batches(self, epoch: int) -> list[list[int]]:
        """Returns the row numbers of all batches of an epoch."""
        batches = self._filled(self._order(len(self.texts), epoch))
        while len(batches) < len(self.first):
            largest = max(range(len(batches)), key=lambda i: len(batches[i]))
            rows = batches.pop(largest)
            batches += [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
        if len(batches) > len(self.first):
            batches = [self.first[i] for i in self._order(len(self.first), epoch)]
        return batches

    def seen(self, epoch: int, batches: int) -> int:
        """Returns the number of rows in the first batches of an epoch."""
        return sum(map(len, self.batches(epoch)[:batches]))

    def _order(self, number: int, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed((self.seed or 0) + epoch)
        return torch.randperm(number, generator=generator).tolist()

    def _filled(self, order: list[int]) -> list[list[int]]:
        batches: list[_Batch] = []
        unfilled: list[_Batch] = []
        for row in order:
            query, *documents = self.texts[row]
            relevant = self.relevant[query]
            batch = next((b for b in unfilled if b.takes(query, relevant, documents)), None)
            if batch is None:
                batch = _Batch()
                batches.append(batch)
                unfilled.append(batch)
            batch.add(row, query, relevant, documents)
            if len(batch.rows) == self.batch_size:
                unfilled.remove(batch)
        return [batch.rows for batch in batches]


class _Batch:
    """Row numbers of a batch, and its texts."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.queries: set[str] = set()
        self.relevant: set[str] = set()
        self.documents: set[str] = set()

    def takes(self, query: str, relevant: set[str], documents: Sequence[str]) -> bool:
        return (
            query not in self.queries
            and self.documents.isdisjoint(relevant)
            and self.relevant.isdisjoint(documents)
        )

    def add(self, row: int, query: str, relevant: set[str], documents: Sequence[str]) -> None:
        self.rows.append(row)
        self.queries.add(query)
        self.relevant |= relevant
        self.documents.update(documents)
