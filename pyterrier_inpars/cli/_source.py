"""Collection, index and files that the options of a command name."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pyterrier as pt

from pyterrier_inpars import datasets
from pyterrier_inpars._native_output import redirected, silenced
from pyterrier_inpars._stage import DROPPED_BY, as_frame
from pyterrier_inpars.cli._help import options
from pyterrier_inpars.cli._options import DATASET, INDEX, refuse
from pyterrier_inpars.datasets import beir, published, toolkit_files
from pyterrier_inpars.datasets.lucene import LuceneCollection, LuceneIndex
from pyterrier_inpars.queries.artifact import SyntheticQueries


@dataclass
class Source:
    """Collection and index, as given by the options `DATASET` and `INDEX`."""

    dataset: str | None
    dataset_source: str
    docno: Any
    text: Any
    fix_text: bool
    index: str | None = None
    threads: int | None = None

    def collection(self) -> datasets.Collection:
        """Returns the collection."""
        if self.dataset is None:
            raise click.UsageError("--dataset is required")
        return self.file_or_name(self.dataset)

    def file_or_name(self, name: str) -> datasets.Collection:
        """Returns another collection, read as this one."""
        return datasets.collection(
            name, self.dataset_source, docno=self.docno, text=self.text, fix_text=self.fix_text
        )

    def queries(self, path: str) -> pd.DataFrame:
        """Reads synthetic queries; adds texts from the collection if the file has none."""
        queries = read_queries(path)
        return queries if "text" in queries else self.collection().text_loader().transform(queries)

    def kept_queries(self, path: str) -> pd.DataFrame:
        """Reads synthetic queries as `queries` does, without those that a filter dropped.

        Raises:
            ValueError: A filter dropped all.
        """
        queries = self.queries(path)
        if DROPPED_BY not in queries:
            return queries
        kept = queries[queries[DROPPED_BY].isna()].drop(columns=DROPPED_BY)
        if kept.empty:
            raise ValueError(f"{path} has no query that a filter kept: all have {DROPPED_BY}")
        return kept.reset_index(drop=True)

    def examples(self, path: str | None) -> pd.DataFrame:
        """Returns few-shot examples: from a file, published, or the collection's judged pairs."""
        if path:
            return toolkit_files.read_fewshot(path)
        if self.dataset in beir.COLLECTIONS:
            return published.fewshot_examples(self.dataset)
        return datasets.judged_pairs(self.collection())

    def run(self, path: str, topics: pd.DataFrame | None = None) -> pd.DataFrame:
        """Returns a run: from a file, published, or retrieved by BM25 for the topics.

        Args:
            path: Path of a run, or ``bm25``.
            topics: Topics to retrieve for. None for those of the collection, for which a run may be
                published.
        """
        if path.lower() != "bm25":
            return toolkit_files.read_run(path)
        if self.dataset in beir.COLLECTIONS and self.index is None and topics is None:
            return published.bm25_run(self.dataset)
        if topics is None:
            topics = self.collection().get_topics()
        with self.bm25(1000) as bm25:
            return bm25.transform(topics)

    def run_with_queries(
        self, path: str, topics: pd.DataFrame, topics_file: str | None = None, remedy: str = ""
    ) -> pd.DataFrame:
        """Returns a run with the queries of its topics; see `run`.

        Args:
            path: See `run`.
            topics: Topics ``qid, query``.
            topics_file: Where they come from; by default from the collection.
            remedy: What else a user can do about a missing topic, for the error.

        Raises:
            ValueError: The run has a topic that is not among them.
        """
        own_topics = topics if topics_file else None
        run = self.run(path, own_topics).drop(columns="query", errors="ignore")
        run = run.merge(topics[["qid", "query"]], on="qid", how="left")
        if len(missing := run.loc[run["query"].isna(), "qid"].unique()):
            raise ValueError(
                f"{topics_file or self.dataset} lacks {len(missing):,} of {run['qid'].nunique():,} "
                f"topics of {path}, such as {missing[0]!r}: remove them from the run{remedy}"
            )
        return run

    @contextmanager
    def bm25(self, depth: int) -> Iterator[pt.Transformer]:
        """Yields BM25 over the given index, or over the index of the collection."""
        with redirected({1: 2}):  # PISA's progress belongs to standard error
            index: Any
            if self.index is None:
                index = self._index()
            elif not os.path.isdir(self.index):
                index = LuceneIndex.prebuilt(self.index)
            elif os.path.exists(os.path.join(self.index, "pt_meta.json")):
                index = pt.Artifact.load(self.index)
            else:
                index = LuceneIndex(self.index)
            with silenced():
                bm25 = index.bm25(num_results=depth, threads=self.threads)
            yield bm25

    def _index(self) -> Any:
        """Returns the collection's own index, or one that is built on first use and kept."""
        collection = self.collection()
        if isinstance(collection, LuceneCollection):
            return collection.index
        engine: Callable[[str], Any] = LuceneIndex
        if find_spec("pyterrier_pisa"):
            from pyterrier_pisa import PisaIndex

            engine = functools.partial(PisaIndex, text_field="text")
        path = self._index_path(str(engine))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                built = os.path.join(folder, "index")
                self._build(engine(built), collection)
                try:
                    os.rename(built, path)
                except OSError:
                    if not path.exists():  # otherwise another process has built it meanwhile
                        raise
        return engine(str(path))

    def _index_path(self, engine: str) -> Path:
        """Returns where the index is kept; a changed file of the collection has another path."""
        corpus = Path(str(self.dataset)).expanduser()
        files = [corpus] if corpus.is_file() else sorted(corpus.glob("corpus.jsonl*"))
        if corpus.is_dir() and isinstance(texts := self.collection(), datasets.TextFolder):
            files = list(texts.files().values())
        states = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        source: Any = states or [self.dataset, self.dataset_source]
        key = json.dumps(
            [engine, version("pyterrier_inpars"), self.fix_text, self.docno, self.text, source]
        )
        home = Path(pt.io.pyterrier_home(), "inpars", "indexes")
        return home / sha256(key.encode()).hexdigest()[:16]

    def _build(self, index: Any, collection: datasets.Collection) -> None:
        """Indexes a collection with a progress bar and without the log of the engine."""
        with os.fdopen(os.dup(2), "w") as err, redirect_stderr(err):  # of the progress bar
            documents = collection.get_corpus_iter(verbose=True)
            if (first := next(documents, None)) is None:
                raise ValueError(f"{self.dataset} has no documents to search")
            with silenced():
                index.index(chain([first], documents))
                index.bm25()  # stores PISA's data about scores in the folder, too


