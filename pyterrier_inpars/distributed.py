"""Pipelines on a Ray cluster, with one copy of the model in each worker.

The driver reads the corpus or the frame, sends it to the workers in parts, and returns the results
in order. If a worker or its machine is lost, Ray restarts the worker where the cluster has room,
and another worker repeats the part. An error of the pipeline is not repeated: it is raised when the
results before it have been returned, so they are kept.
"""

from collections.abc import Generator, Iterable
from contextlib import closing
from operator import length_hint
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyterrier as pt
from more_itertools import chunked

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._fingerprint import StreamFingerprint
from pyterrier_inpars._progress import Progress
from pyterrier_inpars._ray_workers import Counts, Part, Pipeline, import_ray, run_parts, stages_of
from pyterrier_inpars._stage import Stage
from pyterrier_inpars.queries._pipeline import describe_stages, records_of, transform_batch
from pyterrier_inpars.queries._resume import ResumeState, active_rows, active_state, document_texts
from pyterrier_inpars.queries.artifact import SyntheticQueries

__all__ = ["index", "transform"]


def index(
    pipeline: Pipeline,
    corpus: Iterable[dict[str, Any]] | pd.DataFrame,
    artifact: SyntheticQueries,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    text_field: str | list[str] = "text",
    verbose: bool = False,
    total: int | None = None,
) -> SyntheticQueries:
    """Runs ``(pipeline >> artifact).index(corpus)`` on a Ray cluster.

    The workers receive the same batches that PyTerrier would pass to the pipeline, and the driver
    writes their rows to the artifact. Shards and manifest are therefore byte-identical to those of
    a local run with the same ``batch_size`` and ``shard_size``, provided that the workers compute
    the same numbers as the local machine. An interrupted run can be resumed here or locally::

        ray.init("auto")
        distributed.index(QueryGenerator(model) >> CopyFilter(), corpus, queries, num_gpus=1)

    Args:
        pipeline: A ``QueryGenerator``, optionally followed by stages that process one batch at a
            time, or a function that returns such a pipeline, called once in each worker. A pipeline
            is pickled without loaded models and open indexes, which each worker loads from the same
            path. The counts of its stages, such as ``dropped``, are those of all workers together.
        corpus: Documents as the generator takes them, dicts or a frame. Apply earlier stages to the
            corpus.
        artifact: Where the queries are stored.
        batch_size: Number of documents per part, at most the ``shard_size`` of the artifact. None
            is the batch size of ``Compose.index``: 100, or the largest ``batch_size`` of a stage if
            that is more (512 by default with a ``QueryGenerator``).
        workers: Number of workers, each with a copy of the pipeline. None is as many as the cluster
            has room for, with one CPU left for the driver.
        num_cpus: Number of CPUs per worker.
        num_gpus: Number of GPUs per worker.
        text_field: Column with the document text, or several, as set in the generator.
        verbose: Whether to show progress, with the number of workers, and of those that were lost.
            It is also shown if the artifact or a stage of the pipeline is verbose.
        total: Number of documents, for the time that is left. None for the length of the corpus, if
            it has one.

    Returns:
        The complete artifact.

    Raises:
        ImportError: Ray is not installed.
        ValueError: The pipeline has no generator, a stage before it changes the documents, or a
            stage keeps ``answers`` in a folder.
        TypeError: The pipeline cannot be pickled. The error shows how to give a function instead.
        RuntimeError: Workers do not start, or are lost repeatedly at the same documents. Also if
            Ray has not been started but the JVM has.
        Exception: Any error of ``artifact.index``, or of the pipeline. The cause of the latter
            names the documents and contains the traceback of the worker.
    """
    ray = import_ray()
    stages = stages_of(pipeline) if isinstance(pipeline, pt.Transformer) else []
    sizes = [size for stage in stages if type(size := getattr(stage, "batch_size", 0)) is int]
    size = max([100, *sizes]) if batch_size is None else positive_int("batch_size", batch_size)

    counts = Counts()
    if total is None:
        total = length_hint(corpus) or None

    def rows() -> Generator[dict[str, Any]]:
        state = active_state()
        assert state is not None  # activated by artifact.index
        state.progress.begin(
            "documents",
            verbose=verbose or artifact.verbose,
            total=total,
            stages=stages,
            more=counts.texts,
        )
        counts.changed = state.progress.refresh
        most = min(size, artifact.shard_size)
        documents = records_of(corpus)
        batches = active_rows(lambda: _batches(documents, most, text_field, state), None)
        run = run_parts(ray, pipeline, _generate, batches, workers, num_cpus, num_gpus, counts)
        for part, output in run:
            pending = state.num_pending
            if output is not None:
                state.by_document = True
                state.current_stages = output.stages
                state.check_settings(output.settings)
            for docno, text in part.documents:
                state.add_document(docno, text)
            if output is not None:
                if output.answered:
                    state.answered = True
                    state.confirm_refusals()
                for failure in output.failed:
                    state.add_failure(*failure)
                yield from output.rows
            state.progress.finish(state.num_pending - pending)

    with closing(rows()) as stream:
        return artifact.index(stream)


