"""Passages of long documents: a collection of them, and the way back to the documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyterrier as pt
from more_itertools import chunked

from pyterrier_inpars._passages import document_of
from pyterrier_inpars._retrieval import applied
from pyterrier_inpars._stage import Stage, check_strings, positive_int
from pyterrier_inpars.datasets.collections import Collection

BATCH = 1000
"""Number of documents that are split at once."""


def sliding(length: int = 100, stride: int = 50, text_field: str = "text") -> pt.Transformer:
    """Returns ``pt.text.sliding`` that also keeps the end of each document.

    ``pt.text.sliding`` of PyTerrier 1.1 drops the last window of a document unless it is full. Here
    the last window may be shorter, and no word is lost.

    Args:
        length: Number of words of a passage. Words are separated by white space.
        stride: Number of words from the start of a passage to the start of the next.
        text_field: Column with the text.

    Returns:
        Transformer from documents, or results, to their passages.

    Raises:
        ValueError: A number is not positive, or ``stride`` is more than ``length``.
    """
    length, stride = positive_int("length", length), positive_int("stride", stride)
    if stride > length:
        raise ValueError(f"stride must be at most length, which is {length}, not {stride}")
    return pt.text.sliding(
        text_field, length, stride, prepend_attr=None, tokenizer=_Words(length, stride)
    )


class _Words:
    """A tokenizer for ``pt.text.sliding`` that pads long texts, so that their last window is full.

    Args:
        length: Number of words of a window.
        stride: Number of words between the starts of two windows.
    """

    def __init__(self, length: int, stride: int):
        self.length = length
        self.stride = stride

    def tokenize(self, text: str) -> list[str]:
        words = text.split()
        beyond = len(words) - self.length
        return words + [""] * (-beyond % self.stride if beyond > 0 else 0)

    def convert_tokens_to_string(self, words: list[str]) -> str:
        return " ".join(filter(None, words))


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
                f"datasets.Files(path), not {collection!r:.200}"
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
        whole = [*required, "text"]
        return [[*whole, "score", "log_probs"], whole, required]

    def _required_columns(self) -> list[str]:
        return ["qid", "query", "docno"]

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "docno")
        return inp.assign(docno=inp["docno"].map(document_of))
