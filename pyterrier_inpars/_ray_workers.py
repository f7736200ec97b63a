"""Workers of a Ray cluster, which apply a function to a pipeline and the parts of an input."""

import copyreg
import io
import sys
from collections import ChainMap, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import pyterrier as pt

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._progress import hidden_bars
from pyterrier_inpars._stage import Stage, begin_call

Pipeline = pt.Transformer | Callable[[], pt.Transformer]

AHEAD = 4
"""Parts per worker that the driver holds: waiting, running, or finished but not yet returned."""
MAX_LOSSES = 5
"""Number of workers lost at the same part after which the run fails."""
MAX_RESTARTS = 100
"""Restarts of one worker after which the run fails, so that a process that cannot start ends it."""


def import_ray() -> Any:
    """Returns the module ``ray``.

    Raises:
        ImportError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("Ray is not installed: pip install 'pyterrier_inpars[ray]'") from error
    return ray


@dataclass
class Part:
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


@dataclass
class Counts:
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
        """Returns what is shown."""
        lost = [f"{self.lost:,} lost"] if self.lost else []
        return [f"{self.parts:,} parts", f"{self.workers:,} workers", *lost]


def stages_of(pipeline: pt.Transformer) -> list[pt.Transformer]:
    """Returns the stages of a pipeline, or a stage as the only one."""
    return list(pipeline) if isinstance(pipeline, pt.Compose) else [pipeline]


def check_stages(pipeline: pt.Transformer) -> None:
    """Checks that several processes can apply the stages of a pipeline.

    Raises:
        ValueError: They cannot apply one of them.
    """
    for stage in stages_of(pipeline):
        if isinstance(stage, Stage) and (reason := stage._one_process()):
            raise ValueError(f"{stage!r} cannot be applied by workers: {reason}")


class Worker:
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
            check_stages(self._pipeline)
        stages = begin_call(stages_of(self._pipeline))
        with hidden_bars():  # the driver shows one
            output = self._function(self._pipeline, *work)
        return output, [stage._last_call() for stage in stages]


def dumps(ray: Any, pipeline: Pipeline) -> bytes:
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


class Pool:
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
        counts: Counts,
    ):
        self._ray, self._start, self._size, self._counts = ray, start, size, counts
        self._pickled = [ray.put(dumps(ray, pipeline))]  # a list: resolved by the worker
        self._workers: list[Any] = []
        self._idle: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._threads = ThreadPoolExecutor(size)

    def submit(self, part: Part) -> Future[Any]:
        """Returns the future output of a part."""
        if part.work and len(self._workers) < self._size:
            self._workers.append(self._start())
            self._await_start(self._workers[-1])
            self._counts.workers += 1
        return self._threads.submit(self._compute, part)

    def _await_start(self, worker: Any) -> None:
        started = worker.__ray_ready__.options(max_task_retries=-1).remote().future()
        started.add_done_callback(lambda future: self._idle.put((worker, future.exception())))

    def _compute(self, part: Part) -> Any:
        if part.error is not None:
            raise part.error
        if not part.work:
            return None
        lost = None
        for _ in range(MAX_LOSSES):
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


def run_parts(
    ray: Any,
    pipeline: Pipeline,
    function: Callable[..., Any],
    parts: Iterable[Part],
    workers: int | None,
    num_cpus: float,
    num_gpus: float,
    counts: Counts,
) -> Generator[tuple[Part, Any]]:
    """Applies a function to the pipeline and each part; yields parts and outputs in order.

    Args:
        ray: The module.
        pipeline: Pipeline, or a function that makes one in each worker.
        function: Function of the pipeline and the ``work`` of a part, called in a worker.
        parts: Parts of the input.
        workers: Number of workers; None for as many as the cluster has room for.
        num_cpus: Number of CPUs per worker.
        num_gpus: Number of GPUs per worker.
        counts: Receives the counts of this run.

    Raises:
        TypeError: The pipeline cannot be pickled.
        ValueError: Several processes cannot apply a stage.
        RuntimeError: Workers do not start or are lost repeatedly at one part, or the JVM runs.
        Exception: Any error of the input, or of the function.
    """
    if isinstance(pipeline, pt.Transformer):
        check_stages(pipeline)
    if not ray.is_initialized():
        _check_no_jvm()
        ray.init()
    if workers is None:
        workers = _capacity(ray.cluster_resources(), num_cpus, num_gpus)
    limit = positive_int("workers", workers) * AHEAD
    counting = begin_call(stages_of(pipeline)) if isinstance(pipeline, pt.Transformer) else []
    resources = {"num_cpus": num_cpus, "num_gpus": num_gpus, "scheduling_strategy": "SPREAD"}
    actor = ray.remote(Worker).options(**resources, max_restarts=MAX_RESTARTS)
    window: deque[tuple[Part, Future[Any]]] = deque()

    def first() -> tuple[Part, Any]:
        part, output = window.popleft()
        result = _counted(counting, output.result())
        counts.parts += 1
        return part, result

    with closing(Pool(ray, lambda: actor.remote(function), pipeline, workers, counts)) as pool:
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


def _with_error(parts: Iterable[Part]) -> Generator[Part]:
    """Yields an error of the input as the last part, to be raised after the parts before it."""
    try:
        yield from parts
    except Exception as error:
        yield Part("", error=error)


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
