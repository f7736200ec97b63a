"""Passages of long documents: a collection of them, and the way back to the documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyterrier as pt
from more_itertools import chunked

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._passages import document_of, passage_of
from pyterrier_inpars._retrieval import applied
from pyterrier_inpars._stage import Stage, check_strings, input_modes
from pyterrier_inpars.datasets.collections import Collection

BATCH = 1000
"""Number of documents that are split at once."""


def sliding(length: int = 100, stride: int = 50, text_field: str = "text") -> pt.Transformer:
    """Returns a transformer that splits documents, or results, into passages.

    It is ``pt.text.sliding`` for one text, except that the end of each document is kept:
    ``pt.text.sliding`` of PyTerrier 1.1 drops the last window of a document unless it is full. Here
    the last window may be shorter, and no word is lost. White space becomes single spaces.

    Args:
        length: Number of words of a passage. Words are separated by white space.
        stride: Number of words from the start of a passage to the start of the next.
        text_field: Column with the text.

    Returns:
        Transformer that requires ``docno`` and the text. Each row becomes one row a passage, whose
        docno ends with ``%p`` and the number of the passage, from 0. All other columns are copied,
        such as a title, ``score`` and ``rank``.

    Raises:
        ValueError: A number is not positive, or ``stride`` is more than ``length``.
        TypeError: ``text_field`` is not one name.
    """
    return SlidingWindows(length, stride, text_field)


class SlidingWindows(Stage):
    """Splits texts into overlapping windows of words; see :func:`sliding`."""

    schematic = {"label": "Sliding windows", "help_url": None}

    def __init__(self, length: int, stride: int, text_field: str = "text"):
        self.length = positive_int("length", length)
        self.stride = positive_int("stride", stride)
        self.text_field = text_field
        if stride > length:
            raise ValueError(f"stride must be at most length, which is {length}, not {stride}")
        if not isinstance(text_field, str):
            raise TypeError(f"text_field must be the name of one column, not {text_field!r:.200}")

    def _required_columns(self) -> list[str]:
        return ["docno", self.text_field]

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "docno", self.text_field)
        texts = [self._windows(text.split()) for text in inp[self.text_field]]
        docnos = [
            [passage_of(docno, number) for number in range(len(windows))]
            for docno, windows in zip(inp["docno"], texts, strict=True)
        ]
        split = ["docno", self.text_field]
        out = inp.assign(**dict(zip(split, (docnos, texts), strict=True)))
        return out.explode(split, ignore_index=True)

    def __repr__(self) -> str:
        return super().__repr__().replace(type(self).__name__, "datasets.sliding", 1)

    def _windows(self, words: list[str]) -> list[str]:
        starts = range(0, max(1, len(words) - self.length + self.stride), self.stride)
        return [" ".join(words[start : start + self.length]) for start in starts]


class Passages(Collection):
    """The passages of a collection, as a collection whose topics and judgements are the same.

    The docno of a passage is that of its document, ``%p`` and a number::

        passages = datasets.Passages(dataset, datasets.sliding(length=100, stride=50))
        bm25 = index.index(passages.get_corpus_iter()).bm25()
        retriever = bm25 >> passages.text_loader() >> pt.text.max_passage()

    Args:
        collection: Collection of the documents.
        passager: Transformer that splits documents ``docno, text`` into passages ``docno, text``,
            such as :func:`sliding`.

    Raises:
        TypeError: ``collection`` is not a `Collection`, or ``passager`` is not a transformer.
    """

    def __init__(self, collection: Collection, passager: pt.Transformer):
        super().__init__()
        if not isinstance(collection, Collection):
            raise TypeError(
                f"collection must be a collection of pyterrier_inpars.datasets, such as "
                f"datasets.Files(path) or datasets.IrDatasets(name), not {collection!r:.200}"
            )
        if not isinstance(passager, pt.Transformer):
            raise TypeError(
                f"passager must be a transformer such as datasets.sliding(length=100, stride=50), "
                f"not {passager!r:.200}"
            )
        self.collection = collection
        self.passager = passager

    def documents(self) -> Iterator[tuple[str, str]]:
        for batch in chunked(self.collection.get_corpus_iter(), BATCH):
            yield from self._split(batch)

    def find(self, docnos: set[str]) -> dict[str, str]:
        """Returns the texts of passages by docno; only their documents are split."""
        texts = self.collection.texts({document_of(docno) for docno in docnos})
        documents = [{"docno": docno, "text": text} for docno, text in texts.items()]
        return {docno: text for docno, text in self._split(documents) if docno in docnos}

    def _split(self, documents: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
        if documents:
            passages = applied(self.passager, pd.DataFrame(documents))
            if missing := [name for name in ("docno", "text") if name not in passages]:
                raise ValueError(
                    f"the passages of {self.passager!r} have no {' and no '.join(missing)}, only "
                    f"{', '.join(map(str, passages))}: documents have the columns docno and text"
                )
            yield from zip(passages["docno"], passages["text"], strict=True)

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        return self.collection.get_topics(variant)

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        """Returns the judgements of the documents, for systems that return documents."""
        return self.collection.get_qrels(variant)

    def __repr__(self) -> str:
        return f"Passages({self.collection!r}, {self.passager!r})"


class PassagesToDocuments(Stage):
    """Replaces the docno of each passage by that of its document: ``d1%p0`` becomes ``d1``.

    Queries for passages are then queries for their documents, and all that compares docnos works on
    documents: `RoundTripFilter`, `NegativeMiner` and `evaluation.compare`, with retrievers that end
    with ``pt.text.max_passage()``. The text stays that of the passage. Other docnos stay, too.

    Requires the columns ``qid, query, docno`` (all str).
    """

    schematic = {"label": "PassagesToDocuments", "help_url": None}

    def transform_inputs(self) -> list[list[str]]:
        """Returns the accepted sets of columns, the whole frame of synthetic queries first."""
        required = self._required_columns()
        return input_modes(required, [*required, "text"], ["score", "log_probs"])

    def _required_columns(self) -> list[str]:
        return ["qid", "query", "docno"]

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "docno")
        return inp.assign(docno=inp["docno"].map(document_of))
