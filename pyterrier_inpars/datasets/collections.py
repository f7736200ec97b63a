"""Collections as PyTerrier datasets: from files, from ir_datasets, and by BEIR's names."""

import csv
import gzip
import heapq
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._stage import Stage, as_numbers, check_strings, positive_int, with_columns
from pyterrier_inpars.datasets import beir
from pyterrier_inpars.datasets import toolkit_files as formats

_DOCNO = ("docno", "doc_id", "_id", "id")
_TEXT = ("text", "contents", "document", "doc_text")
_QID = ("qid", "query_id", "_id", "id")
_QUERY = ("query", "text", "question")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_KINDS = (*_SEPARATORS, ".jsonl", ".json")

T = TypeVar("T")


class Collection(pt.datasets.Dataset):
    """A collection whose documents have one text: the title, where there is one, then the body.

    White space around a text is dropped. A subclass gives ``documents()``, and topics and
    judgements where it has them.

    Args:
        fix_text: Repair what wrong decoding did to texts and queries, such as ``â€™`` for an
            apostrophe, with ftfy.
    """

    def __init__(self, *, fix_text: bool = False):
        self.fix_text = fix_text

    def documents(self) -> Iterator[tuple[str, str]]:
        """The docno and text of every document, from the first on every call."""
        raise NotImplementedError

    def find(self, docnos: set[str]) -> dict[str, str]:
        """The texts of those documents that there are; goes through them all unless overridden."""
        return {docno: text for docno, text in self.documents() if docno in docnos}

    def texts(self, docnos: set[str]) -> dict[str, str]:
        """The texts of those documents that there are, repaired if ``fix_text`` says so."""
        return {docno: self._fixed(text) for docno, text in self.find(docnos).items()}

    def get_corpus_iter(self, *, verbose: bool = False) -> Iterator[dict[str, str]]:
        """Iterates over the documents, from the first on every call.

        Args:
            verbose: Show progress.

        Yields:
            Dicts of ``docno`` and ``text``, both str. Nothing for an empty corpus.
        """
        for docno, text in pt.tqdm(self.documents(), disable=not verbose, unit="doc"):
            yield {"docno": docno, "text": self._fixed(text)}

    def text_loader(
        self, fields: str | Sequence[str] = "*", *, verbose: bool = False
    ) -> "TextLoader":
        """A transformer that adds the text to documents: ``pt.text.get_text(collection, "text")``.

        Args:
            fields: ``"text"``, which is all there is.
            verbose: Not used: the texts of a frame are fetched at once.

        Raises:
            ValueError: other fields are asked for.
        """
        if fields not in ("*", "text", ["text"], ("text",)):
            raise ValueError(f"{self!r} has a field 'text' only, not {fields!r}")
        return TextLoader(self)

    def _configure(self, *, fix_text: bool = False) -> None:
        """For ``pt.get_dataset(name, fix_text=True)``."""
        self.fix_text = self.fix_text or fix_text

    def _fixed(self, text: str) -> str:
        if not self.fix_text:
            return text
        import ftfy

        return ftfy.fix_text(text)

    def _topics(self, rows: Iterable[tuple[str, str]]) -> pd.DataFrame:
        fixed = [(qid, self._fixed(query)) for qid, query in rows]
        return pd.DataFrame(fixed, columns=["qid", "query"])

    def __repr__(self) -> str:
        options = ", fix_text=True" if self.fix_text else ""
        return f"{type(self).__name__}({self._name()!r}{options})"

    def _name(self) -> str:
        raise NotImplementedError


class TextLoader(Stage):
    """Adds the column ``text`` to a frame of ``docno``, all documents of the frame at once.

    A collection that is read from files is gone through once for every frame.

    Args:
        collection: Where the texts are.

    Raises:
        ValueError: the collection does not have a document, or a docno is no string; the error
            names it.
    """

    schematic = {"label": "TextLoader", "help_url": None}

    def __init__(self, collection: Collection):
        self.collection = collection

    def _required_columns(self) -> list[str]:
        return ["docno"]

    def _output_columns(self, columns: list[str]) -> list[str]:
        return with_columns(columns, "text")

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "docno")
        wanted = set(inp["docno"])
        texts = self.collection.texts(wanted)
        if missing := wanted - texts.keys():
            raise ValueError(
                f"{self.collection!r} does not have {len(missing):,} of {len(wanted):,} documents, "
                f"such as {min(missing)!r}"
            )
        return inp.assign(text=[texts[docno] for docno in inp["docno"]])

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer:
        """Cuts first, so that no text is loaded in vain."""
        return pt.RankCutoff(k) >> self


