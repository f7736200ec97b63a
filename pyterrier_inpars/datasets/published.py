"""What the authors of InPars have published: prompts, examples, queries, runs and models.

Each is fetched once and kept; see `downloads.download`. A collection goes by BEIR's name, one of
``beir.COLLECTIONS``, whatever its authors call it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_inpars.datasets import beir
from pyterrier_inpars.datasets import toolkit_files as formats
from pyterrier_inpars.datasets._download import download

TEMPLATES = (
    "https://raw.githubusercontent.com/zetaalphavector/InPars/"
    "9865521663324f8fa63f759f071ca38bdeabb3f5/inpars/prompts/templates.yaml"
)
TEMPLATES_SHA256 = "570cd2899a70383279ddf9347ed6159e809fd7290ebd3468890dd0914bb73923"
FEWSHOT = "https://huggingface.co/datasets/inpars/fewshot-examples/resolve/main/data/{}.json"
QUERIES = {
    "inpars-v1": "https://zav-public.s3.amazonaws.com/inpars/{}_synthetic_queries_100k.jsonl",
    "inpars-v2": "https://huggingface.co/datasets/inpars/generated-data/resolve/main/{}/queries.jsonl",
}
RUN = (
    "https://huggingface.co/datasets/unicamp-dl/beir-runs/resolve/main/bm25/"
    "run.beir-v1.0.0-{}-flat.trec"
)
MODEL = "zeta-alpha-ai/monot5-3b-inpars-v2-{}"


def templates() -> Path:
    """The prompts of the InPars Toolkit (arXiv 2307.04601), as a YAML file for `Prompt.load`.

    Raises:
        DownloadError: the file could not be had, or is not the one that this package knows.
    """
    return download(
        TEMPLATES,
        sha256=TEMPLATES_SHA256,
        max_bytes=2**20,
        instead='With the file at hand, give Prompt.load("templates.yaml", name) as the prompt.',
    )


def fewshot_examples(collection: str) -> pd.DataFrame:
    """The toolkit's few-shot examples: judged pairs of a collection, ``qid, query, docno, text``.

    Raises:
        ValueError: there are none for this collection, or the file is of another form.
        DownloadError: the file could not be had.
    """
    return formats.read_fewshot(
        download(
            FEWSHOT.format(beir.names(collection, "fewshot")),
            instead="Or give examples=, a frame of query and text.",
        )
    )


def queries_url(version: str, collection: str) -> str:
    """Where the synthetic queries for a collection are.

    Raises:
        ValueError: there is no such version or collection.
    """
    if version not in QUERIES:
        raise ValueError(f"version must be one of {', '.join(QUERIES)}, not {version!r}")
    return QUERIES[version].format(beir.names(collection, version))


def read_queries(version: str, collection: str) -> Iterator[dict[str, Any]]:
    """The synthetic queries of InPars (arXiv 2202.05144) or InPars-v2 (arXiv 2301.01820).

    White space in a query is folded. A document without text gives no row, as in
    ``QueryGenerator``.

    Args:
        version: ``"inpars-v1"``, 100,000 queries of GPT-3, or ``"inpars-v2"``, of GPT-J.
        collection: BEIR's name.

    Returns:
        Rows, see `formats.read_queries`. They lack ``text`` where the file does.

    Raises:
        ValueError: there is no such version or collection, or the file is of another form.
        DownloadError: the file could not be had.
    """
    rows = formats.read_queries(download(queries_url(version, collection)))
    return (
        row | {"query": " ".join(row["query"].split())}
        for row in rows
        if row.get("text", "there").strip()
    )


def bm25_run(collection: str) -> pd.DataFrame:
    """BM25's run on the topics of a collection, to rerank: ``qid, docno, score, rank``.

    Raises:
        ValueError: there is none for this collection, or the file is of another form.
        DownloadError: the file could not be had.
    """
    url = RUN.format(beir.names(collection, "run"))
    if collection == "msmarco":
        url = url.replace("-flat.trec", "-flat-trec")  # so it is there
    return formats.read_run(download(url))


def model(collection: str) -> str:
    """Name on the hub of the monoT5-3B trained on a collection's InPars-v2 queries.

    Raises:
        ValueError: there is no such collection.
    """
    name = beir.names(collection, "inpars-v1")
    return MODEL.format("scifact" if name == "scifacts" else name)
