"""The same pipelines over many machines, on Ray, with one copy of the model in each worker.

The driver reads the corpus or frame, hands out its parts, and takes what is made of them in order.
A worker that is lost, by itself or with its machine, costs what it was working on: others do that
again, and a new worker starts where there is room. An error of the pipeline is no such loss: it
stops the run when its turn comes, so that what was done before it is kept.
"""

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
from more_itertools import chunked

from pyterrier_inpars._fingerprint import StreamFingerprint
from pyterrier_inpars._stage import check_strings, positive_int
from pyterrier_inpars.filtering import WholeSetFilter
from pyterrier_inpars.queries._resume import ResumeState, activated, active_state
from pyterrier_inpars.queries.artifact import SyntheticQueries

Pipeline = pt.Transformer | Callable[[], pt.Transformer]

_QUEUED = 2
"""Parts that a worker has at once, so that it need not wait for the next."""
_AHEAD = 4
"""Parts for each worker, waiting, running or done, that the driver holds."""
_LOSSES = 5
"""Workers that a part may lose before it is taken to be the cause."""


def index(
    pipeline: Pipeline,
    corpus: Iterable[dict[str, Any]],
    artifact: SyntheticQueries,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    text_field: str = "text",
) -> SyntheticQueries:
    """Runs ``(pipeline >> artifact).index(corpus)`` over a Ray cluster.

    The workers get the very batches that PyTerrier would feed the pipeline, and the artifact's own
    writer, in the driver, stores their rows. So shards and manifest are those of a local run of the
    same ``batch_size`` and ``shard_size``, byte for byte where the workers compute like the local
    machine, and whatever stops one of the two, either can go on::

        ray.init("auto")
        distributed.index(QueryGenerator(model) >> CopyFilter(), corpus, queries, num_gpus=1)

    Args:
        pipeline: makes synthetic queries of documents: a ``QueryGenerator``, then any stages that
            take a stream. It is pickled, so use it after that, or a loaded model travels with it;
            or a function that gives it, which each worker calls.
        corpus: the documents as the generator takes them: apply stages before it to the corpus.
        artifact: where the queries are stored.
        batch_size: documents of a part; None is what ``Compose.index`` takes: 100, or more if a
            stage has a larger ``batch_size``.
        workers: copies of the pipeline; None is as many as the cluster has room for, with one CPU
            left for the driver.
        num_cpus: CPUs of a worker.
        num_gpus: GPUs of a worker.
        text_field: the generator's.

    Returns:
        The artifact, complete.

    Raises:
        ImportError: Ray is not installed.
        ValueError: the pipeline has no generator, or a stage before it changes the documents.
        RuntimeError: workers do not start, or end again and again at the same documents; or Ray
            has not started, and Java has.
        Exception: what ``artifact.index`` raises; what the pipeline raises, with the documents and
            the worker's traceback in its cause.
    """
    ray = _ray()
    stages = pipeline if isinstance(pipeline, pt.Compose) else [pipeline]
    sizes = [size for stage in stages if type(size := getattr(stage, "batch_size", 0)) is int]
    size = max([100, *sizes]) if batch_size is None else positive_int("batch_size", batch_size)

    def rows() -> Generator[dict[str, Any]]:
        state = active_state()
        assert state is not None  # the artifact opens it
        batches = _batches(corpus, size, text_field, state)
        for part, made in _run(ray, pipeline, _generate, batches, workers, num_cpus, num_gpus):
            if made is not None:
                state.by_document = True
                state.check_settings(made[1])
            for record in part.records:
                state.add_document(record["docno"], record[text_field])
            if made is not None:
                yield from made[0]

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
) -> pd.DataFrame:
    """Runs ``stage(frame)`` over a Ray cluster: a reranker, a filter, a miner of negatives.

    All rows of a query go to one worker, so it serves stages that take each query by itself. The
    results come in the order of the queries.

    Args:
        stage: a pipeline, or a function that gives it; see `index`.
        frame: has the column ``qid``.
        batch_size: fewest rows of a part; it ends with a query.
        workers: see `index`.
        num_cpus: see `index`.
        num_gpus: see `index`.

    Raises:
        ImportError: Ray is not installed.
        ValueError: a stage compares all queries, as ``ScoreFilter`` does.
        RuntimeError: workers do not start, or end again and again at the same queries.
        Exception: what the stage raises, with the queries and the worker's traceback in its cause.
    """
    ray = _ray()
    pt.validate.columns(frame, includes=["qid"])
    parts = _by_query(frame, positive_int("batch_size", batch_size))
    with closing(_run(ray, stage, _transform, parts, workers, num_cpus, num_gpus)) as run:
        frames = [made for _, made in run]
    return pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError("this needs Ray: pip install pyterrier_inpars[ray]") from error
    return ray


