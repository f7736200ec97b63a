"""What the InPars authors published: prompts, few-shot examples, synthetic queries, runs, models.

Each file is downloaded on its first use and stored in ``inpars/downloads`` under PyTerrier's home
folder. Collections have BEIR's names, one of ``beir.COLLECTIONS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._arguments import one_of
from pyterrier_inpars._files import file_sha256
from pyterrier_inpars.datasets import beir, toolkit_files
from pyterrier_inpars.datasets._download import DownloadError, from_hub, from_url
from pyterrier_inpars.queries.artifact import SyntheticQueries

__all__ = [
    "DownloadError",
    "bm25_run",
    "fewshot_examples",
    "model",
    "queries_url",
    "read_queries",
    "synthetic_queries",
    "templates",
]

TEMPLATES = (
    "https://raw.githubusercontent.com/zetaalphavector/InPars/"
    "9865521663324f8fa63f759f071ca38bdeabb3f5/inpars/prompts/templates.yaml"
)
TEMPLATES_SHA256 = "570cd2899a70383279ddf9347ed6159e809fd7290ebd3468890dd0914bb73923"

# The revision of each dataset on the hub: a commit hash, or a branch, which can change.
FEWSHOT, FEWSHOT_REVISION = "inpars/fewshot-examples", "main"
QUERIES_V2, QUERIES_V2_REVISION = "inpars/generated-data", "main"
RUNS, RUNS_REVISION = "unicamp-dl/beir-runs", "main"

QUERIES_V1 = "https://zav-public.s3.amazonaws.com/inpars/{}_synthetic_queries_100k.jsonl"
VERSIONS = ("inpars-v1", "inpars-v2")

MODEL = "zeta-alpha-ai/monot5-3b-inpars-v2-{}"


def templates() -> Path:
    """Returns the prompts of the InPars Toolkit (arXiv 2307.04601), a YAML file for `Prompt.load`.

    Raises:
        DownloadError: The file cannot be downloaded, or is not the one this package expects.
    """
    return from_url(
        TEMPLATES,
        sha256=TEMPLATES_SHA256,
        remedy='With a copy of the file, give Prompt.load("templates.yaml", name) as the prompt.',
    )


def fewshot_examples(collection: str) -> pd.DataFrame:
    """Returns the toolkit's few-shot examples: judged pairs of a collection.

    Args:
        collection: BEIR's name of the collection.

    Returns:
        Frame ``qid, query, docno, text`` (all str) for `FewShotPrompt`.

    Raises:
        ValueError: There are none for this collection, or the file is invalid.
        DownloadError: The file cannot be downloaded.
    """
    path = from_hub(
        FEWSHOT,
        f"data/{beir.names(collection, 'fewshot')}.json",
        revision=FEWSHOT_REVISION,
        remedy="Or give examples=, a frame of query and text.",
    )
    return toolkit_files.read_fewshot(path)


def queries_url(version: str, collection: str) -> str:
    """Returns the URL of the synthetic queries for a collection.

    Raises:
        ValueError: There is no such version or collection.
    """
    name = _queries_name(version, collection)
    if version == "inpars-v1":
        return QUERIES_V1.format(name)
    return (
        f"https://huggingface.co/datasets/{QUERIES_V2}/resolve/{QUERIES_V2_REVISION}/"
        f"{name}/queries.jsonl"
    )


def read_queries(version: str, collection: str) -> Iterator[dict[str, Any]]:
    """Reads the synthetic queries of InPars (arXiv 2202.05144) or InPars-v2 (arXiv 2301.01820).

    White space in queries is normalized. Documents with a blank text are skipped, as
    `QueryGenerator` skips them.

    Args:
        version: ``"inpars-v1"``, 100,000 queries by GPT-3, or ``"inpars-v2"``, by GPT-J 6B.
        collection: BEIR's name of the collection.

    Returns:
        An iterator of rows; see `toolkit_files.read_queries`. Rows have no ``text`` where the file
        has none.

    Raises:
        ValueError: There is no such version or collection, or the file is invalid.
        DownloadError: The file cannot be downloaded.
    """
    rows = toolkit_files.read_queries(_queries_file(version, collection))
    return (
        row | {"query": " ".join(row["query"].split())}
        for row in rows
        if row.get("text", "no text in the file").strip()
    )


def synthetic_queries(
    version: str, collection: str, path: str | Path | None = None
) -> SyntheticQueries:
    """Returns published synthetic queries as an artifact, which is built on the first call.

    The artifact's settings name the file and its SHA-256. A complete artifact needs no network::

        queries = published.synthetic_queries("inpars-v1", "nfcorpus")

    If the file has no document texts, add them yourself::

        rows = published.read_queries("inpars-v1", "nfcorpus")
        rows = (row | {"text": texts[row["docno"]]} for row in rows)
        SyntheticQueries(path).index(rows, settings={"published": "inpars-v1, nfcorpus"})

    Args:
        version: ``"inpars-v1"`` (arXiv 2202.05144) or ``"inpars-v2"`` (arXiv 2301.01820).
        collection: BEIR's name of the collection.
        path: Folder of the artifact. By default it is stored under PyTerrier's home folder.

    Raises:
        ValueError: There is no such version or collection, or the file is invalid or has no texts.
        DownloadError: The file cannot be downloaded.
        FileExistsError: ``path`` holds something else.
    """
    url = queries_url(version, collection)
    source = {"published": version, "collection": collection}
    if path is None:
        path = Path(pt.io.pyterrier_home(), "inpars", "published", version, collection)
    queries = SyntheticQueries(path)
    if queries.built():
        settings = queries.metadata["settings"] or {}
        if not source.items() <= settings.items():
            raise FileExistsError(
                f"{queries!r} does not hold {version} for {collection}; its settings are "
                f"{settings}: give another path"
            )
        return queries
    sha256 = file_sha256(_queries_file(version, collection))
    return queries.index(
        _with_texts(read_queries(version, collection), url),
        settings={**source, "url": url, "sha256": sha256},
    )


def bm25_run(collection: str) -> pd.DataFrame:
    """Returns the BM25 run for the topics of a collection, by Anserini's flat index.

    Args:
        collection: BEIR's name of the collection.

    Returns:
        Frame ``qid, docno, score, rank``; see `toolkit_files.read_run`.

    Raises:
        ValueError: There is no run for this collection, or the file is invalid.
        DownloadError: The file cannot be downloaded.
    """
    name = beir.names(collection, "run")
    suffix = "flat-trec" if collection == "msmarco" else "flat.trec"  # as the dataset has them
    filename = f"bm25/run.beir-v1.0.0-{name}-{suffix}"
    return toolkit_files.read_run(from_hub(RUNS, filename, revision=RUNS_REVISION))


def model(collection: str) -> str:
    """Returns the hub name of the monoT5-3B trained on the InPars-v2 queries of a collection.

    Raises:
        ValueError: There is no such collection.
    """
    name = beir.names(collection, "inpars-v1")
    return MODEL.format("scifact" if name == "scifacts" else name)


def _queries_name(version: str, collection: str) -> str:
    return beir.names(collection, one_of("version", version, VERSIONS))


def _queries_file(version: str, collection: str) -> Path:
    name = _queries_name(version, collection)
    if version == "inpars-v1":
        return from_url(QUERIES_V1.format(name))
    return from_hub(QUERIES_V2, f"{name}/queries.jsonl", revision=QUERIES_V2_REVISION)


def _with_texts(rows: Iterable[dict[str, Any]], url: str) -> Iterator[dict[str, Any]]:
    """Yields the rows, and raises ``ValueError`` at the first one without a text."""
    for row in rows:
        if "text" not in row:
            raise ValueError(
                f"{url} has no text of document {row['docno']!r}: add the texts to the rows of "
                "published.read_queries and pass them to SyntheticQueries.index, as the "
                "documentation of published.synthetic_queries shows"
            )
        yield row
