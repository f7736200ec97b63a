"""Resume state: the documents of a corpus that earlier, interrupted runs of ``index()`` stored.

The stage that turns documents into queries is a `DocumentStage`. Its ``transform_iter`` adds every
document to the active `ResumeState` and generates queries only for the documents that no earlier
run has stored.

Only the stream of the pipeline counts: the state is active only while a `DocumentStage` of the
pipeline processes a batch, and ``transform`` only stores answers and failures there.

A `DocumentStage` must follow two rules: it takes a batch only after it has yielded all rows of the
previous batch, and it runs in the thread that runs ``index()``.
"""

import json
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._fingerprint import StreamFingerprint, settings_difference
from pyterrier_inpars._stage import (
    Stage,
    as_frame,
    check_columns,
    check_strings,
    fields_of,
    joined_text,
)
from pyterrier_inpars.queries._answers import AnswerLog
from pyterrier_inpars.queries._manifest import joined_parts
from pyterrier_inpars.queries._run_progress import RunProgress

T = TypeVar("T")


class FailedDocument(NamedTuple):
    """A document that lacks queries because a prompt failed.

    Attributes:
        docno: Its identifier.
        error: Why the prompt failed.
        end: Position in the corpus at which the document's batch ends.
        unanswered: Whether the server failed at it, so that a later run tries it again.
    """

    docno: str
    error: str
    end: int
    unanswered: bool = False


