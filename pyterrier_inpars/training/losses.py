"""Ranking losses, as pure functions of the scores of each query's documents.

A list is a query with some of its documents. For a batch of lists, ``scores`` and ``targets`` are
float tensors of shape (lists, longest list). Shorter lists are padded: there ``targets`` is NaN and
``scores`` is any finite number. ``targets`` are labels (1 for the positive, 0 for negatives) or the
scores of a teacher. All losses except ``distillation`` expect the positive first. Shapes do not
depend on values, because an XLA device would compile a program for each shape.

Which loss for which data:

=================  ==================================================  ============================
loss               examples                                            minimizes
=================  ==================================================  ============================
``pointwise``      pairs with labels                                   error of each label by itself
``pairwise``       positives and negatives of a qid                    wrongly ordered pairs
``listwise``       positives and negatives of a qid                    rank of the positive
``margin_mse``     the same, with the scores of a teacher              error of the score margin
``distillation``   any documents of a qid, with the scores of a        difference between the score
                   teacher; labels are not needed                      distributions
=================  ==================================================  ============================

``pointwise`` repeats the positives to the number of the negatives (``examples.balanced``).
A bi-encoder has ``in_batch`` instead of the first three, which needs positives only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

POINTWISE = "pointwise"
DISTILLATION = "distillation"
FROM_TEACHER = ("margin_mse", DISTILLATION)
"""Losses that learn from the scores of a teacher."""
LOSSES = (POINTWISE, "pairwise", "listwise", *FROM_TEACHER)
"""Losses of rerankers that read query and document together."""
ALIASES = {"binary": POINTWISE}
"""Other names of losses."""


def list_loss(loss: str, temperature: float = 1.0) -> Callable[..., torch.Tensor]:
    """Returns a loss over lists by its name, as a function of ``scores`` and ``targets``.

    Args:
        loss: ``"pairwise"``, ``"listwise"``, ``"margin_mse"`` or ``"distillation"``.
        temperature: Temperature of ``"distillation"``.
    """
    if loss == DISTILLATION:
        return lambda scores, targets: distillation(scores, targets, temperature)
    return {"pairwise": pairwise, "listwise": listwise, "margin_mse": margin_mse}[loss]


def pairwise(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the logistic loss of the score margin, the mean over pairs (RankNet).

    ``log(1 + exp(negative - positive))`` for each pair of a positive and a negative of its qid. It
    suits few negatives per query: each pair counts alike, however far down the ranking it is.
    Burges et al. 2005, "Learning to Rank using Gradient Descent", section 3.

    Args:
        scores: Scores of the documents, (lists, longest list); the positive is first.
        targets: NaN where a list has no document; other values are not read.

    Returns:
        A scalar.
    """
    margins = scores[:, 1:] - scores[:, :1]
    return _mean_of_pairs(margins.logaddexp(scores.new_zeros(())), targets)


def listwise(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the softmax cross-entropy of the positive among its negatives, the mean over lists.

    It suits many negatives per query: the negatives with the highest scores weigh most.
    Zhuang et al. 2022, "RankT5", arXiv 2210.10634, section 4.2; with one positive per list, also
    ListNet (Cao et al. 2007, section 4) with all probability on the positive.

    Args:
        scores: Scores of the documents, (lists, longest list); the positive is first.
        targets: NaN where a list has no document; other values are not read.

    Returns:
        A scalar.
    """
    scores = scores.masked_fill(targets.isnan(), -float("inf"))
    return -scores.log_softmax(dim=1)[:, 0].mean()


def margin_mse(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the squared error of the margin positive - negative to the teacher's, over pairs.

    It suits a teacher of another architecture: only score differences are learned, on the teacher's
    scale, so that a false negative of the labels does no harm where the teacher scores it high.
    Hofstätter et al. 2020, arXiv 2010.02666, section 3.2.

    Args:
        scores: Scores of the documents, (lists, longest list); the positive is first.
        targets: Scores of the teacher in the same order, NaN where a list has no document.

    Returns:
        A scalar, the mean over pairs.
    """
    margins, wanted = scores[:, :1] - scores[:, 1:], targets[:, :1] - targets[:, 1:]
    return _mean_of_pairs((margins - wanted.nan_to_num()).square(), targets)


def distillation(
    scores: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Returns the Kullback-Leibler divergence of the student's softmax from the teacher's.

    It learns the teacher's whole ranking of each list, and needs no labels. Both scores are divided
    by the temperature, and the loss is multiplied by its square, which keeps the size of the
    gradients (Hinton et al. 2015, arXiv 1503.02531, section 2).

    Args:
        scores: Scores of the documents, (lists, longest list), in any order.
        targets: Scores of the teacher in the same order, NaN where a list has no document.
        temperature: Temperature of both distributions, above 0. A higher one gives more weight to
            the order of low-scored documents.

    Returns:
        A scalar, the mean over lists.
    """
    absent = targets.isnan()
    student, teacher = (
        (values / temperature).masked_fill(absent, -float("inf")).log_softmax(dim=1)
        for values in (scores, targets)
    )
    terms = teacher.exp() * (teacher - student).masked_fill(absent, 0.0)
    return terms.sum(dim=1).mean() * temperature**2


def _mean_of_pairs(terms: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the mean of the terms, (lists, longest list - 1), of the negatives present."""
    absent = targets[:, 1:].isnan()
    return terms.masked_fill(absent, 0.0).sum() / (~absent).sum()


def padded(targets: list[list[float]]) -> torch.Tensor:
    """Returns lists as the rows of a float32 tensor, padded with NaN."""
    import torch

    width = max(map(len, targets))
    return torch.tensor([row + [float("nan")] * (width - len(row)) for row in targets])


def spread(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the scores of concatenated lists in the shape of ``targets``.

    Args:
        scores: Scores of the documents, one list after the other, (documents,).
        targets: Targets of the lists, padded with NaN, (lists, longest list).
    """
    present = ~targets.isnan()
    place = present.flatten().long().cumsum(0).sub(1).view_as(targets)
    return scores[place]
