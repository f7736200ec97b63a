"""Filters for synthetic queries and training examples.

A filter drops rows. The remaining rows are unchanged and keep their order. With ``explain=True``
it keeps all rows, and names in a column the filter that dropped a row. `funnel` counts what the
filters of a pipeline dropped.
"""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars import _html
from pyterrier_inpars._arguments import finite, one_of, positive_int
from pyterrier_inpars._retrieval import (
    check_retriever,
    fold,
    retrieve,
    shared_words,
    warn_if_shallow,
    words_of,
)
from pyterrier_inpars._similarity import (
    check_encoder,
    check_threshold,
    first_of_each,
    unit_vectors,
)
from pyterrier_inpars._stack_level import user_level
from pyterrier_inpars._stage import (
    DROPPED_BY,
    Stage,
    as_numbers,
    check_strings,
    fields_of,
    input_modes,
    joined_text,
    with_columns,
)
from pyterrier_inpars._words import count_words

EXAMPLES = 5
"""Largest number of dropped rows that a filter keeps to show."""
BEGINNING = 120
"""Number of characters of a document that are shown beside a dropped query."""
MANY_WITHOUT_SOURCE = 5
"""Number of queries whose source document a retriever must miss before there is a warning."""


class Filter(Stage):
    """Base class of the filters. It counts the rows it processes.

    The totals accumulate over all calls: a notebook cell that runs twice doubles them, unless it
    also creates the filter. A call is one frame, or one run of ``index()`` into a
    `SyntheticQueries`. `distributed` adds the counts of its workers.

    Args:
        explain: Whether to keep dropped rows: the column ``dropped_by`` has the name of the filter
            that dropped a row (str), and None where none did. Rows that an earlier filter dropped
            pass any filter unchanged, uncounted and uncompared.

    Attributes:
        seen: Number of rows processed so far, without those that earlier filters dropped.
        dropped: Number of rows dropped so far.
        last_seen: Number of rows that the last call processed.
        last_dropped: Number of rows that the last call dropped.
        dropped_examples: First rows that the last call dropped, at most five.
    """

    text_field: str | list[str] = "text"
    _counters = ("seen", "dropped")
    _optional: tuple[str, ...] = ("score", "log_probs")

    def __init__(self, *, explain: bool = False):
        super().__init__()
        if not isinstance(explain, bool):
            raise ValueError(f"explain must be True or False, not {explain!r:.200}")
        self.explain = explain
        self.seen = 0
        self.dropped = 0
        self.dropped_examples = pd.DataFrame()

    @property
    def last_seen(self) -> int:
        """Number of rows that the last call processed."""
        return self._last("seen")

    @property
    def last_dropped(self) -> int:
        """Number of rows that the last call dropped."""
        return self._last("dropped")

    def transform_inputs(self) -> list[list[str]]:
        """Returns the accepted sets of columns, the whole frame first."""
        whole = ["qid", "query", "docno", *fields_of(self.text_field)]
        return input_modes(self._required_columns(), whole, self._optional)

    def _output_columns(self, columns: list[str]) -> list[str]:
        return with_columns(columns, DROPPED_BY) if self.explain else columns

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        """Returns a bool array with one value per row of a validated frame: whether to keep it.

        The frame has at least one row, and none that an earlier filter dropped.
        """
        raise NotImplementedError

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Drops rows according to ``_keep``, or names them, and updates the counts."""
        names = pd.Series(inp.get(DROPPED_BY, [None] * len(inp)), dtype=object)
        rows = inp[names.isna()]
        drop = rows.index[:0]
        if len(rows):
            drop = rows.index[~self._keep(rows.reset_index(drop=True))]
        self.seen += len(rows)
        self.dropped += len(drop)
        self._add_examples(inp.loc[drop])
        if self.explain:
            names[drop] = type(self).__name__
            return inp.assign(**{DROPPED_BY: names})
        return inp.drop(index=drop).reset_index(drop=True)

    def _add_examples(self, dropped: pd.DataFrame) -> None:
        """Keeps the first dropped rows of a call."""
        if room := EXAMPLES - len(self.dropped_examples):
            examples = [self.dropped_examples, dropped[:room]]
            self.dropped_examples = pd.concat([f for f in examples if len(f)] or examples[1:])

    def _begin_call(self) -> None:
        super()._begin_call()
        self.dropped_examples = pd.DataFrame()

    def _last_call(self) -> dict[str, Any]:
        return {**super()._last_call(), "dropped_examples": self.dropped_examples}

    def _add_call(self, added: dict[str, Any]) -> None:
        super()._add_call(added)
        self._add_examples(added["dropped_examples"])

    def _drops(self) -> list[tuple[str, int, int]]:
        return [(type(self).__name__, self.last_seen, self.last_dropped)]

    def _repr_html_(self) -> str:
        """Returns PyTerrier's drawing of the filter, its counts, and rows that it dropped."""
        last, totals = (self.last_seen, self.last_dropped), (self.seen, self.dropped)
        counts = {"last call": _counts(*last)}
        if totals != last:
            counts["all calls"] = _counts(*totals)
        fields = fields_of(self.text_field)
        columns = with_columns(["query"], *fields, "label", "score")
        examples = self.dropped_examples.filter(columns)
        for field in examples.columns.intersection(fields):
            examples[field] = examples[field].map(_beginning)
        card = _html.card(
            repr(self),
            _html.facts(counts if self.seen else {"rows": "none so far"}),
            _html.table(examples, "first rows that it dropped") if len(examples) else "",
        )
        return _html.schematic(self) + card


