"""``rerank``: a run, reranked."""

from __future__ import annotations

from typing import Any

import click

from pyterrier_inpars import datasets, demo
from pyterrier_inpars._counted import counted
from pyterrier_inpars._quiet import quiet
from pyterrier_inpars.cli._help import Command, section
from pyterrier_inpars.cli._options import (
    BM25,
    COUNT,
    FILE,
    MODEL,
    RUN,
    SCORING,
    demo_or_name,
    output_file,
)
from pyterrier_inpars.cli._source import Source, check_retrieval, with_source
from pyterrier_inpars.datasets import toolkit_files
from pyterrier_inpars.rerankers import RerankTop, load_reranker

EXAMPLE = r"""
pyterrier-inpars rerank --model model --top_k 100 \
    --dataset collection --output_run reranked.run
"""


@click.command(cls=Command, example=EXAMPLE)
@section(
    "Run",
    click.option("--input_run", type=RUN, default="bm25", help=f"TREC run file, or {BM25}."),
    click.option(
        "--top_k",
        type=COUNT,
        default=1000,
        help="Number of documents to rerank per topic; the others follow in their original order.",
    ),
    click.option(
        "--output_run", type=FILE, required=True, callback=output_file, help="TREC run file."
    ),
)
@section(
    "Reranker",
    click.option(
        "--model",
        type=MODEL,
        default="castorini/monot5-small-msmarco-100k",
        help="Reranker: name on the hub, path, or `demo`.",
    ),
    SCORING,
)
@with_source
@section(
    "Collection",
    click.option(
        "--corpus",
        type=FILE,
        help="Documents (CSV, TSV, JSON Lines) to use instead of the dataset's.",
    ),
    click.option(
        "--queries",
        type=FILE,
        help="Topics (CSV, TSV, JSON Lines) to use instead of the dataset's.",
    ),
)
def rerank(
    model: str,
    input_run: str,
    source: Source,
    corpus: str | None,
    queries: str | None,
    top_k: int,
    output_run: str,
    **scoring: Any,
) -> None:
    """Rerank the top documents of a run."""
    check_retrieval(input_run)
    with quiet():
        reranker = load_reranker(demo_or_name(demo.encoder, model), verbose=True, **scoring)
    texts = source.file_or_name(corpus) if corpus else source.collection()
    topics = datasets.read_topics(queries) if queries else source.collection().get_topics()
    remedy = ", or add them to it" if queries else ", or give their queries with --queries"
    run = source.run_with_queries(input_run, topics, queries, remedy)
    with quiet():
        run = RerankTop(texts.text_loader() >> reranker, top_k).transform(run)
    toolkit_files.write_run(run, output_run, type(reranker).__name__)
    topics_of_run = counted(run["qid"].nunique(), "topic")
    click.echo(f"{output_run}: {counted(len(run), 'document')} for {topics_of_run}")
