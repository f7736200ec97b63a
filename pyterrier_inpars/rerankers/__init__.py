"""Rerankers: score results with ``transform``, and learn from training examples with ``fit``."""

from pyterrier_inpars.rerankers.base import LoadingOptions, Reranker
from pyterrier_inpars.rerankers.bi_encoder import BiEncoder
from pyterrier_inpars.rerankers.cross_encoder import CrossEncoder
from pyterrier_inpars.rerankers.fusion import ScoreFusion
from pyterrier_inpars.rerankers.loading import load_reranker
from pyterrier_inpars.rerankers.monot5 import MonoT5
from pyterrier_inpars.rerankers.query_likelihood import QueryLikelihood
from pyterrier_inpars.rerankers.rerank_top import RerankTop
from pyterrier_inpars.rerankers.reranker_cache import RerankerCache
from pyterrier_inpars.rerankers.vector_prf import VectorPRF

__all__ = [
    "BiEncoder",
    "CrossEncoder",
    "LoadingOptions",
    "MonoT5",
    "QueryLikelihood",
    "RerankTop",
    "Reranker",
    "RerankerCache",
    "ScoreFusion",
    "VectorPRF",
    "load_reranker",
]
