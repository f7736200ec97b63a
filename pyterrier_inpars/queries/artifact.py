"""`SyntheticQueries`: an artifact of synthetic queries that an interrupted run can resume."""

import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from operator import length_hint
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
from more_itertools import chunked

from pyterrier_inpars import _html
from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._errors import LanguageModelError
from pyterrier_inpars._stage import DROPPED_BY, Stage, as_frame, begin_call, with_columns
from pyterrier_inpars._words import count_words
from pyterrier_inpars.queries._answers import ANSWERS, AnswerLog
from pyterrier_inpars.queries._card import dataset_card
from pyterrier_inpars.queries._lock import writer_lock
from pyterrier_inpars.queries._manifest import (
    COMPLETE,
    UNFINISHED,
    joined_parts,
    manifest_file,
    new_manifest,
    read_manifest,
    stored_documents,
    stored_shards,
)
from pyterrier_inpars.queries._pipeline import (
    batches_ahead,
    describe_stages,
    pipeline_of,
    records_of,
    transform_batch,
)
from pyterrier_inpars.queries._qids import QidSet
from pyterrier_inpars.queries._resume import DocumentStage, ResumeState, activated, active_rows
from pyterrier_inpars.queries._run_progress import RunProgress
from pyterrier_inpars.queries._shards import Writer, check_shards, read_rows
from pyterrier_inpars.queries._status import Status, status_of

_COLUMNS = ["qid", "query", "docno", "text"]
_FILES = ("queries-", ANSWERS, UNFINISHED)
"""Beginnings of the names of files that a killed run may leave without a manifest."""