@dataclass
class ResumeState:
    """Compares the documents of one run of ``index()`` with those that earlier runs stored.

    Attributes:
        name: Name of the artifact in error messages.
        shard_ends: Position in the corpus at which each stored shard ends, in order. The last one
            may be the end of a partial shard.
        damaged: Numbers of the shards to regenerate, from 0.
        complete: Whether an earlier run reached the end of the corpus.
        settings: Settings of the generator; None until a run provides them.
        packages: Package versions of the last run; None until the first run provides them.
        stages: Stages between generator and artifact as in the manifest; None until the first run
            provides them, and in artifacts of version 0.1.
        current_stages: The same stages in this run.
        position: Position of this run in the corpus.
        by_document: Whether a `DocumentStage` of this run adds the documents. If none does, the
            rows themselves are compared.
        unanswered: Documents of stored shards whose prompts are tried again, with the number of
            their shard.
        retried: Numbers of these shards, until they are written with the new answers.
        documents: Docnos of these shards as far as this run has come, by the number of the shard.
        regenerating: Shard number of each document that belongs to a damaged shard, or is tried
            again, by docno.
        failed: Documents that lack queries because a prompt failed, once for each prompt, until
            their shard is stored.
        refused: Those of them that the server refused in this run since its last answer. It may
            refuse all prompts, for a reason that can be removed, so a later run tries these again.
            What it refuses then is final.
        answers: Log of the answers to the documents of unfinished shards, if one is kept.
        answered: Whether a prompt of this run was answered.
        num_pending: Number of documents of this run that were pending.
        progress: Progress of this run.
    """

    name: str
    shard_ends: list[StreamFingerprint] = field(default_factory=list)
    damaged: set[int] = field(default_factory=set)
    complete: bool = False
    settings: dict[str, Any] | None = None
    packages: dict[str, str] | None = None
    stages: list[str] | None = None
    current_stages: list[str] = field(default_factory=list)
    position: StreamFingerprint = StreamFingerprint()
    by_document: bool = False
    unanswered: dict[str, int] = field(default_factory=dict)
    retried: set[int] = field(default_factory=set)
    documents: dict[int, list[str]] = field(default_factory=dict)
    regenerating: dict[str, int] = field(default_factory=dict)
    failed: list["FailedDocument"] = field(default_factory=list)
    refused: set["FailedDocument"] = field(default_factory=set)
    answers: AnswerLog | None = None
    answered: bool = False
    num_pending: int = 0
    progress: RunProgress = field(default_factory=RunProgress)
    _checked: bool = False
    _failed_docnos: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._failed_docnos.update(document.docno for document in self.failed)
        self.retried.update(self.unanswered.values())
        if self.answers is not None:
            self.answers.counts_refusals = not self.only_retries

    @property
    def stored_position(self) -> StreamFingerprint:
        """Position in the corpus up to which earlier runs stored the queries."""
        return self.shard_ends[-1] if self.shard_ends else StreamFingerprint()

    @property
    def only_retries(self) -> bool:
        """Whether the artifact is complete but for documents whose prompts are tried again."""
        return self.complete and not self.damaged and bool(self.retried)

    def check_settings(self, settings: dict[str, Any] | None) -> None:
        """Checks the settings of the generator, which must be the same for all shards.

        The stages after the generator (``current_stages``) must be the same too.

        Args:
            settings: JSON-serializable settings. Package versions, under the key ``versions``, are
                compared separately: they may change between runs, with a warning. None if nobody
                knows them.

        Raises:
            ValueError: The settings differ from those of an earlier run, or of another generator
                in this run. The error lists each difference.
        """
        current = json.loads(json.dumps(settings or {}))
        packages = current.pop("versions", {})
        if difference := self._difference(current):
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
        if not self._checked:
            self._check_unknown_stages()
        self.packages, self._checked = packages, True
        if settings is not None:
            self.settings = current

    def _check_unknown_stages(self) -> None:
        """Warns if stages must be compared that version 0.1 did not store."""
        if self.stages is None and self.stored_position.documents:
            if self.current_stages:
                warnings.warn(
                    f"{self.name} was started by version 0.1, which did not store the stages after "
                    f"the generator: check that they were {', '.join(self.current_stages)}",
                    stacklevel=3,
                )
        else:
            self.stages = self.current_stages

    def _difference(self, settings: dict[str, Any]) -> str:
        """Describes how settings and stages of this run differ from the stored ones, if known."""
        old = _without_provenance(settings if self.settings is None else self.settings)
        new = _as_earlier(old, _without_provenance(settings))
        if self.stages is not None:
            old["stages"], new["stages"] = self.stages, self.current_stages
        else:  # version 0.1 did not store it
            new.pop("keep_prompt", None)
            old.pop("keep_prompt", None)
        return settings_difference(old, new)

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
            if shard in self.retried:
                self.documents.setdefault(shard, []).append(fields[0])
            if self.is_pending(number, fields[0]):
                self.regenerating[fields[0]] = shard
        is_pending = self.is_pending(number, fields[0])
        self.num_pending += is_pending
        return is_pending

    def add_failure(
        self, docno: str, error: str, unanswered: bool = False, confirmed: bool = False
    ) -> None:
        """Adds a document of the current batch whose prompt failed.

        Args:
            docno: Its identifier.
            error: Why the prompt failed.
            unanswered: See `FailedDocument`.
            confirmed: Whether an answer came after the refusal of the prompt.
        """
        self.progress.failed += docno not in self._failed_docnos
        self._failed_docnos.add(docno)
        document = FailedDocument(docno, error, self.position.documents, unanswered)
        self.failed.append(document)
        if not (unanswered or confirmed or docno in self.unanswered):
            self.refused.add(document)

    def confirm_refusals(self) -> None:
        """Makes the refusals before an answer of this run final."""
        self.refused.clear()

    def close(self) -> None:
        """Closes the log of the answers, if any, and ends the progress bar."""
        self.progress.close()
        if self.answers is not None:
            self.answers.close()

    def is_pending(self, number: int, docno: str) -> bool:
        """Returns whether the queries of a document must still be generated.

        Args:
            number: Position of the document in the corpus, from 1.
            docno: Its identifier.
        """
        shard = self._shard(number)
        is_stored = shard < len(self.shard_ends) and shard not in self.damaged
        return not is_stored or self.unanswered.get(docno) == shard

    def _shard(self, number: int) -> int:
        return bisect_left(self.shard_ends, number, key=lambda end: end.documents)


