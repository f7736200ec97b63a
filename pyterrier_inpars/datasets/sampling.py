"""Samples of a corpus, and few-shot examples from a collection's judgements."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable
from typing import TypeVar

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._stage import as_numbers, check_strings
from pyterrier_inpars.datasets.readers import unique_judgements

T = TypeVar("T")


def sample(documents: Iterable[T] | pd.DataFrame, n: int, seed: int = 0) -> list[T]:
    """Samples documents from a stream, uniformly without replacement, in one pass.

    Each document gets a random number, and the ``n`` documents with the smallest numbers are kept.
    At most ``n`` documents are in memory, and with one seed a smaller sample is a subset of a
    larger one.

    Args:
        documents: Corpus, or any other iterable. The rows of a frame are dicts.
        n: Number of documents to draw; a shorter stream is returned whole.
        seed: Seed of the random numbers.

    Returns:
        The sampled documents, in the order of the stream.

    Raises:
        ValueError: ``n`` or ``seed`` is negative or not an integer.
    """
    positive_int("n", n, least=0)
    if isinstance(documents, pd.DataFrame):
        documents = documents.to_dict("records")  # type: ignore[assignment]
    draw = random.Random(positive_int("seed", seed, least=0)).random
    kept: list[tuple[float, int, T]] = []  # a heap whose first item has the largest number
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
    """Returns few-shot examples from a collection: topics with their relevant documents.

    Exclude these topics from any later evaluation; see `evaluation.exclude_fewshot_topics`. Judged
    documents that the corpus lacks or that have no text are skipped. The corpus is read once, and
    only the texts of relevant documents are kept in memory.

    Args:
        dataset: PyTerrier dataset whose documents have a ``text``.
        topics: Frame ``qid, query``. By default ``dataset.get_topics()``.
        qrels: Frame ``qid, docno, label``. By default ``dataset.get_qrels()``.
        min_label: Lowest label of a relevant document.
        max_pairs: Largest number of pairs, drawn by :func:`sample`. By default all are returned.
        seed: Seed of the draw.

    Returns:
        Frame ``qid, query, docno, text`` (all str), in the order of the judgements.

    Raises:
        ValueError: There is no such pair, a column is missing, an id is not a string, a document
            has two labels for one query, or two relevant documents have one docno.
    """
    topics = dataset.get_topics() if topics is None else topics
    qrels = dataset.get_qrels() if qrels is None else qrels
    _check(dataset, "topics", topics, ["qid", "query"])
    _check(dataset, "qrels", qrels, ["qid", "docno", "label"])
    if (twice := topics["qid"].duplicated()).any():
        raise ValueError(
            f"the topics of {dataset!r} have a duplicate qid {topics['qid'][twice].iloc[0]!r}"
        )
    qrels = unique_judgements(qrels, f"the qrels of {dataset!r}")
    queries = dict(zip(topics["qid"], topics["query"], strict=True))
    relevant = qrels[(as_numbers(qrels, "label") >= min_label) & qrels["qid"].isin(list(queries))]
    pairs = list(relevant[["qid", "docno"]].drop_duplicates().itertuples(index=False, name=None))
    if max_pairs is not None:
        pairs = sample(pairs, positive_int("max_pairs", max_pairs), seed)
    texts = _texts(dataset, {docno for _, docno in pairs})
    rows = [
        (qid, queries[qid], docno, texts[docno])
        for qid, docno in pairs
        if texts.get(docno, "").strip()
    ]
    if not rows:
        raise ValueError(
            f"{dataset!r} has no document with label {min_label} or higher for any of "
            f"{len(queries):,} topics"
        )
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text"])


def _check(dataset: pt.datasets.Dataset, name: str, frame: pd.DataFrame, needed: list[str]) -> None:
    if missing := [column for column in needed if column not in frame]:
        raise ValueError(
            f"the {name} of {dataset!r} lack {', '.join(missing)}; they have only "
            f"{', '.join(frame.columns)}: give {name}=, such as dataset.get_{name}(variant)"
        )
    check_strings(frame, *needed[:2])


def _texts(dataset: pt.datasets.Dataset, wanted: set[str]) -> dict[str, str]:
    texts = {}
    for document in dataset.get_corpus_iter(verbose=False) if wanted else ():
        if document["docno"] in wanted:
            if "text" not in document:
                raise ValueError(
                    f"the documents of {dataset!r} have no text, only {', '.join(document)}"
                )
            if document["docno"] in texts:
                raise ValueError(f"{dataset!r}: duplicate docno {document['docno']!r}")
            texts[document["docno"]] = document["text"]
    return texts
