"""Training on lists of documents: a trainer for T5, a loss module and batches by length.

Importing this module imports torch and transformers, so the rerankers import it when they train.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sentence_transformers.base.sampler import DefaultBatchSampler
from transformers import Seq2SeqTrainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from pyterrier_inpars.training.losses import padded, spread


class ListTrainer(Seq2SeqTrainer):
    """Trains a sequence-to-sequence network by a loss over lists.

    Args:
        score: Returns the scores of a batch of pairs, (pairs,), of a network and its inputs.
        loss: Loss over lists, see ``losses.list_loss``.
        **parts: Arguments of ``Seq2SeqTrainer``. Batches hold the pairs, one list after the other,
            and the padded targets of the lists as ``labels``.
    """

    def __init__(
        self,
        *,
        score: Callable[[Any, dict[str, Any]], torch.Tensor],
        loss: Callable[..., torch.Tensor],
        **parts: Any,
    ):
        super().__init__(**parts)
        self.score, self.loss = score, loss

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        inputs = dict(inputs)
        targets = inputs.pop("labels")
        scores = self.score(model, inputs)
        value = self.loss(spread(scores, targets), targets)
        return (value, {"scores": scores}) if return_outputs else value


class ListLoss(torch.nn.Module):
    """A loss over lists, as the trainer of sentence-transformers' cross-encoders takes it.

    Args:
        network: Network to train; the trainer replaces it by its wrapped one.
        score: Returns the scores, (lists, longest list), of a network, a batch and its targets.
        loss: Loss over lists, see ``losses.list_loss``.
    """

    def __init__(
        self,
        network: Any,
        score: Callable[[Any, Any, torch.Tensor], torch.Tensor],
        loss: Callable[..., torch.Tensor],
    ):
        super().__init__()
        self.model, self.score, self.loss = network, score, loss

    def forward(self, inputs: Any, labels: Any, **_: Any) -> torch.Tensor:
        """Returns the loss of a batch."""
        if not isinstance(labels, torch.Tensor):  # lists of different lengths
            labels = padded([row.tolist() for row in labels])
        scores = self.score(self.model, inputs, labels)
        return self.loss(scores.float(), labels.to(scores.device))


def by_length(
    dataset: Any, batch_size: int, drop_last: bool, generator: Any = None, **_: Any
) -> Any:
    """Returns batches of lists or pairs of similar length, as a ``batch_sampler``.

    Args:
        dataset: Data set with the columns ``query`` and ``texts`` (one text, or a list of them).
        batch_size: Rows of a batch.
        drop_last: Whether an incomplete last batch is dropped.
        generator: ``torch.Generator`` of the order.
    """
    texts = [[text] if isinstance(text, str) else text for text in dataset[:]["texts"]]
    lengths = [len(q) + max(map(len, t)) for q, t in zip(dataset[:]["query"], texts, strict=True)]
    order = LengthGroupedSampler(batch_size, lengths=lengths, generator=generator)
    return DefaultBatchSampler(order, batch_size=batch_size, drop_last=drop_last)
