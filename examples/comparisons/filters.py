"""Compares filters on one set of queries: what each leaves, and what that chooses and teaches.

    python examples/comparisons/filters.py path/to/collection

The queries are those of the base model with the prompt ``three-shot``. Scores, reranker,
likelihood and judge keep the better half. Queries and results are stored in ``--folder``, and a
later call resumes after them.
"""

from typing import Any

import pandas as pd
import pyterrier as pt
from _choice import Choices, columns_of
from _measure import BASELINE, Bench, Run, arguments_of, benches, start
from _student import Student
from _summary import Outcome, Summary
from _tables import show

from pyterrier_inpars import (
    CopyFilter,
    DuplicateFilter,
    OverlapFilter,
    QueryLikelihood,
    RoundTripFilter,
    ScoreFilter,
    evaluation,
)


def compare_filters(bench: Bench, summary: Summary) -> None:
    """Prints what each filter leaves of the queries, and what that chooses and teaches."""
    run = Run("base, three-shot", bench.arguments.base_model, {"prompt": "three-shot"})
    queries, _ = bench.generate(run)
    student = Student(bench)
    left, chosen = [], []
    learned = student.untrained()
    trained: dict[str, pd.DataFrame] = {}
    first: Choices | None = None
    for name, kept in filtered(bench, run, queries).items():
        counts: dict[str, Any] = {"filter": name, "queries": len(kept)}
        if len(kept):
            overlap, found = evaluation.overlap(kept).mean(), bench.found(kept, 10)
            counts |= {"overlap": overlap, "found@10": found}
            choices = bench.choices(run.name, queries, kept)
            first = first or choices
            chosen.append({"filter": name, **columns_of(choices, first)})
            learned.append(student.learned(name, kept, trained))
            values = {"queries": len(kept) / len(queries), "found@10": found}
            summary.add(name, Outcome(values, choices.similar, student.values(name)))
        left.append(counts)
    show(bench, "What does each filter leave?", left)
    show(bench, "Do these queries choose as human topics do?", chosen)
    show(bench, "What does a language model learn from them?", learned)


def filtered(bench: Bench, run: Run, queries: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Returns the queries that each filter keeps."""
    half = max(1, len(queries) // 2)
    bm25 = bench.systems[BASELINE]
    grades = queries["qid"].map(bench.grades(f"{run.name}, all", queries))
    filters: dict[str, pt.Transformer] = {
        "copies": CopyFilter(),
        "copies, duplicates": CopyFilter() >> DuplicateFilter(),
        "overlap 0.7": OverlapFilter(0.7),
        "round trip, top 1": RoundTripFilter(bm25, 1),
        "round trip, top 10": RoundTripFilter(bm25, 10),
        "scores": ScoreFilter(half),
        "reranker": bench.encoder >> ScoreFilter(half),
    }
    likelihood = bench.stored(
        "likelihood", lambda: QueryLikelihood(bench.arguments.instruct_model)(queries)
    )
    return {
        "none": queries,
        "random half": queries.sample(half, random_state=bench.seed),
        **{name: stage(queries) for name, stage in filters.items()},
        "likelihood": ScoreFilter(half)(likelihood),
        "judge": ScoreFilter(half)(queries.assign(score=grades)),
    }


if __name__ == "__main__":
    start()
    arguments = arguments_of(__doc__)
    summary = Summary("filter")
    for bench in benches(arguments):
        compare_filters(bench, summary)
    summary.show(arguments)
