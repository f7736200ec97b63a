"""``triples``: training examples, with negatives that BM25 retrieves."""

from __future__ import annotations

from typing import Any

import click

from pyterrier_inpars._counted import counted
from pyterrier_inpars.cli._help import Command, section
from pyterrier_inpars.cli._options import COUNT, FILE, QUERIES, output_file
from pyterrier_inpars.cli._source import Source, with_source
from pyterrier_inpars.datasets import toolkit_files
from pyterrier_inpars.mining import NegativeMiner

EXAMPLE = r"""
pyterrier-inpars triples --input relevant.jsonl --n_samples 4 \
    --dataset collection --output triples.tsv
"""


@click.command(cls=Command, example=EXAMPLE)
@section(
    "Queries and triples",
    QUERIES,
    click.option(
        "--output",
        type=FILE,
        required=True,
        callback=output_file,
        help="TSV file: query, positive text, negative text.",
    ),
)
@section(
    "Negatives",
    click.option(
        "--max_hits",
        "depth",
        type=COUNT,
        default=1000,
        help="Number of results per query to draw from.",
    ),
    click.option(
        "--n_samples",
        "num_negatives",
        type=COUNT,
        default=100,
        help="Number of negatives per query.",
    ),
    click.option("--skip", default=0, metavar="N", help="Number of top ranks without negatives."),
    click.option(
        "--sampling_strategy",
        type=click.Choice(["random", "top"]),
        default="random",
        help="Draw from the results uniformly, or take the best.",
    ),
    click.option(
        "--relative_margin",
        type=float,
        help="How far below the source document a negative must score: 0.05 is at most 0.95 of "
        "its BM25 score. By default, any score.",
    ),
    click.option(
        "--random_share",
        default=0.0,
        help="Share of the negatives drawn from the documents that BM25 does not return.",
    ),
    click.option("--batch_size", type=COUNT, default=32, help="Number of queries per batch."),
    click.option("--seed", default=1, metavar="N", help="Random seed of the draws."),
)
@with_source
def triples(queries: str, source: Source, depth: int, output: str, **mining: Any) -> None:
    """Draw negatives from the BM25 results of the queries."""
    positives = source.kept_queries(queries)
    texts = source.collection()
    with source.bm25(depth) as bm25:
        miner = NegativeMiner(bm25, depth=depth, texts=texts, verbose=True, **mining)
        examples = miner.transform(positives)
    if examples.empty:
        raise ValueError(
            f"no examples: BM25 found no document besides the source document (and copies of it) "
            f"for any of the {miner.seen:,} queries"
            + f", within --relative_margin {miner.relative_margin}"
            * (miner.relative_margin is not None)
        )
    toolkit_files.write_triples(examples, output)
    negatives, used = (examples["label"] == 0).sum(), miner.seen - miner.dropped
    click.echo(f"{output}: {counted(negatives, 'triple')} for {used:,} of {miner.seen:,} queries")
