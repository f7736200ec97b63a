"""Synthetic queries for neural rerankers, as a PyTerrier plugin.

A language model writes queries for documents, filters drop the bad ones, hard negatives are mined,
and a reranker is trained on the result. Each stage is a PyTerrier transformer or indexer. The
stages are imported with the package, its submodules when they are first used.
"""

import importlib
from types import ModuleType

from pyterrier_inpars.backends.base import Sampling
from pyterrier_inpars.datasets.lucene import LuceneIndex
from pyterrier_inpars.datasets.passages import PassagesToDocuments
from pyterrier_inpars.filtering import (
    CopyFilter,
    DuplicateFilter,
    FalseNegativeFilter,
    LengthFilter,
    OverlapFilter,
    RoundTripFilter,
    ScoreFilter,
    SemanticDuplicateFilter,
    funnel,
)
from pyterrier_inpars.generation import QueryGenerator
from pyterrier_inpars.judging import RelabelNegatives, RelevanceJudge
from pyterrier_inpars.mining import NegativeMiner
from pyterrier_inpars.prompts.chat import ChatPrompt
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
    RerankerCache,
    RerankTop,
    ScoreFusion,
    VectorPRF,
    load_reranker,
)
from pyterrier_inpars.training.distillation import TeacherScores
from pyterrier_inpars.training.options import TrainingOptions

__version__ = "0.2.0"

SUBMODULES = ("datasets", "demo", "distributed", "evaluation", "report", "training")
"""Submodules that ``from pyterrier_inpars import *`` imports, beside the stages."""

__all__ = [
    "datasets",
    "demo",
    "distributed",
    "evaluation",
    "report",
    "training",
    "BiEncoder",
    "ChatPrompt",
    "CopyFilter",
    "CrossEncoder",
    "DuplicateFilter",
    "FalseNegativeFilter",
    "FewShotPrompt",
    "LengthFilter",
    "LuceneIndex",
    "MonoT5",
    "NegativeMiner",
    "OverlapFilter",
    "PassagesToDocuments",
    "Prompt",
    "QueryGenerator",
    "QueryLikelihood",
    "RelabelNegatives",
    "RelevanceJudge",
    "RerankTop",
    "RerankerCache",
    "RoundTripFilter",
    "Sampling",
    "ScoreFilter",
    "ScoreFusion",
    "SemanticDuplicateFilter",
    "StaticPrompt",
    "SyntheticQueries",
    "TeacherScores",
    "TrainingOptions",
    "VectorPRF",
    "funnel",
    "load_prompt",
    "load_reranker",
    "prompt_names",
]


def __getattr__(name: str) -> ModuleType:
    """Imports a submodule when it is first used as an attribute of the package."""
    if name in SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
