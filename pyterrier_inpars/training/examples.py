"""Training examples: checked, grouped by query, and parted for a validation."""

from __future__ import annotations

import random
from typing import NamedTuple

import pandas as pd

from pyterrier_inpars._stage import check_columns, check_strings


class Group(NamedTuple):
    """A query with one relevant document and the negatives mined for it."""

    query: str
    positive: str
    negatives: list[str]


def groups(examples: pd.DataFrame, text_field: str) -> list[Group]:
    """The training examples by positive: each with all the negatives of its qid, in frame order."""
    relevant = examples["label"] == 1
    negatives: dict[str, list[str]] = {}
    for qid, text in zip(examples["qid"][~relevant], examples[text_field][~relevant], strict=True):
        negatives.setdefault(qid, []).append(text)
    positives = examples[relevant]
    return [
        Group(query, text, negatives.get(qid, []))
        for qid, query, text in zip(
            positives["qid"], positives["query"], positives[text_field], strict=True
        )
    ]


def check_examples(examples: pd.DataFrame, text_field: str, labelled: bool = True) -> None:
    """Checks that the examples have texts, labels 0 and 1 only, and at least one positive.

    Args:
        examples: frame ``query, label`` and the texts, maybe with ids, which must be strings then.
        text_field: column of the texts.
        labelled: whether the labels are read.

    Raises:
        ValueError: they do not; the error says what is wrong.
    """
    if len(examples) == 0:
        raise ValueError(
            "no examples to train on: the frame is empty; a filter may have dropped all"
        )
    check_columns(examples)
    check_strings(examples, *examples.columns.intersection(["qid", "docno"]), "query", text_field)
    if not labelled:
        return
    other = examples["label"][~examples["label"].isin([0, 1])]
    if len(other):
        raise ValueError(f"label must be 1 (relevant) or 0 (negative), not {other.iloc[0]!r}")
    if not (examples["label"] == 1).any():
        raise ValueError("no example has label 1: there is no relevant document to learn from")


def check_negatives(examples: pd.DataFrame) -> None:
    """Checks that at least one example is a negative.

    Raises:
        ValueError: there is none.
    """
    if not (examples["label"] == 0).any():
        raise ValueError("no example has label 0: mine negatives first, as with NegativeMiner")


def hold_out(examples: pd.DataFrame, share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Parts the examples in those to train on and those to validate on, by whole qids.

    Args:
        examples: frame ``qid, ..., label``.
        share: of the qids to validate on, at least one; between 0 and 1.
        seed: decides which.

    Raises:
        ValueError: the share is not between 0 and 1, there is one qid only, or those held out
            have nothing to rank: no negative, or no positive.
    """
    if not 0 < share < 1:
        raise ValueError(f"held_out must be a share between 0 and 1, not {share!r}")
    qids = list(dict.fromkeys(examples["qid"]))
    if len(qids) < 2:
        raise ValueError("held_out needs two queries or more: one to train and one to validate on")
    number = min(max(1, round(share * len(qids))), len(qids) - 1)
    chosen = examples["qid"].isin(random.Random(seed).sample(qids, number))
    held = examples[chosen]
    if held["label"].nunique() < 2:
        raise ValueError(
            "the queries held out for validation have no negatives, or nothing but negatives, so "
            "that any order is right: mine negatives, or give fit(validation=) results to rerank"
        )
    return examples[~chosen], held