class Files(Collection):
    """A collection in a file, with topics and judgements in others.

    Args:
        corpus: See :func:`read_corpus`.
        topics: See :func:`read_topics`.
        qrels: See :func:`read_qrels`.
        docno: Column of the corpus that holds the id of a document.
        text: Column of the corpus that holds its text.
        fix_text: Repair texts and queries with ftfy.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file's name does not say what kind it is.
    """

    def __init__(
        self,
        corpus: str | Path,
        topics: str | Path | None = None,
        qrels: str | Path | None = None,
        *,
        docno: str | None = None,
        text: str | None = None,
        fix_text: bool = False,
    ):
        super().__init__(fix_text=fix_text)
        self.corpus = _existing(corpus)
        _kind(self.corpus)
        self.topics = None if topics is None else _existing(topics)
        self.qrels = None if qrels is None else _existing(qrels)
        self.docno = docno
        self.text = text

    def documents(self) -> Iterator[tuple[str, str]]:
        for document in read_corpus(self.corpus, docno=self.docno, text=self.text):
            yield document["docno"], document["text"]

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        return self._topics(_rows(read_topics(self._given("topics", variant))))

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        return read_qrels(self._given("qrels", variant))

    def _given(self, what: str, variant: str | None) -> Path:
        if variant is not None:
            raise ValueError(f"{self!r} has no variants, so none is called {variant!r}")
        if (path := getattr(self, what)) is None:
            raise ValueError(f"{self!r} has no {what}: give it a file, {what}=...")
        return path

    def _name(self) -> str:
        return str(self.corpus)


class BeirFolder(Collection):
    """A collection in BEIR's folder layout.

    ``corpus.jsonl`` (``_id, title, text``), ``queries.jsonl`` (``_id, text``), either of them plain
    or gzipped, and ``qrels/SPLIT.tsv`` (``query-id, corpus-id, score``, with a header). The topics
    and judgements of a variant are those of the split of that name, ``"test"`` when none is named;
    the topics are those that have judgements there, or all where nothing is judged.

    Args:
        path: The folder.
        fix_text: Repair texts and queries with ftfy.

    Raises:
        FileNotFoundError: a file is missing; the error names it, or the splits there are.
    """

    def __init__(self, path: str | Path, *, fix_text: bool = False):
        super().__init__(fix_text=fix_text)
        self.path = Path(path)
        self._file("corpus")

    def documents(self) -> Iterator[tuple[str, str]]:
        for document in read_corpus(self._file("corpus")):
            yield document["docno"], document["text"]

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        topics = read_topics(self._file("queries"))
        if variant is not None or (self.path / "qrels").exists():
            topics = topics[topics["qid"].isin(self.get_qrels(variant)["qid"])]
        return self._topics(_rows(topics))

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        path = self.path / "qrels" / f"{variant or 'test'}.tsv"
        if not path.is_file():
            splits = sorted(file.stem for file in path.parent.glob("*.tsv"))
            raise FileNotFoundError(f"there is no {path}; splits: {', '.join(splits) or 'none'}")
        return read_qrels(path)

    def _file(self, name: str) -> Path:
        files = [self.path / f"{name}.jsonl", self.path / f"{name}.jsonl.gz"]
        for file in files:
            if file.is_file():
                return file
        raise FileNotFoundError(f"there is neither {files[0]} nor {files[1].name}")

    def _name(self) -> str:
        return str(self.path)


