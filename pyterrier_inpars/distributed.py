"""Pipelines on a Ray cluster, with one copy of the model in each worker.

The driver reads the corpus or the frame, sends it to the workers in parts, and returns the results
in order. If a worker or its machine is lost, Ray restarts the worker where the cluster has room,
and another worker repeats the part. An error of the pipeline is not repeated: it is raised when the
results before it have been returned, so they are kept.
"""

import copyreg
import io
import sys
from collections import ChainMap, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from operator import length_hint
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyterrier as pt
from more_itertools import chunked

from pyterrier_inpars._fingerprint import StreamFingerprint
from pyterrier_inpars._progress import Progress, hidden_bars
from pyterrier_inpars._stage import Stage, begin_call, positive_int
from pyterrier_inpars.queries._pipeline import describe_stages, transform_batch
from pyterrier_inpars.queries._resume import ResumeState, active_rows, active_state, document_texts
from pyterrier_inpars.queries.artifact import SyntheticQueries

__all__ = ["index", "transform"]

Pipeline = pt.Transformer | Callable[[], pt.Transformer]

_AHEAD = 4
"""Parts per worker that the driver holds: waiting, running, or finished but not yet returned."""
_MAX_LOSSES = 5
"""Number of workers lost at the same part after which the run fails."""
_MAX_RESTARTS = 100
"""Restarts of one worker after which the run fails, so that a process that cannot start ends it."""


