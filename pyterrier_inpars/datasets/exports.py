"""Synthetic queries and training examples in the formats of other packages, and back.

Frames go in and come out. Writers check everything before they write; a suffix ``.gz``, ``.bz2``
or ``.lz4`` of JSON Lines selects compression. Formats: Parquet and the data sets of ``datasets``,
BEIR's folder (arXiv 2104.08663), sentence-transformers' triplets and labelled lists, and the
training files of Tevatron (arXiv 2203.05765) and FlagEmbedding.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import islice
from numbers import Real
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from more_itertools import unique_everseen

from pyterrier_inpars._files import atomic_file, atomic_text, plain
from pyterrier_inpars._stage import as_frame, check_columns, check_strings, lone_surrogate
from pyterrier_inpars._text_sources import HasCorpus
from pyterrier_inpars.datasets.collections import BeirFolder
from pyterrier_inpars.datasets.readers import as_id, json_lines
from pyterrier_inpars.datasets.toolkit_files import judged_texts, missing
from pyterrier_inpars.training.examples import check_examples, check_negatives, check_teacher

if TYPE_CHECKING:
    import datasets
    import pyarrow

    from pyterrier_inpars.queries.artifact import SyntheticQueries

_COLUMNS = ["qid", "query", "docno", "text"]
_CHUNK = 10_000
"""Number of rows that are converted together."""


def to_dataset(queries: pd.DataFrame | SyntheticQueries) -> datasets.Dataset:
    """Returns synthetic queries or training examples as a data set of ``datasets``.

    Args:
        queries: Frame ``qid, query, docno, text`` and others, or a :class:`SyntheticQueries`.

    Returns:
        Data set with all columns. A missing value (None, NaN) is null.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: An id, query or text is not a string, or the values of a column have no common
            type.
    """
    import datasets
    import pyarrow

    schema = _schema(queries)
    tables = [_table(rows, schema) for rows in _chunks(queries)]
    return datasets.Dataset(pyarrow.concat_tables([schema.empty_table(), *tables]))


def from_dataset(dataset: datasets.Dataset) -> pd.DataFrame:
    """Returns a data set, such as of :func:`to_dataset`, as a frame.

    Raises:
        TypeError: It is another object, such as a ``DatasetDict`` of several splits.
        pt.validate.InputValidationError: A column is missing.
        ValueError: An id, query or text is not a string.
    """
    import datasets

    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(
            f"dataset must be a datasets.Dataset, not a {type(dataset).__name__}: give one split "
            "of a DatasetDict, such as dataset['train']"
        )
    # Not dataset.data: select, filter and shuffle leave it as it was.
    return _frame(dataset.with_format("arrow")[:])


def write_parquet(queries: pd.DataFrame | SyntheticQueries, path: str | Path) -> None:
    """Writes synthetic queries or training examples to a Parquet file, with all columns.

    An artifact is read shard by shard, twice.

    Args:
        queries: See :func:`to_dataset`.
        path: File to write. Missing parent folders are created.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: See :func:`to_dataset`.
    """
    import pyarrow.parquet

    schema = _schema(queries)
    with (
        atomic_file(path, compress=False) as file,
        pyarrow.parquet.ParquetWriter(file, schema) as writer,
    ):
        for rows in _chunks(queries):
            writer.write_table(_table(rows, schema))


def read_parquet(path: str | Path) -> pd.DataFrame:
    """Reads a Parquet file, such as of :func:`write_parquet`, as a frame.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: The file is not in Parquet, or an id, query or text is not a string.
        FileNotFoundError: The file does not exist.
    """
    import pyarrow.parquet

    try:
        return _frame(pyarrow.parquet.read_table(Path(path).expanduser()))
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error


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
            it), or a :class:`SyntheticQueries`, which is read shard by shard, twice.
        folder: Folder, created if missing.
        corpus: Collection, or documents as dicts ``docno, text`` and optionally ``title``; those of
            ``queries`` must be among them. ``None`` writes only the documents of ``queries``.
        split: Name of the split.
        overwrite: Whether the three files may be there, and are replaced.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: An id, query or text is not a string; an id has white space at an end, a tab or
            a line break; a qid has two queries, a docno two texts, or a pair two labels; a document
            is not in the corpus, or twice; or a label is not a whole number, or is missing in some
            rows only.
        FileExistsError: One of the three files exists.
    """
    folder = Path(folder).expanduser()
    if not isinstance(split, str) or Path(split).name != split or split in ("", ".."):
        raise ValueError(f"split must be the name of a file, not {split!r}")
    files = [folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / f"{split}.tsv"]
    there = [file for file in files if file.exists()]
    if there and not overwrite:
        raise FileExistsError(f"{there[0]} exists: give another folder, or overwrite=True")
    known_queries: dict[str, bytes] = {}
    texts: dict[str, bytes] = {}
    labels: dict[tuple[str, str], int] = {}
    labelled: set[bool] = set()
    for row in _rows(queries):
        _check_beir_row(row)
        for known, key, value in ((known_queries, "qid", "query"), (texts, "docno", "text")):
            digest = sha256(row[value].encode()).digest()
            if known.setdefault(row[key], digest) != digest:
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
    with (
        atomic_text(files[0]) as corpus_file,
        atomic_text(files[1]) as queries_file,
        atomic_text(files[2]) as qrels_file,
    ):
        if isinstance(corpus, HasCorpus):
            corpus = corpus.get_corpus_iter(verbose=False)
        documents = _documents(_rows(queries)) if corpus is None else _checked_corpus(corpus, texts)
        corpus_file.writelines(map(_line, documents))
        qrels_file.write("query-id\tcorpus-id\tscore\n")
        for row in _rows(queries):
            if row["qid"] in known_queries:
                del known_queries[row["qid"]]
                queries_file.write(_line({"_id": row["qid"], "text": row["query"]}))
            if (pair := (row["qid"], row["docno"])) in labels:
                qrels_file.write(f"{row['qid']}\t{row['docno']}\t{labels.pop(pair)}\n")


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
    return found[[*_COLUMNS, "label"]]