class IrDatasets(Collection):
    """A collection of ir_datasets, as PyTerrier gives it, with one text for each document.

    Args:
        name: The id in ir_datasets, ``"beir/nfcorpus/test"``.
        fix_text: Repair texts and queries with ftfy.

    Raises:
        KeyError: ir_datasets does not know it.
    """

    def __init__(self, name: str, *, fix_text: bool = False):
        super().__init__(fix_text=fix_text)
        self.name = name
        self.dataset: Any = pt.get_dataset(f"irds:{name}")

    def documents(self) -> Iterator[tuple[str, str]]:
        for record in self.dataset.irds_ref().docs_iter():
            yield record.doc_id, _default_text(record)

    def find(self, docnos: set[str]) -> dict[str, str]:
        records = self.dataset.irds_ref().docs_store().get_many_iter(docnos)
        return {record.doc_id: _default_text(record) for record in records}

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        """The topics as ``qid, query``.

        Args:
            variant: Which of the topics' fields the query is; without it the one that ir_datasets
                holds to be the default, such as the title of TREC's.
        """
        if variant is not None:
            return self._topics(_rows(self.dataset.get_topics(variant)))
        records = self.dataset.irds_ref().queries_iter()
        return self._topics((record.query_id, _default_text(record)) for record in records)

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        return self.dataset.get_qrels(variant)

    def get_corpus_lang(self) -> str | None:
        return self.dataset.get_corpus_lang()

    def get_topics_lang(self) -> str | None:
        return self.dataset.get_topics_lang()

    def info_url(self) -> str | None:
        return self.dataset.info_url()

    def _name(self) -> str:
        return self.name


def collection(
    name: str | Path, source: str = "ir_datasets", *, fix_text: bool = False
) -> Collection:
    """A collection by its path or its name.

    Args:
        name: A file (see :func:`read_corpus`), a folder in BEIR's layout or of a Lucene index, the
            name of a BEIR collection (``"nfcorpus"``), or another name that the source knows.
        source: Where to look a name up: ``"ir_datasets"``, or ``"pyserini"`` for its prebuilt
            indexes.
        fix_text: Repair texts and queries with ftfy.

    Raises:
        ValueError: the source does not know the name, or there is no such source.
        FileNotFoundError: a folder lacks a file.
    """
    if source not in ("ir_datasets", "pyserini"):
        raise ValueError(f"source must be 'ir_datasets' or 'pyserini', not {source!r}")
    path, name = Path(name), str(name)
    if path.is_file():
        return Files(path, fix_text=fix_text)
    if path.is_dir() and not any(path.glob("segments_*")):
        return BeirFolder(path, fix_text=fix_text)
    lucene = path.is_dir() or source == "pyserini"
    if name in beir.COLLECTIONS and not path.is_dir():
        name = beir.names(name, "pyserini" if lucene else "irds")
    try:
        if lucene:
            from pyterrier_inpars.datasets.lucene import PyseriniProvider  # which knows this module

            found: Collection = PyseriniProvider().get_dataset(name)
        else:
            found = IrDatasets(name.removeprefix("irds:"))
    except KeyError:
        raise ValueError(
            f"{name!r} is no file or folder, none that {source} knows, and no BEIR collection: "
            f"{', '.join(beir.COLLECTIONS)} are"
        ) from None
    found.fix_text = fix_text
    return found


def read_corpus(
    path: str | Path, *, docno: str | None = None, text: str | None = None
) -> Iterator[dict[str, str]]:
    """Reads documents, one at a time.

    The file is CSV or TSV with a header, or JSON Lines, by its name (``.csv``, ``.tsv``,
    ``.jsonl``, ``.json``, each also with ``.gz``), in UTF-8. Ids are kept as they are written:
    ``007`` and ``NA`` are strings. A ``title``, where there is one, is put before the text with a
    space between, except before ``contents``, which has it already by Anserini's convention.

    Args:
        path: The file.
        docno: Column that holds the id; without it the first there is of ``docno, doc_id, _id,
            id``.
        text: Column that holds the text; without it the first there is of ``text, contents,
            document, doc_text``.

    Yields:
        Dicts of ``docno`` and ``text``; nothing for an empty file.

    Raises:
        ValueError: a column is not found, or a row cannot be read; the error names the file, the
            line and what was found there.
    """
    names = None
    for where, record in _records(Path(path)):
        if names is None:
            names = (
                _column(where, record, docno, _DOCNO, "docno"),
                _column(where, record, text, _TEXT, "text"),
            )
        body = _string(where, record, names[1])
        if names[1] not in ("contents", "title") and record.get("title"):
            body = joined(_string(where, record, "title"), body)
        yield {"docno": formats.as_id(record.get(names[0]), names[0], where), "text": body.strip()}


