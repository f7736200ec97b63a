"""Folders in BEIR's layout (arXiv 2104.08663)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from numbers import Real
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from more_itertools import unique_everseen

from pyterrier_inpars._files import atomic_text
from pyterrier_inpars._stage import lone_surrogate
from pyterrier_inpars._text_sources import HasCorpus
from pyterrier_inpars.datasets.collections import BeirFolder
from pyterrier_inpars.datasets.exports._json_lines import as_line
from pyterrier_inpars.datasets.exports._rows import COLUMNS, checked_rows
from pyterrier_inpars.datasets.toolkit_files import is_null

if TYPE_CHECKING:
    from pyterrier_inpars.queries.artifact import SyntheticQueries


def write_beir(
    queries: pd.DataFrame | SyntheticQueries,
    folder: str | Path,
    *,
    corpus: HasCorpus | Iterable[Mapping[str, Any]] | None = None,
    split: str = "train",
    overwrite: bool = False,
) -> None:
    """Writes a folder in BEIR's layout: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/SPLIT.tsv``.

    Args:
        queries: Frame ``qid, query, docno, text`` and optionally ``label`` (1 for each row without
            it), or a :class:`SyntheticQueries`, which is read shard by shard, three times at most.
        folder: Folder, created if missing.
        corpus: Collection, or documents as dicts ``docno, text`` and optionally ``title``; those of
            ``queries`` must be among them. ``None`` writes only the documents of ``queries``.
        split: Name of the split.
        overwrite: Whether the three files may be there, and are replaced.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: An id, query or text is not a string; a filter dropped a row (``explain=True``);
            an id has white space at an end, a tab or a line break; a qid has two queries, a docno
            two texts, or a pair two labels; a document is not in the corpus, or twice; or a label
            is not a whole number, or is missing in some rows only.
        FileExistsError: One of the three files exists.
    """
    folder = Path(folder).expanduser()
    if not isinstance(split, str) or Path(split).name != split or split in ("", ".."):
        raise ValueError(f"split must be the name of a file, not {split!r}")
    files = [folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / f"{split}.tsv"]
    there = [file for file in files if file.exists()]
    if there and not overwrite:
        raise FileExistsError(f"{there[0]} exists: give another folder, or overwrite=True")
    labels = _labels(queries)
    docnos = {docno for _, docno in labels}
    with (
        atomic_text(files[0]) as corpus_file,
        atomic_text(files[1]) as queries_file,
        atomic_text(files[2]) as qrels_file,
    ):
        if isinstance(corpus, HasCorpus):
            corpus = corpus.get_corpus_iter(verbose=False)
        rows = checked_rows(queries)
        documents = _documents(rows) if corpus is None else _checked_corpus(corpus, docnos)
        corpus_file.writelines(map(as_line, documents))
        for row in unique_everseen(checked_rows(queries), key=itemgetter("qid")):
            queries_file.write(as_line({"_id": row["qid"], "text": row["query"]}))
        qrels_file.write("query-id\tcorpus-id\tscore\n")
        for (qid, docno), label in labels.items():
            qrels_file.write(f"{qid}\t{docno}\t{label}\n")


def read_beir(folder: str | Path, split: str = "train") -> pd.DataFrame:
    """Reads the judged pairs of a folder in BEIR's layout, with their texts.

    For the collection itself, see :class:`BeirFolder`.

    Returns:
        Frame ``qid, query, docno, text`` (all str) and ``label`` (int), in the order of the
        judgements. The title is part of the text.

    Raises:
        ValueError: A judged query or document is missing; or see :class:`BeirFolder`.
        FileNotFoundError: A file is missing.
    """
    collection = BeirFolder(folder)
    qrels = collection.get_qrels(split)
    wanted = set(qrels["docno"])
    texts = {docno: text for docno, text in collection.documents() if docno in wanted}
    queries = dict(collection.get_topics(split)[["qid", "query"]].itertuples(index=False))
    for name, ids, known in (("query", qrels["qid"], queries), ("document", qrels["docno"], texts)):
        if (absent := ~ids.isin(list(known))).any():
            raise ValueError(f"{folder}: the judged {name} {ids[absent].iloc[0]!r} does not exist")
    found = qrels.assign(query=qrels["qid"].map(queries), text=qrels["docno"].map(texts))
    return found[[*COLUMNS, "label"]]


def _labels(queries: pd.DataFrame | SyntheticQueries) -> dict[tuple[str, str], int]:
    """Returns the label of each pair of qid and docno, in order, and checks all rows.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: See `write_beir`.
    """
    seen: dict[str, dict[str, bytes]] = {"qid": {}, "docno": {}}
    labels: dict[tuple[str, str], int] = {}
    labelled: set[bool] = set()
    for row in checked_rows(queries):
        for key, value in (("qid", "query"), ("docno", "text")):
            _check_cell(key, row[key])
            digest = sha256(row[value].encode()).digest()
            if seen[key].setdefault(row[key], digest) != digest:
                raise ValueError(f"{key} {row[key]!r} has two different values of {value}")
        labelled.add("label" in row)
        if len(labelled) > 1:
            raise ValueError(
                f"label is missing in some rows and not in others, as at qid {row['qid']!r}, docno "
                f"{row['docno']!r}: give each row a label, or none"
            )
        label = _label(row)
        if labels.setdefault((row["qid"], row["docno"]), label) != label:
            raise ValueError(f"docno {row['docno']!r} has two labels for qid {row['qid']!r}")
    return labels


def _check_cell(name: str, value: str) -> None:
    """Checks that an id can be a cell of a TSV file."""
    if not value or value != value.strip() or set(value) & set('\t\r\n"'):
        raise ValueError(
            f"{name} {value!r} cannot be written to BEIR's qrels: an id must not be empty, have "
            f"white space at an end, or contain a tab, a line break or a quotation mark"
        )


def _label(row: dict[str, Any]) -> int:
    label = row.get("label", 1)
    if not isinstance(label, Real) or not float(label).is_integer():
        raise ValueError(f"label must be a whole number, not {label!r}, at qid {row['qid']!r}")
    return int(float(label))


def _documents(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Yields the lines of the documents of queries, each document once."""
    for row in unique_everseen(rows, key=itemgetter("docno")):
        yield {"_id": row["docno"], "title": "", "text": row["text"]}


def _checked_corpus(corpus: Iterable[Any], wanted: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yields the lines of the documents of a corpus.

    Raises:
        ValueError: A document is not valid, is a duplicate, or a wanted one is missing.
    """
    seen: set[str] = set()
    for document in corpus:
        known = document if isinstance(document, Mapping) else {}
        title = known.get("title")
        line: dict[str, Any] = {
            "_id": known.get("docno"),
            "title": "" if is_null(title) else title,
            "text": known.get("text"),
        }
        for value in line.values():
            if not isinstance(value, str) or lone_surrogate(value):
                raise ValueError(
                    f"a document must have a docno and a text, and may have a title, all strings "
                    f"that UTF-8 can encode, not {document!r:.200}"
                )
        if line["_id"] in seen:
            raise ValueError(f"the corpus has a duplicate docno, {line['_id']!r}")
        seen.add(line["_id"])
        yield line
    if absent := next((docno for docno in wanted if docno not in seen), None):
        raise ValueError(
            f"docno {absent!r} of the queries is not in the corpus: give the corpus that the "
            "queries were written for"
        )