def to_triplets(examples: pd.DataFrame) -> pd.DataFrame:
    """Returns training examples as sentence-transformers' triplets.

    ``datasets.Dataset.from_pandas(to_triplets(examples))`` trains a ``SentenceTransformer`` with
    ``MultipleNegativesRankingLoss``, for example.

    Args:
        examples: Frame ``qid, query, text, label``.

    Returns:
        Frame ``anchor, positive, negative``: each positive with each negative of its qid. Positives
        without a negative are left out, with a warning.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: The examples are invalid, or have no positive or no negative.
    """
    rows = [
        (group.query, positive.text, negative.text)
        for group in _groups(examples)
        for positive in group.positives
        for negative in group.negatives
    ]
    return pd.DataFrame(rows, columns=["anchor", "positive", "negative"])


def from_triplets(triplets: pd.DataFrame | datasets.Dataset) -> pd.DataFrame:
    """Returns sentence-transformers' triplets, or tuples with several negatives, as examples.

    Args:
        triplets: Columns of strings, by their order: the query, a positive, and one negative or
            more.

    Returns:
        Frame ``qid, query, docno, text, label``. There are no ids: equal queries get one qid
        (``1``, ``2``, ...) and equal texts one docno (``d1``, ``d2``, ...). See
        :func:`~pyterrier_inpars.datasets.toolkit_files.read_triples`.

    Raises:
        ValueError: There are fewer than three columns, or a value is not a string.
    """
    frame = _as_frame(triplets)
    if len(frame.columns) < 3:
        raise ValueError(
            f"triplets have a query, a positive and a negative, not only {list(frame.columns)}"
        )
    check_strings(frame, *frame.columns)
    return judged_texts(
        "the triplets",
        (
            (row[0], text, int(number == 0))
            for row in frame.itertuples(index=False, name=None)
            for number, text in enumerate(row[1:])
        ),
    )


def to_lists(examples: pd.DataFrame, *, scores: bool = False) -> pd.DataFrame:
    """Returns training examples as sentence-transformers' labelled lists.

    ``datasets.Dataset.from_pandas(to_lists(examples))`` trains a ``CrossEncoder`` with
    ``LambdaLoss``, for example.

    Args:
        examples: Frame ``qid, query, text, label``.
        scores: Whether the column ``score``, such as of a teacher, takes the place of the labels.

    Returns:
        Frame ``query, documents, labels``, the last two of lists, one row per qid: the positives,
        then the negatives. With ``scores``, the last column is called ``scores``.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: The examples are invalid, or have no positive; or a score is not finite.
    """
    rows = []
    for group in _groups(examples, scores=scores, every=True):
        documents = [*group.positives, *group.negatives]
        values = [document.score if scores else document.label for document in documents]
        rows.append((group.query, [document.text for document in documents], values))
    return pd.DataFrame(rows, columns=["query", "documents", "scores" if scores else "labels"])