def _beginning(text: object) -> object:
    """Returns the beginning of a document's text."""
    is_long = isinstance(text, str) and len(text) > BEGINNING
    return f"{text[: BEGINNING - 1]}…" if is_long else text  # type: ignore[index]


def _counts(seen: int, dropped: int) -> str:
    return f"{seen:,} seen, {dropped:,} dropped, {seen - dropped:,} kept"


def funnel(pipeline: pt.Transformer, queries: pd.DataFrame | None = None) -> pd.DataFrame:
    """Counts what the stages of a pipeline dropped in their last call.

    A call is one frame, or one run of ``index()`` into a `SyntheticQueries`. A resumed run counts
    what it generates itself, not what earlier runs stored::

        filters = LengthFilter() >> CopyFilter()
        kept = filters(written)
        print(funnel(filters))

    Args:
        pipeline: Pipeline with at least one filter. Stages that drop no rows are left out.
        queries: Synthetic queries to run the pipeline on first; None for the counts of its last
            call.

    Returns:
        One row per stage, in order: ``stage`` (name of the filter), ``seen``, ``dropped`` and
        ``kept`` (numbers of rows), and ``share`` (``kept / seen``; missing for no rows). A
        `QueryGenerator` has two rows, for empty answers and for copies of the prompt's examples; a
        `NegativeMiner` counts queries, `TeacherScores` lists, and `RelevanceJudge` pairs.

    Raises:
        TypeError: ``pipeline`` is not a transformer.
        ValueError: No stage drops rows, or none has run and ``queries`` is not given.
    """
    if not isinstance(pipeline, pt.Transformer):
        raise TypeError(f"pipeline must be a PyTerrier transformer, not {pipeline!r:.200}")
    if queries is not None:
        pipeline(queries)
    stages = list(pipeline) if isinstance(pipeline, pt.Compose) else [pipeline]
    counting = [stage for stage in stages if isinstance(stage, Stage) and stage._drops()]
    if not counting:
        raise ValueError(f"no stage of {pipeline!r:.200} drops rows: give a pipeline with a filter")
    rows = [row for stage in counting for row in stage._drops()]
    if not any(stage._before is not None for stage in counting) and not any(row[1] for row in rows):
        raise ValueError(
            f"{pipeline!r:.200} has not run: run it first, or give the queries to run it on, "
            "funnel(pipeline, queries)"
        )
    table = pd.DataFrame(rows, columns=["stage", "seen", "dropped"])
    table["kept"] = table["seen"] - table["dropped"]
    return table.assign(share=(table["kept"] / table["seen"]).round(3))


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
    log-probabilities gives no ``score``: put a reranker or a judge before the filter. If only some
    queries have no score, such as those whose place in an answer is unknown, they are dropped, with
    a warning.

    Args:
        k: Number of queries to keep; None for no limit.
        min_score: Lowest score of a query that is kept; None for no limit.
        explain: Whether to keep dropped rows, with the filter's name in ``dropped_by``.

    Raises:
        ValueError: ``k`` is not a positive whole number, ``min_score`` or a score is not a number,
            neither is given, or no query has a score.
    """

    schematic = {"label": "ScoreFilter", "help_url": None}

    def __init__(
        self, k: int | None = None, *, min_score: float | None = None, explain: bool = False
    ):
        super().__init__(explain=explain)
        # Without min_score, k is needed.
        self.k = None if k is None and min_score is not None else positive_int("k", k)
        self.min_score = None if min_score is None else finite("min_score", min_score)

    def _required_columns(self) -> list[str]:
        return ["qid", "score"]

    def _validate(self, inp: pd.DataFrame) -> None:
        """Checks the columns. Without a score, the error says what can score queries."""
        try:
            super()._validate(inp)
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
        high = _present(inp, "score")
        qids, scores = list(inp["qid"]), np.full(len(inp), -np.inf)
        scores[high] = as_numbers(inp[high], "score")
        if self.min_score is not None:
            high = high & (scores >= self.min_score)
        kept = np.zeros(len(inp), dtype=bool)
        kept[sorted(np.flatnonzero(high), key=lambda row: (-scores[row], qids[row]))[: self.k]] = (
            True
        )
        return kept


class LengthFilter(Filter):
    """Keeps queries whose length in words or tokens is within limits.

    Words are separated by white space. In Chinese, Japanese, Thai and other scripts without spaces
    between words, each letter counts as one. Tokens are those that the model generated, as in the
    InPars Toolkit.

    Requires the column ``query`` (str), and ``log_probs`` (list of float, one per generated token)
    for limits in tokens. If only some queries have none, they are dropped, with a warning.

    Args:
        min_words: Minimum number of words.
        max_words: Maximum number of words, or None for no limit.
        min_tokens: Minimum number of generated tokens, or None for no limit.
        max_tokens: Maximum number of generated tokens, or None for no limit.
        explain: Whether to keep dropped rows, with the filter's name in ``dropped_by``.

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
        explain: bool = False,
    ):
        super().__init__(explain=explain)
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
        words = inp["query"].map(count_words)
        kept = _within(words, self.min_words, self.max_words)
        if "log_probs" in self._required_columns():
            present = _present(inp, "log_probs")
            counts = inp["log_probs"].map(
                lambda value: len(value) if isinstance(value, list | tuple | np.ndarray) else np.nan
            )
            if (wrong := present & counts.isna()).any():
                row = inp[wrong].iloc[0]
                raise ValueError(
                    f"log_probs must be a list, but is {row['log_probs']!r} for the query "
                    f"{row['query']!r}: set min_words and max_words to count words instead"
                )
            kept = kept & _within(counts, self.min_tokens, self.max_tokens)
        return kept