def read_topics(
    path: str | Path, *, qid: str | None = None, query: str | None = None
) -> pd.DataFrame:
    """Reads topics from a file as :func:`read_corpus` reads documents.

    A TSV file of two columns may lack the header: then it has the qid and the query.

    Args:
        path: The file.
        qid: Column that holds the id; without it the first there is of ``qid, query_id, _id, id``.
        query: Column that holds the query; without it the first there is of ``query, text,
            question``.

    Returns:
        A frame of ``qid, query``, both str.

    Raises:
        ValueError: a column is not found, a row cannot be read, or an id stands twice.
    """
    names = None
    topics: dict[str, str] = {}
    headerless = {"qid": _QID, "query": _QUERY} if qid is None and query is None else {}
    for where, record in _records(Path(path), headerless):
        if names is None:
            names = (
                _column(where, record, qid, _QID, "qid"),
                _column(where, record, query, _QUERY, "query"),
            )
        number = formats.as_id(record.get(names[0]), names[0], where)
        if number in topics:
            raise ValueError(f"{where}: the qid {number!r} stands twice")
        topics[number] = _string(where, record, names[1])
    return pd.DataFrame(list(topics.items()), columns=["qid", "query"])


def read_qrels(path: str | Path) -> pd.DataFrame:
    """Reads judgements in TREC's form (four columns) or BEIR's (three, with tabs and a header).

    Returns:
        A frame of ``qid, docno`` (str) and ``label`` (int64).

    Raises:
        ValueError: a line is neither; the error names the file and the line.
    """
    rows = []
    for number, (where, line) in enumerate(formats.read_lines(path, may_be_empty=True)):
        if not line.strip():
            continue
        try:
            rows.append(_judgement(line.decode()))
        except ValueError:
            if number or line.count(b"\t") != 2:  # which the header of BEIR's form has
                raise ValueError(
                    f"{where}: {line.strip()!r:.200} is no judgement: a qid, a docno and a whole "
                    f"number are needed, as `qid 0 docno label` or in BEIR's form"
                ) from None
    return pd.DataFrame(rows, columns=["qid", "docno", "label"]).astype({"label": "int64"})


def _judgement(line: str) -> tuple[str, str, int]:
    """The qid, docno and label of a line, which is split at tabs if it has three columns."""
    cells = line.rstrip("\r\n").split("\t")
    if len(cells) == 3:
        qid, docno, label = cells
    else:
        qid, _, docno, label = line.split()
    if not qid or not docno or abs(int(label)) >= 2**63:
        raise ValueError
    return qid, docno, int(label)


def sample(documents: Iterable[T], n: int, seed: int = 0) -> list[T]:
    """Draws documents from a stream, uniformly, without replacement, in one pass.

    Each document is given a random number, and those with the ``n`` smallest are kept: no more
    than ``n`` documents are in memory, and the sample of fewer is part of the sample of more.

    Args:
        documents: A corpus, or anything to draw from.
        n: How many; all of a stream that has no more.
        seed: Another seed draws others.

    Returns:
        The documents drawn, in the order of the stream.

    Raises:
        ValueError: ``n`` or the seed is no whole number, or negative.
    """
    positive_int("n", n, least=0)
    draw = random.Random(positive_int("seed", seed, least=0)).random
    kept: list[tuple[float, int, T]] = []  # a heap: the largest random number first
    for position, document in enumerate(documents if n else ()):
        item = (-draw(), position, document)
        if len(kept) < n:
            heapq.heappush(kept, item)
        else:
            heapq.heappushpop(kept, item)
    return [document for _, _, document in sorted(kept, key=lambda item: item[1])]