def from_lists(lists: pd.DataFrame | datasets.Dataset) -> pd.DataFrame:
    """Returns sentence-transformers' labelled lists as training examples.

    Args:
        lists: Columns by their order: the query, a list of texts, and a list of as many labels
            (0 or 1).

    Returns:
        Frame ``qid, query, docno, text, label``, with ids as of :func:`from_triplets`.

    Raises:
        ValueError: There are not three columns, or a row is not of this kind.
    """
    frame = _as_frame(lists)
    if len(frame.columns) != 3:
        raise ValueError(f"lists have a query, texts and labels, not {list(frame.columns)}")
    judged = []
    for number, (query, *columns) in enumerate(frame.itertuples(index=False, name=None)):
        if not all(map(pd.api.types.is_list_like, columns)):
            raise ValueError(f"row {number}: texts and labels must be lists, not {columns!r:.200}")
        texts, labels = map(list, columns)
        if len(texts) != len(labels) or not all(isinstance(t, str) for t in (query, *texts)):
            raise ValueError(f"row {number}: must be a string, and texts with as many labels")
        if wrong := [label for label in labels if label not in (0, 1)]:
            raise ValueError(f"row {number}: a label must be 0 or 1, not {wrong[0]!r}")
        judged += [(query, text, int(label)) for text, label in zip(texts, labels, strict=True)]
    return judged_texts("the lists", judged)


def write_tevatron(examples: pd.DataFrame, path: str | Path) -> None:
    """Writes Tevatron's training file, which its versions 1 and 2 read.

    One line of JSON per qid: ``query_id``, ``query``, ``positive_passages`` and
    ``negative_passages``, which are lists of ``docid``, ``title`` (empty) and ``text``. Queries
    without a negative are left out, with a warning.

    Args:
        examples: Frame ``qid, query, docno, text, label``.
        path: File to write. Missing parent folders are created.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: The examples are invalid, or have no positive or no negative.
    """

    def passages(documents: list[_Document]) -> list[dict[str, str]]:
        return [{"docid": d.docno, "title": "", "text": d.text} for d in documents]

    _write_lines(
        path,
        [
            {
                "query_id": group.qid,
                "query": group.query,
                "positive_passages": passages(group.positives),
                "negative_passages": passages(group.negatives),
            }
            for group in _groups(examples, "docno")
        ],
    )


def read_tevatron(path: str | Path) -> pd.DataFrame:
    """Reads Tevatron's training file, of the format with passages in each line.

    Args:
        path: JSON Lines; see :func:`write_tevatron`.

    Returns:
        Training examples ``qid, query, docno, text, label``. A title is put before its text.

    Raises:
        ValueError: The file is empty, or a line is invalid; the error names the line.
        FileNotFoundError: The file does not exist.
    """
    rows = []
    for where, record in json_lines(path):
        qid, query = as_id(record.get("query_id"), "query_id", where), _text(where, record, "query")
        for name, label in (("positive_passages", 1), ("negative_passages", 0)):
            for passage in _list(where, record, name, dict):
                docno = as_id(passage.get("docid"), "docid", where)
                title = _text(where, passage, "title") if passage.get("title") else ""
                text = f"{title} {_text(where, passage, 'text')}".strip()
                rows.append((qid, query, docno, text, label))
    return pd.DataFrame(rows, columns=[*_COLUMNS, "label"])


def write_flag_embedding(
    examples: pd.DataFrame, path: str | Path, *, scores: bool = False, prompt: str | None = None
) -> None:
    """Writes FlagEmbedding's training file, as of its version 1.4.

    One line of JSON per qid: ``query``, ``pos`` and ``neg`` (lists of texts), with ``scores`` also
    ``pos_scores`` and ``neg_scores``, and ``query_id``, ``pos_ids`` and ``neg_ids``, which
    FlagEmbedding ignores. Queries without a negative are left out, with a warning.

    Args:
        examples: Frame ``qid, query, docno, text, label``.
        path: File to write. Missing parent folders are created.
        scores: Whether the column ``score`` of a teacher is written, for distillation.
        prompt: Instruction of the queries, for all lines; ``None`` for none.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        TypeError: ``prompt`` is not a string.
        ValueError: The examples are invalid, or have no positive or no negative; or a score is not
            finite.
    """
    if not isinstance(prompt, str | None):
        raise TypeError(f"prompt must be a string or None, not {prompt!r:.200}")
    records = []
    for group in _groups(examples, "docno", scores=scores):
        record: dict[str, Any] = {"query": group.query}
        sides = {"pos": group.positives, "neg": group.negatives}
        record |= {name: [d.text for d in documents] for name, documents in sides.items()}
        if scores:
            record |= {f"{name}_scores": [d.score for d in found] for name, found in sides.items()}
        if prompt is not None:
            record["prompt"] = prompt
        record["query_id"] = group.qid
        record |= {f"{name}_ids": [d.docno for d in found] for name, found in sides.items()}
        records.append(record)
    _write_lines(path, records)


