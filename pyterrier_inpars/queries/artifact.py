"""`SyntheticQueries`: the data set on disk, which grows while a corpus is indexed and is shared."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._fingerprint import StreamFingerprint
from pyterrier_inpars._stage import positive_int, with_columns
from pyterrier_inpars.datasets import published
from pyterrier_inpars.datasets._download import download, file_sha256
from pyterrier_inpars.queries import _shards as shards
from pyterrier_inpars.queries._resume import ResumeState, activated

_NEEDS = ["qid", "query", "docno", "text"]


class SyntheticQueries(pt.Artifact, pt.Indexer):
    """A data set of synthetic queries: one row a query, with the document it was written for.

    At the end of an indexing pipeline it stores what the stages before it write, and gives it back
    as frames::

        queries = SyntheticQueries("vaswani.queries")
        (generator >> queries).index(dataset.get_corpus_iter())
        reranker.fit(queries.get_results())

    ``index()`` may be stopped at any moment, by an error or a power cut. Run again with the same
    generator and corpus, it goes on after the last stored shard, or, where Ctrl-C or an error ended
    it, after the last finished batch. The files become the same as if it had never stopped. For
    documents that are stored already the generator hands on no rows, so every stage after it must
    take an empty batch, as those of this package do; apply others to ``get_results()``. One process
    at a time can write: a second is refused.

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
            shard_size: store the rows each time that at least this many documents are done, at the
                end of a batch (those that ``Compose.index`` makes, of ``batch_size`` documents).
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
            RuntimeError: another process is writing to it; the error names it.
            OSError: a file cannot be written; the error names it. Whatever was stored stays.
        """
        return self._index(iter, {})

    def _index(
        self, rows: Iterable[dict[str, Any]], settings: dict[str, Any]
    ) -> "SyntheticQueries":
        """Stores rows; ``settings`` are those of rows that no generator of this package made."""
        self._check_folder()
        with shards.writing(self.path, repr(self), must=not self.built()):
            manifest = self._manifest() or self._new_manifest()
            writer = shards.Writer(self.path, manifest)
            state = ResumeState(
                name=repr(self),
                shard_ends=writer.stored,
                damaged=set(writer.faults),
                complete=self.built(),
                settings=manifest["settings"],
                packages=manifest["versions"][-1]["packages"] if manifest["versions"] else None,
            )
            try:
                with activated(state):
                    for row in rows:
                        _check(row)
                        if not state.by_document:
                            state.check_settings(settings)
                            if not state.add_document(*(row[column] for column in _NEEDS)):
                                continue
                        writer.add(row, state, self.shard_size)
                writer.end(state)
            except BaseException as error:
                with suppress(OSError):  # the disk may be full
                    writer.keep(state)
                if isinstance(error, KeyboardInterrupt):
                    kept = shards.documents_kept(writer.manifest)
                    print(
                        f"{self!r} keeps the queries of {kept:,} documents: run the same again to "
                        "go on",
                        file=sys.stderr,
                    )
                raise
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
        return (self.path / shards.COMPLETE).is_file()

    @property
    def metadata(self) -> dict[str, Any]:
        """What is known of a complete artifact.

        ``documents`` and ``queries`` (counts), ``fingerprint`` of the documents (see
        `StreamFingerprint`), ``settings`` of the generator, ``versions`` of packages by the first
        shard they wrote, ``shards``, and the artifact's ``type``, ``format`` and ``package_hint``.

        Raises:
            FileNotFoundError: nothing has been written yet.
            RuntimeError: the artifact is not complete.
        """
        manifest = self._manifest()
        if manifest is None:
            raise self._nothing()
        if not self.built():
            raise RuntimeError(
                f"{self!r} is not complete: it holds {shards.documents_kept(manifest):,} of the "
                "corpus's documents; run the same index() again to go on"
            )
        return manifest

    def verify(self) -> dict[str, str]:
        """Checks what is stored, complete or not: hashes, counts, and that no qid comes twice.

        A shard that is damaged or missing is made again, alone, by the ``index()`` that made it:
        with the same generator, corpus and batches it gets the same bytes. The others stay as they
        are.

        Returns:
            What is wrong with each damaged file, by its name; empty if nothing is.

        Raises:
            FileNotFoundError: nothing has been written yet.
        """
        file = shards.manifest_file(self.path)
        try:
            manifest = self._manifest()
        except ValueError as error:
            return {file.name if file else "": str(error)}
        if manifest is None:
            raise self._nothing()
        faults, _ = shards.inspect(self.path, manifest)
        return {manifest["shards"][number]["file"]: fault for number, fault in faults.items()}

    def __len__(self) -> int:
        """The number of queries."""
        return self.metadata["queries"]

    def iter_results(self) -> Iterator[dict[str, Any]]:
        """The rows one by one, in corpus order, with one shard in memory at a time."""
        for entry in self.metadata["shards"]:
            yield from shards.read(self.path, entry)

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
    def fewshot_topics(self) -> pd.DataFrame:
        """The topics that the generator was shown as examples, ``qid`` (where known) and ``query``.

        None may be in an evaluation; see
        `evaluation.exclude_fewshot_topics`. A static prompt shows none.
        """
        topics = (self.metadata["settings"] or {}).get("fewshot_topics", [])
        return pd.DataFrame(topics, columns=None if topics else ["qid", "query"])

    def build_package(self, *args: Any, **kwargs: Any) -> str:
        """Packs a complete artifact into one file to share; see `pt.Artifact.build_package`."""
        self.metadata  # noqa: B018 (refuses an unfinished one, which would pass for complete)
        return super().build_package(*args, **kwargs)

    def _nothing(self) -> FileNotFoundError:
        return FileNotFoundError(
            f"{self!r} holds nothing: run (generator >> queries).index(corpus) first"
        )

    def _columns(self, *columns: str) -> pd.DataFrame:
        rows = ([row[column] for column in columns] for row in self.iter_results())
        return pd.DataFrame(rows, columns=list(columns))

    def _check_folder(self) -> None:
        """Checks that the folder is not there, holds an artifact, or what came before one."""
        if not self.path.exists() or (self.path.is_dir() and shards.manifest_file(self.path)):
            return
        if not (
            self.path.is_dir()
            and all(f.name.startswith(("queries-", shards.UNFINISHED)) for f in self.path.iterdir())
        ):
            raise FileExistsError(
                f"{self.path} is a file or a folder that holds other files; SyntheticQueries needs "
                "a folder of its own"
            )

    def _new_manifest(self) -> dict[str, Any]:
        return {
            "type": self.ARTIFACT_TYPE,
            "format": self.ARTIFACT_FORMAT,
            "package_hint": self.ARTIFACT_PACKAGE_HINT,
            **StreamFingerprint()._asdict(),
            "queries": 0,
            "settings": None,
            "versions": [],
            "shards": [],
        }

    def _manifest(self) -> dict[str, Any] | None:
        file = shards.manifest_file(self.path)
        if file is None:
            return None
        try:
            manifest = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise shards.damaged_manifest(file) from error
        if not isinstance(manifest, dict):
            raise shards.damaged_manifest(file)
        kind = manifest.get("type"), manifest.get("format")
        if kind != (self.ARTIFACT_TYPE, self.ARTIFACT_FORMAT):
            raise FileExistsError(f"{self.path} holds another artifact, of type and format {kind}")
        shards.check_manifest(manifest, file)
        return manifest


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