def judged_pairs(
    dataset: pt.datasets.Dataset,
    *,
    topics: pd.DataFrame | None = None,
    qrels: pd.DataFrame | None = None,
    min_label: int = 1,
    max_pairs: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Few-shot examples from a collection's own judgements: topics with their relevant documents.

    The topics shown to a language model must not be evaluated on afterwards. Documents that are
    judged but not in the corpus are left out. The corpus is gone through once, and the texts of
    these documents alone are kept.

    Args:
        dataset: Any PyTerrier dataset whose documents have a ``text``.
        topics: ``qid, query``; without it the dataset's ``get_topics()``.
        qrels: ``qid, docno, label``; without it the dataset's ``get_qrels()``.
        min_label: The lowest label that counts as relevant.
        max_pairs: Draw no more than these, with :func:`sample`.
        seed: For drawing.

    Returns:
        A frame of ``qid, query, docno, text`` (all str), in the order of the judgements.

    Raises:
        ValueError: there is no such pair, a column is missing, or an id is no string.
    """
    topics = dataset.get_topics() if topics is None else topics
    qrels = dataset.get_qrels() if qrels is None else qrels
    for name, frame, needed in [
        ("topics", topics, ["qid", "query"]),
        ("qrels", qrels, ["qid", "docno", "label"]),
    ]:
        if lacking := [c for c in needed if c not in frame]:
            raise ValueError(
                f"the {name} of {dataset!r} have no {', '.join(lacking)}, only "
                f"{', '.join(frame.columns)}: give {name}=, such as dataset.get_{name}(variant)"
            )
        check_strings(frame, *needed[:2])
    queries = dict(zip(topics["qid"], topics["query"], strict=True))
    relevant = qrels[(as_numbers(qrels, "label") >= min_label) & qrels["qid"].isin(list(queries))]
    pairs = list(_rows(relevant[["qid", "docno"]].drop_duplicates()))
    if max_pairs is not None:
        pairs = sample(pairs, positive_int("max_pairs", max_pairs), seed)
    wanted = {docno for _, docno in pairs}
    texts = {}
    for document in dataset.get_corpus_iter(verbose=False) if wanted else ():
        if document["docno"] in wanted:
            if "text" not in document:
                raise ValueError(
                    f"the documents of {dataset!r} have no text, only {', '.join(document)}"
                )
            texts[document["docno"]] = document["text"]
    rows = [(qid, queries[qid], docno, texts[docno]) for qid, docno in pairs if docno in texts]
    if not rows:
        raise ValueError(
            f"{dataset!r} has no document judged {min_label} or more for any of {len(queries):,} "
            "topics"
        )
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text"])


def joined(title: str | None, text: str) -> str:
    """One text of a title and a body; there may be no title."""
    return f"{title or ''} {text}".strip()


def _rows(frame: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    return frame.itertuples(index=False, name=None)


def _default_text(record: Any) -> str:
    """The text of a document or query of ir_datasets, the title first."""
    return (record.default_text() if hasattr(record, "default_text") else record.text).strip()


def _existing(path: str | Path) -> Path:
    if not (path := Path(path)).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return path


def _kind(path: Path) -> str:
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    if kind not in _KINDS:
        raise ValueError(
            f"{path}: the name must end in one of {', '.join(_KINDS)}, or in one of them and .gz"
        )
    return kind


def _records(
    path: Path, headerless: Mapping[str, Sequence[str]] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a file, each with the place where it stands, for errors.

    Args:
        path: CSV, TSV or JSON Lines, by its name.
        headerless: The columns of a TSV file whose first row has none of the names listed for them.
    """
    kind = _kind(path)
    if kind not in _SEPARATORS:
        yield from formats.json_lines(path, may_be_empty=True)
        return
    try:
        with pt.io.autoopen(str(path), "rt", encoding="utf-8-sig", newline="") as file:
            yield from _csv(path, file, _SEPARATORS[kind], headerless if kind == ".tsv" else {})
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _csv(
    path: Path, file: Iterable[str], separator: str, headerless: Mapping[str, Sequence[str]] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(2**31 - 1)  # the default of 131,072 characters is less than a long text
    reader = csv.reader(file, delimiter=separator, strict=True)
    header: list[str] = []
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if not row:
                continue
            if not header:
                header = [name.strip() for name in row]
                known = {name for names in (headerless or {}).values() for name in names}
                if len(set(header)) < len(header):
                    raise ValueError(f"{where}: two columns have one name: {', '.join(header)}")
                if not headerless or len(row) != len(headerless) or known & set(header):
                    continue
                header = list(headerless)
            if len(row) != len(header):
                raise ValueError(
                    f"{where}: {len(row)} cells, but the columns are {', '.join(header)}"
                )
            yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _column(
    where: str, record: Mapping[str, Any], name: str | None, known: Sequence[str], parameter: str
) -> str:
    """The column asked for, or else the first of those known that the record has."""
    for candidate in known if name is None else [name]:
        if candidate in record:
            return candidate
    raise ValueError(
        f"{where}: no column {name or ' or '.join(known)}, only {', '.join(record)}: say which one "
        f"it is, {parameter}=..."
    )


def _string(where: str, record: Mapping[str, Any], column: str) -> str:
    value = record.get(column)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {column} must be a string, not {value!r}")
    return value