def _present(inp: pd.DataFrame, column: str) -> np.ndarray:
    """Returns which rows have a value, and warns of the others.

    If none has, it is all of them, whose values are invalid.
    """
    present = inp[column].notna().to_numpy()
    missing = int((~present).sum())
    if missing == len(inp):
        return ~present
    if missing:
        warnings.warn(
            f"{missing:,} of {len(inp):,} queries have no {column}, and are dropped; "
            "QueryGenerator gives none to a query whose place in the answer is unknown",
            stacklevel=user_level(),
        )
    return present


def _within(counts: pd.Series, least: int | None, most: int | None) -> np.ndarray:
    return counts.between(least or 0, np.inf if most is None else most).to_numpy()


class CopyFilter(Filter):
    """Drops queries that are copied from their document.

    A query is a copy if its words occur consecutively in the document, ignoring case, punctuation
    and white space. A query of a single word that occurs in the document is a copy; a query without
    words is not. In scripts without spaces between words, such as Chinese, letters are compared.

    Requires the columns ``query`` and ``text`` (both str).

    Args:
        text_field: Column with the text of the document, or several, whose texts are joined by
            spaces.
        explain: Whether to keep dropped rows, with the filter's name in ``dropped_by``.

    Raises:
        ValueError: A query or text is not a string.
    """

    schematic = {"label": "CopyFilter", "help_url": None}

    def __init__(self, *, text_field: str | list[str] = "text", explain: bool = False):
        super().__init__(explain=explain)
        self.text_field = text_field

    def _required_columns(self) -> list[str]:
        return ["query", *fields_of(self.text_field)]

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "query")
        pairs = zip(inp["query"], joined_text(inp, self.text_field), strict=True)
        words = ((" ".join(words_of(query)), " ".join(words_of(text))) for query, text in pairs)
        return np.array([not query or f" {query} " not in f" {text} " for query, text in words])


