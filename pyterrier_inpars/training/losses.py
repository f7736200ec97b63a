"""Ranking losses, as pure functions of the scores of each query's documents.

A list is a query with some of its documents. For a batch of lists, ``scores`` and ``targets`` are
float tensors of shape (lists, longest list). Shorter lists are padded: there ``targets`` is NaN and
``scores`` is any finite number. ``targets`` are labels (1 for the positive, 0 for negatives) or the
scores of a teacher. ``pairwise``, ``listwise`` and ``margin_mse`` expect the positive first. Shapes
do not depend on values, because an XLA device would compile a program for each shape.

Which loss for which data:

=================  ==================================================  ============================
loss               examples                                            minimizes
=================  ==================================================  ============================
``pointwise``      pairs with labels                                   error of each label by itself
``pairwise``       positives and negatives of a qid                    wrongly ordered pairs
``listwise``       positives and negatives of a qid                    rank of the positive
``lambda_loss``    positives and negatives of a qid                    a bound of 1 - nDCG
``margin_mse``     the same, with the scores of a teacher              error of the score margin
``distillation``   any documents of a qid, with the scores of a        difference between the score
                   teacher; labels are not needed                      distributions
``adr_mse``        the same                                            error of the ranks
=================  ==================================================  ============================

``pointwise`` repeats the positives to the number of the negatives (``examples.balanced``).
A bi-encoder has ``in_batch`` instead of the first four, which needs positives only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

POINTWISE = "pointwise"
DISTILLATION = "distillation"
UNLABELLED = (DISTILLATION, "adr_mse")
"""Losses that learn from all documents of a query and read no labels."""
FROM_TEACHER = ("margin_mse", *UNLABELLED)
"""Losses that learn from the scores of a teacher."""
LOSSES = (POINTWISE, "pairwise", "listwise", "lambda_loss", *FROM_TEACHER)
"""Losses of rerankers that read query and document together."""
IN_BATCH = "in_batch"
"""Loss of bi-encoders over the documents of a batch."""
ALIASES = {"binary": POINTWISE}
"""Other names of losses."""


def list_loss(
    loss: str, temperature: float = 1.0, teacher_temperature: float | None = None
) -> Callable[..., torch.Tensor]:
    """Returns a loss over lists by its name, as a function of ``scores`` and ``targets``.

    Args:
        loss: One of ``LOSSES`` except ``"pointwise"``.
        temperature: Temperature of ``"distillation"``.
        teacher_temperature: Temperature of the teacher in ``"distillation"``; ``None`` for the
            same.
    """
    if loss == DISTILLATION:
        return partial(
            distillation, temperature=temperature, teacher_temperature=teacher_temperature
        )
    return {
        "pairwise": pairwise,
        "listwise": listwise,
        "lambda_loss": lambda_loss,
        "margin_mse": margin_mse,
        "adr_mse": adr_mse,
    }[loss]


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


def lambda_loss(scores: torch.Tensor, targets: torch.Tensor, mu: float = 10.0) -> torch.Tensor:
    """Returns the logistic loss of pairs, weighted by what swapping them changes in nDCG.

    It is NDCG-Loss2++ of LambdaLoss (Wang et al. 2018, "The LambdaLoss Framework for Ranking Metric
    Optimization", section 4.4), in bits: unlike in ``pairwise``, a pair counts for as much as its
    order matters to nDCG.

    Args:
        scores: Scores of the documents, (lists, longest list), in any order.
        targets: Labels of at least 0 in the same order, NaN where a list has no document.
        mu: Weight of NDCG-Loss2, beside the weight of 1 of LambdaRank.

    Returns:
        A scalar, the mean over the pairs of documents with different labels.
    """
    import torch

    absent = targets.isnan()
    gains = (2 ** targets.masked_fill(absent, 0.0)) - 1
    places = torch.arange(1, scores.shape[1] + 1, device=scores.device)
    discount = 1 / torch.log2(places + 1.0)
    best = (gains.sort(dim=1, descending=True)[0] * discount).sum(dim=1, keepdim=True)
    scores, order = scores.masked_fill(absent, -float("inf")).sort(
        dim=1, descending=True, stable=True
    )
    gains = (gains / best.clamp(min=1e-10)).gather(1, order)
    targets = targets.gather(1, order)
    apart = (places[:, None] - places).abs()
    step = (1 / torch.log2(apart.clamp(min=1) + 1.0) - 1 / torch.log2(apart + 2.0)).abs()
    weights = mu * step + (discount[:, None] - discount).abs()
    weights = weights * (gains[:, :, None] - gains[:, None, :]).abs()
    better = targets[:, :, None] > targets[:, None, :]  # False where one is NaN
    margins = (scores[:, :, None] - scores[:, None, :]).masked_fill(~better, 0.0)
    terms = (weights * _bits(margins)).masked_fill(~better, 0.0)
    return terms.sum() / better.sum().clamp(min=1)


def _bits(margins: torch.Tensor) -> torch.Tensor:
    """Returns ``log2(1 + exp(-margin))`` of each margin."""
    return (-margins).logaddexp(margins.new_zeros(())) / math.log(2)


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
    scores: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    teacher_temperature: float | None = None,
) -> torch.Tensor:
    """Returns the Kullback-Leibler divergence of the student's softmax from the teacher's.

    It learns the teacher's whole ranking of each list, and needs no labels. Scores are divided by a
    temperature, and the loss is multiplied by the square of the student's, which keeps the size of
    the gradients (Hinton et al. 2015, arXiv 1503.02531, section 2).

    Args:
        scores: Scores of the documents, (lists, longest list), in any order.
        targets: Scores of the teacher in the same order, NaN where a list has no document.
        temperature: Temperature of both distributions, above 0. A higher one gives more weight to
            the order of low-scored documents.
        teacher_temperature: Temperature of the teacher's distribution, if it is another one.

    Returns:
        A scalar, the mean over lists.
    """
    absent = targets.isnan()
    student, teacher = (
        (values / divisor).masked_fill(absent, -float("inf")).log_softmax(dim=1)
        for values, divisor in (
            (scores, temperature),
            (targets, temperature if teacher_temperature is None else teacher_temperature),
        )
    )
    terms = teacher.exp() * (teacher - student).masked_fill(absent, 0.0)
    return terms.sum(dim=1).mean() * temperature**2


def adr_mse(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the discounted squared error of the student's ranks to the teacher's.

    The student's ranks are approximated by sigmoids, so that they have gradients. It reads the
    order of the teacher's scores and not their size, so it suits a teacher that only ranks, such as
    an LLM. Schlatt et al. 2024, "Rank-DistiLLM", arXiv 2405.07920, section 3.2 (ADR-MSE).

    Args:
        scores: Scores of the documents, (lists, longest list), in any order.
        targets: Scores of the teacher in the same order, NaN where a list has no document. Equal
            scores share the mean of their ranks.

    Returns:
        A scalar, the mean over documents.
    """
    present = ~targets.isnan()
    others = present[:, None, :]
    above = (scores[:, None, :] - scores[:, :, None]).sigmoid() * others
    ranks = 0.5 + above.sum(dim=2)  # each document adds a half to its own rank
    higher = (targets[:, None, :] > targets[:, :, None]).sum(dim=2)
    equal = (targets[:, None, :] == targets[:, :, None]).sum(dim=2)
    wanted = higher + (equal + 1) / 2
    terms = (wanted - ranks).square() / (wanted + 1).log2()
    return terms.masked_fill(~present, 0.0).sum() / present.sum()


def _mean_of_pairs(terms: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the mean of the terms, (lists, longest list - 1), of the negatives present."""
    absent = targets[:, 1:].isnan()
    return terms.masked_fill(absent, 0.0).sum() / (~absent).sum()


def in_batch(
    scores: torch.Tensor,
    place: torch.Tensor,
    targets: torch.Tensor,
    margin: float = 0.4,
    queries: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the softmax cross-entropy of each list's best document in its whole batch (InfoNCE).

    The positive of a list is the document that the teacher scores highest. All other documents of
    the batch are negatives, except suspected positives: documents of the list that the teacher
    scores within a share of the best one (Tamber et al. 2025, "CADET", arXiv 2505.19274, whose code
    leaves out those above 0.6 of the best score).

    Args:
        scores: Scores of all distinct documents of the batch for each query, (lists, documents).
        place: Columns of the documents of each list, (lists, longest list).
        targets: Scores of the teacher in the same order, NaN where a list has no document.
        margin: A document is a suspected positive if its score is above that of the best one less
            this share of its absolute value.
        queries: Number of the query of each list, (lists,): lists of one query leave out each
            other's positives, too. ``None`` if all queries differ.

    Returns:
        A scalar, the mean over lists.
    """
    absent = targets.isnan()
    best, first = targets.masked_fill(absent, -float("inf")).max(dim=1, keepdim=True)
    positive = place.gather(1, first)
    suspected = targets > best - margin * best.abs()  # False where one is NaN
    left_out = scores.new_zeros(scores.shape).scatter_add(1, place, suspected.to(scores)) > 0
    if queries is not None:
        same = (queries[:, None] == queries).to(scores)
        left_out = same @ left_out.scatter(1, positive, True).to(scores) > 0
    in_a_list = scores.new_zeros(scores.shape[1:]).scatter_add(
        0, place.flatten(), (~absent).flatten().to(scores)
    )
    left_out = (left_out | (in_a_list == 0)).scatter(1, positive, False)
    scores = scores.masked_fill(left_out, -float("inf"))
    return -scores.log_softmax(dim=1).gather(1, positive).mean()


def padded(targets: list[list[float]], width: int | None = None) -> torch.Tensor:
    """Returns lists as the rows of a float32 tensor, padded with NaN to the longest or a width."""
    import torch

    width = width or max(map(len, targets))
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
