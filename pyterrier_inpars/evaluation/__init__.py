"""Evaluation with human topics, and choice of a system with synthetic queries."""

from pyterrier_inpars.evaluation.comparison import compare
from pyterrier_inpars.evaluation.document_split import split
from pyterrier_inpars.evaluation.fewshot import exclude_fewshot_topics
from pyterrier_inpars.evaluation.hardness import overlap
from pyterrier_inpars.evaluation.judge_agreement import JudgeAgreement, judge_agreement
from pyterrier_inpars.evaluation.leaked_topics import leaked_topics
from pyterrier_inpars.evaluation.matching import match
from pyterrier_inpars.evaluation.pseudo_judgements import pseudo_qrels
from pyterrier_inpars.evaluation.rank_correlation import kendall_tau, tau_ap
from pyterrier_inpars.evaluation.results_filters import ExcludeQueryDocument, JudgedOnly
from pyterrier_inpars.evaluation.selection import Selection, select
from pyterrier_inpars.evaluation.similar_documents import similar_qrels
from pyterrier_inpars.evaluation.toolkit_measures import measures
from pyterrier_inpars.evaluation.topics_agreement import (
    Agreement,
    agreement,
    agreement_of_values,
)

__all__ = [
    "Agreement",
    "ExcludeQueryDocument",
    "JudgeAgreement",
    "JudgedOnly",
    "Selection",
    "agreement",
    "agreement_of_values",
    "compare",
    "exclude_fewshot_topics",
    "judge_agreement",
    "kendall_tau",
    "leaked_topics",
    "match",
    "measures",
    "overlap",
    "pseudo_qrels",
    "select",
    "similar_qrels",
    "split",
    "tau_ap",
]