def _no_java() -> None:
    """Java uses the signal of a wrong address at its work, and dies if Ray takes it over."""
    jnius = sys.modules.get("jnius_config")
    if jnius is not None and jnius.vm_running:
        raise RuntimeError(
            "Java runs in this process and would not survive the start of Ray: call ray.init() "
            "before the first stage that uses Java"
        )


@dataclass(eq=False)
class _Part:
    """A part of the work.

    Attributes:
        name: what errors call it.
        work: what the worker's function is given; nothing if there is nothing to do.
        records: the documents of a batch.
        result: what was made of it, or the error, and the worker's traceback.
        losses: workers lost while it was theirs.
    """

    name: str
    work: tuple[Any, ...] = ()
    records: Sequence[dict[str, Any]] = ()
    result: tuple[Any, Exception | None, str] | None = None
    losses: int = 0

    @property
    def load(self) -> int:
        """Its share of a worker's queue: all of it once it is suspected, so that it is alone."""
        return _QUEUED if self.losses else 1


def _batches(
    corpus: Iterable[dict[str, Any]], size: int, text_field: str, state: ResumeState
) -> Generator[_Part]:
    """The corpus. A worker gets the first batch in any case, and tells the settings."""
    end = 0
    for records in chunked(corpus, size):
        frame = pd.DataFrame(records)
        pt.validate.columns(frame, includes=["docno", text_field])
        check_strings(frame, "docno", text_field)
        first, end = end + 1, end + len(records)
        wanted = [state.is_pending(number) for number in range(first, end + 1)]
        work = (records, wanted, text_field) if first == 1 or any(wanted) else ()
        docnos = f"{records[0]['docno']!r} to {records[-1]['docno']!r}"
        yield _Part(f"documents {first:,} to {end:,} ({docnos})", work, records)


def _by_query(frame: pd.DataFrame, size: int) -> Generator[_Part]:
    """The rows, those of a query together; one part if there are none."""
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


class _Wanted(ResumeState):
    """Resume state of one batch in a worker, which gets the pending documents from the driver."""

    wanted: list[bool]

    def add_document(self, *fields: str) -> bool:
        """Enters one document; tells whether it is still to be done."""
        self.position = self.position.extended(*fields)
        return self.wanted[self.position.documents - 1 : self.position.documents] == [True]


