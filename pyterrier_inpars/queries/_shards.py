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
            shard_qids = [row["qid"] for row in read_rows(folder, entry)]
        except (ValueError, TypeError, LookupError, OSError, EOFError, zlib.error) as error:
            faults[number] = str(error)
            continue
        duplicate = next((qid for qid in shard_qids if not qids.add(qid)), None)
        if duplicate is not None:
            faults[number] = f"{folder / entry['file']} has the duplicate qid {duplicate!r}"
        elif len(shard_qids) != entry["queries"]:
            faults[number] = (
                f"{folder / entry['file']} has {len(shard_qids):,} queries, but the manifest says "
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
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder = folder
        self.manifest = manifest
        self.failed: list[FailedDocument] = []
        self.faults, self.qids = check_shards(folder, manifest)
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
                failed = entry.get("failed", {}).items()
                self.failed = [FailedDocument(docno, why, documents) for docno, why in failed]
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
        return sum(e["documents"] for e in entries), sum(e["queries"] for e in entries)

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
            OSError: A file cannot be written.
        """
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

    def store(self, end: StreamFingerprint, state: ResumeState) -> None:
        """Writes the open shard, which ends at a position in the corpus, and the manifest."""
        name = shard_name(len(self.manifest["shards"]))
        failed = _take_failed(state, end)
        entry = self._write_shard(name, self._lines, self.missing(end), end, failed)
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
        """
        end, count = self._last if state.position != self._last[0] else self._finished
        if not state.by_document or end <= state.stored_position or self.missing(end) <= 0:
            return
        name = partial_shard_name(len(self.manifest["shards"]), self.missing(end))
        failed = _take_failed(state, end)
        entry = self._write_shard(name, self._lines[:count], self.missing(end), end, failed)
        previous = self.manifest.get("open")
        self._save(self._current_manifest(state) | {"open": entry})
        if previous:
            (self.folder / previous["file"]).unlink(missing_ok=True)

    def _repair(self, position: StreamFingerprint, state: ResumeState) -> None:
        """Writes the damaged shards whose documents up to a position have been regenerated."""
        for number in sorted(state.damaged):
            if self.shard_ends[number] > position:
                break
            old = self.manifest["shards"][number]
            lines = self._regenerated.pop(number, [])
            end = self.shard_ends[number]
            failed = _take_failed(state, end, number)
            entry = self._write_shard(old["file"], lines, old["documents"], end, failed)
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
        failed: dict[str, str],
    ) -> dict[str, Any]:
        """Writes lines to a shard and returns its entry for the manifest."""
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
            **({"failed": failed} if failed else {}),
        }

    def _save(self, manifest: dict[str, Any], complete: bool = False) -> None:
        text = json.dumps(manifest, ensure_ascii=False, indent=1)
        _write(self.folder / (COMPLETE if complete else UNFINISHED), text.encode() + b"\n")
        self.manifest = manifest


def _take_failed(
    state: ResumeState, end: StreamFingerprint, damaged: int | None = None
) -> dict[str, str]:
    """Removes the failed documents of a shard from the state, and returns their errors.

    Args:
        state: Resume state of this run.
        end: Position at which the shard ends.
        damaged: Number of the shard if it is a damaged one.
    """
    taken = [
        document
        for document in state.failed
        if state.regenerating.get(document.docno) == damaged
        and (damaged is not None or document.end <= end.documents)
    ]
    stored = set(taken)
    state.failed = [document for document in state.failed if document not in stored]
    return {document.docno: document.error for document in taken}


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
