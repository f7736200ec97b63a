"""``report``: an HTML file about queries, training and runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import click
import pandas as pd
from ir_measures import nDCG

from pyterrier_inpars import datasets
from pyterrier_inpars._counted import counted
from pyterrier_inpars.cli._help import Command, section
from pyterrier_inpars.cli._options import FILE, PATH, QUERIES, output_file
from pyterrier_inpars.cli._runs import values_by_topic
from pyterrier_inpars.cli._source import Source, read_queries, with_source
from pyterrier_inpars.report import report as write_report
from pyterrier_inpars.rerankers import load_reranker

EXAMPLE = r"""
pyterrier-inpars report --input filtered.jsonl --unfiltered queries.jsonl \
    --dataset collection --output report.html
"""


@click.command(cls=Command, example=EXAMPLE)
@section(
    "Queries and report",
    QUERIES,
    click.option(
        "--unfiltered",
        type=PATH,
        help="The queries before filters: those that --input lacks are shown as dropped.",
    ),
    click.option(
        "--output",
        type=FILE,
        default="report.html",
        callback=output_file,
        help="HTML file to write.",
    ),
    click.option("--title", default="Synthetic queries", help="Title of the page."),
)
@section(
    "Training and runs",
    click.option(
        "--reranker",
        "rerankers",
        multiple=True,
        type=PATH,
        help="Folder of a trained reranker, whose training is shown; can be repeated.",
    ),
    click.option(
        "--run",
        "runs",
        multiple=True,
        type=PATH,
        help="TREC run file to compare; the first one is the baseline.",
    ),
    click.option("--qrels", type=PATH, help="Judgements to use instead of the dataset's."),
)
@with_source
def report(
    queries: str,
    unfiltered: str | None,
    output: str,
    title: str,
    rerankers: Sequence[str],
    runs: Sequence[str],
    qrels: str | None,
    source: Source,
) -> None:
    """Write a report on synthetic queries as one HTML file.

    With --dataset or --index, BM25 shows at which ranks it finds the source documents, and the
    topics of the dataset, if it has any, are looked for among the queries.
    """
    frame = _queries(source, queries)
    if unfiltered:
        before = _queries(source, unfiltered)
        dropped = before[~before["qid"].isin(frame["qid"])]
        frame = pd.concat([frame, dropped.assign(dropped_by="the filters")], ignore_index=True)
    options: dict[str, Any] = {"title": title, "topics": _topics(source)}
    if rerankers:
        options["rerankers"] = {path: load_reranker(path) for path in rerankers}
    if runs:
        judged = datasets.read_qrels(qrels) if qrels else source.collection().get_qrels()
        options["experiment"] = _by_query({path: source.run(path) for path in runs}, judged)
    with ExitStack() as stack:
        if source.dataset or source.index:
            options["retriever"] = stack.enter_context(source.bm25(100))
        path = write_report(frame, path=output, **options)
    click.echo(f"{path}: report on {counted(len(frame), 'query')}")


def _queries(source: Source, path: str) -> pd.DataFrame:
    """Reads synthetic queries, with texts if they or a dataset have them."""
    return source.queries(path) if source.dataset else read_queries(path)


def _topics(source: Source) -> pd.DataFrame | None:
    """Returns the topics of the dataset; None if there are none."""
    if not source.dataset:
        return None
    try:
        return source.collection().get_topics()
    except (ValueError, OSError, NotImplementedError):
        return None


def _by_query(runs: dict[str, pd.DataFrame], qrels: pd.DataFrame) -> pd.DataFrame:
    """Returns nDCG@10 of each run and topic; topics that a run lacks count 0."""
    found = []
    for name, run in runs.items():
        values = values_by_topic(run, qrels, [nDCG @ 10]).rename_axis("qid").reset_index()
        found.append(values.melt("qid", var_name="measure").assign(name=name))
    return pd.concat(found, ignore_index=True)