class OverlapFilter(Filter):
    """Drops queries that share too many words with their document.

    Such queries are easy for a lexical system and favor it in `evaluation.compare`. The overlap is
    the share of the query's distinct words that occur in the document, ignoring case and
    punctuation, as `evaluation.overlap` returns it; a query without words has none. Words are not
    stemmed. In scripts without spaces between words, pairs of letters are compared.

    Requires the columns ``query`` and ``text`` (both str).

    Args:
        max_share: Largest overlap of a query that is kept, from 0 to 1.
        text_field: Column with the text of the document, or several, whose texts are joined by
            spaces.
        explain: Whether to keep dropped rows, with the filter's name in ``dropped_by``.

    Raises:
        ValueError: ``max_share`` is not from 0 to 1, or a query or text is not a string.
    """

    schematic = {"label": "OverlapFilter", "help_url": None}

    def __init__(
        self, max_share: float, *, text_field: str | list[str] = "text", explain: bool = False
    ):
        super().__init__(explain=explain)
        self.max_share = finite("max_share", max_share, least=0, most=1)
        self.text_field = text_field

    def _required_columns(self) -> list[str]:
        return ["query", *fields_of(self.text_field)]

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "query")
        pairs = zip(inp["query"], joined_text(inp, self.text_field), strict=True)
        return np.array([shared_words(query, text) <= self.max_share for query, text in pairs])


class DuplicateFilter(WholeSetFilter):
    """Drops duplicate queries, ignoring case and white space. The first one is kept.

    Requires the column ``query`` (str).

    Args:
        explain: Whether to keep dropped rows, with the filter's name in ``dropped_by``.

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
        text_field: Column with the text of the document, or several, whose texts are joined by
            spaces.
        explain: Whether to keep dropped rows, with the filter's name in ``dropped_by``.

    Raises:
        TypeError: The encoder has no method ``encode``.
        ValueError: The threshold or the field is invalid, or a text is not a string.
    """

    schematic = {"label": "SemanticDuplicates", "help_url": None}

    def __init__(
        self,
        encoder: Any,
        threshold: float = 0.9,
        *,
        field: str = "query",
        text_field: str | list[str] = "text",
        explain: bool = False,
    ):
        super().__init__(explain=explain)
        self.encoder = check_encoder(encoder)
        self.threshold = check_threshold(threshold)
        self.field = one_of("field", field, ("query", "text"))
        self.text_field = text_field

    def _required_columns(self) -> list[str]:
        return ["query"] if self.field == "query" else ["docno", *fields_of(self.text_field)]

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        if self.field == "query":
            check_strings(inp, "query")
            return first_of_each(unit_vectors(self.encoder, inp["query"]), self.threshold)
        check_strings(inp, "docno")
        documents = inp.drop_duplicates("docno")
        texts = joined_text(documents, self.text_field)
        kept = first_of_each(unit_vectors(self.encoder, texts), self.threshold)
        return inp["docno"].isin(documents["docno"][kept]).to_numpy()