class SyntheticQueries(pt.Artifact, pt.Indexer):
    """Dataset of synthetic queries: one row per query, with the document it was written for.

    At the end of an indexing pipeline it stores the rows of the pipeline and returns them as
    frames::

        queries = SyntheticQueries("vaswani.queries")
        (generator >> queries).index(dataset.get_corpus_iter())
        reranker.fit(queries.get_results())

    If a run is interrupted, even by a power failure, calling ``index()`` again with the same
    pipeline and corpus resumes after the last stored shard, or after the last finished batch if
    Ctrl-C or an error ended the run. The files are byte-identical to those of an uninterrupted run.
    The generator yields no rows for documents that are already stored, so later stages of the
    pipeline must accept an empty batch. The stages of this package do; apply other stages to
    ``get_results()``. Only one process may write at a time.

    With a backend whose answers arrive one by one, such as `OpenAIBackend`, each answer is stored
    when it arrives, so that a killed run loses none. Documents whose prompts failed for good are
    listed by `failed`.

    The folder holds the rows in corpus order as gzipped JSON Lines (``queries-00000.jsonl.gz``,
    ...) and a manifest that lists these shards with their SHA-256, the settings of the generator
    and the stages after it, by their ``repr``. The manifest is named ``progress.json`` until the
    end of the corpus is reached. It then becomes ``pt_meta.json``, PyTerrier's metadata file, which
    marks the artifact as complete.
    Only a complete artifact can be read as a whole. `status`, `head`, `sample` and iteration also
    show the shards of an unfinished one, while another process writes it too.

    Args:
        path: Folder of the artifact. It need not exist; ``index()`` creates it.
        shard_size: Number of documents after which a shard is written, at the end of a batch. A
            batch has the ``batch_size`` of ``Compose.index`` (512 documents by default with a
            `QueryGenerator`), but at most ``shard_size`` documents.
        verbose: Whether ``index()`` shows its progress: one bar for the whole corpus, in place of
            those of the stages. It is also shown if a stage of the pipeline is verbose.

    Attributes:
        path: Folder of the artifact.
        shard_size: Number of documents after which a shard is written.

    Raises:
        ValueError: ``shard_size`` is not a whole number of at least 1.
    """

    ARTIFACT_TYPE = "synthetic_queries"
    ARTIFACT_FORMAT = "inpars"
    ARTIFACT_PACKAGE_HINT = "pyterrier_inpars"
    schematic = {"label": "Synthetic Queries", "help_url": None}
    path: Path

    def __init__(self, path: str | Path, *, shard_size: int = 1_000, verbose: bool = False):
        super().__init__(Path(path).expanduser())
        self.shard_size = positive_int("shard_size", shard_size)
        self.verbose = verbose

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def index_inputs(self) -> list[list[str]]:
        """Returns the columns that ``index()`` requires; further columns are stored too."""
        return [_COLUMNS]

    def index(  # type: ignore[override]
        self,
        iter: Iterable[dict[str, Any]] | pd.DataFrame,
        *,
        settings: dict[str, Any] | None = None,
        verbose: bool = False,
        total: int | None = None,
    ) -> "SyntheticQueries":
        """Stores all rows, with at most one shard in memory.

        Documents that an earlier run stored are compared with the corpus by their fingerprint, and
        their queries are not generated again. Without a generator of this package in the pipeline,
        the rows themselves are counted and compared.

        Args:
            iter: Rows with at least the strings ``qid``, ``query``, ``docno`` and ``text``, as
                dicts or a frame. The corpus of a pipeline may be a frame, too.
            settings: JSON-serializable description of how the rows were made, for the manifest,
                such as ``queries.metadata["settings"]`` for a part of these queries. It is ignored
                if a generator of this package is in the pipeline, which provides its own settings.
                ``{}`` if there is nothing to describe, and no few-shot example. None if they are
                not known; a later call may give them.
            verbose: Whether to show the progress bar, if artifact and stages are not verbose. An
                indexing pipeline passes no arguments on, so set ``verbose`` of the artifact there.
            total: Number of rows or documents, for the time that is left. None for the length of
                the corpus, if it has one.

        Returns:
            This artifact, complete.

        Raises:
            ValueError: A row lacks a column or has a duplicate qid, or corpus or settings are not
                those that the artifact was started with. Stored queries are kept.
            FileExistsError: ``path`` is a file, or a folder with other content.
            RuntimeError: Another process is writing to the artifact; the error names it.
            OSError: A file cannot be written; the error names it. Stored queries are kept.
        """
        self._check_folder()
        pipeline = pipeline_of(iter)
        with writer_lock(self.path, repr(self), required=not self.built()), activated(None):
            manifest = self._manifest() or new_manifest(self._metadata())
            writer = Writer(self.path, manifest)
            state = ResumeState(
                name=repr(self),
                shard_ends=writer.shard_ends,
                damaged=set(writer.faults),
                complete=self.built(),
                settings=manifest["settings"],
                packages=manifest["versions"][-1]["packages"] if manifest["versions"] else None,
                stages=manifest.get("stages"),
                failed=writer.failed,
                unanswered=writer.unanswered,
                answers=AnswerLog(self.path),
                progress=RunProgress(writer.intact),
            )
            docnos = QidSet()
            num_docnos = 0
            try:
                for row in self._rows(iter, pipeline, state, verbose or self.verbose, total):
                    _check_row(row)
                    if not state.by_document:
                        is_known = settings is not None or state.settings is not None
                        if not (is_known or state.position.documents):
                            self._warn_of_no_settings()
                        state.check_settings(settings)
                        num_docnos += docnos.add(row["docno"])
                        if len(docnos.recent) >= self.shard_size:
                            docnos.compact()
                        if not state.add_document(*(row[column] for column in _COLUMNS)):
                            continue
                    writer.add(row, state, self.shard_size)
                    state.progress.queries += 1
                if num_docnos:
                    writer.manifest = writer.manifest | {"source_documents": num_docnos}
                writer.finish(state)
                if writer.manifest["documents"] and not writer.manifest["queries"]:
                    self._warn_of_no_queries(
                        writer.manifest["documents"], pipeline[0] if pipeline else []
                    )
            except BaseException as error:
                with suppress(OSError):  # the disk may be full
                    writer.keep(state)
                if isinstance(error, KeyboardInterrupt):
                    documents = stored_documents(writer.manifest)
                    print(
                        f"{self!r} keeps the queries of {documents:,} documents: run the same "
                        "again to resume",
                        file=sys.stderr,
                    )
                # the server of a complete artifact may be gone, and its queries can be used
                if not (isinstance(error, LanguageModelError) and state.only_retries):
                    raise
                warnings.warn(
                    f"documents of {self!r} without queries could not be tried again: {error}",
                    stacklevel=2,
                )
            finally:
                state.close()
        return self

    def _rows(
        self,
        iter: Iterable[dict[str, Any]] | pd.DataFrame,
        pipeline: tuple[list[pt.Transformer], Iterable[Any], int] | None,
        state: ResumeState,
        verbose: bool,
        total: int | None,
    ) -> Iterator[dict[str, Any]]:
        """Yields the rows of a pipeline, batch by batch, or of any other stream.

        Args:
            iter: The stream.
            pipeline: Its stages, corpus and batch size, if it is that of a pipeline.
            state: Resume state of this run.
            verbose: See `index`.
            total: See `index`.
        """
        if pipeline is None:
            total = length_hint(iter) or None if total is None else total
            for row in active_rows(lambda: records_of(iter), state):
                if not state.progress.begun:  # by `distributed`, which counts documents
                    state.progress.begin("rows", verbose=verbose, total=total)
                pending = state.num_pending
                yield row
                state.progress.finish(state.num_pending - pending)
            return
        stages, corpus, batch_size = pipeline
        generates = any(isinstance(stage, DocumentStage) for stage in stages)
        if total is None and (isinstance(stages[0], DocumentStage) or not generates):
            total = length_hint(corpus) or None
        state.progress.begin(
            "documents" if generates else "rows",
            verbose=verbose,
            total=total,
            stages=stages,
            resumes=generates,  # other stages transform all rows again
        )
        state.current_stages = describe_stages(stages)
        begin_call(stages)
        batches = chunked(records_of(corpus), min(batch_size, self.shard_size))
        for batch in batches_ahead(stages[0], batches, state):
            pending = state.num_pending
            yield from transform_batch(stages, batch, state)
            state.progress.finish(state.num_pending - pending if generates else len(batch))

    def _warn_of_no_settings(self) -> None:
        """Warns that nothing says how the rows were made."""
        warnings.warn(
            f"the manifest of {self!r} does not say how its rows were made, and which topics are "
            'few-shot examples: call index(rows, settings=queries.metadata["settings"]) with the '
            "artifact that they come from, or settings={} if there is none",
            stacklevel=3,
        )

    def _warn_of_no_queries(self, documents: int, stages: list[pt.Transformer]) -> None:
        """Warns that a run ended without a query, and says which stages dropped all.

        Args:
            documents: Number of documents of the corpus.
            stages: Stages of the pipeline.
        """
        drops = [row for stage in stages if isinstance(stage, Stage) for row in stage._drops()]
        shown = [f"{name} dropped {drop:,} of {seen:,}" for name, seen, drop in drops if drop]
        warnings.warn(
            f"{self!r} is complete, but holds no query for any of {documents:,} documents"
            + (f": {'; '.join(shown)}" if shown else ""),
            stacklevel=3,
        )

    def concat(self, parts: "Mapping[str, SyntheticQueries]") -> "SyntheticQueries":
        """Stores the queries of other artifacts, such as those of several prompts or models.

        For example::

            SyntheticQueries("both.queries").concat({"gemma": gemma, "qwen": qwen})

        The name of an artifact becomes the beginning of its qids, ``gemma-d1-1``, and the column
        ``source``. The settings, stages, versions, numbers of documents and failed documents of all
        parts are stored, under ``parts`` of the settings. A repeated or resumed run compares the
        settings of each part, and the rows.

        Args:
            parts: Complete artifacts by name: letters, digits and underscores.

        Returns:
            This artifact.

        Raises:
            TypeError: ``parts`` is not a dict, or a part is not an artifact.
            ValueError: A name is invalid, there are no parts, or the artifact already holds other
                queries.
            FileNotFoundError: A part is empty.
            RuntimeError: A part is not complete.
        """
        if not isinstance(parts, Mapping):
            raise TypeError(
                f'parts must be a dict, such as {{"a": a, "b": b}}, not {parts!r:.200}: the names '
                "become a part of qids"
            )
        if not parts:
            raise ValueError('parts must not be an empty dict: give {"a": a, "b": b}')
        for name, part in parts.items():
            if not isinstance(part, SyntheticQueries):
                raise TypeError(f"part {name!r:.200} must be SyntheticQueries, not {part!r:.200}")
            if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
                raise ValueError(
                    "the name of a part must consist of letters, digits and underscores, as it is "
                    f"a part of qids, not {name!r:.200}"
                )
        provenance = {name: queries._provenance() for name, queries in parts.items()}
        topics: list[dict[str, Any]] = []
        for found in provenance.values():
            of_part = (found["settings"] or {}).get("fewshot_topics", [])
            topics += [topic for topic in of_part if topic not in topics]
        shown = {"fewshot_topics": topics} if topics else {}
        return self.index(_rows_of_parts(parts), settings={"parts": provenance, **shown})

    def _provenance(self) -> dict[str, Any]:
        """Returns how the queries of a complete artifact were made, for `concat`."""
        manifest = self.metadata
        fields = ("settings", "stages", "documents", "source_documents", "versions")
        found = {name: manifest[name] for name in fields if name in manifest}
        failed = dict(self.failed.itertuples(index=False, name=None))
        return found | ({"failed": failed} if failed else {})

    def built(self) -> bool:
        """Returns whether the artifact is complete."""
        return (self.path / COMPLETE).is_file()

    @property
    def metadata(self) -> dict[str, Any]:
        """The manifest of a complete artifact.

        Its fields are ``documents`` and ``queries`` (counts), ``fingerprint`` (of the documents),
        ``source_documents`` (their number, if ``documents`` counts rows since no generator was in
        the pipeline),
        ``settings`` (of the generator; None if not known), ``stages`` (after the generator, by
        their ``repr``), ``versions`` (of packages, by the first shard written with them),
        ``shards``, and PyTerrier's ``type``, ``format`` and ``package_hint``.

        Raises:
            FileNotFoundError: The artifact is empty.
            RuntimeError: The artifact is not complete.
        """
        manifest = self._manifest()
        if manifest is None:
            raise self._empty()
        if not self.built():
            raise RuntimeError(
                f"{self!r} is not complete: it holds {stored_documents(manifest):,} of the "
                "corpus's documents; run the same index() again to resume, or look at what is "
                "stored with status, head() and sample()"
            )
        return manifest

    def verify(self) -> dict[str, str]:
        """Checks all stored files, complete or not: hashes, counts and duplicate qids.

        Running ``index()`` again regenerates damaged or missing shards and leaves the others
        unchanged. The same generator, corpus and batches give byte-identical shards.

        Returns:
            A description of the fault of each damaged file, by file name; empty if there is none.

        Raises:
            FileNotFoundError: The artifact is empty.
        """
        file = manifest_file(self.path)
        try:
            manifest = self._manifest()
        except ValueError as error:
            return {file.name if file else "": str(error)}
        if manifest is None:
            raise self._empty()
        faults, _ = check_shards(self.path, manifest)
        return {manifest["shards"][number]["file"]: fault for number, fault in faults.items()}

    @property
    def status(self) -> Status:
        """State, counts, model, prompt, size and times; see `Status`.

        Raises:
            ValueError: The manifest is damaged.
        """
        manifest = self._manifest()
        status = status_of(self.path, manifest)
        if manifest is None:
            return status
        failed = {d for part in joined_parts(manifest).values() for d in part.get("failed", ())}
        documents = manifest.get("source_documents", status.documents)
        return replace(status, documents=documents, failed=status.failed + len(failed))

    def head(self, n: int = 5) -> pd.DataFrame:
        """Returns the first stored rows, of an unfinished artifact too.

        Args:
            n: Largest number of rows.

        Raises:
            FileNotFoundError: The artifact is empty.
            ValueError: A shard that is read is damaged, or ``n`` is out of range.
        """
        return _as_results(islice(self, positive_int("n", n)))

    def sample(self, n: int = 5, seed: int = 0) -> pd.DataFrame:
        """Returns random stored rows in corpus order, of an unfinished artifact too.

        Args:
            n: Largest number of rows.
            seed: Seed; the same one draws the same rows from the same shards.

        Raises:
            FileNotFoundError: The artifact is empty.
            ValueError: A shard that is read is damaged, or ``n`` or ``seed`` is out of range.
        """
        number, shards = positive_int("n", n), self._stored_shards()
        ends = np.cumsum([entry["queries"] for entry in shards])
        count = int(ends[-1]) if len(ends) else 0
        random = np.random.default_rng(positive_int("seed", seed, least=0))
        drawn = random.choice(count, min(number, count), replace=False)
        rows: list[dict[str, Any]] = []
        for shard in np.unique(np.searchsorted(ends, drawn, side="right")):
            start = ends[shard] - shards[shard]["queries"]
            own = set(drawn - start)
            found = enumerate(self._rows_of(shard, shards[shard]))
            rows += [row for place, row in found if place in own]
        return _as_results(rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields the stored rows in corpus order, of an unfinished artifact too.

        Rows that another process writes after the start are not included.
        """
        for number, entry in enumerate(self._stored_shards()):
            yield from self._rows_of(number, entry)

    def __len__(self) -> int:
        """Returns the number of stored queries, of an unfinished artifact too."""
        return sum(entry["queries"] for entry in self._stored_shards())

    def _rows_of(self, number: int, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Returns the rows of a shard, also if another process replaced its file meanwhile.

        Args:
            number: Number of the shard.
            entry: Its entry in the manifest that was read before.
        """
        while True:
            try:
                return islice(read_rows(self.path, entry), entry["queries"])
            except ValueError:
                newer = self._stored_shards()[number : number + 1]
                if not newer or newer[0]["sha256"] == entry["sha256"]:
                    raise
                # the rows of a partial shard are the first of the shard that replaces it
                entry = newer[0] | {"queries": entry["queries"]}

    def _stored_shards(self) -> list[dict[str, Any]]:
        manifest = self._manifest()
        if manifest is None:
            raise self._empty()
        return stored_shards(manifest)

    def _repr_html_(self) -> str:
        """Shows status, first queries and their lengths; reads at most one shard."""
        parts: list[str] = []
        try:
            shown = self.status.shown()
            parts.append(_html.facts({name: value or None for name, value in shown.items()}))
            shards = enumerate(self._stored_shards())
            first = next((shard for shard in shards if shard[1]["queries"]), None)
            if first is not None:
                rows = list(self._rows_of(*first))
                lengths = [count_words(row["query"]) for row in rows]
                columns = [name for name in ("qid", "query", "docno", "type") if name in rows[0]]
                parts.append(_html.table(pd.DataFrame(rows[:5])[columns], "First queries"))
                parts.append(_html.histogram(lengths, "Words per query, first shard"))
        except FileNotFoundError:
            parts.append("Run (generator >> queries).index(corpus) to fill it.")
        except Exception as error:  # a notebook must be able to show a damaged folder
            parts.append(str(error))
        return _html.card(repr(self), *parts)

    def iter_results(self) -> Iterator[dict[str, Any]]:
        """Yields the rows in corpus order, with one shard in memory at a time."""
        for entry in self.metadata["shards"]:
            yield from read_rows(self.path, entry)

    def get_results(self) -> pd.DataFrame:
        """Returns all rows in corpus order with all their columns, as a frame of results.

        There is no ``rank``, since each query has one document.
        """
        return _as_results(self.iter_results())

    def get_topics(self) -> pd.DataFrame:
        """Returns the queries alone: ``qid, query``, without those that a filter dropped."""
        return self._columns("qid", "query")

    def get_qrels(self) -> pd.DataFrame:
        """Returns the source document of each query as relevant: ``qid, docno, label`` (1).

        Queries that a filter dropped (``explain=True``) are left out.
        """
        return self._columns("qid", "docno").assign(label=1)

    @property
    def fewshot_topics(self) -> pd.DataFrame:
        """Topics of the prompt's few-shot examples: ``qid`` (missing if unknown) and ``query``.

        Exclude them from an evaluation; see `evaluation.exclude_fewshot_topics`. A static prompt
        has none.
        """
        topics = (self.metadata["settings"] or {}).get("fewshot_topics", [])
        return as_frame(topics) if topics else pd.DataFrame(columns=["qid", "query"])

    @property
    def failed(self) -> pd.DataFrame:
        """Documents whose prompts failed for good: ``docno`` and ``error``.

        Such a document may have queries of other types, or none. The same ``index()`` tries those
        again at which the server failed (``unanswered`` of the shards in `metadata`), and once
        those that it refused after its last answer, perhaps for another reason.
        """
        manifest = self.metadata
        places = [*manifest["shards"], *joined_parts(manifest).values()]
        rows = [pair for place in places for pair in place.get("failed", {}).items()]
        return pd.DataFrame(rows, columns=["docno", "error"])

    def build_package(self, *args: Any, **kwargs: Any) -> str:
        """Packs a complete artifact into one file for sharing; see ``pt.Artifact``.

        Raises:
            FileNotFoundError: The artifact is empty.
            RuntimeError: The artifact is not complete.
        """
        self.metadata  # noqa: B018 (an unfinished artifact would be mistaken for a complete one)
        return super().build_package(*args, **kwargs)

    def _hf_readme(
        self, *, repo: str, branch: str | None = "main", pretty_name: str | None = None, **_: Any
    ) -> str:
        source = repo if branch in (None, "main") else f"{repo}@{branch}"
        return dataset_card(self.status, self.metadata, pretty_name or repo, source)

    def _empty(self) -> FileNotFoundError:
        return FileNotFoundError(
            f"{self!r} holds nothing: run (generator >> queries).index(corpus) first"
        )

    def _columns(self, *columns: str) -> pd.DataFrame:
        kept = (row for row in self.iter_results() if row.get(DROPPED_BY) is None)
        rows = ([row[column] for column in columns] for row in kept)
        return pd.DataFrame(rows, columns=list(columns))

    def _check_folder(self) -> None:
        """Checks that the path is free, holds an artifact, or has what a killed run left."""
        if not self.path.exists() or (self.path.is_dir() and manifest_file(self.path)):
            return
        if not (self.path.is_dir() and all(f.name.startswith(_FILES) for f in self.path.iterdir())):
            raise FileExistsError(
                f"{self.path} is a file, or a folder with other files: give SyntheticQueries an "
                "empty folder or a new path"
            )

    def _metadata(self) -> dict[str, str]:
        return {
            "type": self.ARTIFACT_TYPE,
            "format": self.ARTIFACT_FORMAT,
            "package_hint": self.ARTIFACT_PACKAGE_HINT,
        }

    def _manifest(self) -> dict[str, Any] | None:
        return read_manifest(self.path, self._metadata())


def _rows_of_parts(parts: Mapping[str, SyntheticQueries]) -> Iterator[dict[str, Any]]:
    """Yields the rows of artifacts, named after them."""
    is_warned = False
    for name, queries in parts.items():
        for row in queries.iter_results():
            if "source" in row and not is_warned:
                is_warned = True
                warnings.warn(
                    f"the rows of part {name!r} have a column source, such as {row['source']!r}, "
                    "which the names of the parts replace: rename the column to keep it",
                    stacklevel=2,
                )
            yield {**row, "qid": f"{name}-{row['qid']}", "source": name}


def _as_results(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    frame = as_frame(rows)
    if frame.empty:
        return pd.DataFrame(columns=[*_COLUMNS, "score", "log_probs"])
    return frame[with_columns(_COLUMNS, *frame.columns)]


def _check_row(row: dict[str, Any]) -> None:
    """Checks that a row has all columns and that they are strings."""
    if not isinstance(row, Mapping):
        raise TypeError(f"a row must be a dict with {', '.join(_COLUMNS)}, not {row!r:.200}")
    for column in _COLUMNS:
        if column not in row:
            raise ValueError(f"a row lacks the column {column!r}: it has only {list(row)}")
        if not isinstance(row[column], str):
            raise ValueError(
                f"{column} must be a string, but is {row[column]!r} at qid {row.get('qid')!r}"
            )
