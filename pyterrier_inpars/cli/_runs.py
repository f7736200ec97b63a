"""Values of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyterrier as pt


def values_by_topic(
    run: pd.DataFrame, qrels: pd.DataFrame, measures: Sequence[Any]
) -> pd.DataFrame:
    """Returns the value of each measure (column) for each judged topic (row, by qid).

    A topic that the run lacks counts 0, as in trec_eval -c.
    """
    values = pt.Evaluate(run, qrels, measures, perquery=True)
    frame = pd.DataFrame.from_dict(values, orient="index")
    return frame.reindex(qrels["qid"].unique(), columns=list(map(str, measures)), fill_value=0.0)
