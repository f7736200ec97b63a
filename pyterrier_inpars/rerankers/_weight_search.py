"""Search for the weights of a score fusion."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

import ir_measures
import numpy as np
import pandas as pd
from ir_measures import Measure

from pyterrier_inpars._measures import comparable

MOST = 300
"""Largest number of weights to try."""

MOST_ROWS = 4_000_000
"""Largest number of rows to evaluate, over all weights: a few seconds."""


def weight_grid(number: int, most: int = MOST) -> list[tuple[float, ...]]:
    """Returns all weights of a number of components that sum to 1, and equal ones.

    The step is the smallest of 1/10, 1/5, 1/4, 1/3, 1/2 and 1 that gives at most ``most`` weights.
    """
    parts = next(p for p in (10, 5, 4, 3, 2, 1) if p == 1 or comb(p + number - 1, p) <= most)
    grid = [tuple(part / parts for part in split) for split in _splits(parts, number)]
    equal = (1 / number,) * number
    return grid if equal in grid else [equal, *grid]


def _splits(total: int, number: int) -> Iterator[tuple[int, ...]]:
    """Yields all tuples of ``number`` whole numbers from 0 that sum to ``total``."""
    if number == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _splits(total - first, number - 1):
            yield (first, *rest)


def search_weights(
    pairs: pd.DataFrame, scores: np.ndarray, qrels: pd.DataFrame, measure: Measure
) -> pd.DataFrame:
    """Evaluates the weights of `weight_grid`, fewer of them if there are many rows to evaluate.

    Only the documents down to the cutoff of the measure are evaluated, unless it leaves out
    unjudged documents (``judged_only``), which moves others up.

    Args:
        pairs: Frame ``qid, docno``.
        scores: Scores of the components, one row per pair.
        qrels: Frame ``qid, docno, label``.
        measure: Measure to maximize. It is averaged over the queries of ``pairs``.

    Returns:
        Frame ``weights``, the measure, and ``components`` (number of weights above 0): highest
        value first, then fewest components, then most equal weights.
    """
    # trec_eval ranks the higher docno first where scores are equal, as a stable sort does here.
    order = np.lexsort((pd.factorize(pairs["docno"], sort=True)[0] * -1, pairs["qid"]))
    pairs, scores = pairs.iloc[order], scores[order]
    query = pd.factorize(pairs["qid"])[0]
    qrels = qrels[qrels["qid"].isin(pairs["qid"])]
    names = {"qid": "query_id", "docno": "doc_id", "label": "relevance"}
    evaluator = ir_measures.evaluator([measure], qrels[list(names)].rename(columns=names))
    run = pairs.rename(columns=names)
    place = np.arange(len(query)) - np.searchsorted(query, query)
    whole = measure.params.get("judged_only", False)
    evaluated = place < (len(pairs) if whole else measure.params.get("cutoff", len(pairs)))
    most = int(np.clip(MOST_ROWS // evaluated.sum(), 20, MOST))
    rows = []
    for weights in weight_grid(scores.shape[1], most):
        fused = scores @ np.array(weights)
        top = np.lexsort((-fused, query))[evaluated]
        value = evaluator.calc_aggregate(run.iloc[top].assign(score=fused[top]))[measure]
        rows.append((weights, value, sum(weight > 0 for weight in weights), max(weights)))
    found = pd.DataFrame(rows, columns=["weights", str(measure), "components", "largest"])
    found = found.assign(rounded=comparable(found[str(measure)]))
    found = found.sort_values(
        ["rounded", "components", "largest"], ascending=[False, True, True], kind="stable"
    )
    return found.drop(columns=["rounded", "largest"]).reset_index(drop=True)