def check_retrieval(*runs: str) -> None:
    """Refuses options of BM25 if no run is retrieved by it.

    Args:
        *runs: Paths of runs, or ``bm25``.
    """
    if all(run.lower() != "bm25" for run in runs):
        refuse("index", "threads", because="has no effect on a run from a file: it is for bm25")


def with_source(command: Callable) -> Callable:
    """Adds the options `DATASET` and `INDEX`, which the command receives as its ``source``."""

    @options(DATASET, INDEX)
    @functools.wraps(command)
    def wrapper(
        dataset: str | None,
        dataset_source: str,
        docno: Any,
        text: Any,
        fix_text: bool,
        index: str | None,
        threads: int | None,
        **others: Any,
    ) -> None:
        source = Source(dataset, dataset_source, docno, text, fix_text, index, threads)
        command(source=source, **others)

    return wrapper


def read_queries(path: str | Path) -> pd.DataFrame:
    """Reads synthetic queries as a frame of at least one row; see `rows`."""
    queries = as_frame(rows(path))
    if queries.empty:
        raise ValueError(f"{path} has no queries")
    return queries


def rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """Reads synthetic queries from a file or folder, with the ids of their few-shot topics."""
    if not os.path.isdir(path):
        yield from toolkit_files.read_queries(path)
        return
    queries = SyntheticQueries(path)
    topics = list(queries.fewshot_topics.get("qid", pd.Series(dtype=object)).dropna())
    for row in queries.iter_results():
        yield row | {"fewshot_examples": topics}