def read_flag_embedding(path: str | Path) -> pd.DataFrame:
    """Reads FlagEmbedding's training file.

    Args:
        path: JSON Lines; see :func:`write_flag_embedding`.

    Returns:
        Training examples ``qid, query, docno, text, label``, and ``score`` if all lines have
        scores. In a file with lines without ids, equal queries get one qid and equal texts one
        docno, as of :func:`from_triplets`.

    Raises:
        ValueError: The file is empty, or a line is invalid; the error names the line.
        FileNotFoundError: The file does not exist.
    """
    rows = []
    for where, record in json_lines(path):
        query, qid = _text(where, record, "query"), record.get("query_id")
        for side, label in (("pos", 1), ("neg", 0)):
            texts = _list(where, record, side, str)
            ids = _as_many(where, record, f"{side}_ids", texts)
            scores = _as_many(where, record, f"{side}_scores", texts, Real)
            for number, text in enumerate(texts):
                score = None if scores is None else float(scores[number])
                docno = None if ids is None else ids[number]
                rows.append(_Line(where, query, text, label, score, qid, docno))
    if any(row.qid is None or row.docno is None for row in rows):
        judged = ((row.query, row.text, row.label) for row in rows)
        frame = judged_texts(path, judged)
    else:
        with_ids = [
            (
                as_id(row.qid, "query_id", row.where),
                row.query,
                as_id(row.docno, "pos_ids or neg_ids", row.where),
                row.text,
                row.label,
            )
            for row in rows
        ]
        frame = pd.DataFrame(with_ids, columns=[*_COLUMNS, "label"])
    if any(row.score is None for row in rows):
        return frame
    scores_of = {(row.query, row.text): row.score for row in rows}
    pairs = zip(frame["query"], frame["text"], strict=True)
    return frame.assign(score=[scores_of[pair] for pair in pairs])


class _Line(NamedTuple):
    """A document in a line of FlagEmbedding's file; ids and score are None if the line has none."""

    where: str
    query: str
    text: str
    label: int
    score: float | None
    qid: Any
    docno: Any


class _Document(NamedTuple):
    """A document of a query."""

    docno: str
    text: str
    label: int
    score: float | None


class _Judged(NamedTuple):
    """A query with its positives and negatives."""

    qid: str
    query: str
    positives: list[_Document]
    negatives: list[_Document]


def _groups(
    examples: pd.DataFrame, *columns: str, scores: bool = False, every: bool = False
) -> list[_Judged]:
    """Returns checked examples by qid.

    Args:
        examples: Frame ``qid, query, text, label``.
        *columns: Columns that are needed, too.
        scores: Whether ``score`` is needed.
        every: Whether queries without a negative are returned.
    """
    check_columns(examples, "qid", "query", "text", "label", *columns)
    check_examples(examples, "text")
    if scores:
        check_teacher(examples, "distillation")
    if not every:
        check_negatives(examples)
    docnos = examples["docno"] if "docno" in examples else [""] * len(examples)
    values = examples["score"].astype(float) if scores else [None] * len(examples)
    found: dict[str, _Judged] = {}
    labels: dict[tuple[str, str], int] = {}
    for qid, query, text, label, docno, score in zip(
        *(examples[name] for name in ("qid", "query", "text", "label")), docnos, values, strict=True
    ):
        group = found.setdefault(qid, _Judged(qid, query, [], []))
        if group.query != query:
            raise ValueError(f"qid {qid!r} has two queries: {group.query!r:.100}, {query!r:.100}")
        document = _Document(docno, text, int(label), score)
        if labels.setdefault((qid, docno or text), document.label) != document.label:
            raise ValueError(f"{docno or text!r:.100} has two labels for qid {qid!r}")
        side = group.positives if document.label else group.negatives
        side.append(document)
    if every:
        return list(found.values())
    complete = [group for group in found.values() if group.positives and group.negatives]
    if not complete:
        raise ValueError("no qid has a positive and a negative: mine negatives for its positives")
    if dropped := len(found) - len(complete):
        warnings.warn(
            f"{dropped} of {len(found)} queries lack a positive or a negative and are not written",
            stacklevel=3,
        )
    return complete


def _rows(queries: pd.DataFrame | SyntheticQueries) -> Iterator[dict[str, Any]]:
    """Yields checked rows without missing values."""
    for rows in _chunks(queries):
        yield from rows


