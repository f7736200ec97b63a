"""``evaluate``: measures of runs, and p-values against a baseline."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import click
import pandas as pd
import pyterrier as pt
from ir_measures import NumRet

from pyterrier_inpars import datasets, evaluation
from pyterrier_inpars.cli._options import BM25
from pyterrier_inpars.cli._source import Source, rows, with_source
from pyterrier_inpars.datasets import beir
from pyterrier_inpars.queries.artifact import SyntheticQueries


@click.command()
@click.option("--run", "runs", required=True, multiple=True, help=f"TREC run file, or {BM25}.")
@with_source
@click.option("--qrels", help="Judgements (TREC or BEIR format) to use instead of the dataset's.")
@click.option("--relevance_threshold", default=1, help="Minimum label of a relevant document.")
@click.option("--remove_unjudged", is_flag=True, help="Remove unjudged documents from the runs.")
@click.option(
    "--remove_own_document/--keep_own_document",
    default=None,
    help="Remove the document whose id is that of the topic. By default in ArguAna and Quora, as "
    "BEIR does.",
)
@click.option(
    "--exclude_fewshot_topics",
    "--without",
    "without",
    help="Synthetic queries whose few-shot topics are excluded from the evaluation, or a TSV file "
    "of topics, such as the toolkit's query_ids_to_remove_from_eval.tsv.",
)
@click.option(
    "--baseline",
    help="One of the runs. Adds the p-values of paired t-tests of the others against it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per run.")
def evaluate(
    runs: Sequence[str],
    source: Source,
    qrels: str | None,
    relevance_threshold: int,
    remove_unjudged: bool,
    remove_own_document: bool | None,
    without: str | None,
    baseline: str | None,
    as_json: bool,
) -> None:
    """Evaluate runs over all judged topics, like trec_eval -c."""
    if baseline and baseline not in runs:
        raise click.UsageError(f"--baseline {baseline} must be one of the runs: {', '.join(runs)}")
    judged = datasets.read_qrels(qrels) if qrels else source.collection().get_qrels()
    if without:
        topics = judged[["qid"]].drop_duplicates()
        if source.dataset:
            known = source.collection().get_topics()
            topics = topics.merge(known, on="qid", how="left").fillna({"query": ""})
        topics = evaluation.exclude_fewshot_topics(topics, _fewshot_topics(without))
        judged = judged[judged["qid"].isin(topics["qid"])]
    if remove_own_document is None:
        remove_own_document = source.dataset in beir.QUERY_IS_DOCUMENT
    measures = [*evaluation.measures(relevance_threshold), NumRet]
    values: dict[str, dict[str, float]] = {}
    results: dict[str, pd.DataFrame] = {}
    for name in runs:
        run = source.run(name)
        if remove_own_document:
            run = evaluation.ExcludeQueryDocument().transform(run)
        if remove_unjudged:
            run = evaluation.JudgedOnly(judged).transform(run)
        if not run["qid"].isin(judged["qid"]).any():
            raise ValueError(f"{name} has no document for any judged topic")
        values[name] = {str(m): value for m, value in pt.Evaluate(run, judged, measures).items()}
        values[name] |= {"NumRet": int(values[name]["NumRet"]), "NumQ": judged["qid"].nunique()}
        results[name] = run
    for name in results if baseline else ():
        if name != baseline:
            values[name] |= _p_values(results[name], results[str(baseline)], judged, measures[:-1])
    if as_json:
        for name in runs:
            click.echo(json.dumps({"run": name, **values[name]}))
    else:
        shown = {
            name: {m: f"{v:.4f}" if isinstance(v, float) else f"{v}" for m, v in row.items()}
            for name, row in values.items()
        }
        click.echo(pd.DataFrame(shown).to_string())


def _p_values(
    run: pd.DataFrame, baseline: pd.DataFrame, qrels: pd.DataFrame, measures: Sequence[Any]
) -> dict[str, float]:
    """Returns the p-values of paired t-tests, with 0 for topics that a run lacks."""
    from scipy.stats import ttest_rel

    values = []
    for results in (run, baseline):
        by_topic = pt.Evaluate(results, qrels, measures, perquery=True)
        frame = pd.DataFrame.from_dict(by_topic, orient="index")
        values.append(frame.reindex(qrels["qid"].unique(), fill_value=0.0))
    return {f"{m} p-value": float(ttest_rel(*(v[str(m)] for v in values)).pvalue) for m in measures}


def _fewshot_topics(path: str) -> pd.DataFrame:
    """Returns the topics in the few-shot examples of synthetic queries."""
    if os.path.isdir(path):
        return SyntheticQueries(path).fewshot_topics
    if path.lower().endswith((".tsv", ".tsv.gz")):
        return datasets.read_topics(path)
    known = [row["fewshot_examples"] for row in rows(path) if "fewshot_examples" in row]
    if not known:
        raise ValueError(f"{path} has no fewshot_examples, so its few-shot topics are unknown")
    return pd.DataFrame({"qid": [qid for topics in known for qid in topics]})
