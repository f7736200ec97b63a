"""Mining of negatives for synthetic queries from the results of retrievers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars._arguments import finite, one_of, positive_int
from pyterrier_inpars._passages import document_of, passages_by_document
from pyterrier_inpars._progress import Progress
from pyterrier_inpars._retrieval import (
    check_retriever,
    fold,
    retrieve,
    warn_if_shallow,
    with_cutoff,
)
from pyterrier_inpars._stage import (
    Stage,
    as_frame,
    check_kept,
    check_strings,
    fields_of,
    joined_text,
)
from pyterrier_inpars._text_sources import (
    Fields,
    Texts,
    check_fields,
    check_texts,
    documents,
    fetch,
    is_collection,
)

STRATEGIES = ("random", "top")
Hits = dict[str, np.ndarray]
"""Results of a retriever for a query: ``docno`` and other columns, best document first."""


class NegativeMiner(Stage):
    """Adds negatives to synthetic queries and thereby turns them into training examples.

    The source document of each query is its positive. Negatives are drawn uniformly, without
    replacement, from ranks ``skip + 1`` to ``depth`` of the retriever's results. InPars (arXiv
    2202.05144, section 4) and its toolkit (arXiv 2307.04601) draw from the top 1,000 of BM25. The
    source document and documents with the same text, ignoring case and white space, are never
    negatives. A query with fewer than ``num_negatives`` candidates gets all of them; a query
    without any is dropped. A retriever that returns fewer than ``depth`` documents for every query
    gives a warning, once, since the draws then cover fewer ranks.

    Rows with the same qid are one query with several positives. None of them becomes a negative.
    Nor does a passage of the document that a positive is a passage of, by docnos as
    ``pt.text.sliding`` writes them (``d1%p0``, ``d1%p1``).

    The draws are reproducible and depend only on the seed, the qid and the ranking of the query:
    the ranks are permuted by ``numpy.random.default_rng(n).permutation(len(ranks))``, where ``n``
    is the big-endian SHA-256 of ``"{seed} {qid}"``, and the first ``num_negatives`` admissible
    documents are the negatives. Ranks of several retrievers are those of the merged list: the
    first document of each, then the second of each, and so on, without repetition.

    With limits on scores, which are those of the retriever, a document is admissible if every
    retriever that returns it admits it. The same holds for ``skip``.

    Requires the columns ``qid`` (str), ``query``, ``docno`` and ``text`` (all str). Returns
    ``qid``, ``query``, ``docno``, ``text`` and ``label`` (int64; 1 for a source document, 0 for a
    negative).

    Args:
        retriever: Any PyTerrier retriever, including one that ends with a reranker, such as
            ``bm25 % 100 >> text >> BiEncoder(model)``, or a list of retrievers. It gets the queries
            without punctuation, in lower case.
        num_negatives: Number of negatives per query.
        depth: Last rank to draw from, counted from 1.
        skip: Number of top ranks to skip, where unlabeled relevant documents are most likely; must
            be less than ``depth``.
        sampling_strategy: ``"random"``, or ``"top"`` for the admissible documents of the lowest
            ranks.
        min_score: Minimum score of a negative.
        max_score: Maximum score of a negative.
        relative_margin: How far below the positive a negative must score, as a share of the
            positive's score: 0.05 admits scores of at most 0.95 of it, as TopK-PercPos of
            NV-Retriever (arXiv 2407.15831). Where the positive has a negative score, the share is
            that of its absolute value. The lowest score of several positives counts. A retriever
            that does not return the positive has no admissible documents.
        random_share: Share of the negatives that are drawn uniformly from the documents that no
            retriever returned. It needs ``texts`` with all documents, whose docnos are kept in
            memory during a call.
        seed: Random seed of the draws.
        texts: Source of the negatives' texts. None: the retriever's results include them. A text
            loader such as ``pt.text.get_text(dataset, "text")``: a transformer that adds the text
            to a frame of ``docno``. A collection with ``get_corpus_iter``, or a function that
            returns an iterator over documents: the miner scans it once per call, and again for
            queries whose first draws are not admissible, so prefer a text loader for streams. Only
            the texts of drawn documents are kept in memory.
        batch_size: Number of queries per call of the retriever.
        text_field: Column with the text of the document, or several, such as ``["title", "text"]``,
            whose texts are joined by spaces for the comparison with the source document.
        verbose: Whether to show a progress bar.

    The counts below add up over all calls. `distributed` adds the counts of its workers.

    Attributes:
        seen: Number of queries processed so far.
        dropped: Number of queries dropped so far, because they have no negatives.
        without_text: Number of draws skipped so far, because the document's text was not found.

    Raises:
        TypeError: A retriever is not a transformer, or ``texts`` has another type.
        ValueError: A number is out of range, two queries have one qid, a query has one docno twice,
            or the texts of the negatives are missing.
    """

    schematic = {"label": "NegativeMiner", "help_url": None}
    _counters = (
        "seen",
        "dropped",
        "retrieved",
        "skipped",
        "outside_scores",
        "positive_not_retrieved",
        "same_text",
        "without_text",
        "negatives",
        "random_negatives",
    )

    def __init__(
        self,
        retriever: pt.Transformer | Sequence[pt.Transformer],
        *,
        num_negatives: int = 1,
        depth: int = 1000,
        skip: int = 0,
        sampling_strategy: str = "random",
        min_score: float | None = None,
        max_score: float | None = None,
        relative_margin: float | None = None,
        random_share: float = 0.0,
        seed: int = 0,
        texts: Texts | None = None,
        batch_size: int = 100,
        text_field: str | list[str] = "text",
        verbose: bool = False,
    ):
        self.retriever = _check_retrievers(retriever)
        self.num_negatives = positive_int("num_negatives", num_negatives)
        self.depth = positive_int("depth", depth)
        self.skip = positive_int("skip", skip, least=0)
        if skip >= depth:
            raise ValueError(f"skip must be below depth, which is {depth}, not {skip}")
        self.sampling_strategy = one_of("sampling_strategy", sampling_strategy, STRATEGIES)
        self.min_score = None if min_score is None else finite("min_score", min_score)
        self.max_score = None if max_score is None else finite("max_score", max_score)
        if min_score is not None and max_score is not None and min_score > max_score:
            raise ValueError(
                f"min_score must be at most max_score, which is {max_score}, not {min_score}"
            )
        self.relative_margin = relative_margin
        if relative_margin is not None:
            self.relative_margin = finite("relative_margin", relative_margin, least=0, most=1)
        self.random_share = finite("random_share", random_share, least=0, most=1)
        self.seed = positive_int("seed", seed, least=0)
        self.texts = check_texts(texts)
        if self._num_random and not is_collection(texts):
            raise ValueError(
                f"random_share={random_share} draws from all documents, but {texts!r} cannot list "
                "them: set texts= to a collection with get_corpus_iter, or to a function that "
                "returns an iterator over documents"
            )
        self.batch_size = positive_int("batch_size", batch_size)
        self.text_field = text_field
        self.verbose = verbose
        self.seen = self.dropped = 0
        self.retrieved = self.skipped = self.outside_scores = self.positive_not_retrieved = 0
        self.same_text = self.without_text = 0
        self.negatives = self.random_negatives = 0
        self._warned = False

    @property
    def statistics(self) -> dict[str, int]:
        """Counts over all calls.

        - ``queries``, and how many of them were ``dropped`` without negatives.
        - ``retrieved``: Documents in the results down to ``depth``, the positives included.
        - ``skipped``: Those in the first ``skip`` ranks.
        - ``outside_scores``: Those outside the limits on scores.
        - ``positive_not_retrieved``: Results without the positive, which ``relative_margin`` needs.
        - ``same_text``, ``without_text``: Draws with the text of a positive, and without a text.
        - ``negatives``, and how many of them are ``random_negatives``.
        """
        return {{"seen": "queries"}.get(name, name): getattr(self, name) for name in self._counters}

    def _drops(self) -> list[tuple[str, int, int]]:
        return [(type(self).__name__, self._last("seen"), self._last("dropped"))]

    @property
    def _retrievers(self) -> list[pt.Transformer]:
        return self.retriever if isinstance(self.retriever, list) else [self.retriever]

    @property
    def _num_random(self) -> int:
        return int(self.random_share * self.num_negatives + 0.5)

    @property
    def _has_limits(self) -> bool:
        return (self.min_score, self.max_score, self.relative_margin) != (None, None, None)

    def _required_columns(self) -> list[str]:
        return ["qid", "query", "docno", *fields_of(self.text_field)]

    def _output_columns(self, columns: list[str]) -> list[str]:
        return [*self._required_columns(), "label"]

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_kept(inp)
        check_strings(inp, "qid", "query", "docno")
        queries = _queries(inp, joined_text(inp, self.text_field))
        mined = self._mine(inp.drop_duplicates("qid"), queries)
        rows = list(inp[self._required_columns()].itertuples(index=False, name=None))
        examples: list[tuple[Any, ...]] = []
        for qid, query in queries.items():
            if negatives := mined.get(qid):
                examples.extend((*rows[row], 1) for row in query.rows)
                asked = rows[query.rows[0]][:2]
                examples.extend((*asked, *negative, 0) for negative in negatives)
                self.negatives += len(negatives)
            else:
                self.dropped += 1
        self.seen += len(queries)
        return as_frame(examples, self._output_columns([])).astype({"label": "int64"})

    def _mine(self, inp: pd.DataFrame, queries: dict[str, _Query]) -> dict[str, list[Fields]]:
        """Returns the negatives (docno, texts) by qid.

        At first, texts are fetched for one draw more than the negatives of a query. Queries that
        need more, because a drawn document has the text of a positive or no text, are repeated
        with four times as many draws.
        """
        mined: dict[str, list[Fields]] = {}
        all_docnos = self._all_docnos()
        wanted = self.num_negatives - self._num_random
        ahead = wanted + 1
        while len(inp):
            drawn = self._draw(inp, queries, ahead, all_docnos)
            again = []
            for qid, draws in drawn.items():
                own = queries[qid].texts
                negatives, rejected = _admissible(draws.retrieved, draws.texts, own, wanted)
                if len(negatives) < wanted and len(draws.retrieved) == ahead:
                    again.append(qid)
                    continue
                others, _ = _admissible(draws.random, draws.texts, own, self._num_random)
                mined[qid] = negatives + others
                self.random_negatives += len(others)
                self._count(draws.counts + rejected)
            inp = inp[inp["qid"].isin(again)]
            ahead *= 4
        return mined

    def _count(self, counts: Counter[str]) -> None:
        for name, count in counts.items():
            setattr(self, name, getattr(self, name) + count)

    def _all_docnos(self) -> np.ndarray:
        """Returns the docnos of all documents, if some negatives are drawn from them."""
        if not self._num_random:
            return np.array([], dtype=object)
        return np.array([d["docno"] for d in documents(self.texts, self.verbose)], dtype=object)

    def _draw(
        self, inp: pd.DataFrame, queries: dict[str, _Query], ahead: int, all_docnos: np.ndarray
    ) -> dict[str, _Draws]:
        """Returns the first draws by qid, without positives.

        Args:
            inp: Frame ``qid, query, docno`` with one row per query.
            queries: What `_queries` returns.
            ahead: Number of draws per query from the results.
            all_docnos: Docnos to draw random negatives from.
        """
        drawn: dict[str, _Draws] = {}
        shared: dict[str, Fields] = {}
        fields = fields_of(self.text_field)
        for qid, results in self._retrieve(inp):
            positives = queries[qid].docnos
            hits, allowed, counts = self._candidates(results, positives)
            order = self._order(qid, len(hits["docno"]))
            if allowed is not None:
                order = order[allowed[order]]
            is_own = _is_own(positives)
            others = (row for row in order if not is_own(hits["docno"][row]))
            order = np.fromiter(islice(others, ahead), dtype=int)
            random = self._draw_random(qid, results, positives, all_docnos)
            drawn[qid] = _Draws(hits["docno"][order], random, shared, counts)
            if self.texts is None:
                check_fields(self.retriever, list(hits), fields)
                values = zip(*(hits[name][order] for name in fields), strict=True)
                drawn[qid].texts = dict(zip(drawn[qid].retrieved, values, strict=True))
        if self.texts is not None:
            docnos = {d for draws in drawn.values() for d in (*draws.retrieved, *draws.random)}
            shared |= fetch(self.texts, docnos, fields, self.verbose)
        return drawn

    def _retrieve(self, inp: pd.DataFrame) -> Iterator[tuple[str, list[Hits]]]:
        """Yields each qid with the results of the retrievers that found something for it."""
        columns = fields_of(self.text_field) if self.texts is None else []
        columns = [*columns, "score"] if self._has_limits else columns
        retrievers = [with_cutoff(retriever, self.depth) for retriever in self._retrievers]
        deepest = [0] * len(retrievers)
        # The results of several retrievers are in memory for one batch only.
        size = len(inp) if len(retrievers) == 1 else self.batch_size
        starts = range(0, len(inp), size)
        hidden = not self.verbose or len(starts) == 1
        for start in Progress(starts, "retrieving", unit="batches", verbose=not hidden):
            found: dict[str, list[Hits]] = {}
            for i, retriever in enumerate(retrievers):
                for qid, hits in retrieve(
                    retriever,
                    inp.iloc[start : start + size],
                    self.depth,
                    columns=columns,
                    batch_size=self.batch_size,
                    verbose=self.verbose and hidden,
                ):
                    deepest[i] = max(deepest[i], len(hits["docno"]))
                    if len(retrievers) == 1:
                        yield qid, [hits]
                    else:
                        found.setdefault(qid, []).append(hits)
            yield from found.items()
        shallow = min((count for count in deepest if count), default=0)
        self._warned = self._warned or warn_if_shallow(shallow, "depth", self.depth)

    def _candidates(
        self, results: list[Hits], positives: set[str]
    ) -> tuple[Hits, np.ndarray | None, Counter[str]]:
        """Returns the merged results below the skipped ranks, and which of them are admissible.

        Positives are left in, since they take part in the permutation.

        Returns:
            The merged results; for each document whether it is admissible, None if all are; the
            counts of those that are not.
        """
        windows = [{name: of[self.skip :] for name, of in hits.items()} for hits in results]
        counts = Counter(
            retrieved=sum(len(hits["docno"]) for hits in results),
            skipped=sum(len(hits["docno"][: self.skip]) for hits in results),
        )
        if len(results) == 1 and not self._has_limits:
            return windows[0], None, counts
        skipped = {docno for hits in results for docno in hits["docno"][: self.skip]}
        outside: set[str] = set()
        for hits, window in zip(results, windows, strict=True):
            limits = self._limits(hits, positives)
            counts["positive_not_retrieved"] += limits is None
            if limits is None:
                outside.update(window["docno"])
            elif self._has_limits:
                scores = window["score"].astype(float)
                inside = (scores >= limits[0]) & (scores <= limits[1])
                outside.update(window["docno"][~inside])
        merged = _interleaved(windows)
        counts["outside_scores"] = len(outside - positives)
        refused = skipped | outside
        return merged, np.array([d not in refused for d in merged["docno"]], dtype=bool), counts

    def _limits(self, hits: Hits, positives: set[str]) -> tuple[float, float] | None:
        """Returns the least and the largest score of a negative among the results of a retriever.

        Returns:
            None if ``relative_margin`` is set and the results lack the positives.
        """
        if self._has_limits and "score" not in hits:
            raise ValueError(
                f"{self.retriever!r} returns no column 'score', which min_score, max_score and "
                "relative_margin limit"
            )
        least = -np.inf if self.min_score is None else self.min_score
        most = np.inf if self.max_score is None else self.max_score
        if self.relative_margin is not None:
            of_positives = [
                float(score)
                for docno, score in zip(hits["docno"], hits["score"], strict=True)
                if docno in positives
            ]
            if not of_positives:
                return None
            lowest = min(of_positives)
            most = min(most, lowest - self.relative_margin * abs(lowest))
        return least, most

    def _order(self, qid: str, count: int) -> np.ndarray:
        """Returns the order in which the documents of a query are drawn."""
        if self.sampling_strategy == "top":
            return np.arange(count)
        return _generator(f"{self.seed} {qid}").permutation(count)

    def _draw_random(
        self, qid: str, results: list[Hits], positives: set[str], all_docnos: np.ndarray
    ) -> list[str]:
        """Returns draws from the documents that no retriever returned.

        There are twice as many as needed, as some may have the text of a positive.
        """
        if not len(all_docnos):
            return []
        found = positives.union(*(hits["docno"] for hits in results))
        most = 2 * self._num_random
        size = min(len(all_docnos), most + self.depth * len(self._retrievers) + len(positives))
        draws = _generator(f"{self.seed} {qid} random").choice(all_docnos, size, replace=False)
        is_own = _is_own(positives)
        return [docno for docno in draws if docno not in found and not is_own(docno)][:most]


@dataclass
class _Query:
    """A query of the input.

    Attributes:
        rows: Numbers of its rows.
        docnos: Docnos of its positives.
        texts: Texts of its positives, folded.
    """

    rows: list[int]
    docnos: set[str]
    texts: set[str]


@dataclass
class _Draws:
    """Draws of a query, in order.

    Attributes:
        retrieved: Docnos from the results.
        random: Docnos from all other documents.
        texts: Values of the text fields by docno. Those of results may differ between queries, such
            as the best passage of a document.
        counts: Counts of the documents that were not drawn from, by the names of the attributes.
    """

    retrieved: Sequence[str]
    random: Sequence[str]
    texts: dict[str, Fields]
    counts: Counter[str]


def _check_retrievers(retriever: object) -> Any:
    if isinstance(retriever, list | tuple):
        if not retriever:
            raise ValueError("retriever must be a retriever or a list of some, not an empty list")
        return [check_retriever(one) for one in retriever]
    return check_retriever(retriever)


def _generator(seed: str) -> np.random.Generator:
    """Returns a generator whose seed is the big-endian SHA-256 of a text."""
    return np.random.default_rng(int.from_bytes(sha256(seed.encode()).digest(), "big"))


def _queries(inp: pd.DataFrame, texts: Sequence[str]) -> dict[str, _Query]:
    """Returns the queries of a frame by qid.

    Raises:
        ValueError: Two queries have one qid, or a query has one docno twice.
    """
    queries: dict[str, _Query] = {}
    asked: dict[str, str] = {}
    columns = (inp["qid"], inp["query"], inp["docno"], texts)
    for row, (qid, query, docno, text) in enumerate(zip(*columns, strict=True)):
        if asked.setdefault(qid, query) != query:
            raise ValueError(f"duplicate qid {qid!r}: each query needs its own qid")
        own = queries.setdefault(qid, _Query([], set(), set()))
        if docno in own.docnos:
            raise ValueError(f"duplicate docno {docno!r} for qid {qid!r}: give each positive once")
        own.rows.append(row)
        own.docnos.add(docno)
        own.texts.add(fold(text))
    return queries


def _is_own(positives: set[str]) -> Callable[[str], bool]:
    """Returns a function from a docno to whether it is a positive or a passage of its document."""
    documents = passages_by_document(positives)
    if not documents:
        return positives.__contains__
    return lambda docno: docno in positives or document_of(docno) in documents


def _interleaved(windows: list[Hits]) -> Hits:
    """Merges results: the first document of each, the second of each, ..., each once."""
    if len(windows) == 1:
        return windows[0]
    rank = np.concatenate([np.arange(len(hits["docno"])) for hits in windows])
    order = np.argsort(rank, kind="stable")
    order = order[~pd.Series(np.concatenate([h["docno"] for h in windows])[order]).duplicated()]
    names = set.intersection(*(set(hits) for hits in windows))
    return {name: np.concatenate([hits[name] for hits in windows])[order] for name in names}


def _admissible(
    docnos: Sequence[str], texts: dict[str, Fields], own: set[str], wanted: int
) -> tuple[list[Fields], Counter[str]]:
    """Returns the first admissible draws with their texts, and the counts of rejected draws.

    Args:
        docnos: Draws in order.
        texts: Values of the text fields by docno.
        own: Texts of the positives.
        wanted: Largest number of negatives.
    """
    negatives: list[Fields] = []
    rejected: Counter[str] = Counter()
    for docno in docnos:
        if len(negatives) == wanted:
            break
        fields = texts.get(docno, ())
        strings = [value for value in fields if isinstance(value, str)]
        if not strings:
            rejected["without_text"] += 1
        elif fold(" ".join(strings)) in own:
            rejected["same_text"] += 1
        else:
            negatives.append((docno, *fields))
    return negatives, rejected