class RoundTripFilter(Filter):
    """Keeps queries whose source document is among the top ``k`` results of a retriever.

    This is the round-trip consistency filter of Promptagator (arXiv 2209.11755, section 3), which
    uses a retriever trained on the unfiltered queries. Any retriever works here. Documents are
    compared by ``docno``, so a duplicate of the source document takes one of the ``k`` ranks. A
    query without words is dropped. A retriever that returns fewer than ``k`` documents for every
    query gives a warning, once; so does one that finds no source document of several queries.

    Requires the columns ``qid`` (str, unique), ``query`` and ``docno`` (both str).

    Args:
        retriever: Any PyTerrier retriever. It gets the queries without punctuation, in lower case.
        k: Rank cutoff.
        explain: Whether to keep dropped rows, with the filter's name in ``dropped_by``.

    Raises:
        TypeError: The retriever is not a transformer.
        ValueError: ``k`` is not a positive whole number, a qid is duplicated, or the results lack a
            column.
    """

    schematic = {"label": "RoundTripFilter", "help_url": None}

    def __init__(self, retriever: pt.Transformer, k: int = 1, *, explain: bool = False):
        super().__init__(explain=explain)
        self.retriever = check_retriever(retriever)
        self.k = positive_int("k", k)
        self._warned = False
        self._without_source: int | None = 0  # queries so far; None once one is found or warned

    def _required_columns(self) -> list[str]:
        return ["qid", "query", "docno"]

    def _keep(self, inp: pd.DataFrame) -> np.ndarray:
        check_strings(inp, "qid", "docno")
        source = dict(zip(inp["qid"], inp["docno"], strict=True))
        found, deepest, returned = [], 0, None
        for qid, hits in retrieve(self.retriever, inp, self.k):
            deepest = max(deepest, len(hits["docno"]))
            returned = hits["docno"][0]
            if source[qid] in hits["docno"]:
                found.append(qid)
        self._warned = self._warned or warn_if_shallow(deepest, "k", self.k)
        self._warn_without_source(inp, bool(found), returned)
        return inp["qid"].isin(found).to_numpy()

    def _warn_without_source(self, inp: pd.DataFrame, is_found: bool, returned: str | None) -> None:
        """Warns once if the retriever has found no source document of several queries.

        Args:
            inp: Queries of this call or batch.
            is_found: Whether one of their source documents was found.
            returned: A docno that the retriever returned; None if it returned none.
        """
        if is_found or self._without_source is None:
            self._without_source = None
            return
        self._without_source += len(inp)
        if self._without_source >= MANY_WITHOUT_SOURCE:
            shown = "none" if returned is None else f"documents such as {returned!r}"
            warnings.warn(
                f"the retriever found the source document of none of {self._without_source:,} "
                f"queries: it returned {shown}, and a source document is "
                f"{inp['docno'].iloc[0]!r}. Index the collection that the queries were written for",
                stacklevel=user_level(),
            )
            self._without_source = None


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
        explain: Whether to keep dropped rows, with the filter's name in ``dropped_by``.

    Raises:
        ValueError: The margin, a label or a score is not a number, a qid is not a string, or a
            query has no positive.
    """

    schematic = {"label": "FalseNegativeFilter", "help_url": None}
    _optional = ()

    def __init__(self, margin: float = 0.0, *, explain: bool = False):
        super().__init__(explain=explain)
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
