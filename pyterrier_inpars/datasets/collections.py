"""Collections as PyTerrier datasets: from files, in BEIR's folder layout, from ir_datasets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._progress import Progress
from pyterrier_inpars._stage import Stage, check_strings, with_columns
from pyterrier_inpars.datasets.readers import (
    file_kind,
    read_corpus,
    read_qrels,
    read_topics,
    unique_docnos,
    unique_judgements,
)


class Collection(pt.datasets.Dataset):
    """Base class of collections whose documents have one text: the title, if any, then the body.

    White space around a text is removed. A subclass implements ``documents()``, and
    ``get_topics()`` and ``get_qrels()`` if it has topics and judgements.

    Args:
        fix_text: Whether to repair mojibake in texts and queries with ftfy, such as ``â€™`` for an
            apostrophe.
    """

    def __init__(self, *, fix_text: bool = False):
        self.fix_text = fix_text

    def documents(self) -> Iterator[tuple[str, str]]:
        """Iterates over the docno and text of all documents; each call starts at the first."""
        raise NotImplementedError

    def find(self, docnos: set[str]) -> dict[str, str]:
        """Returns the texts of documents by docno; missing documents are left out.

        This implementation reads the whole collection.

        Raises:
            ValueError: A docno of these is a duplicate.
        """
        return dict(unique_docnos((d for d in self.documents() if d[0] in docnos), repr(self)))

    def texts(self, docnos: set[str]) -> dict[str, str]:
        """Returns the texts of documents by docno, repaired if ``fix_text`` is set."""
        return {docno: self._fixed(text) for docno, text in self.find(docnos).items()}

    def get_corpus_iter(self, *, verbose: bool = False) -> Iterator[dict[str, str]]:
        """Iterates over the documents; each call starts at the first.

        Args:
            verbose: Whether to show progress.

        Yields:
            Dicts of ``docno`` and ``text`` (both str).
        """
        for docno, text in Progress(self.documents(), "reading", unit="documents", verbose=verbose):
            yield {"docno": docno, "text": self._fixed(text)}

    def text_loader(
        self, fields: str | Sequence[str] = "*", *, verbose: bool = False
    ) -> TextLoader:
        """Returns a transformer that adds the text of each document.

        ``pt.text.get_text(collection, "text")`` calls this method.

        Args:
            fields: ``"text"``, the only field.
            verbose: Ignored, since the texts of a frame are loaded at once.

        Raises:
            ValueError: ``fields`` names another field.
        """
        if fields not in ("*", "text", ["text"], ("text",)):
            raise ValueError(f"{self!r} has only the field 'text', not {fields!r}")
        return TextLoader(self)

    def _configure(self, *, fix_text: bool = False) -> None:
        """Sets the options of ``pt.get_dataset(name, fix_text=True)``."""
        self.fix_text = self.fix_text or fix_text

    def _fixed(self, text: str) -> str:
        if not self.fix_text:
            return text
        import ftfy

        return ftfy.fix_text(text)

    def _topics(self, topics: Iterable[tuple[str, str]]) -> pd.DataFrame:
        fixed = [(qid, self._fixed(query)) for qid, query in topics]
        return pd.DataFrame(fixed, columns=["qid", "query"])

    def __repr__(self) -> str:
        options = ", fix_text=True" if self.fix_text else ""
        return f"{type(self).__name__}({self._name()!r}{options})"

    def _name(self) -> str:
        raise NotImplementedError


class TextLoader(Stage):
    """Adds the column ``text`` to a frame with ``docno``.

    The texts of a frame are loaded at once. A collection in files is read once for each frame.

    Args:
        collection: Collection that holds the texts.

    Raises:
        ValueError: The collection lacks a document, or a docno is not a string; the error names
            it.
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
                f"{self.collection!r} lacks {len(missing):,} of {len(wanted):,} documents, such as "
                f"{min(missing)!r}"
            )
        return inp.assign(text=[texts[docno] for docno in inp["docno"]])

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer:
        """Moves a rank cutoff before the loader, so that it loads fewer texts."""
        return pt.RankCutoff(k) >> self


class Files(Collection):
    """A collection in a corpus file, with optional files of topics and judgements.

    Args:
        corpus: Corpus file; see :func:`read_corpus`.
        topics: Topics file; see :func:`read_topics`.
        qrels: Judgements file; see :func:`read_qrels`.
        docno: Column of the document id in the corpus file.
        text: Column of the text in the corpus file, or a list of columns to join.
        fix_text: Whether to repair texts and queries with ftfy.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: The suffix of the corpus file names no known format.
    """

    def __init__(
        self,
        corpus: str | Path,
        topics: str | Path | None = None,
        qrels: str | Path | None = None,
        *,
        docno: str | int | None = None,
        text: str | int | Sequence[str | int] | None = None,
        fix_text: bool = False,
    ):
        super().__init__(fix_text=fix_text)
        self.corpus = _existing(corpus)
        file_kind(self.corpus)
        self.topics = None if topics is None else _existing(topics)
        self.qrels = None if qrels is None else _existing(qrels)
        self.docno = docno
        self.text = text

    def documents(self) -> Iterator[tuple[str, str]]:
        for document in read_corpus(self.corpus, docno=self.docno, text=self.text):
            yield document["docno"], document["text"]

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        topics = read_topics(self._given("topics", variant))
        return self._topics(zip(topics["qid"], topics["query"], strict=True))

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        return read_qrels(self._given("qrels", variant))

    def _given(self, what: str, variant: str | None) -> Path:
        if variant is not None:
            raise ValueError(f"{self!r} has no variants, but variant {variant!r} was requested")
        if (path := getattr(self, what)) is None:
            raise ValueError(f"{self!r} has no {what}: give it a file with {what}=...")
        return path

    def _name(self) -> str:
        return str(self.corpus)


