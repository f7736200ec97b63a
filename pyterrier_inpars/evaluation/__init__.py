"""Evaluation with human topics, and choice of a system with synthetic queries."""

from pyterrier_inpars.evaluation.fewshot import exclude_fewshot_topics
from pyterrier_inpars.evaluation.results_filters import ExcludeQueryDocument, JudgedOnly
from pyterrier_inpars.evaluation.toolkit_measures import measures

__all__ = ["ExcludeQueryDocument", "JudgedOnly", "exclude_fewshot_topics", "measures"]
