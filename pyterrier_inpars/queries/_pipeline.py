"""The pipeline that ends in `SyntheticQueries`: its stages, found and run batch by batch.

``Compose.index`` feeds a corpus through the stages before it passes the rows to ``index()``, which
therefore never sees the documents. So ``SyntheticQueries.index`` finds the stages of its pipeline,
and runs them itself.
"""

import functools
import inspect
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._fingerprint import without_addresses
from pyterrier_inpars._stage import check_columns, description, without_missing
from pyterrier_inpars.queries._resume import DocumentStage, ResumeState, activated, active_rows

MOST_AHEAD = 5_000
"""Number of documents among which those that are tried again are sought ahead."""


def pipeline_of(stream: Iterable[Any]) -> tuple[list[pt.Transformer], Iterable[Any], int] | None:
    """Returns the stages, the corpus and the batch size of a stream that ``Compose.index`` made.

    ``Compose.index`` passes only the rows to the last stage, as a generator that has not started.
    Its variables are the only place where the stages can be found.

    Returns:
        None if ``stream`` comes from elsewhere.
    """
    if not inspect.isgenerator(stream) or inspect.getgeneratorstate(stream) != inspect.GEN_CREATED:
        return None
    if stream.__qualname__ != pt.Compose.index.__qualname__ + ".<locals>.gen":
        return None
    variables = inspect.getgeneratorlocals(stream)
    return list(variables["prev_transformer"]), variables["iter"], variables["batch_size"]


def records_of(rows: Iterable[Any] | pd.DataFrame) -> Iterable[Any]:
    """Returns rows as dicts, those of a frame without its missing values."""
    if not isinstance(rows, pd.DataFrame):
        return rows
    check_columns(rows)
    return map(without_missing, rows.to_dict("records"))


def describe_stages(stages: Iterable[pt.Transformer]) -> list[str]:
    """Returns the ``repr`` of each stage after the generator.

    Addresses in memory, and parameters that do not change the rows, are left out. Without a
    generator, all stages are described.

    Raises:
        ValueError: There are two generators.
    """
    stages = list(stages)
    generators = [i for i, stage in enumerate(stages) if isinstance(stage, DocumentStage)]
    if len(generators) > 1:
        raise ValueError(
            f"the pipeline has two generators, {stages[generators[0]]!r} and "
            f"{stages[generators[1]]!r}: give each generator its own artifact"
        )
    after = stages[generators[0] + 1 :] if generators else stages
    return [without_addresses(description(stage)) for stage in after]


def batches_ahead(
    stage: pt.Transformer, batches: Iterable[list[dict[str, Any]]], state: ResumeState
) -> Iterator[list[dict[str, Any]]]:
    """Yields batches of a corpus; a `DocumentStage` that reads ahead begins with the next one.

    Before the last stored document, where the corpus may be another one, it begins only with
    documents whose prompts are tried again, among as many batches as `MOST_AHEAD` allows: these
    documents are few.
    """
    if not isinstance(stage, DocumentStage) or not stage.reads_ahead:
        yield from batches
        return
    waiting: deque[list[dict[str, Any]]] = deque()
    end = 0
    for batch in batches:
        end += len(batch)
        ahead, most = batch, len(batch)
        if state.unanswered and end <= state.stored_position.documents:
            ahead = [record for record in batch if _docno(record) in state.unanswered]
            most = MOST_AHEAD
        elif state.position < state.stored_position or state.complete:
            ahead = []
        if ahead:
            with activated(state):
                stage.read_ahead(ahead, end)
        waiting.append(batch)
        while len(waiting) > 1 and sum(map(len, waiting)) > most:
            yield waiting.popleft()
    yield from waiting


def _docno(record: Any) -> Any:
    docno = record.get("docno") if isinstance(record, dict) else None
    return docno if isinstance(docno, str) else None


def transform_batch(
    stages: Iterable[pt.Transformer], batch: list[dict[str, Any]], state: ResumeState
) -> Iterator[dict[str, Any]]:
    """Yields the rows of a batch; the resume state is active in the `DocumentStage` only."""
    rows: Iterable[dict[str, Any]] = batch
    for stage in stages:
        if isinstance(stage, DocumentStage):
            rows = active_rows(functools.partial(stage.transform_iter, list(rows)), state)
        else:
            rows = stage.transform_iter(rows)
    yield from rows
