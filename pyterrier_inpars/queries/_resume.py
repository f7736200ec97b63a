"""Resume state: which documents of a corpus an earlier, interrupted ``index()`` has stored.

``Compose.index`` feeds a corpus through the stages before it hands the rows to ``index()``, which
therefore never sees the documents. So ``SyntheticQueries.index`` opens a `ResumeState`, and the
stage that turns documents into queries passes each batch through `admit`, which adds every document
to the resume state and returns those that no earlier run has stored. Without an open resume state,
it returns all of them.

Two rules hold for that stage: it admits a batch only when it has yielded all rows of the batch
before, and it admits in the thread that indexes.
"""

import json
import warnings
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from pyterrier_inpars._fingerprint import StreamFingerprint, settings_difference


@dataclass
class ResumeState:
    """The documents that pass in one run of ``index()``, against those stored by earlier runs.

    Attributes:
        name: what errors call the artifact.
        stored: the places at which the parts that earlier runs have stored end, in order.
        damaged: the numbers of the parts that must be made again, from 0.
        complete: whether an earlier run has stored it to the end.
        settings: how the queries are made; None until the first run says.
        packages: the versions of packages that took part, None until the first run says.
        seen: how far this run has come.
        admits: whether a stage of this run passes its documents through `admit`.
        again: the part of each document, by its first field, that is done again.
    """

    name: str
    stored: list[StreamFingerprint] = field(default_factory=list)
    damaged: set[int] = field(default_factory=set)
    complete: bool = False
    settings: dict[str, Any] | None = None
    packages: dict[str, str] | None = None
    seen: StreamFingerprint = StreamFingerprint()
    admits: bool = False
    again: dict[str, int] = field(default_factory=dict)
    _described: bool = False

    @property
    def done(self) -> StreamFingerprint:
        """How far earlier runs have stored the stream."""
        return self.stored[-1] if self.stored else StreamFingerprint()

    def describe(self, settings: dict[str, Any]) -> None:
        """Takes note of how the queries are made, which must not change while an artifact grows.

        Args:
            settings: anything JSON can hold. The versions of packages, under ``versions``, are kept
                apart: they may change from one run to the next, with a warning.

        Raises:
            ValueError: the settings differ from those known; the error names each difference.
        """
        told = json.loads(json.dumps(settings))
        packages = told.pop("versions", {})
        if self.settings is not None and (other := settings_difference(self.settings, told)):
            raise ValueError(
                f"two generators with different settings write to {self.name}:\n{other}\n"
                "Give each an artifact of its own."
                if self._described
                else f"{self.name} was started with other settings:\n{other}\n"
                "Go on with the settings it was started with, or index into another path."
            )
        if (
            not self._described
            and self.packages
            and (other := settings_difference(self.packages, packages))
        ):
            warnings.warn(f"{self.name} goes on with other packages:\n{other}", stacklevel=2)
        self.settings, self.packages, self._described = told, packages, True

    def note(self, *fields: str) -> bool:
        """Enters one document; tells whether it is still to be done.

        Raises:
            ValueError: the documents are not those of the earlier runs, or the artifact is complete
                and this is one more.
        """
        self.seen = self.seen.extended(*fields)
        number = self.seen.documents
        if self.complete and number > self.done.documents:
            raise ValueError(
                f"{self.name} is complete with {self.done.documents:,} documents, and the corpus "
                "has more: index into another path to take them in."
            )
        part = self._part(number)
        if part < len(self.stored):
            end = self.stored[part]
            if number == end.documents and self.seen != end:
                raise ValueError(
                    f"the corpus is not the one that {self.name} was started with: its first "
                    f"{number:,} documents differ in identifier, text or order. Give the same "
                    "documents in the same order, or index into another path."
                )
            if part in self.damaged:
                self.again[fields[0]] = part
        return self.wants(number)

    def wants(self, number: int) -> bool:
        """Whether a document, by its number in the stream from 1, is still to be done."""
        part = self._part(number)
        return part == len(self.stored) or part in self.damaged

    def _part(self, number: int) -> int:
        return bisect_left(self.stored, number, key=lambda end: end.documents)


_open: ContextVar[ResumeState | None] = ContextVar("pyterrier_inpars_ledger", default=None)


def current() -> ResumeState | None:
    """The ledger that is open in this thread."""
    return _open.get()


@contextmanager
def opened(ledger: ResumeState) -> Iterator[ResumeState]:
    """Makes ``ledger`` the one that `admit` writes to, in this thread and until the block ends."""
    token = _open.set(ledger)
    try:
        yield ledger
    finally:
        _open.reset(token)


def admit(
    documents: pd.DataFrame, settings: dict[str, Any], text_field: str = "text"
) -> pd.DataFrame:
    """Enters documents into the open ledger and gives back those to make queries for, maybe none.

    Args:
        documents: a frame with string columns ``docno`` and ``text_field``.
        settings: how the queries are made; see `ResumeState.describe`.
        text_field: the column that holds the text.

    Returns:
        The rows of ``documents`` that no earlier run has stored, their index unchanged.
    """
    ledger = current()
    if ledger is None:
        return documents
    ledger.admits = True
    ledger.describe(settings)
    fields = zip(documents["docno"], documents[text_field], strict=True)
    return documents[[ledger.note(docno, text) for docno, text in fields]]
