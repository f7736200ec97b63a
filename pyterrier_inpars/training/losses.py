"""What a reranker can be trained to do: the losses over the scores of a query's documents.

A list is a query with some of its documents. In a batch of lists, ``scores`` and ``targets`` are
float tensors of shape (lists, longest list); where a list is shorter, ``targets`` is NaN and
``scores`` anything finite. The losses but distillation want the positive first. Their shapes do not
depend on the values, which an XLA device would have to compile for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from pyterrier_inpars.training.examples import groups

if TYPE_CHECKING:
    import torch

POINTWISE = "pointwise"
DISTILLATION = "distillation"
FROM_TEACHER = ("margin_mse", DISTILLATION)
"""The losses that learn from a teacher's scores."""
LOSSES = (POINTWISE, "pairwise", "listwise", *FROM_TEACHER)
"""The losses of a reranker that reads query and document together."""
ALSO = {"binary": POINTWISE}
"""Other names of losses."""


def checked_loss(loss: str, losses: Collection[str] = LOSSES) -> str:
    """The loss under its own name.

    Raises:
        ValueError: it is not one of ``losses``.
    """
    name = ALSO.get(loss, loss)
    if name not in losses:
        raise ValueError(f"loss must be one of {', '.join(losses)}, not {loss!r}")
    return name


def checked_temperature(temperature: float) -> float:
    """The temperature.

    Raises:
        ValueError: it is not a finite number above 0.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be a finite number above 0, not {temperature!r}")
    return temperature


class Listing(NamedTuple):
    """A query, some of its documents, and a number for each: 1 or 0, or the teacher's score."""

    query: str
    texts: list[str]
    targets: list[float]

    @property
    def length(self) -> int:
        """Of the longest pair, in characters."""
        return len(self.query) + max(map(len, self.texts))


def listings(examples: pd.DataFrame, text_field: str, loss: str) -> list[Listing]:
    """The lists that a loss learns from.

    For ``"distillation"`` all rows of a qid are one; for the others, a positive and then all
    negatives of its qid. Those of one document teach nothing and are left out.

    Args:
        examples: frame ``qid, query`` and the texts, with ``score`` for a loss that learns from a
            teacher, and ``label`` for all but ``"distillation"``.
        text_field: column of the texts.
        loss: one of ``LOSSES``.

    Raises:
        ValueError: no list has two documents, or a teacher's score is missing.
    """
    target = "score" if loss in FROM_TEACHER else "label"
    if target == "score":
        check_teacher(examples, loss)
    examples = examples.assign(**{target: examples[target].astype(float)})
    if loss == DISTILLATION:
        found = [
            Listing(rows["query"].iloc[0], rows[text_field].tolist(), rows["score"].tolist())
            for _, rows in examples.groupby("qid", sort=False)
        ]
    else:
        texts: list[Any] = groups(examples, text_field)
        targets: list[Any] = groups(examples, target)
        found = [
            Listing(row.query, [row.positive, *row.negatives], [of.positive, *of.negatives])
            for row, of in zip(texts, targets, strict=True)
        ]
    found = [row for row in found if len(row.texts) > 1]
    if not found:
        needed = "two documents" if loss == DISTILLATION else "a positive and a negative"
        raise ValueError(f"no qid has {needed}, as loss={loss!r} needs")
    return found


def check_teacher(examples: pd.DataFrame, loss: str) -> None:
    """Checks that each example has a teacher's score.

    Raises:
        ValueError: one has none; the error names its qid.
    """
    if "score" not in examples:
        raise ValueError(
            f"loss={loss!r} learns from a teacher's scores, and the examples have no column "
            f"'score': let another reranker score them, as in student.fit(teacher(examples))"
        )
    scores = pd.to_numeric(examples["score"], errors="coerce")
    bad = examples[~scores.abs().lt(float("inf"))]
    if len(bad):
        qid, docno, score = bad.iloc[0][["qid", "docno", "score"]]
        raise ValueError(
            f"loss={loss!r} learns from a teacher's scores, and that of qid {qid!r}, docno "
            f"{docno!r} is {score}: score all examples with one teacher, or drop such rows"
        )


