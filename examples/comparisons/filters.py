"""Compares filters on one set of queries: what each leaves, and whether that chooses a system well.

    python examples/comparisons/filters.py path/to/collection

The queries are those of the base model with the prompt ``three-shot``. Scores, reranker and judge
keep the better half. Queries and results are stored in ``--folder``, and a later call resumes
after them.
"""

import pandas as pd
import pyterrier as pt
from _measure import BASELINE, Bench, Run, arguments_of, show, start

from pyterrier_inpars import (
    CopyFilter,
    DuplicateFilter,
    OverlapFilter,
    RoundTripFilter,
    ScoreFilter,
    evaluation,
)


def compare_filters(bench: Bench) -> None:
    """Prints what each filter leaves of the queries."""
    run = Run("base, three-shot", bench.arguments.base_model, {"prompt": "three-shot"})
    queries, _ = bench.generate(run)
    rows = []
    for name, kept in filtered(bench, run, queries).items():
        worth = bench.choice(run.name, queries, kept)
        if len(kept):
            worth = {
                "overlap": evaluation.overlap(kept).mean(),
                "found@10": bench.found(kept, 10),
                **worth,
            }
        rows.append({"filter": name, **worth})
    show(bench, "What does each filter leave?", pd.DataFrame(rows))


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
    return {
        "none": queries,
        "random half": queries.sample(half, random_state=bench.arguments.seed),
        **{name: stage(queries) for name, stage in filters.items()},
        "judge": ScoreFilter(half)(queries.assign(score=grades)),
    }


if __name__ == "__main__":
    start()
    compare_filters(Bench(arguments_of(__doc__)))