def _chunks(queries: Any) -> Iterator[list[dict[str, Any]]]:
    if hasattr(queries, "iter_results"):
        rows = queries.iter_results()
        while chunk := list(islice(rows, _CHUNK)):
            yield _checked(as_frame(chunk))
        return
    check_columns(queries, *_COLUMNS)
    for start in range(0, len(queries), _CHUNK):
        yield _checked(queries.iloc[start : start + _CHUNK])


def _checked(frame: pd.DataFrame) -> list[dict[str, Any]]:
    check_columns(frame, *_COLUMNS)
    check_strings(frame, *_COLUMNS)
    return [
        {name: value for name, value in row.items() if not missing(value)}
        for row in frame.to_dict("records")
    ]


def _schema(queries: Any) -> pyarrow.Schema:
    """Returns the Arrow schema of all rows: the columns of the frame, or as they come."""
    import pyarrow

    names = dict.fromkeys(getattr(queries, "columns", _COLUMNS))
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"the name of a column must be a string, not {wrong[0]!r}: rename it")
    types: dict[str, pyarrow.Schema] = {}
    for rows in _chunks(queries):
        present = dict.fromkeys(name for row in rows for name in row)
        names |= present
        for name in present:
            try:
                found = pyarrow.array([row.get(name) for row in rows]).type
                known = types.get(name, pyarrow.schema([(name, found)]))
                types[name] = pyarrow.unify_schemas(
                    [known, pyarrow.schema([(name, found)])], promote_options="permissive"
                )
            except pyarrow.ArrowException as error:
                raise ValueError(
                    f"the values of {name!r} have no common type; convert or drop them: {error}"
                ) from error
    empty = pyarrow.null()
    return pyarrow.schema(
        [(name, types[name].field(name).type if name in types else empty) for name in names]
    )


def _table(rows: list[dict[str, Any]], schema: pyarrow.Schema) -> pyarrow.Table:
    import pyarrow

    columns = {name: [row.get(name) for row in rows] for name in schema.names}
    return pyarrow.table(columns, schema=schema)


def _frame(table: pyarrow.Table) -> pd.DataFrame:
    """Returns an Arrow table as a checked frame; nulls are missing values."""
    rows = [
        {name: value for name, value in row.items() if value is not None}
        for row in table.to_pylist()
    ]
    frame = as_frame(rows).reindex(columns=table.column_names)
    check_columns(frame, *_COLUMNS)
    check_strings(frame, *_COLUMNS)
    return frame


def _as_frame(columns: Any) -> pd.DataFrame:
    """Returns a frame, or a data set of ``datasets``, as a frame."""
    if isinstance(columns, pd.DataFrame):
        return columns
    if not hasattr(columns, "to_pandas"):
        raise TypeError(
            f"a DataFrame or a datasets.Dataset is needed, not a {type(columns).__name__}"
        )
    return columns.to_pandas()


def _check_beir_row(row: dict[str, Any]) -> None:
    """Checks that the ids of a row can be cells of a TSV file."""
    for column in ("qid", "docno"):
        value = row[column]
        if not value or value != value.strip() or set(value) & set('\t\r\n"'):
            raise ValueError(
                f"{column} {value!r} cannot be written to BEIR's qrels: an id must not be empty, "
                f"have white space at an end, or contain a tab, a line break or a quotation mark"
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
            "title": "" if missing(title) else title,
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


def _write_lines(path: str | Path, records: Iterable[dict[str, Any]]) -> None:
    with atomic_text(path) as out:
        out.writelines(map(_line, records))


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, default=plain) + "\n"


def _text(where: str, record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} must be a string, not {value!r:.200}")
    return value


def _list(where: str, record: dict[str, Any], name: str, kind: type) -> list[Any]:
    value = record.get(name)
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        kinds = {str: "strings", dict: "JSON objects", Real: "numbers"}
        raise ValueError(
            f"{where}: {name} must be a list{f' of {kinds[kind]}' if kind in kinds else ''}, not "
            f"{value!r:.200}"
        )
    return value


def _as_many(
    where: str, record: dict[str, Any], name: str, texts: list[str], kind: type = object
) -> list[Any] | None:
    """Returns a list with one value for each text; ``None`` if the line has none."""
    if record.get(name) is None:
        return None
    values = _list(where, record, name, kind)
    if len(values) != len(texts):
        raise ValueError(
            f"{where}: {name} must have {len(texts)} values, one for each text, not {values!r:.200}"
        )
    return values
