"""The measures of the InPars Toolkit."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from ir_measures import AP, RR, Judged, Measure, Metric, P, R, nDCG

from pyterrier_inpars._arguments import positive_int


def measures(relevance_threshold: int = 1) -> list[Measure]:
    """Returns the measures of the InPars Toolkit (arXiv 2307.04601).

    These are nDCG@10, nDCG@20, RR, R@1000, P@10, AP and Judged@10. Each is a mean over all topics
    of the qrels, as in ``trec_eval -c``: a topic without results scores 0. The toolkit computes
    Judged@10 differently, over all documents in the top 10 of the run at once. Of documents with
    equal scores, all measures take the one with the higher docno first, as trec_eval does.

    Args:
        relevance_threshold: Lowest label that the binary measures (RR, R@1000, P@10, AP) count as
            relevant, as ``trec_eval -l``. The gains of nDCG are the labels.

    Raises:
        ValueError: The threshold is not a positive integer.
    """
    rel = positive_int("relevance_threshold", relevance_threshold)
    return [
        nDCG @ 10,
        nDCG @ 20,
        RR(rel=rel),
        R(rel=rel) @ 1000,
        P(rel=rel) @ 10,
        AP(rel=rel),
        _Judged() @ 10,
    ]


class _Judged(type(Judged)):  # type: ignore[misc]
    """Judged of ir_measures, with ties broken as in trec_eval: the higher docno comes first."""

    RUN_INPUTS = ("query_id", "doc_id", "score")
    QREL_INPUTS = ("query_id", "doc_id", "relevance")

    def runtime_impl(self, qrels: pd.DataFrame, run: pd.DataFrame) -> Iterator[Metric]:
        """Yields the value of each topic; ir_measures calls it in place of its own provider."""
        ids = ["query_id", "doc_id"]
        run = run[run["query_id"].isin(qrels["query_id"])]
        run = run.sort_values(["score", "doc_id"], ascending=False)
        top = run.groupby("query_id").head(self["cutoff"])
        pairs = (pd.MultiIndex.from_frame(frame[ids]) for frame in (top, qrels))
        judged = pd.Series(next(pairs).isin(next(pairs))).groupby(top["query_id"].to_numpy())
        for qid, share in judged.mean().items():
            yield Metric(qid, self, share)
