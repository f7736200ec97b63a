"""Filters for synthetic queries and training examples.

A filter drops rows. The remaining rows are unchanged and keep their order.
"""

from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars._retrieval import check_retriever, clean, fold, retrieve, shared_words
from pyterrier_inpars._similarity import (
    check_encoder,
    check_threshold,
    first_of_each,
    unit_vectors,
)
from pyterrier_inpars._stage import (
    Stage,
    as_numbers,
    check_strings,
    fields_of,
    finite,
    joined_text,
    positive_int,
    warn_if_shallow,
    with_columns,
)


class Filter(Stage):
    """Base class of the filters. It counts the rows it processes.

    The counts accumulate over all calls: a notebook cell that runs twice doubles them, unless it
    also creates the filter. `distributed` adds the counts of its workers.

    Attributes:
        seen: Number of rows processed so far.
        dropped: Number of rows dropped so far.
    """

    text_field: str | list[str] = "text"
    _counters = ("seen", "dropped")
    _optional: tuple[str, ...] = ("score", "log_probs")

    def __init__(self):
        self.seen = 0
        self.dropped = 0

    def transform_inputs(self) -> list[list[str]]:
        """Returns the accepted sets of columns, the whole frame first.

        PyTerrier takes the first set as the input of a pipeline, and later stages may need columns
        that this filter ignores.
        """
        required = self._required_columns()
        fields = fields_of(self.text_field)
        whole = with_columns(("qid", "query", "docno", *fields), *required)
        modes = [with_columns(whole, *self._optional), whole, required]
        return [mode for i, mode in enumerate(modes) if mode not in modes[:i]]

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        """Returns a bool array with one value per row of a validated frame: whether to keep it."""
        raise NotImplementedError

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Drops rows according to ``_keep`` and updates the counts."""
        kept = inp[self._keep(inp)].reset_index(drop=True)
        self.seen += len(inp)
        self.dropped += len(inp) - len(kept)
        return kept


class WholeSetFilter(Filter):
    """Base class of filters that compare all queries with each other.

    Such a filter needs a frame with all queries. It cannot run inside ``pipeline.index(...)``,
    where PyTerrier passes the queries in batches.
    """

    def _whole_frame(self) -> tuple[str, str] | None:
        return "queries", f"store the queries first, then write {self!r}(queries.get_results())"


class ScoreFilter(WholeSetFilter):
    """Keeps the ``k`` queries with the highest ``score``, those above a minimum score, or both.

    The score is the mean log-probability of the generated tokens, as in InPars (arXiv 2202.05144,
    section 3), the score of a reranker, as in InPars-v2 (arXiv 2301.01820), or the grade of a
    judge::

        ScoreFilter(10_000)
        reranker >> ScoreFilter(10_000)
        RelevanceJudge(model) >> ScoreFilter(min_score=2)

    Ties are broken by ascending ``qid``. With ``min_score`` alone, the filter compares no queries
    with each other, and can run inside ``pipeline.index(...)``.

    Requires the columns ``qid`` (str) and ``score`` (number). A language model served without
    log-probabilities gives no ``score``: put a reranker or a judge before the filter.

    Args:
        k: Number of queries to keep; None for no limit.
        min_score: Lowest score of a query that is kept; None for no limit.

    Raises:
        ValueError: ``k`` is not a positive whole number, ``min_score`` or a score is not a number,
            or neither is given.
    """

    schematic = {"label": "ScoreFilter", "help_url": None}

    def __init__(self, k: int | None = None, *, min_score: float | None = None):
        super().__init__()
        # Without min_score, k is needed.
        self.k = None if k is None and min_score is not None else positive_int("k", k)
        self.min_score = None if min_score is None else finite("min_score", min_score)

    def _required_columns(self) -> list[str]:
        return ["qid", "score"]

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Drops rows according to their score; see the class.

        Raises:
            pt.validate.InputValidationError: A column is missing. Without a score, the error says
                what can score queries.
        """
        try:
            return super().transform(inp)
        except pt.validate.InputValidationError as error:
            if not isinstance(inp, pd.DataFrame) or "score" in inp or len(inp) == 0:
                raise
            raise pt.validate.InputValidationError(
                f"{error}. The language model gave no log-probabilities: score the queries first, "
                "such as reranker >> ScoreFilter(k) or RelevanceJudge(model) >> "
                "ScoreFilter(min_score=2)",
                error.modes,
            ) from None

    def _whole_frame(self) -> tuple[str, str] | None:
        return None if self.k is None else super()._whole_frame()

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "qid")
        qids, scores = list(inp["qid"]), as_numbers(inp, "score")
        high = np.ones(len(inp), dtype=bool)
        if self.min_score is not None:
            high = scores >= self.min_score
        kept = np.zeros(len(inp), dtype=bool)
        kept[sorted(np.flatnonzero(high), key=lambda row: (-scores[row], qids[row]))[: self.k]] = (
            True
        )
        return kept