def transform(
    stage: Pipeline,
    frame: pd.DataFrame,
    *,
    batch_size: int = 1_000,
    workers: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    verbose: bool = False,
) -> pd.DataFrame:
    """Runs ``stage(frame)`` on a Ray cluster, for a reranker, a filter or a ``NegativeMiner``.

    All rows of a query go to the same worker, so the stage must process each query independently.

    Args:
        stage: A pipeline, or a function that returns one; see `index`.
        frame: Frame with the column ``qid``.
        batch_size: Least number of rows per part. A part contains whole queries.
        workers: See `index`.
        num_cpus: See `index`.
        num_gpus: See `index`.
        verbose: Whether to show progress, with the number of workers, and of those that were lost.

    Returns:
        The output of the stage, with the queries in the order of their first rows in ``frame``.

    Raises:
        ImportError: Ray is not installed.
        ValueError: A stage compares all queries, for example ``ScoreFilter``, or keeps ``answers``
            in a folder.
        TypeError: The pipeline cannot be pickled. The error shows how to give a function instead.
        RuntimeError: Workers do not start, or are lost repeatedly at the same queries.
        Exception: Any error of the stage. Its cause names the queries and contains the traceback
            of the worker.
    """
    ray = import_ray()
    pt.validate.columns(frame, includes=["qid"])
    parts = _by_query(frame, positive_int("batch_size", batch_size))
    counts = Counts()
    run = run_parts(ray, stage, _transform, parts, workers, num_cpus, num_gpus, counts)
    frames = []
    with (
        closing(run),
        Progress(
            title="distributed",
            total=len(frame),
            unit="rows",
            verbose=verbose,
            details=lambda seconds: counts.texts(),
        ) as bar,
    ):
        counts.changed = bar.refresh
        for part, output in run:
            frames.append(output)
            bar.update(len(part.work[0]))
    return pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)


def _batches(
    corpus: Iterable[dict[str, Any]], size: int, text_field: str | list[str], state: ResumeState
) -> Generator[Part]:
    """Yields the batches; the first is always computed, as its worker returns the settings."""
    end = 0
    for records in chunked(corpus, size):
        documents = _pairs(records, text_field)
        first, end = end + 1, end + len(records)
        pending = [
            state.is_pending(number, docno) for number, (docno, _) in enumerate(documents, first)
        ]
        work = (records, pending, text_field) if first == 1 or any(pending) else ()
        docnos = f"{records[0]['docno']!r} to {records[-1]['docno']!r}"
        yield Part(f"documents {first:,} to {end:,} ({docnos})", work, documents)


def _pairs(records: list[dict[str, Any]], text_field: str | list[str]) -> list[tuple[str, str]]:
    """Returns docno and text of each document."""
    documents = document_texts(records, text_field)
    return list(documents.itertuples(index=False, name=None))


def _by_query(frame: pd.DataFrame, size: int) -> Generator[Part]:
    """Yields parts of whole queries; one empty part for an empty frame."""
    codes, qids = pd.factorize(frame["qid"], use_na_sentinel=False)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    begin, end = 0, -1
    while end < len(order):
        end = min([*starts[starts >= begin + size][:1], len(order)])
        part = frame.iloc[order[begin:end]]
        name = f"queries {part['qid'].iloc[0]!r} to {part['qid'].iloc[-1]!r}" if len(part) else ""
        yield Part(name, (part,))
        begin = end


class _BatchState(ResumeState):
    """Resume state of one batch in a worker. The driver decides which documents are pending."""

    pending: list[bool]

    def add_document(self, *fields: str) -> bool:
        self.position = self.position.extended(*fields)
        return self.pending[self.position.documents - 1 : self.position.documents] == [True]


class _Generated(NamedTuple):
    """What a worker returns for a batch.

    Attributes:
        rows: Queries.
        settings: Settings of the generator.
        stages: Descriptions of the stages after the generator.
        failed: Documents whose prompts failed, as arguments of `ResumeState.add_failure`.
        answered: Whether a prompt was answered.
    """

    rows: list[dict[str, Any]]
    settings: dict[str, Any]
    stages: list[str]
    failed: list[tuple[str, str, bool, bool]]
    answered: bool


def _generate(
    pipeline: pt.Transformer,
    records: list[dict[str, Any]],
    pending: list[bool],
    text_field: str | list[str],
) -> _Generated:
    """Returns what a pipeline generates for a batch."""
    state, expected = _BatchState("the artifact"), StreamFingerprint()
    state.pending = pending
    stages = stages_of(pipeline)
    state.current_stages = describe_stages(stages)
    rows = list(transform_batch(stages, records, state))
    for docno, text in _pairs(records, text_field):
        expected = expected.extended(docno, text)
    if state.settings is None:
        raise ValueError(
            f"{pipeline!r} has no QueryGenerator: use distributed.transform for other pipelines"
        )
    if state.position != expected:
        raise ValueError(
            f"the generator in {pipeline!r} does not receive the documents of the corpus with "
            f"their {text_field!r}: apply the stages before it to the corpus, or set text_field"
        )
    settings = {**state.settings, "versions": state.packages}
    failed = [(d.docno, d.error, d.unanswered, d not in state.refused) for d in state.failed]
    return _Generated(rows, settings, state.current_stages, failed, state.answered)


def _transform(pipeline: pt.Transformer, frame: pd.DataFrame) -> pd.DataFrame:
    for stage in stages_of(pipeline):
        if isinstance(stage, Stage) and (whole := stage._whole_frame()):
            raise ValueError(
                f"{stage!r} compares all {whole[0]}, but a worker receives only some of them: "
                "apply it to the whole frame, before or after"
            )
    return pipeline.transform(frame)
