"""Agreement of a judge with human qrels."""

from __future__ import annotations

import html
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pyterrier_inpars._stage import as_numbers, check_columns, check_strings
from pyterrier_inpars.training.examples import check_qrels


@dataclass(frozen=True, repr=False)
class JudgeAgreement:
    """Result of `judge_agreement`.

    Attributes:
        kappa: Cohen's kappa of the labels: 1 for equal labels, 0 for the agreement of chance.
        weighted_kappa: Cohen's kappa with quadratic weights: a difference of two grades counts four
            times as much as one.
        binary_kappa: Cohen's kappa of relevant against not relevant.
        accuracy: Share of the pairs with equal labels.
        confusion: Number of pairs by human label (rows) and judge's label (columns).
        pairs: Number of pairs that both judged.
    """

    kappa: float
    weighted_kappa: float
    binary_kappa: float
    accuracy: float
    confusion: pd.DataFrame
    pairs: int

    def __repr__(self) -> str:
        return f"{self._summary()}\n{self.confusion}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self._summary())}</p>{self.confusion.to_html()}"

    def _summary(self) -> str:
        return (
            f"{self.pairs:,} pairs: kappa {self.kappa:.3f}, quadratic weights "
            f"{self.weighted_kappa:.3f}, binary {self.binary_kappa:.3f}; equal labels "
            f"{self.accuracy:.1%}"
        )


def judge_agreement(
    judged: pd.DataFrame,
    qrels: pd.DataFrame,
    *,
    relevance_threshold: int = 1,
    judge_threshold: int | None = None,
) -> JudgeAgreement:
    """Compares the labels of a judge with human qrels, by Cohen's kappa (Cohen 1960).

    Kappa needs pairs with several human labels: if all have the same one, it is 0 whatever the
    judge does, or 1 if all labels of the judge are the same, too. So is binary kappa if all pairs
    are relevant, as those of qrels of relevant documents alone. A warning says so: then judge other
    documents beside them, of which some are not relevant.

    Pairs that only one of the two judged are left out::

        judged = RelevanceJudge(model).qrels(text(qrels.merge(topics)))
        evaluation.judge_agreement(judged, qrels)

    Args:
        judged: Frame ``qid, docno, label``, or with ``grade`` in place of the label, as
            `RelevanceJudge` returns it.
        qrels: Human qrels ``qid, docno, label``.
        relevance_threshold: Lowest human label that counts as relevant.
        judge_threshold: Lowest label of the judge that counts as relevant; None for the same. A
            judge with another scale than the qrels needs one of its own.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: No pair is judged by both, a pair is judged twice, or a label is not a whole
            number.
    """
    from sklearn.metrics import cohen_kappa_score

    column = "grade" if "grade" in judged and "label" not in judged else "label"
    check_columns(judged, "qid", "docno", column)
    check_strings(judged, "qid", "docno")
    check_qrels(qrels)
    pairs = judged[["qid", "docno"]].assign(judge=as_numbers(judged, column))
    if (twice := pairs.duplicated(["qid", "docno"])).any():
        row = pairs[twice].iloc[0]
        raise ValueError(
            f"docno {row['docno']!r} is judged twice for qid {row['qid']!r}: drop one of the rows"
        )
    human = qrels[["qid", "docno"]].assign(human=as_numbers(qrels, "label")).drop_duplicates()
    both = pairs.merge(human, on=["qid", "docno"], validate="one_to_one")
    if both.empty:
        raise ValueError("no pair is judged by both: qids and docnos must be those of the qrels")
    for side in ("judge", "human"):
        if (graded := both[side] % 1 != 0).any():
            row = both[graded].iloc[0]
            raise ValueError(
                f"labels must be whole numbers, but that of the {side} is {row[side]} at qid "
                f"{row['qid']!r}, docno {row['docno']!r}: round it to a grade"
            )
    both = both.astype({"judge": int, "human": int})
    _warn_if_uninformative(both, relevance_threshold, judge_threshold)
    labels = sorted({*both["judge"], *both["human"]})
    relevant = (
        both["human"] >= relevance_threshold,
        both["judge"] >= (relevance_threshold if judge_threshold is None else judge_threshold),
    )

    def kappa(a: pd.Series, b: pd.Series, **options: str) -> float:
        if len({*a, *b}) == 1:  # all labels are equal, for which sklearn divides 0 by 0
            return 1.0
        # All grades in between, since weights are by position in the list of labels.
        grades = list(range(min(*a, *b), max(*a, *b) + 1))
        return float(cohen_kappa_score(a, b, labels=grades, **options))

    return JudgeAgreement(
        kappa=kappa(both["human"], both["judge"]),
        weighted_kappa=kappa(both["human"], both["judge"], weights="quadratic"),
        binary_kappa=kappa(*(side.astype(int) for side in relevant)),
        accuracy=float(np.mean(both["human"] == both["judge"])),
        confusion=pd.crosstab(both["human"], both["judge"]).reindex(
            index=labels, columns=labels, fill_value=0
        ),
        pairs=len(both),
    )


def _warn_if_uninformative(
    both: pd.DataFrame, relevance_threshold: int, judge_threshold: int | None
) -> None:
    """Warns if a kappa does not depend on the judge, or depends on its scale alone."""
    relevant = both["human"] >= relevance_threshold
    highest = both["judge"].max()
    if relevant.nunique() == 1:
        equal, kappas = both["human"].nunique() == 1, "kappa"
        if equal:
            shown = f"have the label {both['human'].iloc[0]} in the qrels"
        else:
            shown, kappas = f"are {'' if relevant.iloc[0] else 'not '}relevant", "binary kappa"
        warnings.warn(
            f"all {len(both):,} pairs {shown}, so that {kappas} does not measure the judge: judge "
            "pairs with other labels, too",
            stacklevel=3,
        )
    if judge_threshold is None and relevance_threshold > 1 and highest < relevance_threshold:
        warnings.warn(
            f"the judge's highest label is {highest}, below relevance_threshold="
            f"{relevance_threshold}, so that binary kappa counts none of its labels as relevant: "
            "give judge_threshold=, the lowest label of a relevant document in its scale",
            stacklevel=3,
        )
