"""`SyntheticQueries`: the data set on disk, which grows while a corpus is indexed and is shared."""

import gzip
import io
import json
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from . import published
from .downloads import download, file_sha256
from .formats import plain
from .frames import positive_int, with_columns
from .ledger import Ledger, Mark, opened

_NEEDS = ["qid", "query", "docno", "text"]
_COMPLETE = "pt_meta.json"
_UNFINISHED = "progress.json"


class SyntheticQueries(pt.Artifact, pt.Indexer):
    """A data set of synthetic queries: one row a query, with the document it was written for.

    At the end of an indexing pipeline it stores what the stages before it write, and gives it back
    as frames::

        queries = SyntheticQueries("vaswani.queries")
        (generator >> queries).index(dataset.get_corpus_iter())
        reranker.fit(queries.get_results())

    ``index()`` may be stopped at any moment, by an error or a power cut. Run again with the same
    generator and corpus, it goes on after the last stored shard, and the files become the same as
    if it had never stopped. For documents that are stored already the generator hands on no rows,
    so every stage after it must take an empty batch, as those of this package do; apply others to
    ``get_results()``.

    The folder holds the rows in order as gzipped JSON Lines (``queries-00000.jsonl.gz`` and on) and
    a manifest that lists them with their SHA-256, beside the settings that made them. The manifest
    is named ``progress.json`` until the corpus has ended. Then it becomes ``pt_meta.json``,
    PyTerrier's metadata file, and with that the mark of a complete artifact. Only a complete one
    can be read.
    """

    ARTIFACT_TYPE = "synthetic_queries"
    ARTIFACT_FORMAT = "inpars"
    ARTIFACT_PACKAGE_HINT = "pyterrier_inpars"
    schematic = {"label": "Synthetic Queries", "help_url": None}
    path: Path

    def __init__(self, path: str | Path, *, shard_size: int = 1_000):
        """Refers to the artifact at ``path``, which need not exist yet.

        Args:
            path: the folder; ``index()`` makes it.
            shard_size: store the rows each time that at least this many documents are done.
        """
        super().__init__(path)
        self.shard_size = positive_int("shard_size", shard_size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def index_inputs(self) -> list[list[str]]:
        """Columns that ``index()`` expects; others are stored with them."""
        return [_NEEDS]

    def index(  # type: ignore[override]
        self, iter: Iterable[dict[str, Any]]
    ) -> "SyntheticQueries":
        """Stores rows until they end, with no more than one shard in memory.

        Documents that an earlier run has stored are compared with those it saw, and no queries are
        generated for them again. Rows from elsewhere than a generator of this package are
        themselves what is counted and compared.

        Args:
            iter: rows with at least the strings ``qid``, ``query``, ``docno``, ``text``.

        Returns:
            This artifact, complete.

        Raises:
            ValueError: a row lacks a column or repeats a qid, or the corpus or the settings are not
                those that the artifact was started with. Whatever was stored stays.
            FileExistsError: ``path`` is a file, or a folder that holds something else.
        """
        return self._index(iter, {})

    def _index(
        self, rows: Iterable[dict[str, Any]], settings: dict[str, Any]
    ) -> "SyntheticQueries":
        """Stores rows; ``settings`` are those of rows that no generator of this package made."""
        manifest = self._manifest() or self._new_manifest()
        ledger = Ledger(
            name=repr(self),
            done=Mark(manifest["documents"], manifest["fingerprint"]),
            complete=self.built(),
            settings=manifest["settings"],
            packages=manifest["versions"][-1]["packages"] if manifest["versions"] else None,
        )
        writer = _Writer(self.path, manifest)
        with opened(ledger):
            # All rows of a batch come before the next batch is admitted. So when a row comes and
            # the ledger has moved, every document that stood in it at the row before is finished.
            last = ledger.seen
            for row in rows:
                _check(row)
                if not ledger.admits:
                    ledger.describe(settings)
                    if not ledger.note(*(row[column] for column in _NEEDS)):
                        continue
                if ledger.seen != last and writer.missing(last) >= self.shard_size:
                    writer.store(last, ledger)
                writer.add(row)
                last = ledger.seen
        if (missing := writer.missing(ledger.seen)) < 0:
            raise ValueError(
                f"the corpus ended after {ledger.seen.documents:,} documents, but {self!r} has "
                f"{manifest['documents']:,}: give the same corpus again, or index into another path"
            )
        if missing:
            writer.store(ledger.seen, ledger)
        if not ledger.complete:
            writer.finish()
        return self

    @classmethod
    def from_published(
        cls, version: str, collection: str, path: str | Path | None = None
    ) -> "SyntheticQueries":
        """The synthetic queries that the authors of InPars published for a collection.

        They are fetched once and stored as an artifact, whose settings name the file and its
        SHA-256; when that is complete, it is all that is needed::

            queries = SyntheticQueries.from_published("inpars-v1", "nfcorpus")

        Where the file has no texts of the documents, they must be added::

            rows = published.read_queries("inpars-v1", "nfcorpus")
            SyntheticQueries(path).index(row | {"text": texts[row["docno"]]} for row in rows)

        Args:
            version: ``"inpars-v1"`` (arXiv 2202.05144) or ``"inpars-v2"`` (arXiv 2301.01820).
            collection: BEIR's name of it, one of ``beir.COLLECTIONS``.
            path: the folder of the artifact; None is one in PyTerrier's home.

        Raises:
            ValueError: there is no such version or collection, the file is of another form, or it
                has no texts.
            DownloadError: the file could not be had.
            FileExistsError: ``path`` holds something else.
        """
        url = published.queries_url(version, collection)
        source = {"published": version, "collection": collection}
        if path is None:
            path = Path(pt.io.pyterrier_home(), "inpars", "published", version, collection)
        queries = cls(path)
        if queries.built():
            settings = queries.metadata["settings"] or {}
            if not source.items() <= settings.items():
                raise FileExistsError(
                    f"{queries!r} does not hold {version} for {collection}, but was made with "
                    f"{settings}; give another path"
                )
            return queries
        settings = {**source, "url": url, "sha256": file_sha256(download(url))}
        return queries._index(
            _with_texts(published.read_queries(version, collection), url), settings
        )

    def built(self) -> bool:
        """Whether the artifact is complete."""
        return (self.path / _COMPLETE).is_file()

    @property
    def metadata(self) -> dict[str, Any]:
        """What is known of a complete artifact.

        ``documents`` and ``queries`` (counts), ``fingerprint`` of the documents (see
        `ledger.Mark`), ``settings`` of the generator, ``versions`` of packages by the first shard
        they wrote, ``shards``, and the artifact's ``type``, ``format`` and ``package_hint``.

        Raises:
            FileNotFoundError: nothing has been written yet.
            RuntimeError: the artifact is not complete.
        """
        manifest = self._manifest()
        if manifest is None:
            raise FileNotFoundError(
                f"{self!r} holds nothing: run (generator >> queries).index(corpus) first"
            )
        if not self.built():
            raise RuntimeError(
                f"{self!r} is not complete: it holds {manifest['documents']:,} of the corpus's "
                "documents; run the same index() again to go on"
            )
        return manifest

    def __len__(self) -> int:
        """The number of queries."""
        return self.metadata["queries"]

    def iter_results(self) -> Iterator[dict[str, Any]]:
        """The rows one by one, in corpus order, with one shard in memory at a time."""
        for entry in self.metadata["shards"]:
            yield from _read(self.path, entry)

    def get_results(self) -> pd.DataFrame:
        """All rows in corpus order, as a frame of results with all the columns they came with.

        A query has but one document, so there is no ``rank``.
        """
        frame = pd.DataFrame(self.iter_results())
        if frame.empty:
            return pd.DataFrame(columns=[*_NEEDS, "score", "log_probs"])
        return frame[with_columns(_NEEDS, *frame.columns)]

    def get_topics(self) -> pd.DataFrame:
        """The queries alone: ``qid, query``."""
        return self._columns("qid", "query")

    def get_qrels(self) -> pd.DataFrame:
        """Each query's source document as its relevant one: ``qid, docno, label`` (always 1)."""
        return self._columns("qid", "docno").assign(label=1)

    @property
    def topics_shown(self) -> pd.DataFrame:
        """The topics that the generator was shown as examples, ``qid`` (where known) and ``query``.

        None may be in an evaluation; see `evaluation.without`. A static prompt shows none.
        """
        topics = (self.metadata["settings"] or {}).get("fewshot_topics", [])
        return pd.DataFrame(topics, columns=None if topics else ["qid", "query"])

    def build_package(self, *args: Any, **kwargs: Any) -> str:
        """Packs a complete artifact into one file to share; see `pt.Artifact.build_package`."""
        self.metadata  # noqa: B018 (refuses an unfinished one, which would pass for complete)
        return super().build_package(*args, **kwargs)

    def _columns(self, *columns: str) -> pd.DataFrame:
        rows = ([row[column] for column in columns] for row in self.iter_results())
        return pd.DataFrame(rows, columns=list(columns))

    def _new_manifest(self) -> dict[str, Any]:
        ours = ("queries-", _UNFINISHED)  # a run cut short before its first manifest
        if self.path.exists() and not (
            self.path.is_dir() and all(f.name.startswith(ours) for f in self.path.iterdir())
        ):
            raise FileExistsError(
                f"{self.path} is a file or a folder that holds other files; SyntheticQueries needs "
                "a folder of its own"
            )
        return {
            "type": self.ARTIFACT_TYPE,
            "format": self.ARTIFACT_FORMAT,
            "package_hint": self.ARTIFACT_PACKAGE_HINT,
            **Mark()._asdict(),
            "queries": 0,
            "settings": None,
            "versions": [],
            "shards": [],
        }

    def _manifest(self) -> dict[str, Any] | None:
        for file in (self.path / _COMPLETE, self.path / _UNFINISHED):
            if file.is_file():
                manifest = json.loads(file.read_bytes())
                kind = manifest.get("type"), manifest.get("format")
                if kind != (self.ARTIFACT_TYPE, self.ARTIFACT_FORMAT):
                    raise FileExistsError(
                        f"{self.path} holds another artifact, of type and format {kind}"
                    )
                return manifest
        return None


class _Writer:
    """The files of an artifact, and the rows that are not in them yet."""

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder = folder
        self.manifest = manifest
        self._new_shard()

    def _new_shard(self) -> None:
        self.queries = 0
        self.buffer = io.BytesIO()
        self.shard = gzip.GzipFile(filename="", mode="wb", fileobj=self.buffer, mtime=0)

    @cached_property
    def qids(self) -> "_Qids":
        qids = _Qids()
        for entry in self.manifest["shards"]:
            for row in _read(self.folder, entry):
                qids.add(row["qid"])
            qids.settle()
        return qids

    def missing(self, upto: Mark) -> int:
        """How many documents up to a mark are not stored; negative if more than those are."""
        return upto.documents - self.manifest["documents"]

    def add(self, row: dict[str, Any]) -> None:
        """Takes a row into the shard that is open."""
        if not self.qids.add(row["qid"]):
            raise ValueError(
                f"qid {row['qid']!r} came before: does the corpus hold document {row['docno']!r} "
                "twice? Take out the second one and run again; what is stored stays."
            )
        try:
            self.shard.write(json.dumps(row, ensure_ascii=False, default=plain).encode() + b"\n")
        except (TypeError, UnicodeEncodeError) as error:
            raise ValueError(f"cannot store qid {row['qid']!r}: {error}") from error
        self.queries += 1

    def store(self, upto: Mark, ledger: Ledger) -> None:
        """Writes the open shard, which completes the documents up to a mark, then the manifest."""
        self.shard.close()
        data = self.buffer.getvalue()
        shards, versions = self.manifest["shards"], self.manifest["versions"]
        name = f"queries-{len(shards):05d}.jsonl.gz"
        _write(self.folder / name, data)
        if not versions or versions[-1]["packages"] != ledger.packages:
            versions.append({"from_shard": len(shards), "packages": ledger.packages})
        shards.append(
            {
                "file": name,
                "sha256": sha256(data).hexdigest(),
                "documents": self.missing(upto),
                "queries": self.queries,
                "fingerprint": upto.fingerprint,
            }
        )
        self.manifest |= upto._asdict()
        self.manifest["queries"] += self.queries
        self.manifest["settings"] = ledger.settings
        self._write_manifest()
        self.qids.settle()
        self._new_shard()

    def finish(self) -> None:
        """Marks the artifact as complete."""
        self._write_manifest()
        os.replace(self.folder / _UNFINISHED, self.folder / _COMPLETE)

    def _write_manifest(self) -> None:
        text = json.dumps(self.manifest, ensure_ascii=False, indent=1)
        _write(self.folder / _UNFINISHED, text.encode() + b"\n")


class _Qids:
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


def _check(row: dict[str, Any]) -> None:
    """Checks that a row can be stored."""
    for column in _NEEDS:
        if column not in row:
            raise ValueError(f"a row lacks the column {column!r}: it has only {list(row)}")
        if not isinstance(row[column], str):
            raise ValueError(
                f"{column} must be a string, but is {row[column]!r} at qid {row.get('qid')!r}"
            )


def _with_texts(rows: Iterable[dict[str, Any]], url: str) -> Iterator[dict[str, Any]]:
    """The rows, if each has a text."""
    for row in rows:
        if "text" not in row:
            raise ValueError(
                f"{url} has no text of document {row['docno']!r}: add the texts to the rows of "
                "published.read_queries, and give them to index(), as the documentation of "
                "SyntheticQueries.from_published shows"
            )
        yield row


def _read(folder: Path, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a shard, whose bytes must be those that were written."""
    file = folder / entry["file"]
    data = file.read_bytes()
    if sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError(
            f"{file} has been damaged or changed: its SHA-256 differs from the manifest"
        )
    with gzip.open(io.BytesIO(data)) as lines:
        yield from map(json.loads, lines)


def _write(file: Path, data: bytes) -> None:
    """Writes a file so that it is there as a whole or not at all, whatever stops the machine."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    with part.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(part, file)
    if os.name == "posix":
        folder = os.open(file.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
