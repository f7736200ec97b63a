"""``judge``: relevance of queries or of a run, judged by a language model."""

from __future__ import annotations

from typing import Any

import click
import pyterrier as pt

from pyterrier_inpars import demo, evaluation
from pyterrier_inpars._counted import counted
from pyterrier_inpars.cli._help import Command, section
from pyterrier_inpars.cli._options import (
    BATCH_SIZE,
    BM25,
    COUNT,
    ESTIMATE,
    FILE,
    MODEL,
    PATH,
    PRECISION,
    RUN,
    SERVER,
    demo_or_name,
    echo_estimate,
    of_runtime,
    output_file,
    refuse,
    required_output,
)
from pyterrier_inpars.cli._source import Source, check_retrieval, with_source
from pyterrier_inpars.datasets import toolkit_files
from pyterrier_inpars.filtering import ScoreFilter
from pyterrier_inpars.judging import RelevanceJudge

EXAMPLE = r"""
pyterrier-inpars judge --base_model demo --input filtered.jsonl \
    --min_score 1 --output relevant.jsonl
"""


@click.command(cls=Command, example=EXAMPLE)
@section(
    "What to judge",
    click.option(
        "--input", "queries", type=PATH, help="Synthetic queries to judge: a file or a folder."
    ),
    click.option("--min_score", type=float, help="Lowest expected grade of a query that is kept."),
    click.option(
        "--input_run", type=RUN, help=f"Run to judge in place of queries: TREC file, or {BM25}."
    ),
    click.option("--top_k", type=COUNT, default=20, help="Number of documents to judge per topic."),
    click.option(
        "--scale",
        type=click.Choice(["binary", "graded"]),
        default="graded",
        help="Grades 0 and 1, or 0 to 3.",
    ),
    click.option(
        "--output",
        type=FILE,
        callback=output_file,
        help="Queries as JSON Lines, with score and grade; or the qrels of a run, in TREC format.",
    ),
    ESTIMATE,
)
@section(
    "Language model",
    click.option(
        "--base_model",
        "model",
        type=MODEL,
        required=True,
        help="Name on the hub, path, `demo`, or the address of an OpenAI-compatible server.",
    ),
    click.option(
        "--max_new_tokens",
        type=COUNT,
        default=16,
        help="Maximum number of tokens of an answer; a model that reasons first needs hundreds.",
    ),
    PRECISION,
    BATCH_SIZE,
)
@SERVER
@with_source
def judge(
    model: str,
    queries: str | None,
    input_run: str | None,
    top_k: int,
    min_score: float | None,
    source: Source,
    scale: str,
    output: str | None,
    estimate: bool,
    **judge_options: Any,
) -> None:
    """Judge queries or a run with a language model.

    Running the same command again resumes an interrupted run: the model's answers are stored in the
    folder OUTPUT.answers, which is kept. If --dataset has qrels, the judgements of a run are
    compared with them.
    """
    if (queries is None) == (input_run is None):
        raise click.UsageError("give either --input, synthetic queries, or --input_run")
    if queries is None:
        refuse("min_score", because="is for --input: all judgements of a run are kept")
        check_retrieval(str(input_run))
    else:
        refuse("top_k", because="is for --input_run: all queries of --input are judged")
        refuse("index", "threads", because="is for --input_run bm25")
    grades = (0, 1) if scale == "binary" else (0, 1, 2, 3)
    if min_score is not None and min_score > grades[-1]:
        raise click.UsageError(
            f"--min_score {min_score:g} is above {grades[-1]}, the highest grade of --scale {scale}"
        )
    output = required_output(output, estimate)
    judged = RelevanceJudge(
        demo_or_name(demo.instruct_model, model),
        scale=grades,
        answers=output and f"{output}.answers",
        verbose=True,
        **of_runtime(model, judge_options),
    )
    if queries is not None:
        generated = source.queries(queries)
        if output is None:
            echo_estimate(judged.estimate(generated))
            return
        kept = judged.transform(generated)
        if min_score is not None:
            kept = ScoreFilter(min_score=min_score).transform(kept)
        if kept.empty:
            reason = "a grade" if min_score is None else f"a grade of --min_score {min_score}"
            raise ValueError(f"none of {len(generated):,} queries has {reason}")
        toolkit_files.write_queries(kept.drop(columns="rank"), output)
        click.echo(f"{output}: {len(kept):,} of {len(generated):,} queries")
        return
    dataset = source.collection()
    pool = source.run_with_queries(str(input_run), dataset.get_topics())
    pool = dataset.text_loader().transform(pt.RankCutoff(top_k).transform(pool))
    if output is None:
        echo_estimate(judged.estimate(pool))
        return
    qrels = judged.qrels(pool)
    if qrels.empty:
        raise ValueError(f"the model gave none of {len(pool):,} pairs a grade: give another model")
    toolkit_files.write_qrels(qrels, output)
    judged_topics = counted(qrels["qid"].nunique(), "topic")
    click.echo(f"{output}: {counted(len(qrels), 'judgement')} for {judged_topics}")
    try:
        human = dataset.get_qrels()
    except (ValueError, OSError):  # there are none
        return
    if len(qrels.merge(human, on=["qid", "docno"])):
        click.echo(str(evaluation.judge_agreement(qrels, human)))
