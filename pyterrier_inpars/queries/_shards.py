"""The files of `SyntheticQueries`: shards of rows, the manifest of them, and a writer's lock."""

import gzip
import io
import json
import os
import platform
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from pyterrier_inpars._fingerprint import StreamFingerprint
from pyterrier_inpars.datasets.toolkit_files import plain
from pyterrier_inpars.queries._resume import ResumeState

COMPLETE = "pt_meta.json"
UNFINISHED = "progress.json"
LOCK = "queries-writer.lock"


def manifest_file(folder: Path) -> Path | None:
    """The manifest that is in force; None before the first."""
    files = (folder / COMPLETE, folder / UNFINISHED)
    return next((file for file in files if file.is_file()), None)


def check_manifest(manifest: dict[str, Any], file: Path) -> None:
    """Checks that a manifest is whole: its counts are the sums over its shards.

    Raises:
        ValueError: it is not; the error names the file.
    """
    try:
        shards, kept = manifest["shards"], manifest.get("open")
        sound = (
            all(_sound(entry, _name(number)) for number, entry in enumerate(shards))
            and (kept is None or _sound(kept, _open_name(len(shards), kept["documents"])))
            and manifest["documents"] == sum(entry["documents"] for entry in shards)
            and manifest["queries"] == sum(entry["queries"] for entry in shards)
            and manifest["fingerprint"] == ([StreamFingerprint()] + marks(manifest))[-1].fingerprint
            and isinstance(manifest["versions"], list)
            and isinstance(manifest["settings"], dict | None)
        )
    except (LookupError, TypeError):
        sound = False
    if not sound:
        raise damaged_manifest(file)


def damaged_manifest(file: Path) -> ValueError:
    """The error for a manifest that cannot be used."""
    return ValueError(
        f"the manifest {file} is damaged: take {file.name} from a copy of the artifact, or index "
        "into another path"
    )


def marks(manifest: dict[str, Any]) -> list[StreamFingerprint]:
    """The places in the stream of documents at which the stored shards end, in order."""
    ends, documents = [], 0
    for entry in manifest["shards"]:
        documents += entry["documents"]
        ends.append(StreamFingerprint(documents, entry["fingerprint"]))
    return ends


def documents_kept(manifest: dict[str, Any]) -> int:
    """How many documents are done, those kept of a shard that is not full included."""
    return manifest["documents"] + manifest.get("open", {"documents": 0})["documents"]