def index(
    pipeline: Pipeline,
    corpus: Iterable[dict[str, Any]],
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
        corpus: Documents as the generator takes them. Apply earlier stages to the corpus.
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
        ValueError: The pipeline has no generator, or a stage before it changes the documents.
        TypeError: The pipeline cannot be pickled. The error shows how to give a function instead.
        RuntimeError: Workers do not start, or are lost repeatedly at the same documents. Also if
            Ray has not been started but the JVM has.
        Exception: Any error of ``artifact.index``, or of the pipeline. The cause of the latter
            names the documents and contains the traceback of the worker.
    """
    ray = _import_ray()
    stages = _stages(pipeline) if isinstance(pipeline, pt.Transformer) else []
    sizes = [size for stage in stages if type(size := getattr(stage, "batch_size", 0)) is int]
    size = max([100, *sizes]) if batch_size is None else positive_int("batch_size", batch_size)

    counts = _Counts()
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
        batches = active_rows(lambda: _batches(corpus, most, text_field, state), None)
        run = _run(ray, pipeline, _generate, batches, workers, num_cpus, num_gpus, counts)
        for part, output in run:
            pending = state.num_pending
            if output is not None:
                state.by_document = True
                state.current_stages = output.stages
                state.check_settings(output.settings)
            for docno, text in part.documents:
                state.add_document(docno, text)
            if output is not None:
                for docno, error in output.failed:
                    state.add_failure(docno, error)
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
        ValueError: A stage compares all queries, for example ``ScoreFilter``.
        TypeError: The pipeline cannot be pickled. The error shows how to give a function instead.
        RuntimeError: Workers do not start, or are lost repeatedly at the same queries.
        Exception: Any error of the stage. Its cause names the queries and contains the traceback
            of the worker.
    """
    ray = _import_ray()
    pt.validate.columns(frame, includes=["qid"])
    parts = _by_query(frame, positive_int("batch_size", batch_size))
    counts = _Counts()
    run = _run(ray, stage, _transform, parts, workers, num_cpus, num_gpus, counts)
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


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError("Ray is not installed: pip install pyterrier_inpars[ray]") from error
    return ray


@dataclass
class _Part:
    """A part of the input.

    Attributes:
        name: Name in error messages.
        work: Arguments of the worker's function; empty if there is nothing to compute.
        documents: Docno and text of each document of a batch.
        error: What the input raised in place of this part.
    """

    name: str
    work: tuple[Any, ...] = ()
    documents: Sequence[tuple[str, str]] = ()
    error: Exception | None = None


def _batches(
    corpus: Iterable[dict[str, Any]], size: int, text_field: str | list[str], state: ResumeState
) -> Generator[_Part]:
    """Yields the batches; the first is always computed, as its worker returns the settings."""
    end = 0
    for records in chunked(corpus, size):
        documents = _pairs(records, text_field)
        first, end = end + 1, end + len(records)
        pending = [state.is_pending(number) for number in range(first, end + 1)]
        work = (records, pending, text_field) if first == 1 or any(pending) else ()
        docnos = f"{records[0]['docno']!r} to {records[-1]['docno']!r}"
        yield _Part(f"documents {first:,} to {end:,} ({docnos})", work, documents)


def _pairs(records: list[dict[str, Any]], text_field: str | list[str]) -> list[tuple[str, str]]:
    """Returns docno and text of each document."""
    documents = document_texts(records, text_field)
    return list(documents.itertuples(index=False, name=None))


def _by_query(frame: pd.DataFrame, size: int) -> Generator[_Part]:
    """Yields parts of whole queries; one empty part for an empty frame."""
    codes, qids = pd.factorize(frame["qid"], use_na_sentinel=False)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    begin, end = 0, -1
    while end < len(order):
        end = min([*starts[starts >= begin + size][:1], len(order)])
        part = frame.iloc[order[begin:end]]
        name = f"queries {part['qid'].iloc[0]!r} to {part['qid'].iloc[-1]!r}" if len(part) else ""
        yield _Part(name, (part,))
        begin = end


@dataclass
class _Counts:
    """What a progress bar shows of a run.

    Attributes:
        parts: Number of parts whose output has been returned.
        workers: Number of workers.
        lost: How often a worker was lost.
        changed: Called when a worker was lost.
    """

    parts: int = 0
    workers: int = 0
    lost: int = 0
    changed: Callable[[], object] = lambda: None

    def texts(self) -> list[str]:
        lost = [f"{self.lost:,} lost"] if self.lost else []
        return [f"{self.parts:,} parts", f"{self.workers:,} workers", *lost]


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
        failed: Docno and error of the documents whose prompt failed.
    """

    rows: list[dict[str, Any]]
    settings: dict[str, Any]
    stages: list[str]
    failed: list[tuple[str, str]]


def _generate(
    pipeline: pt.Transformer,
    records: list[dict[str, Any]],
    pending: list[bool],
    text_field: str | list[str],
) -> _Generated:
    """Returns what a pipeline generates for a batch."""
    state, expected = _BatchState("the artifact"), StreamFingerprint()
    state.pending = pending
    stages = _stages(pipeline)
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
    failed = [(document.docno, document.error) for document in state.failed]
    return _Generated(rows, settings, state.current_stages, failed)


def _transform(pipeline: pt.Transformer, frame: pd.DataFrame) -> pd.DataFrame:
    for stage in _stages(pipeline):
        if isinstance(stage, Stage) and (whole := stage._whole_frame()):
            raise ValueError(
                f"{stage!r} compares all {whole[0]}, but a worker receives only some of them: "
                "apply it to the whole frame, before or after"
            )
    return pipeline.transform(frame)


class _Worker:
    """Ray actor that applies a function to a pipeline and a part.

    Each call refers to the pipeline, since Ray cannot restart an actor whose constructor arguments
    have left the object store.
    """

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self._pipeline: pt.Transformer | None = None

    def run(self, pickled: list[Any], *work: Any) -> Any:
        """Returns the output of a part, and what it added to the counts of the stages.

        Args:
            pickled: Refers to the pipeline, which is loaded once.
            *work: Arguments of the function.
        """
        if self._pipeline is None:
            import ray

            pipeline = ray.cloudpickle.loads(ray.get(pickled[0]))
            self._pipeline = pipeline if isinstance(pipeline, pt.Transformer) else pipeline()
        stages = begin_call(_stages(self._pipeline))
        with hidden_bars():  # the driver shows one
            output = self._function(self._pipeline, *work)
        return output, [stage._last_call() for stage in stages]


def _stages(pipeline: pt.Transformer) -> list[pt.Transformer]:
    return list(pipeline) if isinstance(pipeline, pt.Compose) else [pipeline]


def _dumps(ray: Any, pipeline: Pipeline) -> bytes:
    """Pickles a pipeline; retrievers of PISA without their open index.

    Raises:
        TypeError: The pipeline cannot be pickled.
    """
    reducers = {}
    if pisa := sys.modules.get("pyterrier_pisa"):
        reducers[pisa.PisaRetrieve] = _reduce_pisa

    class Pickler(ray.cloudpickle.CloudPickler):
        dispatch_table = ChainMap(reducers, ray.cloudpickle.CloudPickler.dispatch_table)

    file = io.BytesIO()
    try:
        Pickler(file).dump(pipeline)
    except Exception as error:
        raise TypeError(
            f"{pipeline!r:.200} cannot be sent to the workers ({error}): give a function that "
            "makes the pipeline, and everything in it, in each worker, such as "
            "lambda: RoundTripFilter(Index(path).bm25())"
        ) from error
    return file.getvalue()


def _reduce_pisa(retriever: Any) -> tuple[Any, ...]:
    """Leaves out the open index, which the retriever opens again at its next use."""
    state = {**vars(retriever), "_ctxt": None, "_ctxt_key": None}
    return copyreg.__newobj__, (type(retriever),), state  # type: ignore[attr-defined]


class _Pool:
    """Workers that compute one part at a time, and a thread for each that waits for the output.

    Ray restarts a lost worker, but would repeat its part only there, after a restart that may have
    to wait for a new machine. So the thread passes the part to the next idle worker.
    """

    def __init__(
        self,
        ray: Any,
        start: Callable[[], Any],
        pipeline: Pipeline,
        size: int,
        counts: _Counts,
    ):
        self._ray, self._start, self._size, self._counts = ray, start, size, counts
        self._pickled = [ray.put(_dumps(ray, pipeline))]  # a list: resolved by the worker
        self._workers: list[Any] = []
        self._idle: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._threads = ThreadPoolExecutor(size)

    def submit(self, part: _Part) -> Future[Any]:
        """Returns the future output of a part."""
        if part.work and len(self._workers) < self._size:
            self._workers.append(self._start())
            self._await_start(self._workers[-1])
            self._counts.workers += 1
        return self._threads.submit(self._compute, part)

    def _await_start(self, worker: Any) -> None:
        started = worker.__ray_ready__.options(max_task_retries=-1).remote().future()
        started.add_done_callback(lambda future: self._idle.put((worker, future.exception())))

    def _compute(self, part: _Part) -> Any:
        if part.error is not None:
            raise part.error
        if not part.work:
            return None
        lost = None
        for _ in range(_MAX_LOSSES):
            worker, failure = self._idle.get()
            if failure is not None:
                self._idle.put((worker, failure))  # the other threads must not wait
                raise self._failed("do not start") from failure
            try:
                output = self._ray.get(worker.run.remote(self._pickled, *part.work))
            except self._ray.exceptions.RayTaskError as error:  # raised by the pipeline
                self._idle.put((worker, None))
                raise error.cause from RuntimeError(f"a worker failed at {part.name}:\n{error}")
            except self._ray.exceptions.RayError as error:
                self._await_start(worker)
                lost = error
                self._counts.lost += 1
                self._counts.changed()
            else:
                self._idle.put((worker, None))
                return output
        raise self._failed(f"are lost at {part.name}") from lost

    def _failed(self, what: str) -> RuntimeError:
        return RuntimeError(
            f"workers {what}: check that there is enough memory for each of {self._size} workers"
        )

    def close(self) -> None:
        """Stops workers and threads."""
        for worker in self._workers:
            with suppress(Exception):
                self._ray.kill(worker)
        self._idle.put((None, RuntimeError("the pool is closed")))
        self._threads.shutdown(cancel_futures=True)


def _run(
    ray: Any,
    pipeline: Pipeline,
    function: Callable[..., Any],
    parts: Iterable[_Part],
    workers: int | None,
    num_cpus: float,
    num_gpus: float,
    counts: _Counts,
) -> Generator[tuple[_Part, Any]]:
    """Applies a function to the pipeline and each part; yields parts and outputs in order."""
    if not ray.is_initialized():
        _check_no_jvm()
        ray.init()
    if workers is None:
        workers = _capacity(ray.cluster_resources(), num_cpus, num_gpus)
    limit = positive_int("workers", workers) * _AHEAD
    counting = begin_call(_stages(pipeline)) if isinstance(pipeline, pt.Transformer) else []
    resources = {"num_cpus": num_cpus, "num_gpus": num_gpus, "scheduling_strategy": "SPREAD"}
    actor = ray.remote(_Worker).options(**resources, max_restarts=_MAX_RESTARTS)
    window: deque[tuple[_Part, Future[Any]]] = deque()

    def first() -> tuple[_Part, Any]:
        part, output = window.popleft()
        result = _counted(counting, output.result())
        counts.parts += 1
        return part, result

    with closing(_Pool(ray, lambda: actor.remote(function), pipeline, workers, counts)) as pool:
        for part in _with_error(parts):
            window.append((part, pool.submit(part)))
            while window and (len(window) == limit or window[0][1].done()):
                yield first()
        while window:
            yield first()


def _counted(stages: list[Stage], result: tuple[Any, list[dict[str, Any]]] | None) -> Any:
    """Returns the output of a part, if it had work, and adds its counts to the stages."""
    if result is None:
        return None
    output, counts = result
    for stage, added in zip(stages, counts, strict=False):  # no stages if a function made them
        stage._add_call(added)
    return output


def _with_error(parts: Iterable[_Part]) -> Generator[_Part]:
    """Yields an error of the input as the last part, to be raised after the parts before it."""
    try:
        yield from parts
    except Exception as error:
        yield _Part("", error=error)


def _check_no_jvm() -> None:
    """The JVM uses SIGSEGV internally; Ray's signal handler would crash it."""
    jnius = sys.modules.get("jnius_config")
    if jnius is not None and jnius.vm_running:
        raise RuntimeError(
            "the JVM runs in this process and would crash when Ray starts: call ray.init() before "
            "the first stage that uses Java"
        )


def _capacity(resources: dict[str, float], num_cpus: float, num_gpus: float) -> int:
    """Returns the number of workers that a cluster has room for, at least one."""
    limits = [(resources.get("CPU", 0) - 1) // num_cpus] if num_cpus else []
    limits += [resources.get("GPU", 0) // num_gpus] if num_gpus else []
    return max(1, int(min(limits, default=1)))