class LengthFilter(Filter):
    """Keeps queries whose length in words or tokens is within limits.

    Words are separated by white space. Tokens are those that the model generated, as in the InPars
    Toolkit.

    Requires the column ``query`` (str), and ``log_probs`` (list of float, one per generated token)
    for limits in tokens.

    Args:
        min_words: Minimum number of words.
        max_words: Maximum number of words, or None for no limit.
        min_tokens: Minimum number of generated tokens, or None for no limit.
        max_tokens: Maximum number of generated tokens, or None for no limit.

    Raises:
        ValueError: A limit is negative, a maximum is below its minimum, a query is not a string,
            or ``log_probs`` is not a list.
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
                    f"{row['query']!r}: set min_words and max_words to count words instead"
                )
            kept = kept & _within(inp["log_probs"].map(len), self.min_tokens, self.max_tokens)
        return kept


def _within(counts: pd.Series, least: int | None, most: int | None) -> np.ndarray:
    return counts.between(least or 0, np.inf if most is None else most).to_numpy()


class CopyFilter(Filter):
    """Drops queries that are copied from their document.

    A query is a copy if its words occur consecutively in the document, ignoring case, punctuation
    and white space. A query of a single word that occurs in the document is a copy; a query without
    words is not. In scripts without spaces between words, such as Chinese, a copy is found only if
    it spans the text between two punctuation marks.

    Requires the columns ``query`` and ``text`` (both str).

    Args:
        text_field: Column with the text of the document, or several, whose texts are joined by
            spaces.

    Raises:
        ValueError: A query or text is not a string.
    """

    schematic = {"label": "CopyFilter", "help_url": None}

    def __init__(self, *, text_field: str | list[str] = "text"):
        super().__init__()
        self.text_field = text_field

    def _required_columns(self) -> list[str]:
        return ["query", *fields_of(self.text_field)]

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "query")
        texts = map(clean, joined_text(inp, self.text_field))
        pairs = zip(inp["query"].map(clean), texts, strict=True)
        return np.array([not query or f" {query} " not in f" {text} " for query, text in pairs])


class OverlapFilter(Filter):
    """Drops queries that share too many words with their document.

    Such queries are easy for a lexical system and favor it in `evaluation.compare`. The overlap is
    the share of the query's distinct words that occur in the document, ignoring case and
    punctuation, as `evaluation.overlap` returns it; a query without words has none. Words are not
    stemmed.

    Requires the columns ``query`` and ``text`` (both str).

    Args:
        max_share: Largest overlap of a query that is kept, from 0 to 1.
        text_field: Column with the text of the document, or several, whose texts are joined by
            spaces.

    Raises:
        ValueError: ``max_share`` is not from 0 to 1, or a query or text is not a string.
    """

    schematic = {"label": "OverlapFilter", "help_url": None}

    def __init__(self, max_share: float, *, text_field: str | list[str] = "text"):
        super().__init__()
        self.max_share = finite("max_share", max_share)
        self.text_field = text_field
        if not 0 <= self.max_share <= 1:
            raise ValueError(f"max_share must be from 0 to 1, such as 0.5, not {max_share!r}")

    def _required_columns(self) -> list[str]:
        return ["query", *fields_of(self.text_field)]

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "query")
        pairs = zip(inp["query"], joined_text(inp, self.text_field), strict=True)
        return np.array([shared_words(query, text) <= self.max_share for query, text in pairs])


class DuplicateFilter(WholeSetFilter):
    """Drops duplicate queries, ignoring case and white space. The first one is kept.

    Requires the column ``query`` (str).

    Raises:
        ValueError: A query is not a string.
    """

    schematic = {"label": "DuplicateFilter", "help_url": None}

    def _required_columns(self) -> list[str]:
        return ["query"]

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "query")
        return ~inp["query"].map(fold).duplicated().to_numpy()


class SemanticDuplicateFilter(WholeSetFilter):
    """Drops near-duplicates by meaning. The first one is kept.

    A text is a near-duplicate if its cosine with a text that is kept is at least ``threshold``.
    With ``field="text"``, queries of near-duplicate documents are dropped; queries of one document
    are kept.

    Requires the columns ``query`` (str), or ``docno`` and ``text`` (both str).

    Args:
        encoder: Object whose ``encode`` returns the vectors of a list of texts, (texts,
            dimensions): a `BiEncoder`, or a model of sentence-transformers.
        threshold: Lowest cosine of near-duplicates, above 0 and at most 1.
        field: ``"query"``, or ``"text"`` for the documents.

    Raises:
        TypeError: The encoder has no method ``encode``.
        ValueError: The threshold or the field is invalid, or a text is not a string.
    """

    schematic = {"label": "SemanticDuplicates", "help_url": None}

    def __init__(self, encoder: Any, threshold: float = 0.9, *, field: str = "query"):
        super().__init__()
        self.encoder = check_encoder(encoder)
        self.threshold = check_threshold(threshold)
        if field not in ("query", "text"):
            raise ValueError(f"field must be 'query' or 'text', not {field!r}")
        self.field = field

    def _required_columns(self) -> list[str]:
        return ["query"] if self.field == "query" else ["docno", "text"]

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, *self._required_columns())
        if self.field == "query":
            return first_of_each(unit_vectors(self.encoder, inp["query"]), self.threshold)
        documents = inp.drop_duplicates("docno")
        kept = first_of_each(unit_vectors(self.encoder, documents["text"]), self.threshold)
        return inp["docno"].isin(documents["docno"][kept]).to_numpy()


class RoundTripFilter(Filter):
    """Keeps queries whose source document is among the top ``k`` results of a retriever.

    This is the round-trip consistency filter of Promptagator (arXiv 2209.11755, section 3), which
    uses a retriever trained on the unfiltered queries. Any retriever works here. Documents are
    compared by ``docno``, so a duplicate of the source document takes one of the ``k`` ranks. A
    query without words is dropped. A retriever that returns fewer than ``k`` documents for every
    query gives a warning, once.

    Requires the columns ``qid`` (str, unique), ``query`` and ``docno`` (both str).

    Args:
        retriever: Any PyTerrier retriever. It gets the queries without punctuation, in lower case.
        k: Rank cutoff.

    Raises:
        TypeError: The retriever is not a transformer.
        ValueError: ``k`` is not a positive whole number, a qid is duplicated, or the results lack a
            column.
    """

    schematic = {"label": "RoundTripFilter", "help_url": None}

    def __init__(self, retriever: pt.Transformer, k: int = 1):
        super().__init__()
        self.retriever = check_retriever(retriever)
        self.k = positive_int("k", k)
        self._warned = False

    def _required_columns(self) -> list[str]:
        return ["qid", "query", "docno"]

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "qid", "docno")
        source = dict(zip(inp["qid"], inp["docno"], strict=True))
        found, deepest = [], 0
        for qid, hits in retrieve(self.retriever, inp, self.k):
            deepest = max(deepest, len(hits["docno"]))
            if source[qid] in hits["docno"]:
                found.append(qid)
        self._warned = self._warned or warn_if_shallow(deepest, "k", self.k)
        return inp["qid"].isin(found).to_numpy()


class FalseNegativeFilter(Filter):
    """Drops likely false negatives: those a teacher scores within ``margin`` of the positive.

    Mined negatives are often relevant. This filter keeps a negative only if its score is lower than
    the score of the positive by more than ``margin``, as TopK-MarginPos of NV-Retriever (arXiv
    2407.15831). The teacher can be any reranker, as in GPL (arXiv 2112.07577, section 3)::

        NegativeMiner(bm25, num_negatives=8) >> teacher >> FalseNegativeFilter()

    The margin is a difference and not a ratio, since a ratio of log-probabilities would have the
    wrong sign. If a query has several positives, their lowest score counts. A query without
    remaining negatives is dropped together with its positives.

    Requires the columns ``qid`` (str), ``label`` (0 for a negative) and ``score`` (number). The
    ``score`` is kept and can serve as a soft label.

    Args:
        margin: Minimum difference between the positive and a negative, in units of the teacher's
            score.

    Attributes:
        seen: Number of examples processed so far.
        dropped: Number of examples dropped so far.

    Raises:
        ValueError: The margin, a label or a score is not a number, a qid is not a string, or a
            query has no positive.
    """

    schematic = {"label": "FalseNegativeFilter", "help_url": None}
    _optional = ()

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
                f"negatives with: pass all examples of a query in one frame"
            )
        low = ~positive & (scores < least - self.margin)
        return low | (positive & inp["qid"].isin(inp["qid"][low]).to_numpy())
