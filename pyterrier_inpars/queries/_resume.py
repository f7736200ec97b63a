"""Resume state: the documents of a corpus that earlier, interrupted runs of ``index()`` stored.

``Compose.index`` feeds a corpus through the stages before it passes the rows to ``index()``, which
therefore never sees the documents. ``SyntheticQueries.index`` activates a `ResumeState`, and the
stage that turns documents into queries passes each batch through `pending_documents`. This function
adds every document to the active state and returns the documents that no earlier run has stored.
Without an active state, it returns all documents.

That stage must follow two rules: it calls `pending_documents` for a batch only after it has yielded
all rows of the previous batch, and it calls it in the thread that runs ``index()``.
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
    """Compares the documents of one run of ``index()`` with those that earlier runs stored.

    Attributes:
        name: Name of the artifact in error messages.
        shard_ends: Position in the corpus at which each stored shard ends, in order. The last one
            may be the end of a partial shard.
        damaged: Numbers of the shards to regenerate, from 0.
        complete: Whether an earlier run reached the end of the corpus.
        settings: Settings of the generator; None until the first run provides them.
        packages: Package versions of the last run; None until the first run provides them.
        position: Position of this run in the corpus.
        by_document: Whether a stage of this run calls `pending_documents`. If none does, the rows
            themselves are compared.
        regenerating: Shard number of each document that belongs to a damaged shard, by docno.
    """

    name: str
    shard_ends: list[StreamFingerprint] = field(default_factory=list)
    damaged: set[int] = field(default_factory=set)
    complete: bool = False
    settings: dict[str, Any] | None = None
    packages: dict[str, str] | None = None
    position: StreamFingerprint = StreamFingerprint()
    by_document: bool = False
    regenerating: dict[str, int] = field(default_factory=dict)
    _checked: bool = False

    @property
    def stored_position(self) -> StreamFingerprint:
        """Position in the corpus up to which earlier runs stored the queries."""
        return self.shard_ends[-1] if self.shard_ends else StreamFingerprint()

    def check_settings(self, settings: dict[str, Any]) -> None:
        """Checks the settings of the generator, which must be the same for all shards.

        Args:
            settings: JSON-serializable settings. Package versions, under the key ``versions``, are
                compared separately: they may change between runs, with a warning.

        Raises:
            ValueError: The settings differ from those of an earlier run, or of another generator
                in this run. The error lists each difference.
        """
        current = json.loads(json.dumps(settings))
        packages = current.pop("versions", {})
        if self.settings is not None and (
            difference := settings_difference(self.settings, current)
        ):
            raise ValueError(
                f"two generators with different settings write to {self.name}:\n{difference}\n"
                "Give each generator its own artifact."
                if self._checked
                else f"{self.name} was started with other settings:\n{difference}\n"
                "Resume with the settings it was started with, or index into another path."
            )
        if (
            not self._checked
            and self.packages
            and (difference := settings_difference(self.packages, packages))
        ):
            warnings.warn(
                f"{self.name} resumes with other package versions:\n{difference}", stacklevel=2
            )
        self.settings, self.packages, self._checked = current, packages, True

    def add_document(self, *fields: str) -> bool:
        """Adds the next document of the corpus.

        Args:
            *fields: Strings that identify the document; the first one is its docno.

        Returns:
            Whether the document is pending, that is, its queries must still be generated.

        Raises:
            ValueError: The documents differ from those of the earlier runs, or the artifact is
                complete and the corpus has more documents.
        """
        self.position = self.position.extended(*fields)
        number = self.position.documents
        if self.complete and number > self.stored_position.documents:
            raise ValueError(
                f"{self.name} is complete with {self.stored_position.documents:,} documents, but "
                "the corpus has more: index into another path to include them"
            )
        shard = self._shard(number)
        if shard < len(self.shard_ends):
            end = self.shard_ends[shard]
            if number == end.documents and self.position != end:
                raise ValueError(
                    f"the corpus is not the one that {self.name} was started with: its first "
                    f"{number:,} documents differ in identifier, text or order. Give the same "
                    "documents in the same order, or index into another path."
                )
            if shard in self.damaged:
                self.regenerating[fields[0]] = shard
        return self.is_pending(number)

    def is_pending(self, number: int) -> bool:
        """Returns whether the queries of a document must still be generated.

        Args:
            number: Position of the document in the corpus, from 1.
        """
        shard = self._shard(number)
        return shard == len(self.shard_ends) or shard in self.damaged

    def _shard(self, number: int) -> int:
        return bisect_left(self.shard_ends, number, key=lambda end: end.documents)


_active: ContextVar[ResumeState | None] = ContextVar("pyterrier_inpars_resume", default=None)


def active_state() -> ResumeState | None:
    """Returns the resume state that is active in this thread, if any."""
    return _active.get()


@contextmanager
def activated(state: ResumeState) -> Iterator[ResumeState]:
    """Makes a resume state the active one of this thread until the block ends."""
    token = _active.set(state)
    try:
        yield state
    finally:
        _active.reset(token)


def pending_documents(
    documents: pd.DataFrame, settings: dict[str, Any], text_field: str = "text"
) -> pd.DataFrame:
    """Adds documents to the active resume state and returns those that are pending.

    Args:
        documents: Frame with the string columns ``docno`` and ``text_field``.
        settings: Settings of the generator; see `ResumeState.check_settings`.
        text_field: Name of the column with the document text.

    Returns:
        The rows of ``documents`` whose queries must still be generated, perhaps none, with their
        index unchanged.
    """
    state = active_state()
    if state is None:
        return documents
    state.by_document = True
    state.check_settings(settings)
    fields = zip(documents["docno"], documents[text_field], strict=True)
    return documents[[state.add_document(docno, text) for docno, text in fields]]