def read(folder: Path, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a shard, whose bytes must be those that were written."""
    return map(json.loads, _lines(folder, entry))


def inspect(folder: Path, manifest: dict[str, Any]) -> tuple[dict[int, str], "Qids"]:
    """Compares the shards with the manifest.

    Returns:
        What is wrong with each damaged shard, by its number, and the qids of the others.
    """
    faults, qids = {}, Qids()
    for number, entry in enumerate(manifest["shards"]):
        try:
            read_qids = [row["qid"] for row in read(folder, entry)]
        except (ValueError, TypeError, LookupError, OSError, EOFError, zlib.error) as error:
            faults[number] = str(error)
            continue
        twice = next((qid for qid in read_qids if not qids.add(qid)), None)
        if twice is not None:
            faults[number] = f"{folder / entry['file']} has the qid {twice!r}, which came before"
        elif len(read_qids) != entry["queries"]:
            faults[number] = (
                f"{folder / entry['file']} has {len(read_qids):,} queries, but the manifest says "
                f"{entry['queries']:,}"
            )
        if number in faults:
            qids.open = set()
        qids.settle()
    return faults, qids


@contextmanager
def writing(folder: Path, name: str, must: bool) -> Iterator[None]:
    """Keeps other writers from a folder, which is made, until the block ends.

    The lock is the operating system's, so it ends with the process that holds it, however that
    ends. On a network file system it holds between machines only if the system's ``flock`` does.

    Args:
        folder: what is locked.
        name: what errors call it.
        must: raise the error if the folder cannot be written; else go on without a lock.

    Raises:
        RuntimeError: another writer holds the lock; the error names its process.
        OSError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    new, file = not folder.exists(), folder / LOCK
    lock = FileLock(file)
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
            file.write_text(f"{os.getpid()} on {platform.node()}")
        except Timeout:
            raise RuntimeError(
                f"{name} is being written by process {file.read_text()}: wait for it or stop it, "
                "or index into another path"
            ) from None
        except OSError as error:
            if must:
                raise OSError(
                    error.errno,
                    f"cannot write {name}: {error.strerror}. Make it writable, with room on the "
                    "disk, or index into another path",
                    str(folder),
                ) from error
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # Windows removes no open file
                file.unlink()
            lock.release()
        if new:
            with suppress(OSError):  # something has been stored
                folder.rmdir()


class Writer:
    """The files of an artifact, and the rows that are not in them yet.

    Attributes:
        manifest: what is stored; the manifest in force says the same.
        faults: what is wrong with each damaged shard, by its number.
        stored: the places at which what is stored ends: each shard, and the rows of an open one.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder = folder
        self.manifest = manifest
        self.faults, self.qids = inspect(folder, manifest)
        self.stored = marks(manifest)
        self._lines = self._take_open()
        self._again: dict[int, list[bytes]] = {}
        # The place at the last row and the lines of the open shard then, and a place up to which
        # all documents are surely finished with the lines of these.
        self._last = (StreamFingerprint(), len(self._lines))
        self._finished = (([StreamFingerprint()] + self.stored)[-1], len(self._lines))

    def _take_open(self) -> list[bytes]:
        """The rows that a run ended by an error kept of the shard it was writing."""
        lines, entry = [], self.manifest.get("open")
        if entry is not None:
            try:
                lines = _lines(self.folder, entry)
                documents = self.manifest["documents"] + entry["documents"]
                self.stored.append(StreamFingerprint(documents, entry["fingerprint"]))
            except ValueError:  # damaged: these are written again
                self.manifest, entry = _without_open(self.manifest), None
        for line in lines:
            self.qids.add(json.loads(line)["qid"])
        with suppress(OSError):  # in a folder that is complete and read-only
            for file in [*self.folder.glob("*.part"), *self.folder.glob("queries-*.open")]:
                if entry is None or file.name != entry["file"]:
                    file.unlink()
        return lines

    def missing(self, upto: StreamFingerprint) -> int:
        """How many documents up to a place are in no shard; negative if more than those are."""
        return upto.documents - self.manifest["documents"]

    def add(self, row: dict[str, Any], state: ResumeState, shard_size: int) -> None:
        """Takes a row into its shard, and first stores what it shows to be finished.

        All rows of a batch come before the next batch is admitted. So when a row comes and the
        state has moved, every document that stood in it at the row before is finished.
        """
        place, count = self._last
        if state.position != place:
            upto = max(place, state.stored_position)
            self._finished = upto, count
            self._mend(place, state)
            if self.missing(upto) >= shard_size:
                self.store(upto, state)
        if not self.qids.add(row["qid"]):
            raise ValueError(
                f"qid {row['qid']!r} came before: does the corpus hold document {row['docno']!r} "
                "twice? Take out the second one and run again; what is stored stays."
            )
        try:
            line = json.dumps(row, ensure_ascii=False, default=plain).encode() + b"\n"
        except (TypeError, UnicodeEncodeError) as error:
            raise ValueError(f"cannot store qid {row['qid']!r}: {error}") from error
        number = state.regenerating.get(row["docno" if state.by_document else "qid"])
        (self._lines if number is None else self._again.setdefault(number, [])).append(line)
        self._last = state.position, len(self._lines)

    def end(self, state: ResumeState) -> None:
        """Stores the rest, when all documents in the state are finished."""
        self._mend(state.position, state)
        if state.position < state.stored_position:
            raise ValueError(
                f"the corpus ended after {state.position.documents:,} documents, but {state.name} "
                f"has {state.stored_position.documents:,}: give the same corpus again, or index "
                "into another path"
            )
        if self.missing(state.position):
            self.store(state.position, state)
        if not state.complete:
            self._save(self.manifest)
            os.replace(self.folder / UNFINISHED, self.folder / COMPLETE)

    def store(self, upto: StreamFingerprint, state: ResumeState) -> None:
        """Writes the open shard, which completes the documents up to a place, then the manifest."""
        name = _name(len(self.manifest["shards"]))
        entry = self._shard(name, self._lines, self.missing(upto), upto)
        manifest, kept = self._with_account(state), self.manifest.get("open")
        manifest |= upto._asdict()
        manifest["queries"] += entry["queries"]
        manifest["shards"] = [*manifest["shards"], entry]
        self._save(manifest)
        if kept:
            (self.folder / kept["file"]).unlink(missing_ok=True)
        self.qids.settle()
        self._lines = []

    def keep(self, state: ResumeState) -> None:
        """Writes the finished rows of the open shard, for the run that goes on.

        Not those of rows that no stage admits, since they must come again anyhow.
        """
        upto, count = self._last if state.position != self._last[0] else self._finished
        if not state.by_document or upto <= state.stored_position or self.missing(upto) <= 0:
            return
        name = _open_name(len(self.manifest["shards"]), self.missing(upto))
        entry = self._shard(name, self._lines[:count], self.missing(upto), upto)
        kept = self.manifest.get("open")
        self._save(self._with_account(state) | {"open": entry})
        if kept:
            (self.folder / kept["file"]).unlink(missing_ok=True)

    def _mend(self, upto: StreamFingerprint, state: ResumeState) -> None:
        """Writes the damaged shards whose documents up to a place have been done again."""
        for number in sorted(state.damaged):
            if self.stored[number] > upto:
                break
            old = self.manifest["shards"][number]
            lines = self._again.pop(number, [])
            entry = self._shard(old["file"], lines, old["documents"], self.stored[number])
            if entry["sha256"] != old["sha256"]:
                warnings.warn(
                    f"{self.folder / old['file']} was damaged and has been made again, but not "
                    "with the same bytes: was it made on another device or in other batches?",
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

    def _with_account(self, state: ResumeState) -> dict[str, Any]:
        """A new manifest that says how the open shard was made, without the rows kept of it."""
        manifest = _without_open(self.manifest) | {"settings": state.settings}
        versions = list(manifest["versions"])
        if not versions or versions[-1]["packages"] != state.packages:
            versions.append({"from_shard": len(manifest["shards"]), "packages": state.packages})
        return manifest | {"versions": versions}

    def _shard(
        self, name: str, lines: list[bytes], documents: int, upto: StreamFingerprint
    ) -> dict[str, Any]:
        """Writes rows to a file; gives its entry of the manifest."""
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
            "fingerprint": upto.fingerprint,
        }

    def _save(self, manifest: dict[str, Any], complete: bool = False) -> None:
        text = json.dumps(manifest, ensure_ascii=False, indent=1)
        _write(self.folder / (COMPLETE if complete else UNFINISHED), text.encode() + b"\n")
        self.manifest = manifest


class Qids:
    """The qids seen: those of the open shard themselves, of the others eight bytes each."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.settled = np.empty(0, np.int64)

    def add(self, qid: str) -> bool:
        """Enters a qid; tells whether it is new."""
        key = hash(qid)
        at = np.searchsorted(self.settled, key)
        new = qid not in self.open and not (at < len(self.settled) and self.settled[at] == key)
        self.open.add(qid)
        return new

    def settle(self) -> None:
        """Takes the open qids among the settled ones."""
        new = np.sort(np.fromiter(map(hash, self.open), np.int64, len(self.open)))
        self.settled = np.insert(self.settled, np.searchsorted(self.settled, new), new)
        self.open = set()


def _name(number: int) -> str:
    return f"queries-{number:05d}.jsonl.gz"


def _open_name(number: int, documents: int) -> str:
    return f"queries-{number:05d}-{documents}.open"


def _sound(entry: dict[str, Any], name: str) -> bool:
    """Whether an entry of the manifest can be that of the file with this name."""
    return (
        entry["file"] == name
        and all(isinstance(entry[field], str) for field in ("sha256", "fingerprint"))
        and all(type(entry[field]) is int for field in ("documents", "queries"))
        and entry["documents"] > 0 <= entry["queries"]
    )


def _without_open(manifest: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key != "open"}


def _lines(folder: Path, entry: dict[str, Any]) -> list[bytes]:
    """The lines of a shard, whose bytes must be those that were written."""
    file = folder / entry["file"]
    again = "run the same index() again to make it again"
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{file} is missing: {again}") from None
    if sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError(
            f"{file} has been damaged or changed, its SHA-256 differs from the manifest: {again}"
        )
    return gzip.decompress(data).splitlines(keepends=True)


def _write(file: Path, data: bytes) -> None:
    """Writes a file so that it is there as a whole or not at all, whatever stops the machine."""
    part = file.with_name(file.name + ".part")
    try:
        with part.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, file)
        if os.name == "posix":
            folder = os.open(file.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise OSError(
            error.errno,
            f"cannot store {file.name}: {error.strerror}. What was stored before stays; once this "
            "file can be written, run the same index() again to go on",
            str(file),
        ) from error
