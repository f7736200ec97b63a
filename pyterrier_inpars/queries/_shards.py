"""The shards of `SyntheticQueries`: gzipped JSON Lines files, and their writer."""

import gzip
import io
import json
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from pyterrier_inpars._counted import counted
from pyterrier_inpars._files import plain, write_bytes
from pyterrier_inpars._fingerprint import StreamFingerprint
from pyterrier_inpars._stage import without_missing
from pyterrier_inpars.queries._manifest import (
    COMPLETE,
    UNFINISHED,
    partial_shard_name,
    shard_ends,
    shard_name,
    without_partial_shard,
)
from pyterrier_inpars.queries._qids import QidSet
from pyterrier_inpars.queries._resume import FailedDocument, ResumeState


def read_rows(folder: Path, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the rows of a shard.

    Args:
        folder: Folder of the artifact.
        entry: Entry of the shard in the manifest.

    Raises:
        ValueError: The file is missing, or its SHA-256 differs from the manifest.
    """
    return map(json.loads, _read_lines(folder, entry))


def check_shards(folder: Path, manifest: dict[str, Any]) -> tuple[dict[int, str], QidSet]:
    """Compares all shards with the manifest.

    Returns:
        A description of the fault of each damaged shard, by shard number, and the qids of the
        other shards.
    """
    faults, qids = {}, QidSet()
    for number, entry in enumerate(manifest["shards"]):
        try:
            rows = [(row["qid"], row.get("docno")) for row in read_rows(folder, entry)]
        except (ValueError, TypeError, LookupError, OSError, EOFError, zlib.error) as error:
            faults[number] = str(error)
            continue
        unanswered = set(entry.get("unanswered", ()))  # these may be replaced
        checked = (qid for qid, docno in rows if docno not in unanswered)
        duplicate = next((qid for qid in checked if not qids.add(qid)), None)
        if duplicate is not None:
            faults[number] = f"{folder / entry['file']} has the duplicate qid {duplicate!r}"
        elif len(rows) != entry["queries"]:
            faults[number] = (
                f"{folder / entry['file']} has {len(rows):,} queries, but the manifest says "
                f"{entry['queries']:,}"
            )
        if number in faults:
            qids.recent = set()
        qids.compact()
    return faults, qids


class Writer:
    """Writes the shards of an artifact and buffers the rows of the open shard.

    Args:
        folder: Folder of the artifact.
        manifest: Its current manifest.

    Attributes:
        manifest: The manifest, equal to the file.
        faults: Description of the fault of each damaged shard, by shard number.
        shard_ends: Position in the corpus at which each stored shard ends. The last one may be the
            end of a partial shard.
        qids: The qids of all rows.
        failed: Documents of the partial shard that lack queries because a prompt failed.
        unanswered: Documents of undamaged shards whose prompts are tried again, with the number of
            their shard; none in a folder that cannot be written.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder = folder
        self.manifest = manifest
        self.failed: list[FailedDocument] = []
        self.faults, self.qids = check_shards(folder, manifest)
        self.unanswered = {
            docno: number
            for number, entry in enumerate(manifest["shards"])
            if number not in self.faults and os.access(folder, os.W_OK)
            for docno in entry.get("unanswered", ())
        }
        self.shard_ends = shard_ends(manifest)
        self._lines = self._load_partial_shard()
        self._regenerated: dict[int, list[bytes]] = {}  # lines by number of the damaged shard
        # Position and number of buffered lines at the last row, and at the last point up to which
        # all documents are known to be finished.
        self._last = (StreamFingerprint(), len(self._lines))
        self._finished = (([StreamFingerprint()] + self.shard_ends)[-1], len(self._lines))

    def _load_partial_shard(self) -> list[bytes]:
        """Returns the lines of the partial shard that an interrupted run kept, and cleans up."""
        lines, entry = [], self.manifest.get("open")
        if entry is not None:
            try:
                lines = _read_lines(self.folder, entry)
                documents = self.manifest["documents"] + entry["documents"]
                self.shard_ends.append(StreamFingerprint(documents, entry["fingerprint"]))
                unanswered = entry.get("unanswered", ())
                self.failed = [
                    FailedDocument(docno, error, documents, docno in unanswered)
                    for docno, error in entry.get("failed", {}).items()
                ]
            except ValueError:  # damaged: its queries are generated again
                self.manifest, entry = without_partial_shard(self.manifest), None
        for line in lines:
            self.qids.add(json.loads(line)["qid"])
        with suppress(OSError):  # the folder of a complete artifact may be read-only
            for file in [*self.folder.glob("*.part"), *self.folder.glob("queries-*.open")]:
                if entry is None or file.name != entry["file"]:
                    file.unlink()
        return lines

    @property
    def intact(self) -> tuple[int, int]:
        """Number of documents, and of their queries, that earlier runs stored undamaged."""
        entries = [
            entry
            for number, entry in enumerate(self.manifest["shards"])
            if number not in self.faults
        ]
        entries += [self.manifest["open"]] if "open" in self.manifest else []
        documents = sum(entry["documents"] for entry in entries) - len(self.unanswered)
        return documents, sum(entry["queries"] for entry in entries)

    def missing(self, position: StreamFingerprint) -> int:
        """Returns the number of documents before a position that are in no complete shard.

        It is negative if the complete shards end after the position.
        """
        return position.documents - self.manifest["documents"]

    def add(self, row: dict[str, Any], state: ResumeState, shard_size: int) -> None:
        """Adds a row to its shard, after storing the shard that this row shows to be finished.

        All rows of a batch arrive before the next batch reaches the resume state. If the state has
        moved since the last row, all documents before its position at that row are finished.

        Args:
            row: Row to add.
            state: Resume state of this run.
            shard_size: Number of finished documents at which the open shard is stored.

        Raises:
            ValueError: The qid is a duplicate, or the row cannot be written as JSON.
            OSError: A file cannot be written.
        """
        position, count = self._last
        if state.position != position:
            finished = max(position, state.stored_position)
            self._finished = finished, count
            self._repair(position, state)
            if self.missing(finished) >= shard_size:
                self.store(finished, state)
        if not self.qids.add(row["qid"]):
            raise ValueError(
                f"duplicate qid {row['qid']!r}: the corpus contains document {row['docno']!r} more "
                "than once. Remove the duplicate and run again; stored queries are kept."
            )
        try:
            # pandas writes NaN for a field that a document lacks, and NaN is not JSON
            row = without_missing(row)
            line = json.dumps(row, ensure_ascii=False, default=plain).encode() + b"\n"
        except (TypeError, UnicodeEncodeError) as error:
            raise ValueError(f"cannot store qid {row['qid']!r}: {error}") from error
        number = state.regenerating.get(row["docno" if state.by_document else "qid"])
        lines = self._lines if number is None else self._regenerated.setdefault(number, [])
        lines.append(line)
        self._last = state.position, len(self._lines)

    def finish(self, state: ResumeState) -> None:
        """Stores the remaining rows and marks the artifact as complete.

        Raises:
            ValueError: The corpus has fewer documents than the artifact.
            RuntimeError: No prompt was answered, in this run or an earlier one.
            OSError: A file cannot be written.
        """
        if state.failed and not (state.answered or self.shard_ends or self._lines):
            docno, error = state.failed[0][:2]
            raise RuntimeError(
                f"no prompt was answered, at docno {docno!r} for this reason: {error}. Nothing is "
                f"stored in {state.name}: remove the cause, or change the settings, and run "
                "index() again"
            )
        self._repair(state.position, state)
        if state.position < state.stored_position:
            raise ValueError(
                f"the corpus ended after {state.position.documents:,} documents, but {state.name} "
                f"has {state.stored_position.documents:,}: give the same corpus again, or index "
                "into another path"
            )
        if self.missing(state.position):
            self.store(state.position, state)
        if state.answers is not None:  # those of repaired shards
            state.answers.discard(state.position.documents)
        if not state.complete:
            self._save(self.manifest)
            os.replace(self.folder / UNFINISHED, self.folder / COMPLETE)
        elif self.manifest["settings"] is None and state.settings is not None:
            self._save(self.manifest | {"settings": state.settings}, complete=True)
        unanswered = sum(len(entry.get("unanswered", ())) for entry in self.manifest["shards"])
        if unanswered:
            warnings.warn(
                f"{counted(unanswered, 'document')} of {state.name} may get queries from the same "
                "index() again, which sends only their prompts: the server did not answer them, or "
                "refused them after its last answer (attribute failed)",
                stacklevel=3,
            )

    def store(self, end: StreamFingerprint, state: ResumeState) -> None:
        """Writes the open shard, which ends at a position in the corpus, and the manifest."""
        name = shard_name(len(self.manifest["shards"]))
        failures = _take_failed(state, end)
        entry = self._write_shard(name, self._lines, self.missing(end), end, failures)
        manifest, partial = self._current_manifest(state), self.manifest.get("open")
        manifest |= end._asdict()
        manifest["queries"] += entry["queries"]
        manifest["shards"] = [*manifest["shards"], entry]
        self._save(manifest)
        if partial:
            (self.folder / partial["file"]).unlink(missing_ok=True)
        if state.answers is not None:
            state.answers.discard(end.documents)
        self.qids.compact()
        self._lines = []

    def keep(self, state: ResumeState) -> None:
        """Writes the finished rows of the open shard as a partial shard, for the next run.

        Without a generator in the pipeline nothing is kept: the next run gets these rows again.
        Nor is anything with prompts that are tried again, if the log has the answers to the others,
        or there are none.
        """
        end, count = self._last if state.position != self._last[0] else self._finished
        if not state.by_document or end <= state.stored_position or self.missing(end) <= 0:
            return
        name = partial_shard_name(len(self.manifest["shards"]), self.missing(end))
        failures = _take_failed(state, end)
        if "unanswered" in failures and (state.answers or not count):
            return
        entry = self._write_shard(name, self._lines[:count], self.missing(end), end, failures)
        previous = self.manifest.get("open")
        self._save(self._current_manifest(state) | {"open": entry})
        if previous:
            (self.folder / previous["file"]).unlink(missing_ok=True)

    def _repair(self, position: StreamFingerprint, state: ResumeState) -> None:
        """Writes the shards whose damaged or missing queries up to a position are generated."""
        for number in sorted(state.damaged | state.retried):
            if self.shard_ends[number] > position:
                break
            if number in state.retried:
                self._complete_shard(number, state)
                continue
            old = self.manifest["shards"][number]
            lines = self._regenerated.pop(number, [])
            end = self.shard_ends[number]
            failures = _take_failed(state, end, number)
            entry = self._write_shard(old["file"], lines, old["documents"], end, failures)
            if entry["sha256"] != old["sha256"]:
                warnings.warn(
                    f"{self.folder / old['file']} was damaged and has been regenerated, but not "
                    "with the same bytes: device, batch size or package versions differ",
                    stacklevel=4,
                )
                shards = list(self.manifest["shards"])
                shards[number] = entry | {"packages": state.packages}
                queries = self.manifest["queries"] + entry["queries"] - old["queries"]
                self._save(self.manifest | {"shards": shards, "queries": queries}, state.complete)
            state.damaged.discard(number)
            state.regenerating = {
                docno: n for docno, n in state.regenerating.items() if n != number
            }

    def _complete_shard(self, number: int, state: ResumeState) -> None:
        """Writes a shard with the queries of documents that were tried again."""
        state.retried.discard(number)
        order = dict.fromkeys(state.documents.pop(number))
        old, end = self.manifest["shards"][number], self.shard_ends[number]
        failures = _take_failed(state, end, number)
        errors = failures.get("failed", {})
        rows = _by_docno(_read_lines(self.folder, old))
        new = _by_docno(self._regenerated.pop(number, []))
        for docno in old["unanswered"]:
            # those of other prompts of a document that failed again are kept
            before = rows.get(docno, {}) if docno in errors else {}
            rows[docno] = before | new.get(docno, {})
        lines = [line for docno in order for line in rows.get(docno, {}).values()]
        errors = {d: e for d, e in old["failed"].items() if d not in old["unanswered"]} | errors
        if errors:
            failures["failed"] = {docno: errors[docno] for docno in order if docno in errors}
        entry = self._write_shard(old["file"], lines, old["documents"], end, failures)
        versions = [v for v in self.manifest["versions"] if v["from_shard"] <= number]
        packages = old.get("packages", versions[-1]["packages"])
        if "packages" in old or (entry["sha256"] != old["sha256"] and packages != state.packages):
            entry["packages"] = state.packages
        shards = list(self.manifest["shards"])
        shards[number] = entry
        queries = self.manifest["queries"] + entry["queries"] - old["queries"]
        self._save(self.manifest | {"shards": shards, "queries": queries}, state.complete)

    def _current_manifest(self, state: ResumeState) -> dict[str, Any]:
        """Returns a copy of the manifest with the settings and versions of this run."""
        manifest = without_partial_shard(self.manifest) | {"settings": state.settings}
        if state.stages is not None:
            manifest["stages"] = state.stages
        versions = list(manifest["versions"])
        if not versions or versions[-1]["packages"] != state.packages:
            versions.append({"from_shard": len(manifest["shards"]), "packages": state.packages})
        return manifest | {"versions": versions}

    def _write_shard(
        self,
        name: str,
        lines: list[bytes],
        documents: int,
        end: StreamFingerprint,
        failures: dict[str, Any],
    ) -> dict[str, Any]:
        """Writes lines to a shard and returns its entry for the manifest; see `_take_failed`."""
        buffer = io.BytesIO()
        with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as shard:
            shard.write(b"".join(lines))
        data = buffer.getvalue()
        _write(self.folder / name, data)
        return {
            "file": name,
            "sha256": sha256(data).hexdigest(),
            "documents": documents,
            "queries": len(lines),
            "fingerprint": end.fingerprint,
            **failures,
        }

    def _save(self, manifest: dict[str, Any], complete: bool = False) -> None:
        text = json.dumps(manifest, ensure_ascii=False, indent=1)
        _write(self.folder / (COMPLETE if complete else UNFINISHED), text.encode() + b"\n")
        self.manifest = manifest


def _take_failed(
    state: ResumeState, end: StreamFingerprint, regenerated: int | None = None
) -> dict[str, Any]:
    """Removes the failed documents of a shard from the state, and returns its fields for them.

    Args:
        state: Resume state of this run.
        end: Position at which the shard ends.
        regenerated: Number of the shard if it was stored before.
    """
    taken = [
        document
        for document in state.failed
        if state.regenerating.get(document.docno) == regenerated
        and (regenerated is not None or document.end <= end.documents)
    ]
    stored = set(taken)
    state.failed = [document for document in state.failed if document not in stored]
    unanswered = {d.docno: None for d in taken if d.unanswered or d in state.refused}
    fields = {"failed": {d.docno: d.error for d in taken}, "unanswered": list(unanswered)}
    return {name: value for name, value in fields.items() if value}


def _by_docno(lines: list[bytes]) -> dict[str, dict[str, bytes]]:
    """Returns the lines of rows by docno and qid."""
    found: dict[str, dict[str, bytes]] = {}
    for line in lines:
        row = json.loads(line)
        found.setdefault(row["docno"], {})[row["qid"]] = line
    return found


def _read_lines(folder: Path, entry: dict[str, Any]) -> list[bytes]:
    """Returns the lines of a shard, whose SHA-256 must be that of the manifest."""
    file = folder / entry["file"]
    remedy = "run the same index() again to regenerate it"
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{file} is missing: {remedy}") from None
    if sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError(
            f"{file} is damaged or was changed, its SHA-256 differs from the manifest: {remedy}"
        )
    return gzip.decompress(data).splitlines(keepends=True)


def _write(file: Path, data: bytes) -> None:
    """Writes a file atomically, so that it survives a power failure."""
    try:
        write_bytes(file, data, durable=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot store {file.name}: {error.strerror}. Stored queries are kept; once this "
            "file can be written, run the same index() again to resume",
            str(file),
        ) from error
