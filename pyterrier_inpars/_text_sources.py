"""Texts of documents by docno, from a text loader, a collection, or a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._retrieval import applied


@runtime_checkable
class HasCorpus(Protocol):
    """Protocol of a document collection, such as a PyTerrier dataset."""

    def get_corpus_iter(self, *, verbose: bool) -> Iterable[dict[str, Any]]:
        """Returns a new iterator over all documents."""


Fields = tuple[Any, ...]
"""Values of the text fields of a document."""
Texts = pt.Transformer | HasCorpus | Callable[[], Iterable[dict[str, Any]]]


def check_texts(texts: object) -> Any:
    """Returns ``texts`` if it is None or a source of texts.

    Raises:
        TypeError: It is neither.
    """
    if not (texts is None or callable(texts) or isinstance(texts, HasCorpus)):
        raise TypeError(
            f"texts must be a text loader, a collection with get_corpus_iter, or a function "
            f"that returns an iterator over documents, not {texts!r}"
        )
    return texts


def is_collection(origin: object) -> bool:
    """Returns whether all documents of a source of texts can be listed."""
    return origin is not None and (
        isinstance(origin, HasCorpus) or not isinstance(origin, pt.Transformer)
    )


def fetch(
    origin: Texts, docnos: set[str], fields: Sequence[str], verbose: bool = False
) -> dict[str, Fields]:
    """Returns the values of the text fields by docno, for those documents that ``origin`` has.

    Raises:
        TypeError: ``origin`` returns something else than documents.
        ValueError: A document lacks a docno or a field, or its docno is a duplicate.
    """
    if not docnos:
        return {}
    if isinstance(origin, pt.Transformer) and not isinstance(origin, HasCorpus):
        found = applied(origin, pd.DataFrame({"docno": sorted(docnos)}))
        check_fields(origin, list(found), fields)
        columns = (found[name] for name in fields)
        return dict(zip(found["docno"], zip(*columns, strict=True), strict=True))
    texts: dict[str, Fields] = {}
    for document in documents(origin, verbose):
        if document["docno"] in docnos:
            check_fields(origin, list(document), fields)
            if document["docno"] in texts:
                raise ValueError(f"{origin!r}: duplicate docno {document['docno']!r}")
            texts[document["docno"]] = tuple(document[name] for name in fields)
    return texts


def documents(origin: Texts, verbose: bool = False) -> Iterator[Mapping[str, Any]]:
    """Iterates over a collection, or over what a function returns, and checks each document."""
    corpus: Any
    if isinstance(origin, HasCorpus):
        corpus = origin.get_corpus_iter(verbose=verbose)
    else:
        corpus = cast(Callable, origin)()
    if not isinstance(corpus, Iterable):
        raise TypeError(f"{origin!r} must return an iterator over documents, not {corpus!r:.200}")
    for document in corpus:
        if not isinstance(document, Mapping) or not isinstance(document.get("docno"), str):
            raise ValueError(
                f"{origin!r} must yield documents as dicts with docno, a string, but yields "
                f"{document!r:.200}"
            )
        yield document


def check_fields(origin: object, columns: Sequence[str], fields: Sequence[str]) -> None:
    """Checks that a source of texts returns ``docno`` and all text fields.

    Raises:
        ValueError: It does not.
    """
    for column in ("docno", *fields):
        if column not in columns:
            wanted = repr(fields[0]) if len(fields) == 1 else repr(list(fields))
            raise ValueError(
                f"{origin!r} returns no column {column!r}, only {', '.join(map(str, columns))}: "
                f"set texts= to a text loader such as pt.text.get_text(dataset, {wanted}) or to a "
                "collection with get_corpus_iter"
            )