class BeirFolder(Collection):
    """A collection in BEIR's folder layout (arXiv 2104.08663).

    The folder holds ``corpus.jsonl`` (``_id, title, text``) and ``queries.jsonl`` (``_id, text``),
    each plain or gzipped, and ``qrels/SPLIT.tsv`` (``query-id, corpus-id, score``, with a header).
    A variant of topics and judgements is the name of a split, ``"test"`` by default. Its topics
    are those with judgements in the split, or all topics if there is no folder ``qrels``.

    Args:
        path: Folder of the collection.
        fix_text: Whether to repair texts and queries with ftfy.

    Raises:
        FileNotFoundError: A file is missing; the error names it, or the splits there are.
    """

    def __init__(self, path: str | Path, *, fix_text: bool = False):
        super().__init__(fix_text=fix_text)
        self.path = Path(path).expanduser()
        self._file("corpus")

    def documents(self) -> Iterator[tuple[str, str]]:
        for document in read_corpus(self._file("corpus")):
            yield document["docno"], document["text"]

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        topics = read_topics(self._file("queries"))
        if variant is not None or (self.path / "qrels").exists():
            topics = topics[topics["qid"].isin(self.get_qrels(variant)["qid"])]
        return self._topics(zip(topics["qid"], topics["query"], strict=True))

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        path = self.path / "qrels" / f"{variant or 'test'}.tsv"
        if not path.is_file():
            splits = sorted(file.stem for file in path.parent.glob("*.tsv"))
            raise FileNotFoundError(f"{path} does not exist; splits: {', '.join(splits) or 'none'}")
        return read_qrels(path)

    def _file(self, name: str) -> Path:
        files = [self.path / f"{name}.jsonl", self.path / f"{name}.jsonl.gz"]
        for file in files:
            if file.is_file():
                return file
        raise FileNotFoundError(f"neither {files[0]} nor {files[1].name} exists")

    def _name(self) -> str:
        return str(self.path)


class IrDatasets(Collection):
    """A collection of ir_datasets, with one text for each document.

    Args:
        name: Id in ir_datasets, such as ``"beir/nfcorpus/test"``.
        text: Field of the documents with the text, or a list of fields to join. By default the
            text that ir_datasets declares, title first.
        fix_text: Whether to repair texts and queries with ftfy.

    Raises:
        KeyError: ir_datasets does not know the id.
        ValueError: The documents have no field ``text``; raised when they are read, with the
            fields that there are.
    """

    def __init__(
        self, name: str, *, text: str | Sequence[str] | None = None, fix_text: bool = False
    ):
        super().__init__(fix_text=fix_text)
        self.name = name
        self.text = text
        self.dataset: Any = pt.get_dataset(f"irds:{name}")

    def documents(self) -> Iterator[tuple[str, str]]:
        records = self.dataset.irds_ref().docs_iter()
        return unique_docnos(((r.doc_id, self._text(r)) for r in records), repr(self))

    def find(self, docnos: set[str]) -> dict[str, str]:
        records = self.dataset.irds_ref().docs_store().get_many_iter(docnos)
        return {record.doc_id: self._text(record) for record in records}

    def _text(self, record: Any) -> str:
        return _record_text(record, self.text, f"the documents of {self!r}", "text=['title', ...]")

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        """Returns the topics as a frame ``qid, query``.

        Args:
            variant: Field of the topics to use as the query. By default that of ir_datasets, such
                as the title of TREC topics.
        """
        if variant is not None:
            topics = self.dataset.get_topics(variant)
            return self._topics(zip(topics["qid"], topics["query"], strict=True))
        records = self.dataset.irds_ref().queries_iter()
        where, remedy = f"the topics of {self!r}", "get_topics('title')"
        return self._topics((r.query_id, _record_text(r, None, where, remedy)) for r in records)

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        return unique_judgements(self.dataset.get_qrels(variant), f"the qrels of {self!r}")

    def get_corpus_lang(self) -> str | None:
        return self.dataset.get_corpus_lang()

    def get_topics_lang(self) -> str | None:
        return self.dataset.get_topics_lang()

    def info_url(self) -> str | None:
        return self.dataset.info_url()

    def _name(self) -> str:
        return self.name


def _record_text(record: Any, fields: str | Sequence[str] | None, where: str, remedy: str) -> str:
    """Returns the text of a document or query of ir_datasets: its fields, or its default text.

    Args:
        record: The document or query, a named tuple.
        fields: Name of a field, or a list of names whose texts are joined.
        where: Place of the record, for the error.
        remedy: How to name fields, for the error.

    Raises:
        ValueError: The record lacks a field, or a field is not a string.
    """
    if fields is None and hasattr(record, "default_text"):
        return record.default_text().strip()
    names = [fields or "text"] if fields is None or isinstance(fields, str) else fields
    values = [getattr(record, str(name), None) for name in names]
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, str):
            raise ValueError(
                f"{where} have no text in {name!r}; their fields are {', '.join(record._fields)}: "
                f"name those with text, as in {remedy}"
            )
    return " ".join(filter(None, values)).strip()


def _existing(path: str | Path) -> Path:
    if not (path := Path(path).expanduser()).is_file():
        raise FileNotFoundError(f"the file {path} does not exist")
    return path
