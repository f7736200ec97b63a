"""VectorPRF: pseudo-relevance feedback with the vectors of a bi-encoder."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars._arguments import finite, positive_int
from pyterrier_inpars._similarity import normalized
from pyterrier_inpars._stage import Stage, as_numbers, check_strings, joined_text, with_columns
from pyterrier_inpars.rerankers.bi_encoder import BiEncoder


class VectorPRF(Stage):
    """Reranks by pseudo-relevance feedback with vectors (Li et al., arXiv 2108.11044).

    The vector of a query becomes ``query + weight * feedback``, where ``feedback`` is the mean of
    the vectors of the query's top ``k`` documents in the results given; the score of a document is
    its cosine with that sum. The better the results are, the better the feedback is::

        first = bm25 % 100 >> text
        fused = ScoreFusion(encoder)
        first >> fused >> VectorPRF(encoder)
        first >> ScoreFusion(fused >> VectorPRF(encoder))  # fuses with BM25 once more

    Feedback helps where a topic has several relevant documents, and little or not where it has one.

    Requires ``qid, query, docno, score`` (number) and the encoder's text column. Returns the rows
    and columns of the input, in their order, with new ``score`` and ``rank``.

    Args:
        encoder: Bi-encoder of queries and documents. With its ``vector_cache``, documents are
            encoded once for all stages that use it.
        k: Number of feedback documents per query.
        weight: Weight of their mean vector; 0 gives the scores of the encoder.

    Raises:
        TypeError: ``encoder`` is not a ``BiEncoder``.
        ValueError: ``k`` is not a positive whole number, ``weight`` is not a finite number, or a
            score is not a number.
    """

    schematic = {"label": "VectorPRF", "help_url": None}

    def __init__(self, encoder: BiEncoder, k: int = 3, weight: float = 1.0):
        if not isinstance(encoder, BiEncoder):
            raise TypeError(f"encoder must be a BiEncoder, not {encoder!r:.200}")
        self.encoder = encoder
        self.k = positive_int("k", k)
        self.weight = finite("weight", weight)

    def _required_columns(self) -> list[str]:
        return with_columns(self.encoder._required_columns(), "score")

    def _output_columns(self, columns: list[str]) -> list[str]:
        return with_columns([c for c in columns if c not in ("score", "rank")], "score", "rank")

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "qid", "query", "docno")
        documents = self.encoder.encode(joined_text(inp, self.encoder.text_field))
        queries = self.encoder.encode(inp["query"].tolist(), "query")
        vectors = normalized(queries + self.weight * self._feedback(inp, documents))
        scores = (vectors * documents).sum(axis=1).astype(float)
        out = inp.drop(columns=["score", "rank"], errors="ignore")
        return pt.model.add_ranks(out.assign(score=scores))

    def _feedback(self, inp: pd.DataFrame, documents: np.ndarray) -> np.ndarray:
        """Returns for each row the mean vector of the top documents of its query."""
        codes, _ = pd.factorize(inp["qid"])
        # Of equal scores, the higher docno comes first, as in trec_eval.
        order = np.lexsort((inp["docno"].to_numpy(str), as_numbers(inp, "score"), codes))[::-1]
        place = pd.Series(codes[order]).groupby(codes[order]).cumcount()
        top = order[place.to_numpy() < self.k]
        means = pd.DataFrame(documents[top]).groupby(codes[top]).mean()
        return means.to_numpy()[codes]
