"""A report on synthetic queries, training and systems, as one HTML file, and its figures.

Submodules: ``page`` (the report), ``sections`` (what it shows), ``figures`` (its figures, each a
function) and ``chart`` (kinds of charts). Figures need the extra ``report``.
"""

from pyterrier_inpars.report.figures import (
    example_scores,
    filter_funnel,
    first_words,
    log_probabilities,
    nearest_queries,
    overlaps,
    query_lengths,
    query_types,
    source_ranks,
    system_means,
    topic_gains,
    training_curves,
)
from pyterrier_inpars.report.page import report

__all__ = [
    "example_scores",
    "filter_funnel",
    "first_words",
    "log_probabilities",
    "nearest_queries",
    "overlaps",
    "query_lengths",
    "query_types",
    "report",
    "source_ranks",
    "system_means",
    "topic_gains",
    "training_curves",
]
