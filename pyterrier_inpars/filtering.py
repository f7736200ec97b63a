"""Filters of synthetic queries: each keeps rows as they are, in their order, or drops them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars.frames import Stage, check_strings, positive_int
from pyterrier_inpars.retrieval import check_retriever, clean, fold, retrieve


class Filter(Stage):
    """A stage that keeps or drops each synthetic query, and leaves those it keeps as they are.

    Attributes:
        seen: Queries this filter was given since it was made.
        dropped: Queries it dropped of those.
    """

    def __init__(self):
        self.seen = 0
        self.dropped = 0

    def keeps(self, inp: pd.DataFrame) -> np.ndarray:
        """Tells for each row of a validated frame whether to keep it: an array of bool."""
        raise NotImplementedError

    def run(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Keeps the rows that ``keeps`` tells to keep, and counts."""
        kept = inp[self.keeps(inp)].reset_index(drop=True)
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

    def needs(self) -> list[str]:
        return ["qid", "score"]

    def keeps(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "qid")
        qids, scores = list(inp["qid"]), inp["score"].to_numpy(float)
        if (nan := np.isnan(scores)).any():
            raise ValueError(
                f"score is not a number at qid {qids[nan.argmax()]!r}: score it or drop the row"
            )
        kept = np.zeros(len(inp), dtype=bool)
        kept[sorted(range(len(inp)), key=lambda row: (-scores[row], qids[row]))[: self.k]] = True
        return kept


class LengthFilter(Filter):
    """Keeps queries of at least ``min_words`` and at most ``max_words`` words between white space.

    Needs ``query`` (str).

    Args:
        min_words: Fewest words of a query kept.
        max_words: Most words of a query kept; None sets no limit.

    Raises:
        ValueError: ``min_words`` is below 0, or ``max_words`` below ``min_words``; a query is no
            string.
    """

    schematic = {"label": "LengthFilter", "help_url": None}

    def __init__(self, min_words: int = 3, max_words: int | None = None):
        super().__init__()
        self.min_words = positive_int("min_words", min_words, least=0)
        self.max_words = max_words
        if max_words is not None:
            positive_int("max_words", max_words, least=min_words)

    def needs(self) -> list[str]:
        return ["query"]

    def keeps(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "query")
        most = float("inf") if self.max_words is None else self.max_words
        words = inp["query"].map(lambda query: len(query.split()))
        return words.between(self.min_words, most).to_numpy()


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

    def needs(self) -> list[str]:
        return ["query", self.text_field]

    def keeps(self, inp: pd.DataFrame) -> np.ndarray:
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

    def needs(self) -> list[str]:
        return ["query"]

    def keeps(self, inp: pd.DataFrame) -> np.ndarray:
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
        retriever: Any PyTerrier retriever; see :func:`~pyterrier_inpars.retrieval.retrieve`.
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

    def needs(self) -> list[str]:
        return ["qid", "query", "docno"]

    def keeps(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "docno")
        source = dict(zip(inp["qid"], inp["docno"], strict=True))
        found = retrieve(self.retriever, inp, self.k)
        return (
            inp["qid"].isin([qid for qid, hits in found if source[qid] in hits["docno"]]).to_numpy()
        )
