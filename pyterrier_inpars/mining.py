"""Mining of negatives for synthetic queries from the results of a retriever."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars._retrieval import applied, check_retriever, fold, retrieve
from pyterrier_inpars._stage import (
    Stage,
    as_frame,
    check_strings,
    fields_of,
    joined_text,
    positive_int,
    warn_if_shallow,
)


@runtime_checkable
class HasCorpus(Protocol):
    """Protocol of a document collection, such as a PyTerrier dataset."""

    def get_corpus_iter(self, *, verbose: bool) -> Iterable[dict[str, Any]]:
        """Returns a new iterator over all documents."""


Fields = tuple[Any, ...]
"""Values of the text fields of a document."""
Texts = pt.Transformer | HasCorpus | Callable[[], Iterable[dict[str, Any]]]


class NegativeMiner(Stage):
    """Adds negatives to synthetic queries and thereby turns them into training examples.

    The source document of each query is its positive. Negatives are drawn uniformly, without
    replacement, from ranks ``skip + 1`` to ``depth`` of the retriever's results. InPars (arXiv
    2202.05144, section 4) and its toolkit (arXiv 2307.04601) draw from the top 1,000 of BM25. The
    source document and documents with the same text, ignoring case and white space, are never
    negatives. A query with fewer than ``num_negatives`` candidates gets all of them; a query
    without any is dropped. A retriever that returns fewer than ``depth`` documents for every query
    gives a warning, once, since the draws then cover fewer ranks.

    The draws are reproducible and depend only on the seed, the qid and the ranking of the query:
    the ranks are permuted by ``numpy.random.default_rng(n).permutation(len(ranks))``, where ``n``
    is the big-endian SHA-256 of ``"{seed} {qid}"``, and the first ``num_negatives`` admissible
    documents are the negatives.

    Requires the columns ``qid`` (str, unique), ``query``, ``docno`` and ``text`` (all str). Returns
    ``qid``, ``query``, ``docno``, ``text`` and ``label`` (int64; 1 for the source document, 0 for a
    negative).

    Args:
        retriever: Any PyTerrier retriever, including one that ends with a reranker, such as
            ``bm25 % 100 >> text >> BiEncoder(model)``. It gets the queries without punctuation, in
            lower case.
        num_negatives: Number of negatives per query.
        depth: Last rank to draw from, counted from 1.
        skip: Number of top ranks to skip, where unlabeled relevant documents are most likely; must
            be less than ``depth``.
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
        TypeError: The retriever is not a transformer, or ``texts`` has another type.
        ValueError: A number is out of range, a qid is duplicated, or the texts of the negatives
            are missing.
    """

    schematic = {"label": "NegativeMiner", "help_url": None}
    _counters = ("seen", "dropped", "without_text")

    def __init__(
        self,
        retriever: pt.Transformer,
        *,
        num_negatives: int = 1,
        depth: int = 1000,
        skip: int = 0,
        seed: int = 0,
        texts: Texts | None = None,
        batch_size: int = 100,
        text_field: str | list[str] = "text",
        verbose: bool = False,
    ):
        self.retriever = check_retriever(retriever)
        self.num_negatives = positive_int("num_negatives", num_negatives)
        self.depth = positive_int("depth", depth)
        self.skip = positive_int("skip", skip, least=0)
        if skip >= depth:
            raise ValueError(f"skip must be below depth, which is {depth}, not {skip}")
        self.seed = positive_int("seed", seed, least=0)
        if not (texts is None or callable(texts) or isinstance(texts, HasCorpus)):
            raise TypeError(
                f"texts must be a text loader, a collection with get_corpus_iter, or a function "
                f"that returns an iterator over documents, not {texts!r}"
            )
        self.texts = texts
        self.batch_size = positive_int("batch_size", batch_size)
        self.text_field = text_field
        self.verbose = verbose
        self.seen = 0
        self.dropped = 0
        self.without_text = 0
        self._warned = False

    def _required_columns(self) -> list[str]:
        return ["qid", "query", "docno", *fields_of(self.text_field)]

    def _output_columns(self, columns: list[str]) -> list[str]:
        return [*self._required_columns(), "label"]

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "qid", "docno")
        mined = self._mine(inp)
        examples = []
        for qid, query, *source in inp[self._required_columns()].itertuples(index=False):
            if negatives := mined.get(qid):
                examples.append((qid, query, *source, 1))
                examples.extend((qid, query, *negative, 0) for negative in negatives)
            else:
                self.dropped += 1
        self.seen += len(inp)
        return as_frame(examples, self._output_columns([])).astype({"label": "int64"})

    def _mine(self, inp: pd.DataFrame) -> dict[str, list[tuple[Any, ...]]]:
        """Returns the negatives (docno, texts) by qid, for queries with retrieved documents.

        At first, texts are fetched for ``num_negatives + 1`` draws per query. Queries that need
        more, because a drawn document has the text of the source document or no text, are repeated
        with four times as many draws.
        """
        texts_of_sources = map(fold, joined_text(inp, self.text_field))
        sources = zip(inp["docno"], texts_of_sources, strict=True)
        source = dict(zip(inp["qid"], sources, strict=True))
        mined = {}
        ahead = self.num_negatives + 1
        while len(inp):
            drawn, texts = self._draw(inp, source, ahead)
            again = []
            for qid, docnos in drawn.items():
                negatives, unknown = self._choose(docnos, texts, source[qid][1])
                if len(negatives) < self.num_negatives and len(docnos) == ahead:
                    again.append(qid)
                else:
                    mined[qid] = negatives
                    self.without_text += unknown
            inp = inp[inp["qid"].isin(again)]
            ahead *= 4
        return mined

    def _draw(
        self, queries: pd.DataFrame, source: dict[str, tuple[str, str]], ahead: int
    ) -> tuple[dict[str, Sequence[str]], dict[str, Fields]]:
        """Returns the first ``ahead`` draws by qid, without source documents, and their texts."""
        drawn: dict[str, Sequence[str]] = {}
        texts: dict[str, Fields] = {}
        deepest = 0
        columns = fields_of(self.text_field) if self.texts is None else []
        for qid, hits in retrieve(
            self.retriever,
            queries,
            self.depth,
            columns=columns,
            batch_size=self.batch_size,
            verbose=self.verbose,
        ):
            deepest = max(deepest, len(hits["docno"]))
            hits = {column: values[self.skip :] for column, values in hits.items()}
            number = int.from_bytes(sha256(f"{self.seed} {qid}".encode()).digest(), "big")
            draws = np.random.default_rng(number).permutation(len(hits["docno"]))
            draws = draws[: ahead + 1]  # at most one of them is the source document
            draws = draws[hits["docno"][draws] != source[qid][0]][:ahead]
            drawn[qid] = hits["docno"][draws]
            if self.texts is None:
                self._check_text(self.retriever, list(hits))
                fields = (hits[column][draws] for column in columns)
                texts.update(zip(drawn[qid], zip(*fields, strict=True), strict=True))
        self._warned = self._warned or warn_if_shallow(deepest, "depth", self.depth)
        if self.texts is not None:
            texts = self._fetch(self.texts, {docno for found in drawn.values() for docno in found})
        return drawn, texts

    def _choose(
        self, docnos: Sequence[str], texts: dict[str, Fields], source_text: str
    ) -> tuple[list[tuple[Any, ...]], int]:
        """Returns the first admissible draws, and the number of draws skipped without a text."""
        negatives: list[tuple[Any, ...]] = []
        unknown = 0
        for docno in docnos:
            if len(negatives) == self.num_negatives:
                break
            fields = texts.get(docno, ())
            strings = [value for value in fields if isinstance(value, str)]
            if not strings:
                unknown += 1
            elif fold(" ".join(strings)) != source_text:
                negatives.append((docno, *fields))
        return negatives, unknown

    def _fetch(self, origin: Texts, docnos: set[str]) -> dict[str, Fields]:
        """Returns the texts by docno, for those documents that ``origin`` has."""
        if not docnos:
            return {}
        if isinstance(origin, pt.Transformer) and not isinstance(origin, HasCorpus):
            found = applied(origin, pd.DataFrame({"docno": sorted(docnos)}))
            self._check_text(origin, list(found))
            fields = (found[column] for column in fields_of(self.text_field))
            return dict(zip(found["docno"], zip(*fields, strict=True), strict=True))
        texts: dict[str, Fields] = {}
        for document in self._documents(origin):
            if document["docno"] in docnos:
                self._check_text(origin, list(document))
                if document["docno"] in texts:
                    raise ValueError(f"{origin!r}: duplicate docno {document['docno']!r}")
                fields = (document[column] for column in fields_of(self.text_field))
                texts[document["docno"]] = tuple(fields)
        return texts

    def _documents(self, origin: Texts) -> Iterator[Mapping[str, Any]]:
        """Iterates over a collection, or over what a function returns, and checks each document."""
        corpus: Any
        if isinstance(origin, HasCorpus):
            corpus = origin.get_corpus_iter(verbose=self.verbose)
        else:
            corpus = cast(Callable, origin)()
        if not isinstance(corpus, Iterable):
            raise TypeError(
                f"{origin!r} must return an iterator over documents, not {corpus!r:.200}"
            )
        for document in corpus:
            if not isinstance(document, Mapping) or not isinstance(document.get("docno"), str):
                raise ValueError(
                    f"{origin!r} must yield documents as dicts with docno, a string, but yields "
                    f"{document!r:.200}"
                )
            yield document

    def _check_text(self, origin: object, columns: list[str]) -> None:
        for column in ("docno", *fields_of(self.text_field)):
            if column not in columns:
                raise ValueError(
                    f"{origin!r} returns no column {column!r}, only "
                    f"{', '.join(map(str, columns))}: set texts= to a text loader such as "
                    f"pt.text.get_text(dataset, {self.text_field!r}) or to a collection with "
                    f"get_corpus_iter"
                )
