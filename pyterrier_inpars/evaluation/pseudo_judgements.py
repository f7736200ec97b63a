"""Pseudo judgements: the documents that several systems rank high."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars.evaluation._systems import Systems, named, run_systems
from pyterrier_inpars.queries.artifact import SyntheticQueries
from pyterrier_inpars.queries.topics import topics_and_qrels


def pseudo_qrels(
    systems: Systems,
    queries: SyntheticQueries | pd.DataFrame,
    depth: int = 10,
    k: int = 60,
    *,
    names: Sequence[str] | None = None,
    verbose: bool = False,
) -> pd.DataFrame:
    """Judges documents by reciprocal rank fusion of several systems' rankings.

    A synthetic query has one relevant document, its source, although others answer it too, and
    systems that match its words find the source most easily. Fused rankings of strong and different
    systems are another estimate of relevance, as the reference lists of LARMOR (arXiv 2402.04853).
    The top document of a query has the label ``depth``, the next one ``depth - 1``, down to 1, so
    that nDCG measures how close a system is to the fused ranking::

        judged = evaluation.pseudo_qrels([bm25, bm25 % 100 >> text >> encoder], queries)
        evaluation.compare(systems, queries, qrels=judged)

    Systems that were fused are closer to the result than others: fuse systems of all kinds that are
    compared.

    Args:
        systems: List of transformers, or a dict of them by name.
        queries: Synthetic queries, as `SyntheticQueries` or a frame ``qid, query, docno``.
        depth: Number of documents to judge per query.
        k: Constant of the fusion: a document at rank ``r``, counted from 1, gets ``1 / (k + r)``
            from each system (Cormack et al., SIGIR 2009).
        names: Names of the systems.
        verbose: Whether to show progress.

    Returns:
        Frame ``qid, docno, label``, best first. Of documents with equal fused scores, the one with
        the higher docno comes first.

    Raises:
        TypeError: A system is not a transformer or a frame.
        pt.validate.InputValidationError: A column is missing.
        ValueError: There are no queries or no systems, or ``depth`` or ``k`` is not a whole number.
        RuntimeError: A system fails; the error names it.
    """
    positive_int("depth", depth)
    positive_int("k", k, least=0)
    topics, _ = topics_and_qrels(queries)
    results = run_systems(named(systems, names), topics, verbose)
    ids = ["qid", "docno"]
    votes = []
    for of_system in results.values():
        ranked = of_system[of_system["qid"].isin(topics["qid"])].drop_duplicates(ids)
        ranked = ranked.sort_values(["score", "docno"], ascending=False)
        ranks = ranked.groupby("qid").cumcount() + 1
        votes.append(ranked[ids].assign(score=1 / (k + ranks)))
    fused = pd.concat(votes).groupby(ids, as_index=False)["score"].sum().round({"score": 12})
    fused = fused.sort_values(["qid", "score", "docno"], ascending=[True, False, False])
    place = fused.groupby("qid").cumcount()
    judged = fused[ids].assign(label=depth - place)[place < depth]
    return judged.reset_index(drop=True)
