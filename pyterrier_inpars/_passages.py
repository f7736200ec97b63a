"""Docnos of passages, as ``pt.text.sliding`` writes them too: ``d1%p0``, ``d1%p1``, ..."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PASSAGE = re.compile(r"(.+)%p[0-9]+", re.DOTALL)


def passage_of(docno: str, number: int) -> str:
    """Returns the docno of a document's passage, numbered from 0."""
    return f"{docno}%p{number}"


def document_of(docno: str) -> str:
    """Returns the docno of a passage's document, or the docno itself if it is no passage's."""
    found = _PASSAGE.fullmatch(docno) if "%p" in docno else None
    return found[1] if found else docno


def passages_by_document(docnos: Iterable[str]) -> dict[str, str]:
    """Returns a passage of each document that has one among the docnos, by document."""
    return {document: d for d in docnos if "%p" in d and (document := document_of(d)) != d}


class Sources:
    """The docnos that queries were written for, of documents or of passages.

    Args:
        docnos: The docnos; values that are not strings are left out.
    """

    def __init__(self, docnos: Iterable[object]):
        self._docnos = {docno for docno in docnos if isinstance(docno, str)}
        self._passages = passages_by_document(self._docnos)

    def check(self, docnos: Iterable[str]) -> None:
        """Checks that results have documents if the queries do, and passages if the queries do.

        Args:
            docnos: Docnos of results.

        Raises:
            ValueError: A query was written for a passage, and its document is among the results.
                Or it was written for a document, and a passage of it is among the results.
        """
        found = set(docnos)
        both = self._passages.keys() & found
        # A docno such as d1%p0 may be that of a document, beside a document d1: it is found, too.
        if both and not passages_by_document(self._docnos & found):
            document = min(both)
            raise ValueError(
                f"the retriever returns the document {document!r}, but the query was written for "
                f"its passage {self._passages[document]!r}: put PassagesToDocuments() before this "
                "stage"
            )
        passages = passages_by_document(found)
        if both := (passages.keys() & self._docnos) - found:
            document = min(both)
            raise ValueError(
                f"the retriever returns the passage {passages[document]!r}, but the query was "
                f"written for the document {document!r}: let the retriever end with "
                "pt.text.max_passage()"
            )
