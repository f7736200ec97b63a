"""Fusion of the scores of a first stage and several rerankers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyterrier as pt
from ir_measures import Measure, nDCG

from pyterrier_inpars._arguments import finite
from pyterrier_inpars._measures import as_measure
from pyterrier_inpars._retrieval import applied, check_retriever
from pyterrier_inpars._scores import z_scores
from pyterrier_inpars._stage import (
    Stage,
    as_finite_numbers,
    check_columns,
    check_strings,
    with_columns,
)
from pyterrier_inpars.queries.artifact import SyntheticQueries
from pyterrier_inpars.queries.topics import topics_and_qrels
from pyterrier_inpars.rerankers._weight_search import search_weights
from pyterrier_inpars.rerankers._wrapper import required_by, scored
from pyterrier_inpars.training.examples import are_relevant, graded_qrels

_KEYS = ["qid", "docno"]


class ScoreFusion(Stage, pt.Estimator):
    """Reranks by score fusion: a weighted sum of z-scored first-stage and reranker scores.

    The scores of each are standardized to mean 0 and standard deviation 1 (z-score) over the
    documents of a query, which makes their scales comparable. If all scores of a query are equal,
    their z-scores are 0::

        bm25 % 100 >> text >> ScoreFusion(BiEncoder(model))
        bm25 % 100 >> text >> ScoreFusion([BiEncoder(model), monot5], weights=(1, 2, 1))

    Weights can be set by labels, with `fit`, or by synthetic queries, with `tune`::

        (bm25 % 100 >> text >> fusion).fit(topics, qrels)
        fusion.tune(queries, bm25 % 100 >> text)

    ``pt.GridScan`` can vary ``weights``, too. A reranker whose weight is 0 is not applied.

    Requires the columns ``qid``, ``docno``, ``score`` (number) and those of the rerankers. Each
    ``docno`` may occur once per ``qid``. Returns the columns and the row order of the first
    reranker, with new ``score`` and ``rank``.

    Args:
        rerankers: Transformer that scores results, or a pipeline that ends with one; or a list of
            them, each of which gets the results of the first stage. Documents that one of them
            drops are missing from the output, too.
        weights: Weights of the first-stage score and of each reranker's score. ``None``: 1 for
            each.

    Attributes:
        rerankers: List of the rerankers.
        weights: Weights of the first-stage score and of each reranker's score.
        tuning: Weights that `fit` or `tune` tried, best first: a frame with ``weights``, their
            value of the measure, and ``components``, the number of weights above 0; or ``None``.

    Raises:
        TypeError: A reranker is not a transformer.
        ValueError: There are no rerankers, the weights are not one finite number for the first
            stage and one for each reranker, a score is not a finite number, or a document occurs
            twice for a query.
    """

    schematic = {"label": "ScoreFusion", "help_url": None}

    def __init__(
        self,
        rerankers: pt.Transformer | Sequence[pt.Transformer],
        weights: Sequence[float] | None = None,
    ):
        self._rerankers: list[pt.Transformer] = []
        self._weights: tuple[float, ...] | None = None
        self.rerankers = rerankers  # type: ignore[assignment]
        self.weights = weights  # type: ignore[assignment]
        self.tuning: pd.DataFrame | None = None

    # pt.GridScan sets attributes: setters check them as the constructor does.
    @property
    def rerankers(self) -> list[pt.Transformer]:
        """List of the rerankers."""
        return self._rerankers

    @rerankers.setter
    def rerankers(self, rerankers: pt.Transformer | Sequence[pt.Transformer]) -> None:
        listed = [rerankers] if isinstance(rerankers, pt.Transformer) else list(rerankers)
        if not listed:
            raise ValueError("rerankers is empty: give one transformer or more")
        for reranker in listed:
            if not isinstance(reranker, pt.Transformer):
                raise TypeError(
                    f"a reranker must be a PyTerrier transformer, not {reranker!r:.200}"
                )
        self._rerankers = listed

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of the first-stage score and of each reranker's score."""
        return (1.0,) * (len(self.rerankers) + 1) if self._weights is None else self._weights

    @weights.setter
    def weights(self, weights: Sequence[float] | None) -> None:
        if weights is not None:
            if not isinstance(weights, list | tuple | np.ndarray):
                raise self._wrong_weights(weights)
            weights = tuple(finite("weights", weight) for weight in weights)
            if len(weights) != len(self.rerankers) + 1:
                raise self._wrong_weights(weights)
        self._weights = weights

    def _wrong_weights(self, weights: object) -> ValueError:
        return ValueError(
            f"weights must be {len(self.rerankers) + 1} numbers, one for the first stage and one "
            f"for each reranker, not {weights!r:.200}"
        )

    def _required_columns(self) -> list[str]:
        needed = [column for reranker in self.rerankers for column in required_by(reranker)]
        return with_columns((*_KEYS, "score"), *needed)

    def _output_columns(self, columns: list[str]) -> list[str]:
        if used := self._used():
            return scored(self.rerankers[used[0]], columns)
        return with_columns([c for c in columns if c not in ("score", "rank")], "score", "rank")

    def _used(self) -> list[int]:
        """Returns the numbers of the rerankers whose weight is not 0."""
        return [n for n, weight in enumerate(self.weights[1:]) if weight]

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        if len(self.weights) != len(self.rerankers) + 1:  # the rerankers were replaced
            raise self._wrong_weights(self.weights)
        used = self._used()
        out, scores = self._scores(inp, used)
        weights = [self.weights[0], *(self.weights[1 + n] for n in used)]
        out = out.drop(columns=["score", "rank"], errors="ignore")
        return pt.model.add_ranks(out.assign(score=scores @ np.array(weights)))

    def _scores(self, inp: pd.DataFrame, used: Sequence[int]) -> tuple[pd.DataFrame, np.ndarray]:
        """Scores results by the first stage and by some of the rerankers.

        Returns:
            The rows of the first of these rerankers, and an array with one row for each of them and
            one column of z-scores for the first stage and for each of these rerankers.
        """
        check_strings(inp, *_KEYS)
        if (duplicate := inp.duplicated(_KEYS)).any():
            qid, docno = inp.loc[duplicate.idxmax(), _KEYS]
            raise ValueError(f"duplicate docno {docno!r} for qid {qid!r}: drop one of the rows")
        outputs = [applied(self.rerankers[n], inp).reset_index(drop=True) for n in used]
        out, *_ = [*outputs, inp]
        table = out[_KEYS]
        for number, results in enumerate([inp, *outputs]):
            found = z_scores(as_finite_numbers(results, "score"), results["qid"])
            scores = results[_KEYS].assign(**{str(number): found})
            table = table.merge(scores, on=_KEYS, how="left", validate="one_to_one")
        kept = table.notna().all(axis=1)
        scores = table[kept].drop(columns=_KEYS).to_numpy(float)
        return out[kept].reset_index(drop=True), scores

    def fit(
        self,
        results: pd.DataFrame,
        qrels: pd.DataFrame,
        validation: pd.DataFrame | None = None,
        validation_qrels: pd.DataFrame | None = None,
        *,
        measure: Measure | str = nDCG @ 10,
    ) -> ScoreFusion:
        """Sets the weights that rank labelled results best, alone or as a pipeline's last stage.

        Each reranker scores the results once. Then all weights that sum to 1 on a grid are tried,
        and equal weights. The grid has steps of 0.1, or wider ones with more than four scores or
        many queries, so that the search takes seconds. Of equally good weights, those with the
        fewest scores are taken.

        Args:
            results: Frame ``qid, docno, score`` and the columns of the rerankers.
            qrels: Frame ``qid, docno, label``.
            validation: Not used; for the signature of ``pt.Estimator``.
            validation_qrels: Not used.
            measure: Measure of ``ir_measures`` to maximize.

        Returns:
            This fusion; ``tuning`` has the value of all weights.

        Raises:
            TypeError: ``measure`` is not a measure.
            pt.validate.InputValidationError: A column is missing.
            ValueError: There are no results, the qrels judge none of their queries or none of them
                relevant, a label is not a whole number, or the measure lacks its cutoff.
        """
        check_columns(results, *self._required_columns(), context=self)
        measure = as_measure(measure)
        if qrels is None:
            raise ValueError(
                "fit needs qrels (qid, docno, label); without labels, use "
                "tune(queries, candidates) with synthetic queries"
            )
        qrels = graded_qrels(qrels)
        rows = results[results["qid"].isin(qrels["qid"])].reset_index(drop=True)
        if len(rows) == 0:
            raise ValueError(
                f"the qrels judge none of the queries of the {len(results):,} results: their qids "
                "must be those of the results"
            )
        if not are_relevant(rows, qrels).any():
            raise ValueError(
                f"none of the {len(rows):,} results is relevant by the qrels, so all weights are "
                f"equally good: the docnos of the qrels, such as {qrels['docno'].iloc[0]!r}, must "
                "be those of the index"
            )
        out, scores = self._scores(rows, range(len(self.rerankers)))
        self.tuning = search_weights(out[_KEYS], scores, qrels, measure)
        self.weights = self.tuning["weights"].iloc[0]
        return self

    def tune(
        self,
        queries: SyntheticQueries | pd.DataFrame,
        candidates: pt.Transformer,
        measure: Measure | str = nDCG @ 10,
        *,
        qrels: pd.DataFrame | None = None,
    ) -> ScoreFusion:
        """Sets the weights that rank the source documents of synthetic queries best; see `fit`.

        Synthetic queries repeat words of their documents and so favor the weight of a lexical first
        stage: keep such queries out (`OverlapFilter`), and use other queries than those that the
        rerankers were trained on (`evaluation.split`).

        Args:
            queries: Synthetic queries, as `SyntheticQueries` or a frame ``qid, query, docno``.
            candidates: The pipeline before the fusion, such as ``bm25 % 100 >> text``.
            measure: Measure of ``ir_measures`` to maximize.
            qrels: Frame ``qid, docno, label`` that replaces the source documents, such as
                `evaluation.similar_qrels`.

        Returns:
            This fusion; ``tuning`` has the value of all weights.

        Raises:
            TypeError: ``candidates`` is not a transformer, or ``measure`` not a measure.
            pt.validate.InputValidationError: A column is missing.
            ValueError: There are no queries, or the candidates are none.
        """
        check_retriever(candidates)
        topics, sources = topics_and_qrels(queries)
        results = applied(candidates, topics[["qid", "query"]])
        return self.fit(results, sources if qrels is None else qrels, measure=measure)
