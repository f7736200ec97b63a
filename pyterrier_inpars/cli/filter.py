"""``filter``: the best of the queries."""

from __future__ import annotations

from contextlib import ExitStack
from math import nan
from typing import Any

import click
import pyterrier as pt

from pyterrier_inpars import demo
from pyterrier_inpars._quiet import quiet
from pyterrier_inpars.cli._help import Command, section
from pyterrier_inpars.cli._options import (
    COUNT,
    FILE,
    MODEL,
    QUERIES,
    SCORING,
    OneOf,
    demo_or_name,
    output_file,
    refuse,
)
from pyterrier_inpars.cli._source import Source, with_source
from pyterrier_inpars.datasets import toolkit_files
from pyterrier_inpars.filtering import (
    CopyFilter,
    Filter,
    LengthFilter,
    RoundTripFilter,
    ScoreFilter,
    funnel,
)
from pyterrier_inpars.rerankers import load_reranker

EXAMPLE = r"""
pyterrier-inpars filter --input queries.jsonl \
    --filter_strategy scores --keep_top_k 1000 --output filtered.jsonl
"""


_MODEL = ("model_name_or_path", "dtype", "compile", "device", "batch_size")
_BM25 = ("k", "index", "threads")
UNUSED = {
    "scores": (*_BM25, *_MODEL),
    "reranker": _BM25,
    "round_trip": ("keep_top_k", *_MODEL),
}
"""Parameters that have no effect with a strategy."""


@click.command(cls=Command, example=EXAMPLE)
@section(
    "Queries",
    QUERIES,
    click.option(
        "--output", type=FILE, required=True, callback=output_file, help="JSON Lines file."
    ),
)
@section(
    "What to keep",
    click.option(
        "--filter_strategy",
        required=True,
        type=OneOf("STRATEGY", ["scores", "reranker", "round_trip"]),
        help="Keep the queries with the highest mean log-probability (scores; of the stored score, "
        "if the input has no log_probs), with the highest reranker score (reranker), or whose "
        "document BM25 retrieves (round_trip).",
    ),
    click.option(
        "--keep_top_k",
        type=COUNT,
        default=10_000,
        help="Number of queries to keep (scores, reranker).",
    ),
    click.option(
        "--k", type=COUNT, default=1, help="Rank cutoff of the source document (round_trip)."
    ),
    click.option(
        "--min_tokens",
        default=3,
        metavar="N",
        help="Minimum number of tokens of a query (of words, if the input has no log_probs).",
    ),
    click.option(
        "--max_tokens",
        default=1000,
        metavar="N",
        help="Maximum number of tokens (words) of a query.",
    ),
    click.option(
        "--skip_questions_copied_from_context",
        is_flag=True,
        help="Drop queries that are copied from their document.",
    ),
)
@section(
    "Reranker",
    click.option(
        "--model_name_or_path",
        type=MODEL,
        default="castorini/monot5-3b-msmarco-10k",
        help="Name on the hub, path, or `demo` (reranker).",
    ),
    SCORING,
)
@with_source
def filter(
    queries: str,
    filter_strategy: str,
    keep_top_k: int,
    model_name_or_path: str,
    k: int,
    source: Source,
    min_tokens: int,
    max_tokens: int,
    skip_questions_copied_from_context: bool,
    output: str,
    **scoring: Any,
) -> None:
    """Keep the best queries."""
    unused = UNUSED[filter_strategy]
    refuse(*unused, because=f"has no effect with --filter_strategy {filter_strategy}")
    generated = source.kept_queries(queries)
    in_tokens = "log_probs" in generated
    lengths = LengthFilter(0, min_tokens=min_tokens, max_tokens=max_tokens)
    steps: list[tuple[str, Filter]] = [
        (
            f"--min_tokens {min_tokens} and --max_tokens {max_tokens}",
            lengths if in_tokens else LengthFilter(min_tokens, max_tokens),
        )
    ]
    if skip_questions_copied_from_context:
        steps.append(("--skip_questions_copied_from_context", CopyFilter()))
    with ExitStack() as stack:
        if filter_strategy == "round_trip":
            bm25 = stack.enter_context(source.bm25(k))
            steps.append((f"--filter_strategy round_trip with --k {k}", RoundTripFilter(bm25, k)))
        kept = generated
        for _, step in steps:
            kept = step.transform(kept)
    if kept.empty:
        counts = "; ".join(f"{name} dropped {step.dropped:,}" for name, step in steps)
        raise ValueError(f"no query of {len(generated):,} is left: {counts}")
    filters, best = [step for _, step in steps], ScoreFilter(keep_top_k)
    if filter_strategy != "round_trip":
        filters.append(best)
    if filter_strategy == "reranker":
        model = demo_or_name(demo.encoder, model_name_or_path)
        with quiet():
            reranker = load_reranker(model, verbose=True, **scoring)
            kept = best.transform(reranker.transform(kept))
    elif filter_strategy == "scores":
        ranked = kept
        if in_tokens:  # the input's score may be that of a reranker
            means = [sum(values) / len(values) if values else nan for values in kept["log_probs"]]
            ranked = kept.assign(score=means)
        kept = kept[kept["qid"].isin(best.transform(ranked)["qid"])]
    toolkit_files.write_queries(kept.drop(columns="rank", errors="ignore"), output)
    counts_by_filter = funnel(pt.Compose(*filters))
    click.echo(counts_by_filter.to_string(index=False, formatters={"share": "{:.0%}".format}))
    click.echo(f"{output}: {len(kept):,} of {len(generated):,} queries")
