"""Filters of synthetic queries: each keeps rows as they are, in their order, or drops them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars._retrieval import check_retriever, clean, fold, retrieve
from pyterrier_inpars._stage import Stage, as_numbers, check_strings, finite, positive_int


class Filter(Stage):
    """A stage that keeps or drops each synthetic query, and leaves those it keeps as they are.

    Attributes:
        seen: Queries this filter was given since it was made.
        dropped: Queries it dropped of those.
    """

    def __init__(self):
        self.seen = 0
        self.dropped = 0

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        """Tells for each row of a validated frame whether to keep it: an array of bool."""
        raise NotImplementedError

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Keeps the rows that ``keeps`` tells to keep, and counts."""
        kept = inp[self._keep(inp)].reset_index(drop=True)
        self.seen += len(inp)
        self.dropped += len(inp) - len(kept)
        return kept


class WholeSetFilter(Filter):
    """A filter that compares all queries of a set, and so cannot be applied to a stream."""

    def transform_iter(self, inp: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Refuses a stream, of which it would see one batch at a time; none in gives none out.

        Raises:
            ValueError: there is a record; the error says what to write instead.
        """
        if next(iter(inp), None) is None:
            return []
        raise ValueError(
            f"{self!r} compares all queries, but sees a stream one batch at a time: "
            f"store the queries first, then write {self!r}(queries.get_results())"
        )


class ScoreFilter(WholeSetFilter):
    """Keeps the ``k`` best queries of the set by ``score`` (InPars, arXiv 2202.05144, section 3).

    The score is the mean token log-probability that the generator gave, or what a reranker made of
    it: ``reranker >> ScoreFilter(k)``. Of equal scores the lower ``qid`` wins.

    Needs ``qid`` (str) and ``score`` (number).

    Args:
        k: Queries to keep.

    Raises:
        ValueError: ``k`` is no whole number above 0; a score is not a number, the error names the
            qid.
    """

    schematic = {"label": "ScoreFilter", "help_url": None}

    def __init__(self, k: int):
        super().__init__()
        self.k = positive_int("k", k)

    def _required_columns(self) -> list[str]:
        return ["qid", "score"]

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "qid")
        qids, scores = list(inp["qid"]), as_numbers(inp, "score")
        kept = np.zeros(len(inp), dtype=bool)
        kept[sorted(range(len(inp)), key=lambda row: (-scores[row], qids[row]))[: self.k]] = True
        return kept


class LengthFilter(Filter):
    """Keeps queries whose length is within limits: in words between white space, or in tokens.

    Needs ``query`` (str), and ``log_probs`` (list of float, one a generated token) where a limit in
    tokens is set, which is what the InPars Toolkit counts.

    Args:
        min_words: Fewest words of a query kept.
        max_words: Most words of a query kept; None sets no limit.
        min_tokens: Fewest generated tokens of a query kept; None sets no limit.
        max_tokens: Most generated tokens of a query kept; None sets no limit.

    Raises:
        ValueError: a limit is below 0, or a maximum below its minimum; a query is no string, or has
            no ``log_probs`` to count.
    """

    schematic = {"label": "LengthFilter", "help_url": None}

    def __init__(
        self,
        min_words: int = 3,
        max_words: int | None = None,
        *,
        min_tokens: int | None = None,
        max_tokens: int | None = None,
    ):
        super().__init__()
        self.min_words = positive_int("min_words", min_words, least=0)
        self.max_words = max_words
        self.min_tokens = min_tokens
        self.max_tokens = max_tokens
        if max_words is not None:
            positive_int("max_words", max_words, least=min_words)
        if min_tokens is not None:
            positive_int("min_tokens", min_tokens, least=0)
        if max_tokens is not None:
            positive_int("max_tokens", max_tokens, least=min_tokens or 0)

    def _required_columns(self) -> list[str]:
        in_tokens = (self.min_tokens, self.max_tokens) != (None, None)
        return ["query"] + ["log_probs"] * in_tokens

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "query")
        words = inp["query"].map(lambda query: len(query.split()))
        kept = _within(words, self.min_words, self.max_words)
        if "log_probs" in self._required_columns():
            lists = inp["log_probs"].map(lambda value: isinstance(value, list | tuple | np.ndarray))
            if not lists.all():
                row = inp[~lists].iloc[0]
                raise ValueError(
                    f"log_probs must be a list, but is {row['log_probs']!r} for the query "
                    f"{row['query']!r}: count words instead, with min_words and max_words"
                )
            kept = kept & _within(inp["log_probs"].map(len), self.min_tokens, self.max_tokens)
        return kept


def _within(counts: pd.Series, least: int | None, most: int | None) -> np.ndarray:
    return counts.between(least or 0, np.inf if most is None else most).to_numpy()


class CopyFilter(Filter):
    """Drops queries copied from their document: its words hold the query's words in one run.

    Case, punctuation and white space make no difference. A query of one word that the document
    holds is a copy too; a query without a word is none. In scripts that put no space between words
    only a run between two punctuation marks is seen.

    Needs ``query`` and ``text`` (both str).

    Args:
        text_field: Column that holds the document's text.

    Raises:
        ValueError: a query or text is no string.
    """

    schematic = {"label": "CopyFilter", "help_url": None}

    def __init__(self, *, text_field: str = "text"):
        super().__init__()
        self.text_field = text_field

    def _required_columns(self) -> list[str]:
        return ["query", self.text_field]

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "query", self.text_field)
        pairs = zip(inp["query"].map(clean), inp[self.text_field].map(clean), strict=True)
        return np.array([not query or f" {query} " not in f" {text} " for query, text in pairs])


class DuplicateFilter(WholeSetFilter):
    """Keeps the first in the frame of queries that differ in case or white space alone.

    Needs ``query`` (str).

    Raises:
        ValueError: a query is no string.
    """

    schematic = {"label": "DuplicateFilter", "help_url": None}

    def _required_columns(self) -> list[str]:
        return ["query"]

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "query")
        return ~inp["query"].map(fold).duplicated().to_numpy()


class RoundTripFilter(Filter):
    """Keeps a query if the retriever brings its own document back in the top ``k``.

    This is the round-trip consistency of Promptagator (arXiv 2209.11755, section 3), whose
    retriever is one trained on the unfiltered queries; any will do. The document counts by its
    ``docno``: another with the same text does not, and takes one of the ``k`` places. A query
    without a word is dropped.

    Needs ``qid`` (str, each once), ``query`` and ``docno`` (both str).

    Args:
        retriever: Any PyTerrier retriever; see :func:`~pyterrier_inpars._retrieval.retrieve`.
        k: Number of documents in which the query's own must be.

    Raises:
        TypeError: the retriever is no transformer.
        ValueError: ``k`` is no whole number above 0; a qid stands twice; the retriever's results
            lack a column.
    """

    schematic = {"label": "RoundTripFilter", "help_url": None}

    def __init__(self, retriever: pt.Transformer, k: int = 1):
        super().__init__()
        self.retriever = check_retriever(retriever)
        self.k = positive_int("k", k)

    def _required_columns(self) -> list[str]:
        return ["qid", "query", "docno"]

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "qid", "docno")
        source = dict(zip(inp["qid"], inp["docno"], strict=True))
        found = retrieve(self.retriever, inp, self.k)
        return (
            inp["qid"].isin([qid for qid, hits in found if source[qid] in hits["docno"]]).to_numpy()
        )


class FalseNegativeFilter(Filter):
    """Drops negatives that a teacher holds for about as relevant as the positive.

    Documents that are mined as negatives often answer the query. A negative stays if its score is
    below the positive's by more than ``margin``: TopK-MarginPos of arXiv 2407.15831, with a
    reranker's scores as the teacher's, as GPL has them (arXiv 2112.07577, section 3)::

        NegativeMiner(bm25, num_negatives=8) >> teacher >> FalseNegativeFilter()

    The margin is a difference, not a share of the positive's score, which would have the wrong
    sign where scores are log-probabilities. Of several positives of a query the lowest score
    counts. A query left without negatives is dropped, its positives with it.

    Needs ``qid``, ``label`` (0 for a negative) and ``score`` (number). Rows are kept as they are,
    in their order; ``score`` can serve as a soft label.

    Args:
        margin: By how much a negative's score must be below the positive's, in the teacher's units.

    Attributes:
        seen: Examples this filter was given since it was made.
        dropped: Examples it dropped of those.

    Raises:
        ValueError: the margin, a label or a score is not a number, or a qid no string; a query's
            positive is not there, which the error tells by its qid.
    """

    schematic = {"label": "FalseNegativeFilter", "help_url": None}

    def __init__(self, margin: float = 0.0):
        super().__init__()
        self.margin = finite("margin", margin)

    def _required_columns(self) -> list[str]:
        return ["qid", "label", "score"]

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "qid")
        scores, positive = as_numbers(inp, "score"), as_numbers(inp, "label") != 0
        lowest = pd.Series(scores[positive]).groupby(inp["qid"].to_numpy()[positive]).min()
        least = inp["qid"].map(lowest).to_numpy(float)
        if (alone := np.isnan(least)).any():
            raise ValueError(
                f"qid {inp['qid'].iloc[alone.argmax()]!r} has no positive (label 1) to compare its "
                f"negatives with: give all examples of a query in one frame"
            )
        low = ~positive & (scores < least - self.margin)
        return low | (positive & inp["qid"].isin(inp["qid"][low]).to_numpy())
