"""Negatives for synthetic queries, mined from what a retriever finds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars._retrieval import applied, check_retriever, fold, retrieve
from pyterrier_inpars._stage import (
    Stage,
    as_frame,
    check_strings,
    positive_int,
)


@runtime_checkable
class HasCorpus(Protocol):
    """A document collection, such as a PyTerrier dataset."""

    def get_corpus_iter(self, *, verbose: bool) -> Iterable[dict[str, Any]]:
        """Iterates over the documents, from the first on every call."""


Texts = pt.Transformer | HasCorpus | Callable[[], Iterable[dict[str, Any]]]


class NegativeMiner(Stage):
    """Makes training examples: each query with its source document, then with negatives.

    Negatives are drawn uniformly, without replacement, from the ranks ``skip + 1`` to ``depth`` of
    what the retriever finds (InPars, arXiv 2202.05144, section 4, draws one of BM25's top 1,000; so
    does its toolkit, arXiv 2307.04601). The source document is none of them, nor is one with the
    same text but for case and white space. A query's negatives depend on the seed, its qid and its
    ranking alone: with these ranks put in the order of
    ``numpy.random.default_rng(n).permutation(len(ranks))``, where ``n`` is the big-endian SHA-256
    of ``"{seed} {qid}"``, they are the first ``num_negatives`` that may be drawn. A query with
    fewer has those; one with none is dropped, since no pair can be made of it.

    Needs ``qid`` (str, each once), ``query``, ``docno`` and ``text`` (all str). Gives ``qid``,
    ``query`` (as written), ``docno``, ``text`` and ``label`` (int64; 1 the source document, 0 a
    negative).

    Args:
        retriever: Any PyTerrier retriever, such as one that ends with a reranker
            (``bm25 % 100 >> text >> BiEncoder(model)``); see
            :func:`~pyterrier_inpars._retrieval.retrieve`.
        num_negatives: Negatives for each query.
        depth: Last rank to draw from, counted from 1.
        skip: Ranks to pass over at the top, where documents that answer the query are likeliest;
            fewer than ``depth``.
        seed: Another seed draws other negatives.
        texts: Where the texts of negatives come from. None: the retriever's results have them. A
            text loader such as ``pt.text.get_text(dataset, "text")``: a transformer that adds the
            text to a frame of ``docno``. A collection with ``get_corpus_iter``, or a function that
            gives an iterator over documents: gone through once each time the stage runs (now and
            then again, for queries whose first draws had to be refused), so give a loader for a
            stream. Only texts of documents drawn are kept in memory.
        batch_size: Queries sent to the retriever in one call.
        text_field: Column that holds the document's text.
        verbose: Show progress.

    Attributes:
        seen: Queries this miner was given since it was made.
        dropped: Those of them for which there was no negative.
        without_text: Draws passed over because the document's text was not found.

    Raises:
        TypeError: the retriever is no transformer, or ``texts`` none of the above.
        ValueError: a number is out of range; a qid stands twice; nothing gives texts, and the error
            says what to give.
    """

    schematic = {"label": "NegativeMiner", "help_url": None}

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
        text_field: str = "text",
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
                f"that gives an iterator over documents, not {texts!r}"
            )
        self.texts = texts
        self.batch_size = positive_int("batch_size", batch_size)
        self.text_field = text_field
        self.verbose = verbose
        self.seen = 0
        self.dropped = 0
        self.without_text = 0

    def _required_columns(self) -> list[str]:
        return ["qid", "query", "docno", self.text_field]

    def _output_columns(self, columns: list[str]) -> list[str]:
        return [*self._required_columns(), "label"]

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "qid", "docno", self.text_field)
        mined = self._mine(inp)
        examples = []
        for qid, query, docno, text in inp[self._required_columns()].itertuples(index=False):
            if negatives := mined.get(qid):
                examples.append((qid, query, docno, text, 1))
                examples.extend((qid, query, *negative, 0) for negative in negatives)
            else:
                self.dropped += 1
        self.seen += len(inp)
        return as_frame(examples, self._output_columns([])).astype({"label": "int64"})

    def _mine(self, inp: pd.DataFrame) -> dict[str, list[tuple[str, str]]]:
        """The negatives (docno, text) of each qid for which the retriever found any document.

        Texts are wanted only for a few draws ahead, one more than the negatives asked for. Queries
        that need more, because a draw had the source's text or none, go round again.
        """
        source = {
            qid: (docno, text)
            for qid, _, docno, text in inp[self._required_columns()].itertuples(index=False)
        }
        mined = {}
        ahead = self.num_negatives + 1
        while len(inp):
            drawn, texts = self._draw(inp, source, ahead)
            again = []
            for qid, docnos in drawn.items():
                negatives, unknown = self._choose(docnos, texts, fold(source[qid][1]))
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
    ) -> tuple[dict[str, Sequence[str]], dict[str, str]]:
        """The first ``ahead`` draws of each qid, the source document left out, and their texts."""
        drawn: dict[str, Sequence[str]] = {}
        texts: dict[str, str] = {}
        columns = [self.text_field] if self.texts is None else []
        for qid, hits in retrieve(
            self.retriever,
            queries,
            self.depth,
            columns=columns,
            batch_size=self.batch_size,
            verbose=self.verbose,
        ):
            hits = {column: values[self.skip :] for column, values in hits.items()}
            number = int.from_bytes(sha256(f"{self.seed} {qid}".encode()).digest(), "big")
            draws = np.random.default_rng(number).permutation(len(hits["docno"]))
            draws = draws[: ahead + 1]  # the source document is there once at most
            draws = draws[hits["docno"][draws] != source[qid][0]][:ahead]
            drawn[qid] = hits["docno"][draws]
            if self.texts is None:
                self._check_text(self.retriever, list(hits))
                texts.update(zip(drawn[qid], hits[self.text_field][draws], strict=True))
        if self.texts is not None:
            wanted = {docno for docnos in drawn.values() for docno in docnos}
            texts = self._fetch(self.texts, wanted)
        return drawn, texts

    def _choose(
        self, docnos: Sequence[str], texts: dict[str, str], source_text: str
    ) -> tuple[list[tuple[str, str]], int]:
        """The first draws that may be negatives, and how many without text came before."""
        negatives: list[tuple[str, str]] = []
        unknown = 0
        for docno in docnos:
            if len(negatives) == self.num_negatives:
                break
            text = texts.get(docno)
            if not isinstance(text, str):
                unknown += 1
            elif fold(text) != source_text:
                negatives.append((docno, text))
        return negatives, unknown

    def _fetch(self, origin: Texts, docnos: set[str]) -> dict[str, str]:
        """The texts of those documents that ``origin`` knows."""
        if not docnos:
            return {}
        if isinstance(origin, pt.Transformer) and not isinstance(origin, HasCorpus):
            found = applied(origin, pd.DataFrame({"docno": sorted(docnos)}))
            self._check_text(origin, list(found))
            return dict(zip(found["docno"], found[self.text_field], strict=True))
        corpus = (
            origin.get_corpus_iter(verbose=self.verbose)
            if isinstance(origin, HasCorpus)
            else origin()
        )
        if not isinstance(corpus, Iterable):
            raise TypeError(f"{origin!r} must give an iterator over documents, not {corpus!r:.200}")
        texts = {}
        for document in corpus:
            if not isinstance(document, Mapping) or not isinstance(document.get("docno"), str):
                raise ValueError(
                    f"{origin!r} must give documents as dicts with docno, a string, but gives "
                    f"{document!r:.200}"
                )
            if document["docno"] in docnos:
                self._check_text(origin, list(document))
                texts[document["docno"]] = document[self.text_field]
        return texts

    def _check_text(self, origin: object, columns: list[str]) -> None:
        for column in ("docno", self.text_field):
            if column not in columns:
                raise ValueError(
                    f"{origin!r} gives no column {column!r}, only {', '.join(map(str, columns))}: "
                    f"give the miner texts=, a text loader such as pt.text.get_text(dataset, "
                    f"{self.text_field!r}) or a collection with get_corpus_iter"
                )