def _generate(
    pipeline: pt.Transformer, records: list[dict[str, Any]], wanted: list[bool], text_field: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows that a pipeline makes of a batch, and the generator's settings."""
    state, given = _Wanted("the artifact"), StreamFingerprint()
    state.wanted = wanted
    with activated(state):
        rows = list(pipeline.transform_iter(records))
    for record in records:
        given = given.extended(record["docno"], record[text_field])
    if state.settings is None:
        raise ValueError(f"{pipeline!r} has no QueryGenerator; distributed.transform needs none")
    if state.position != given:
        raise ValueError(
            f"the generator in {pipeline!r} is not given the documents of the corpus, with their "
            f"{text_field!r}: apply the stages before it to the corpus, or say text_field"
        )
    return rows, {**state.settings, "versions": state.packages}


def _transform(pipeline: pt.Transformer, frame: pd.DataFrame) -> pd.DataFrame:
    for stage in pipeline if isinstance(pipeline, pt.Compose) else [pipeline]:
        if isinstance(stage, WholeSetFilter):
            raise ValueError(
                f"{stage!r} compares all queries, but a worker sees a part of them: apply it to "
                "the whole frame, before or after"
            )
    return pipeline.transform(frame)


class _Worker:
    """What an actor runs: a function of a pipeline and a part."""

    def __init__(self, pickled: bytes, function: Callable[..., Any]):
        self._pickled = pickled
        self._function = function

    @cached_property
    def _pipeline(self) -> pt.Transformer:
        from ray import cloudpickle

        pipeline = cloudpickle.loads(self._pickled)
        return pipeline if isinstance(pipeline, pt.Transformer) else pipeline()

    def ready(self) -> None:
        """Returns when the worker has started."""

    def run(self, *work: Any) -> Any:
        return self._function(self._pipeline, *work)


def _run(
    ray: Any,
    pipeline: Pipeline,
    function: Callable[..., Any],
    parts: Iterable[_Part],
    workers: int | None,
    num_cpus: float,
    num_gpus: float,
) -> Generator[tuple[_Part, Any]]:
    """Runs a function of the pipeline and of each part on workers; gives the results in order."""
    if not ray.is_initialized():
        _no_java()
        ray.init()
    if workers is None:
        have = ray.cluster_resources()
        rooms = [(have.get("CPU", 0) - 1) // num_cpus] if num_cpus else []
        rooms += [have.get("GPU", 0) // num_gpus] if num_gpus else []
        workers = max(1, int(min(rooms, default=1)))
    positive_int("workers", workers)
    pickled = ray.put(ray.cloudpickle.dumps(pipeline))
    new_actor = ray.remote(_Worker).options(
        num_cpus=num_cpus, num_gpus=num_gpus, scheduling_strategy="SPREAD"
    )
    parts = iter(parts)
    held: deque[_Part] = deque()  # those not given out, in order
    waiting: deque[_Part] = deque()  # those of them that no worker has
    running: dict[Any, tuple[Any, _Part | None]] = {}  # None: the actor is starting
    load: dict[Any, int] = {}  # of each actor that has started
    ended, failures = False, 0
    try:
        while held or not ended:
            while not ended and len(held) < workers * _AHEAD:
                try:
                    held.append(next(parts))
                except StopIteration:
                    ended = True
                except Exception as error:  # it is raised when its turn comes
                    held.append(_Part("", result=(None, error, "")))
                    ended = True
                else:
                    waiting.extend([held[-1]] if held[-1].work else [])
            while held and (held[0].result or not held[0].work):
                part = held.popleft()
                made, failure, told = part.result or (None, None, "")
                if failure is not None:
                    cause = RuntimeError(f"a worker failed at {part.name}:\n{told}")
                    raise failure from (cause if told else None)
                yield part, made
            todo = [part for part in held if part.work and not part.result]
            starting = sum(part is None for _, part in running.values())
            for _ in range(len(load) + starting, min(workers, len(todo))):
                actor = new_actor.remote(pickled, function)
                running[actor.ready.remote()] = actor, None
            while waiting and load and min(load.values()) + waiting[0].load <= _QUEUED:
                actor, part = min(load, key=load.__getitem__), waiting.popleft()
                running[actor.run.remote(*part.work)] = actor, part
                load[actor] += part.load
            if not todo:
                continue
            (ref,), _ = ray.wait(list(running), num_returns=1)
            actor, given = running.pop(ref)
            try:
                result = ray.get(ref), None, ""
            except ray.exceptions.RayTaskError as error:  # what the function raised
                result = None, error.cause, str(error)
            except ray.exceptions.RayError as error:  # the worker is lost
                load.pop(actor, None)
                ray.kill(actor)
                if given is None:
                    failures += 1
                else:
                    given.losses += 1
                    waiting.appendleft(given)
                if (given.losses if given else failures - workers) == _LOSSES:
                    where = f"end at {given.name}" if given else "do not start"
                    raise RuntimeError(
                        f"workers {where}: is there memory enough for each of {workers}?"
                    ) from error
                continue
            if given is None:
                load[actor] = 0
            else:
                given.result = result
                if actor in load:  # it may have been lost after this part
                    load[actor] -= given.load
    finally:
        for actor in [*load, *(actor for actor, _ in running.values())]:
            with suppress(Exception):
                ray.kill(actor)
