"""``evaluate``: measures of runs, and p-values against a baseline."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from math import isnan
from typing import Any

import click
import pandas as pd
import pyterrier as pt
from ir_measures import NumRet

from pyterrier_inpars import datasets, evaluation
from pyterrier_inpars._measures import as_measure
from pyterrier_inpars._names import did_you_mean
from pyterrier_inpars._significance import corrected_p_values, paired_p_value
from pyterrier_inpars.cli._help import Command, section
from pyterrier_inpars.cli._options import BM25, FILE, PATH, RUN, Completed, OneOf
from pyterrier_inpars.cli._runs import values_by_topic
from pyterrier_inpars.cli._source import Source, check_retrieval, rows, with_source
from pyterrier_inpars.datasets import beir
from pyterrier_inpars.queries.artifact import SyntheticQueries

CORRECTIONS = ("holm", "bonferroni", "fdr_bh", "none")
"""Those of statsmodels that are usual."""


class Measure(Completed):
    """A measure of ir_measures by its name."""

    def __init__(self) -> None:
        super().__init__("MEASURE", lambda: MEASURES)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return as_measure(value)
        except TypeError as error:
            hint = did_you_mean(value, MEASURES)
            self.fail(f"{value!r} is not a measure: {hint}{error}", param, ctx)
        except ValueError as error:
            self.fail(str(error), param, ctx)


MEASURES = (
    *("nDCG@10", "nDCG@20", "RR", "RR@10", "R@100", "R@1000", "P@10", "AP", "Judged@10"),
    *("NumRel", "Rprec", "Success@1", "ERR@20"),
)
"""Those that the shell completes."""
EXAMPLE = r"""
pyterrier-inpars evaluate --run bm25 --run reranked.run --baseline bm25 \
    --dataset collection
"""


@click.command(cls=Command, example=EXAMPLE)
@section(
    "Runs",
    click.option(
        "--run",
        "runs",
        type=RUN,
        required=True,
        multiple=True,
        help=f"TREC run file, or {BM25}; can be repeated.",
    ),
    click.option(
        "--baseline",
        type=RUN,
        help="One of the runs. Adds the p-values of paired t-tests of the others against it.",
    ),
    click.option(
        "--correction",
        type=OneOf("METHOD", CORRECTIONS),
        default="holm",
        help=f"Correction of the p-values of a measure if several runs are compared with the "
        f"baseline: {', '.join(CORRECTIONS)}.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object per run."),
)
@section(
    "Judgements and measures",
    click.option(
        "--qrels",
        type=FILE,
        help="Judgements (TREC or BEIR format) to use instead of the dataset's.",
    ),
    click.option(
        "--measure",
        "names",
        type=Measure(),
        multiple=True,
        help="Measure of ir_measures, such as nDCG@10 or RR(rel=2); can be repeated. By default, "
        "those of the toolkit.",
    ),
    click.option(
        "--relevance_threshold",
        default=1,
        metavar="N",
        help="Minimum label of a relevant document, in the default measures.",
    ),
    click.option(
        "--remove_unjudged", is_flag=True, help="Remove unjudged documents from the runs."
    ),
    click.option(
        "--remove_own_document/--keep_own_document",
        default=None,
        help="Remove the document whose id is that of the topic. By default in ArguAna and Quora, "
        "as BEIR does.",
    ),
    click.option(
        "--exclude_fewshot_topics",
        "--without",
        "without",
        type=PATH,
        help="Synthetic queries whose few-shot topics are excluded from the evaluation, or a TSV "
        "file of topics, such as the toolkit's query_ids_to_remove_from_eval.tsv.",
    ),
)
@with_source
def evaluate(
    runs: Sequence[str],
    source: Source,
    qrels: str | None,
    relevance_threshold: int,
    remove_unjudged: bool,
    remove_own_document: bool | None,
    without: str | None,
    baseline: str | None,
    correction: str,
    as_json: bool,
    names: Sequence[Any],
) -> None:
    """Evaluate runs over all judged topics, like trec_eval -c."""
    threshold = click.get_current_context().get_parameter_source("relevance_threshold")
    if names and threshold is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError(
            "--relevance_threshold is for the default measures: write it in --measure, such as "
            f"RR(rel={relevance_threshold})"
        )
    check_retrieval(*runs)
    if baseline and baseline not in runs:
        raise click.UsageError(f"--baseline {baseline} must be one of the runs: {', '.join(runs)}")
    judged = datasets.read_qrels(qrels) if qrels else source.collection().get_qrels()
    if judged.empty:
        raise ValueError(f"{qrels or source.dataset} has no judgements")
    if without:
        topics = judged[["qid"]].drop_duplicates()
        if source.dataset:
            known = source.collection().get_topics()
            topics = topics.merge(known, on="qid", how="left").fillna({"query": ""})
        topics = evaluation.exclude_fewshot_topics(topics, _fewshot_topics(without))
        judged = judged[judged["qid"].isin(topics["qid"])]
    if remove_own_document is None:
        remove_own_document = source.dataset in beir.QUERY_IS_DOCUMENT
    measures = list(names) or evaluation.measures(relevance_threshold)
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
        found = pt.Evaluate(run, judged, [*measures, NumRet])
        values[name] = {str(measure): value for measure, value in found.items()}
        values[name] |= {"NumRet": int(values[name]["NumRet"]), "NumQ": judged["qid"].nunique()}
        results[name] = run
    compared = len(results) - 1
    correct = correction if compared > 1 and correction != "none" else None
    if baseline:
        for name, p_values in _p_values(results, baseline, judged, measures, correct).items():
            values[name] |= p_values
    if as_json:
        for name in runs:
            row = {key: None if isnan(value) else value for key, value in values[name].items()}
            click.echo(json.dumps({"run": name, **row}))
        return
    click.echo(_table(values))
    if baseline and compared:
        corrected = f", corrected ({correct}) for {compared} comparisons" if correct else ""
        click.echo(f"p: paired t-test against {baseline}{corrected}")


def _p_values(
    results: dict[str, pd.DataFrame],
    baseline: str,
    qrels: pd.DataFrame,
    measures: Sequence[Any],
    correction: str | None,
) -> dict[str, dict[str, float]]:
    """Returns the p-values of paired t-tests, with 0 for topics that a run lacks.

    They are NaN where two runs have the same values for every topic.
    """
    by_topic = {name: values_by_topic(run, qrels, measures) for name, run in results.items()}
    expected = by_topic.pop(baseline)
    found: dict[str, dict[str, float]] = {name: {} for name in by_topic}
    for measure in map(str, measures):
        p_values = {n: paired_p_value(v[measure], expected[measure]) for n, v in by_topic.items()}
        for name, p_value in p_values.items():
            found[name][f"{measure} p-value"] = p_value
        if correction:
            _, corrected = corrected_p_values(list(p_values.values()), correction)
            for name, p_value in zip(p_values, corrected, strict=True):
                found[name][f"{measure} p-value corrected"] = float(p_value)
    return found


def _table(values: dict[str, dict[str, float]]) -> str:
    """Returns a table with a row for each measure and a column for each run."""

    def cell(row: dict[str, float], measure: str) -> str:
        value = row[measure]
        shown = f"{value:.4f}" if isinstance(value, float) else f"{value}"
        p_value = row.get(f"{measure} p-value corrected", row.get(f"{measure} p-value"))
        return shown if p_value is None or isnan(p_value) else f"{shown} (p {p_value:.3f})"

    names = [name for name in next(iter(values.values())) if " p-value" not in name]
    shown = {run: {name: cell(row, name) for name in names} for run, row in values.items()}
    return pd.DataFrame(shown).to_string()


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
