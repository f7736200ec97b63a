"""Synthetic queries for neural rerankers, as a PyTerrier plugin."""

from pyterrier_inpars.datasets.lucene import LuceneIndex
from pyterrier_inpars.filtering import (
    CopyFilter,
    DuplicateFilter,
    FalseNegativeFilter,
    LengthFilter,
    RoundTripFilter,
    ScoreFilter,
)
from pyterrier_inpars.generation import QueryGenerator
from pyterrier_inpars.mining import NegativeMiner
from pyterrier_inpars.prompts.templates import (
    FewShotPrompt,
    Prompt,
    StaticPrompt,
    load_prompt,
    prompt_names,
)
from pyterrier_inpars.queries.artifact import SyntheticQueries
from pyterrier_inpars.rerankers import (
    BiEncoder,
    CrossEncoder,
    MonoT5,
    QueryLikelihood,
    RerankTop,
    ScoreFusion,
    load_reranker,
)

__version__ = "0.1.0"

__all__ = [
    "BiEncoder",
    "CopyFilter",
    "CrossEncoder",
    "DuplicateFilter",
    "FalseNegativeFilter",
    "FewShotPrompt",
    "LengthFilter",
    "LuceneIndex",
    "MonoT5",
    "NegativeMiner",
    "Prompt",
    "QueryGenerator",
    "QueryLikelihood",
    "RerankTop",
    "RoundTripFilter",
    "ScoreFilter",
    "ScoreFusion",
    "StaticPrompt",
    "SyntheticQueries",
    "load_prompt",
    "load_reranker",
    "prompt_names",
]