def _without_provenance(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings with nothing but the settings of parts that ``concat`` joined.

    Versions, counts and failures of a part may change while its queries stay the same.
    """
    parts = {
        name: _without_provenance(part["settings"] or {})
        for name, part in joined_parts({"settings": settings}).items()
    }
    return {**settings, "parts": settings["parts"] | parts} if parts else {**settings}


def _as_earlier(old: Any, new: Any) -> Any:
    """Returns settings as the version that stored the old ones would describe them.

    Earlier versions only named functions, without a hash, and described the sampling of a server
    that gets no temperature as if ``top_p`` and ``seed`` were sent.
    """
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    unknown = {"hash"} - old.keys() if "function" in old else set()
    earlier = {
        name: _as_earlier(old.get(name), value)
        for name, value in new.items()
        if name not in unknown
    }
    sent = new.get("parameters")
    if isinstance(sent, dict) and "temperature" in sent and new.get("temperature") is None:
        unsent = {"top_p", "seed"} - sent.keys()
        if old.get("top_p") != 1:  # which had an effect
            unsent.discard("top_p")
        earlier |= {name: old[name] for name in unsent & old.keys() if new.get(name) is None}
    return earlier


_active: ContextVar[ResumeState | None] = ContextVar("pyterrier_inpars_resume", default=None)


def active_state() -> ResumeState | None:
    """Returns the resume state that is active in this thread, if any."""
    return _active.get()


@contextmanager
def activated(state: ResumeState | None) -> Iterator[None]:
    """Makes a resume state, or none, the active one of this thread until the block ends."""
    token = _active.set(state)
    try:
        yield
    finally:
        _active.reset(token)


def document_texts(
    records: Sequence[dict[str, Any]],
    text_field: str | Sequence[str],
    context: pt.Transformer | None = None,
) -> pd.DataFrame:
    """Returns a frame with ``docno`` and ``text``, what identifies each document of a corpus.

    Args:
        records: Documents.
        text_field: Column with the document text, or several, which are joined.
        context: Transformer to name in an error.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: A docno or text is not a string.
    """
    frame = as_frame(records)
    check_columns(frame, "docno", *fields_of(text_field), context=context)
    check_strings(frame, "docno")
    return pd.DataFrame({"docno": frame["docno"], "text": joined_text(frame, text_field)})


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
        index unchanged. All documents if no state is active.
    """
    state = active_state()
    if state is None:
        return documents
    state.by_document = True
    state.check_settings(settings)
    fields = zip(documents["docno"], documents[text_field], strict=True)
    return documents[[state.add_document(docno, text) for docno, text in fields]]


class DocumentStage(Stage):
    """Base class of a stage that turns documents into queries, in a pipeline that can be resumed.

    ``transform`` generates queries for all its documents, whether or not an artifact is being
    written. ``transform_iter`` leaves out those that the artifact of its pipeline has stored.

    Attributes:
        text_field: Name of the column with the document text, or several names.
    """

    text_field: str | list[str] = "text"

    def settings(self) -> dict[str, Any]:
        """Returns the settings that determine the queries; see `ResumeState.check_settings`."""
        raise NotImplementedError

    @property
    def reads_ahead(self) -> bool:
        """Whether `read_ahead` has an effect."""
        return False

    def read_ahead(self, records: list[dict[str, Any]], end: int) -> None:
        """Begins with a later batch; its documents are pending, and it is transformed in its turn.

        Args:
            records: Documents of the batch.
            end: Position in the corpus at which the batch ends.
        """

    def transform_iter(self, inp: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Transforms the records of the documents that are pending."""
        records = list(inp)
        if records and active_state() is not None:
            documents = document_texts(records, self.text_field, context=self)
            pending = pending_documents(documents, self.settings())
            records = [records[row] for row in pending.index]
        return super().transform_iter(records)


def active_rows(start: Callable[[], Iterable[T]], state: ResumeState | None) -> Iterator[T]:
    """Yields the items of a stream; the resume state is active only while the stream runs.

    Args:
        start: Function that returns the stream.
        state: Resume state; None for a stream in which none is active.
    """
    with activated(state):
        rows = iter(start())
    while True:
        with activated(state):
            try:
                row = next(rows)
            except StopIteration:
                return
        yield row