def objective(loss: str, temperature: float = 1.0) -> Callable[..., torch.Tensor]:
    """The loss of a batch of lists, as a function of ``scores`` and ``targets``."""
    if loss == DISTILLATION:
        return lambda scores, targets: distillation(scores, targets, temperature)
    return {"pairwise": pairwise, "listwise": listwise, "margin_mse": margin_mse}[loss]


def pairwise(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """RankNet's log(1 + exp(negative - positive)), the mean of the pairs (Burges et al. 2005)."""
    return _mean_of_pairs((scores[:, 1:] - scores[:, :1]).logaddexp(scores.new_zeros(())), targets)


def listwise(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of the softmax over a positive and its negatives, the mean of the lists.

    Zhuang et al. 2022, "RankT5", arXiv 2210.10634, section 4.2.
    """
    scores = scores.masked_fill(targets.isnan(), -float("inf"))
    return -scores.log_softmax(dim=1)[:, 0].mean()


def margin_mse(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Squared error of the margin, positive - negative, to the teacher's; the mean of the pairs.

    Hofstätter et al. 2020, arXiv 2010.02666, section 3.2.
    """
    margins, wanted = scores[:, :1] - scores[:, 1:], targets[:, :1] - targets[:, 1:]
    return _mean_of_pairs((margins - wanted.nan_to_num()).square(), targets)


def distillation(
    scores: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """The Kullback-Leibler divergence of the student's softmax from the teacher's, mean of lists.

    Both scores are divided by the temperature, and the loss multiplied by its square, which keeps
    the size of the gradients (Hinton et al. 2015, arXiv 1503.02531, section 2).
    """
    absent = targets.isnan()
    student, teacher = (
        (values / temperature).masked_fill(absent, -float("inf")).log_softmax(dim=1)
        for values in (scores, targets)
    )
    terms = teacher.exp() * (teacher - student).masked_fill(absent, 0.0)
    return terms.sum(dim=1).mean() * temperature**2


def _mean_of_pairs(terms: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean of the terms, (lists, longest - 1), that stand for a negative."""
    absent = targets[:, 1:].isnan()
    return terms.masked_fill(absent, 0.0).sum() / (~absent).sum()


def padded(targets: list[list[float]]) -> torch.Tensor:
    """The lists as the rows of a float32 tensor, padded with NaN."""
    import torch

    width = max(map(len, targets))
    return torch.tensor([row + [float("nan")] * (width - len(row)) for row in targets])


def spread(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The scores of the lists' documents, one list after the other, in the shape of ``targets``."""
    present = ~targets.isnan()
    place = present.flatten().long().cumsum(0).sub(1).view_as(targets)
    return scores[place]


def as_module(
    network: Any,
    score: Callable[[Any, Any, torch.Tensor], torch.Tensor],
    loss: Callable[..., torch.Tensor],
) -> torch.nn.Module:
    """An objective as sentence-transformers' trainers take a loss.

    Args:
        network: the network to train; the trainer puts its wrapped one in its place.
        score: gives the scores, (lists, longest list), of a network, the batch and its targets.
        loss: what ``objective`` returns.
    """
    import torch

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network

        def forward(self, inputs: Any, labels: Any, **_: Any) -> torch.Tensor:
            if not isinstance(labels, torch.Tensor):  # lists of different lengths
                labels = padded([row.tolist() for row in labels])
            labels = labels.to(network.device)
            return loss(score(self.model, inputs, labels).float(), labels)

    return Loss()


def by_length(
    dataset: Any, batch_size: int, drop_last: bool, generator: Any = None, **_: Any
) -> Any:
    """Batches of lists or pairs of like length, for sentence-transformers' ``batch_sampler``."""
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from transformers.trainer_pt_utils import LengthGroupedSampler

    texts = [[text] if isinstance(text, str) else text for text in dataset[:]["texts"]]
    lengths = [len(q) + max(map(len, t)) for q, t in zip(dataset[:]["query"], texts, strict=True)]
    order = LengthGroupedSampler(batch_size, lengths=lengths, generator=generator)
    return DefaultBatchSampler(order, batch_size=batch_size, drop_last=drop_last)
