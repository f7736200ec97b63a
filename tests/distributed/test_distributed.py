"""Pipelines on a Ray cluster, compared with local runs."""

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny_llm
from hypothesis import given
from hypothesis import strategies as st
from writer import SETTINGS, Writer, corpus, files, rows
from writer import index as local

from pyterrier_inpars import (
    CopyFilter,
    LengthFilter,
    NegativeMiner,
    QueryGenerator,
    RelevanceJudge,
    RoundTripFilter,
    ScoreFilter,
    _progress,
    _ray_workers,
    distributed,
    funnel,
)
from pyterrier_inpars._fingerprint import StreamFingerprint
from pyterrier_inpars._stage import Stage
from pyterrier_inpars.queries._manifest import stored_documents
from pyterrier_inpars.queries._resume import ResumeState, active_state
from pyterrier_inpars.queries.artifact import SyntheticQueries

HOW = {"batch_size": 3, "workers": 1}


@pytest.fixture(scope="module", autouse=True)
def in_the_workers():
    """Sets what Ray's processes inherit: the path of this file's classes, no usage reports.

    On a busy machine, Ray's workers, which are nicer than others by default, may not get to start
    in the minute after which Ray gives them up and starts others.
    """
    with pytest.MonkeyPatch.context() as patch:
        tests = Path(__file__).parents[1]
        patch.setenv(
            "PYTHONPATH", f"{tests}{os.pathsep}{tests / 'distributed'}", prepend=os.pathsep
        )
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_worker_register_timeout_seconds", "600")
        yield


@pytest.fixture(scope="module")
def ray(in_the_workers):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=4, object_store_memory=10**8, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def index(path, documents, pipeline=None, shard_size=5, **how):
    queries = SyntheticQueries(path, shard_size=shard_size)
    return distributed.index(pipeline or Writer(), documents, queries, **HOW | how)


class Slow(Writer):
    """Takes longest for the first documents, so that later parts finish first."""

    def _transform(self, inp):
        time.sleep(0.3 if int(inp.docno[0]) % 12 == 0 else 0)
        return super()._transform(inp)


class KillsWorker(Writer):
    """Exits its process at one document, once for each file in a folder."""

    def __init__(self, at, folder):
        super().__init__()
        self.at, self.folder = at, folder

    def _transform(self, inp):
        if self.at in set(inp.docno):
            for file in Path(self.folder).iterdir():
                file.unlink()
                os._exit(1)
        return super()._transform(inp)


class Waits(Stage):
    """Precedes the generator: logs the first document of each batch, and blocks from one on."""

    def __init__(self, start, folder, wait=True):
        self.start, self.folder, self.wait = start, Path(folder), wait

    def _required_columns(self):
        return ["docno", "text"]

    def _transform(self, inp):
        with (self.folder / "log").open("a") as log:
            log.write(inp.docno[0] + "\n")
        while self.wait and int(inp.docno[0]) >= self.start and not (self.folder / "go").exists():
            time.sleep(0.05)
        return inp


def wait_until(condition, seconds=60):
    """Polls the condition until it holds; returns whether it did in time."""
    deadline = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return held


# Without Ray


def test_error_names_the_extra_if_ray_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for act in (
        lambda: index(tmp_path / "queries", corpus(3)),
        lambda: distributed.transform(CopyFilter(), pd.DataFrame(rows(3))),
    ):
        with pytest.raises(ImportError, match=r"pip install 'pyterrier_inpars\[ray\]'"):
            act()
    assert not (tmp_path / "queries").exists()


@given(st.lists(st.sampled_from("abcdef"), max_size=20), st.integers(1, 8))
def test_parts_contain_whole_queries(qids, size):
    frame = pd.DataFrame({"qid": qids, "row": range(len(qids))}, index=range(5, 5 + len(qids)))
    parts = [part.work[0] for part in distributed._by_query(frame, size)]
    expected, part = [], []
    for qid in dict.fromkeys(qids):
        part += [(qid, row) for row, other in enumerate(qids) if other == qid]
        if len(part) >= size:
            expected.append(part)
            part = []
    expected += [part] if part or not expected else []
    assert [list(part.itertuples(index=False, name=None)) for part in parts] == expected
    assert all(list(part.columns) == ["qid", "row"] for part in parts)


def test_stored_documents_are_not_computed_again():
    """Except for the first batch, whose worker returns the settings."""
    documents = [{"docno": str(n), "body": "x"} for n in range(20)]
    state = ResumeState(
        "any",
        shard_ends=[
            StreamFingerprint(5, "a"),
            StreamFingerprint(9, "b"),
            StreamFingerprint(14, "c"),
        ],
        damaged={1},
    )
    parts = list(distributed._batches(documents, 4, "body", state))
    wanted = [part.work[1] if part.work else None for part in parts]
    expected = [5 < n <= 9 or n > 14 for n in range(1, 21)]
    assert wanted == [expected[:4], expected[4:8], expected[8:12], expected[12:16], expected[16:]]
    state.damaged = set()
    parts = list(distributed._batches(documents, 4, "body", state))
    assert [bool(part.work) for part in parts] == [True, False, False, True, True]
    pairs = [(str(n), "x") for n in range(20)]
    assert [part.documents for part in parts] == [pairs[i : i + 4] for i in range(0, 20, 4)]
    assert parts[3].name == "documents 13 to 16 ('12' to '15')"


def test_several_text_fields_are_joined_as_the_generator_does():
    documents = [{"docno": "0", "title": "a", "body": "b"}, {"docno": "1", "body": "c"}]
    (part,) = distributed._batches(documents, 4, ["title", "body"], ResumeState("any"))
    assert part.documents == [("0", "a b"), ("1", "c")]
    with pytest.raises(ValueError, match="body must be a string, but is 7 .* docno '0'"):
        list(distributed._batches([{"docno": "0", "body": 7}], 4, "body", ResumeState("any")))


@pytest.fixture(scope="module")
def bm25(tmp_path_factory):
    pisa = pytest.importorskip("pyterrier_pisa")
    index = pisa.PisaIndex(str(tmp_path_factory.mktemp("pisa") / "index"), text_field="text")
    index.index({"docno": str(n), "text": " ".join(TEXTS[n])} for n in range(len(TEXTS)))
    return index.bm25(k1=1.1, num_results=7)


TEXTS = [tuple(np.roll(tiny_llm.WORDS, n)[: 3 + n % 4]) for n in range(40)]


def text_queries():
    """Two words of each document; BM25 ranks some of the documents first."""
    data = [(f"q{n}", f"{t[0]} {t[-1]}", str(n), " ".join(t)) for n, t in enumerate(TEXTS)]
    return pd.DataFrame(data, columns=["qid", "query", "docno", "text"])


def test_open_indexes_of_pisa_are_opened_again(bm25):
    ray = pytest.importorskip("ray")
    queries = text_queries()
    stage = RoundTripFilter(bm25, 2)
    expected = stage(queries)
    again = ray.cloudpickle.loads(_ray_workers.dumps(ray, stage))
    assert again.retriever is not bm25 and repr(again) == repr(stage)
    pd.testing.assert_frame_equal(again(queries), expected)
    assert 0 < len(expected) < len(queries)


def test_what_cannot_be_sent_is_an_error_that_shows_what_to_write():
    ray = pytest.importorskip("ray")
    stage = pt.apply.generic(lambda inp: inp, transform_outputs=threading.Lock().acquire)
    with pytest.raises(TypeError, match=r"cannot be sent to the workers \(.*lock.*\): .* lambda: "):
        _ray_workers.dumps(ray, stage)


# On a cluster


def test_ray_is_not_started_beside_a_running_jvm(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setitem(sys.modules, "jnius_config", SimpleNamespace(vm_running=True))
    with pytest.raises(RuntimeError, match=r"call ray.init\(\) before .* Java"):
        index(tmp_path / "queries", corpus(3))


@pytest.mark.slow
def test_files_equal_those_of_a_local_run(tmp_path, ray):
    whole = local(tmp_path / "local", corpus(50), Writer([2, 0, 1]))
    made = index(tmp_path / "ray", corpus(50), Slow([2, 0, 1]), workers=2)
    assert files(made.path) == files(whole.path)
    assert files(index(tmp_path / "none", []).path) == files(local(tmp_path / "empty", []).path)


@pytest.mark.slow
def test_default_batch_size_is_that_of_pyterrier(tmp_path, ray):
    class Large(Writer):
        batch_size = 130

    queries = SyntheticQueries(tmp_path / "local", shard_size=10)
    (Large() >> CopyFilter() >> queries).index(corpus(300))
    pipeline = Large() >> CopyFilter()
    made = index(tmp_path / "ray", corpus(300), pipeline, batch_size=None, shard_size=10)
    assert files(made.path) == files(queries.path)


@pytest.mark.slow
def test_interrupted_runs_resume_locally_and_on_the_cluster(tmp_path, ray):
    whole = files(local(tmp_path / "whole", corpus(40)).path)
    for number, runs in enumerate([(local, index, index), (index, local)]):
        path = tmp_path / str(number)
        for run, stop in zip(runs[:-1], (14, 29), strict=False):
            with pytest.raises(OSError, match="disk of the corpus"):
                run(path, corpus(40, stop=stop))
            assert stored_documents(manifest(path)) == {14: 9, 29: 24}[stop]
        assert files(runs[-1](path, corpus(40)).path) == whole


def manifest(path):
    return SyntheticQueries(path)._manifest()


@pytest.mark.slow
def test_complete_artifacts_reject_other_input_and_repair_damaged_shards(tmp_path, ray):
    whole = local(tmp_path / "queries", corpus(40))
    before = files(whole.path)
    assert files(index(whole.path, corpus(40)).path) == before
    other = Writer(settings=SETTINGS | {"model": "other"})
    for pipeline, documents, error in [
        (other, corpus(40), "started with other settings"),
        (Writer(), corpus(39), "ended after 39 documents"),
        (Writer(), corpus(41), "complete with 40 documents"),
    ]:
        with pytest.raises(ValueError, match=error):
            index(whole.path, documents, pipeline)
        assert files(whole.path) == before
    for n in (0, 3):
        (whole.path / f"queries-{n:05d}.jsonl.gz").unlink()
    assert files(index(whole.path, corpus(40)).path) == before


@pytest.mark.slow
def test_pipeline_errors_are_raised_in_order_and_earlier_results_kept(tmp_path, ray):

    class Refuses(Slow):
        def _transform(self, inp):
            if "13" in set(inp.docno):
                raise LookupError("no word for it")
            return super()._transform(inp)

    for number, pipeline in enumerate((Refuses(), lambda: Refuses())):
        path = tmp_path / str(number)
        with pytest.raises(LookupError, match="no word for it") as error:
            index(path, corpus(30), pipeline)
        output = str(error.value.__cause__)
        assert "documents 13 to 15 ('12' to '14')" in output and "in run" in output
        assert manifest(path)["documents"] == 6 and manifest(path)["open"]["documents"] == 3
        assert files(index(path, corpus(30)).path) == files(local(tmp_path / "w", corpus(30)).path)

    def broken():
        raise OSError("no such model")

    with pytest.raises(OSError, match="no such model"):
        index(tmp_path / "broken", corpus(30), broken)
    assert not (tmp_path / "broken").exists()


@pytest.mark.slow
def test_pipelines_without_generator_or_with_changed_documents_are_rejected(tmp_path, ray):
    class Upper(Stage):
        def _required_columns(self):
            return ["text"]

        def _transform(self, inp):
            return inp.assign(text=inp.text.str.upper())

    for pipeline, error in [
        (CopyFilter(), "has no QueryGenerator: use distributed.transform"),
        (Upper() >> Writer(), "does not receive the documents of the corpus with their 'text'"),
    ]:
        documents = (row | {"qid": "1", "query": "x"} for row in corpus(10))
        with pytest.raises(ValueError, match=error):
            index(tmp_path / "queries", documents, pipeline)
    for bad, error in [
        ({"docno": "1"}, "text"),
        ({"docno": 1, "text": "x"}, "docno must be a string"),
    ]:
        with pytest.raises(Exception, match=error):
            index(tmp_path / "queries", [bad])


@pytest.mark.slow
def test_parts_of_lost_workers_are_repeated_a_limited_number_of_times(
    tmp_path, ray, monkeypatch, capsys
):
    whole = files(local(tmp_path / "whole", corpus(40)).path)
    marks = tmp_path / "marks"
    marks.mkdir()
    for name in "ab":
        (marks / name).touch()
    pipeline = KillsWorker("13", marks)
    made = index(tmp_path / "queries", corpus(40), pipeline, workers=2, verbose=True)
    assert not list(marks.iterdir()) and files(made.path) == whole
    assert "14 parts, 2 workers, 2 lost" in capsys.readouterr().err.splitlines()[-1]
    for name in range(9):
        (marks / str(name)).touch()
    monkeypatch.setattr(_ray_workers, "MAX_LOSSES", 2)
    with pytest.raises(
        RuntimeError, match="workers are lost at documents 13 to 15 .*enough memory"
    ):
        index(tmp_path / "again", corpus(40), KillsWorker("13", marks))
    assert len(list(marks.iterdir())) == 7
    (kept,) = (tmp_path / "again").glob("*.open")
    assert files(local(tmp_path / "again", corpus(40)).path) == whole and not kept.exists()


@pytest.mark.slow
def test_progress_shows_documents_parts_and_workers(tmp_path, ray, monkeypatch, capsys):
    monkeypatch.setitem(_progress.SECONDS, "log", 0)
    index(tmp_path / "q", list(corpus(9)), Writer() >> LengthFilter(1), verbose=True)
    lines = [re.sub(r" \(\d[^%)]*\)", "", line) for line in capsys.readouterr().err.splitlines()]
    lines = [line for line in lines if "synthetic queries" in line]
    assert "3 of 9 documents (33%), 3 queries, 1 parts, 1 workers" in lines[0]
    assert "9 of 9 documents (100%), 9 queries, 3 parts, 1 workers" in lines[-1]
    frame = pd.DataFrame(rows(9))
    distributed.transform(LengthFilter(1), frame, **HOW, verbose=True)
    assert "distributed: 9 of 9 rows (100%), 3 parts, 1 workers" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_that_do_not_start_raise_an_error(tmp_path, ray, monkeypatch):
    class Exits:
        def __init__(self, *args):
            os._exit(1)

    class Raises:
        def __init__(self, *args):
            raise OSError("no such library")

    monkeypatch.setattr(_ray_workers, "MAX_RESTARTS", 1)
    for number, worker in enumerate((Exits, Raises)):
        monkeypatch.setattr(_ray_workers, "Worker", worker)
        with pytest.raises(RuntimeError, match="workers do not start.*enough memory.* 2 workers"):
            index(tmp_path / str(number), corpus(40), workers=2)


@pytest.mark.slow
def test_reading_ahead_is_bounded(tmp_path, ray):
    """While the first batch blocks, only a limited number of documents is read."""
    read = []

    def documents():
        for document in corpus(300):
            read.append(document)
            yield document

    args = tmp_path / "queries", documents(), Waits(0, tmp_path) >> Writer()
    thread = threading.Thread(target=index, args=args)
    thread.start()
    most = _ray_workers.AHEAD * 3
    try:
        assert wait_until(lambda: len(read) >= most)
        time.sleep(1)
        assert len(read) == most
    finally:
        (tmp_path / "go").touch()
        thread.join()
    assert len(SyntheticQueries(tmp_path / "queries")) == 300


@pytest.mark.slow
def test_ctrl_c_keeps_finished_documents_and_the_run_resumes(tmp_path, ray, capsys):
    path = tmp_path / "queries"

    def interrupt():
        log = tmp_path / "log"
        log.touch()
        wait_until(
            lambda: (output := manifest(path)) and output["documents"] and "12" in log.read_text()
        )
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            index(path, corpus(40), Waits(12, tmp_path) >> Writer())
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    output = capsys.readouterr().err
    kept = stored_documents(manifest(path))
    assert 5 <= kept <= 12
    assert f"keeps the queries of {kept} documents: run the same again to resume" in output
    (tmp_path / "go").touch()
    index(path, corpus(40), Waits(12, tmp_path) >> Writer())
    assert files(path) == files(local(tmp_path / "whole", corpus(40)).path)


@pytest.mark.slow
def test_transform_keeps_queries_together_and_in_order(ray):
    class Rank(Stage):
        """Processes each query independently, as rerankers do, and reports its process."""

        def _required_columns(self):
            return ["qid", "query"]

        def _transform(self, inp):
            time.sleep(0.2)
            best = inp.groupby("qid")["score"].transform("max")
            return inp.assign(score=inp.score - best, pid=os.getpid())

    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "qid": [f"q{n}" for n in generator.integers(0, 30, 400)],
            "query": "x",
            "docno": [str(n) for n in range(400)],
            "score": generator.random(400),
        }
    )
    made = distributed.transform(Rank(), frame, batch_size=20, workers=2)
    assert made.pid.nunique() == 2 and os.getpid() not in set(made.pid)
    first = {qid: n for n, qid in enumerate(dict.fromkeys(frame.qid))}
    expected = Rank()(frame).sort_values("qid", key=lambda s: s.map(first), kind="stable")
    pd.testing.assert_frame_equal(
        made.drop(columns="pid"), expected.reset_index(drop=True).drop(columns="pid")
    )
    empty = distributed.transform(CopyFilter(), pd.DataFrame(rows(1))[:0], workers=1)
    assert empty.empty and list(empty.columns) == ["qid", "query", "docno", "text"]
    with pytest.raises(ValueError, match="compares all queries") as error:
        distributed.transform(CopyFilter() >> ScoreFilter(3), pd.DataFrame(rows(3)), workers=1)
    assert "queries 'q0' to 'q2'" in str(error.value.__cause__)


class FailsAtSome(Writer):
    """A generator over a server that refuses some documents, and fails at one."""

    def _transform(self, inp):
        for docno in inp.docno:
            if int(docno) % 7 == 3 and (state := active_state()):
                state.add_failure(docno, f"refused {docno}", unanswered=docno == "17")
                if docno != "38":  # the last one
                    state.answered = True
                    state.confirm_refusals()
        return super()._transform(inp[[int(docno) % 7 != 3 for docno in inp.docno]])


@pytest.mark.slow
def test_failed_documents_are_named_as_in_a_local_run(tmp_path, ray):
    whole = local(tmp_path / "local", corpus(40), FailsAtSome())
    manifest = (tmp_path / "local" / "pt_meta.json").read_text()
    assert "refused 24" in manifest and '"unanswered": [\n    "17"' in manifest
    assert '"unanswered": [\n    "38"' in manifest
    made = index(tmp_path / "ray", corpus(40), FailsAtSome(), workers=2)
    assert files(made.path) == files(whole.path)


@pytest.mark.slow
def test_counts_are_those_of_all_workers(tmp_path, ray, bm25):
    queries = text_queries()

    def pipeline():
        texts = dict(zip(queries["docno"], queries["text"], strict=True))
        return RoundTripFilter(bm25, 2) >> NegativeMiner(
            bm25, depth=3, texts=pt.apply.text(lambda row: texts[row["docno"]])
        )

    there, here = pipeline(), pipeline()
    made = distributed.transform(there, queries, batch_size=7, workers=2)
    pd.testing.assert_frame_equal(made, here(queries))
    counts = [(stage.seen, stage.dropped) for stage in here]
    assert [(stage.seen, stage.dropped) for stage in there] == counts and counts[0][1] > 0
    distributed.transform(there, queries, batch_size=7, workers=2)
    assert there[0].seen == 2 * here[0].seen
    pd.testing.assert_frame_equal(funnel(there), funnel(here))
    pd.testing.assert_frame_equal(there[0].dropped_examples, here[0].dropped_examples)
    stage = LengthFilter(5)
    index(tmp_path / "ray", pd.DataFrame(corpus(20)), Writer([2, 0, 1]) >> stage, workers=2)
    assert (stage.seen, stage.dropped) == (20, 20)  # each query has four words
    assert (stage.last_seen, len(stage.dropped_examples)) == (20, 5)


# Lost machines


@pytest.mark.slow
def test_run_continues_when_a_node_is_killed(tmp_path):
    """Without a replacement for the node; the files equal those of a local run."""
    ray = pytest.importorskip("ray")
    import psutil
    from ray.cluster_utils import Cluster

    ray.shutdown()
    texts = [" ".join(np.roll(tiny_llm.WORDS, n)[: 5 + n % 9]) for n in range(160)]
    documents = [{"docno": str(n), "text": text} for n, text in enumerate(texts)]
    settings = {"prompt": "zero-shot", "max_new_tokens": 8, "dtype": "float32", "device": "cpu"}
    model = tiny_llm.save(tmp_path / "model")

    def pipeline(wait):
        return Waits(100, tmp_path, wait) >> QueryGenerator(model, **settings) >> CopyFilter()

    queries = SyntheticQueries(tmp_path / "local", shard_size=16)
    (pipeline(False) >> queries).index(documents, batch_size=8)
    (tmp_path / "log").write_text("")
    small = {"object_store_memory": 10**8}
    cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    try:
        nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False)
        path = tmp_path / "ray"

        def waiting():
            return sum(int(docno) >= 100 for docno in (tmp_path / "log").read_text().split())

        def kill():
            try:
                assert wait_until(
                    lambda: waiting() == 2, seconds=300
                )  # both workers are in a batch
                assert stored_documents(manifest(path)) > 0
                (raylet,) = nodes[1].all_processes["raylet"]
                processes = psutil.Process(raylet.process.pid).children(recursive=True)
                cluster.remove_node(nodes[1], allow_graceful=False)
                for process in processes:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            finally:
                (tmp_path / "go").touch()

        made = SyntheticQueries(path, shard_size=16)
        with ThreadPoolExecutor(1) as other:
            killed = other.submit(kill)
            distributed.index(pipeline(True), documents, made, batch_size=8, workers=2)
            killed.result()
        assert files(path) == files(queries.path)
        runs = Counter((tmp_path / "log").read_text().split())
        assert len(runs) == 20 and sum(runs.values()) == 21  # one was lost and repeated
    finally:
        ray.shutdown()
        cluster.shutdown()


class Keeps(Stage):
    """A stage whose folder only one process may use."""

    def _required_columns(self):
        return ["qid"]

    def _one_process(self):
        return "leave out its folder"


@pytest.mark.slow
def test_a_stage_of_one_process_is_refused(tmp_path, ray):
    frame = pd.DataFrame(rows(3))
    for pipeline in (CopyFilter() >> Keeps(), Keeps):
        with pytest.raises(ValueError, match=r"Keeps\(\) cannot be applied by workers: leave out"):
            distributed.transform(pipeline, frame, workers=1)
    judge = RelevanceJudge("http://127.0.0.1:9", answers=tmp_path / "answers")
    with pytest.raises(ValueError, match="only one process may use the folder answers="):
        index(tmp_path / "queries", corpus(4), Writer() >> judge, workers=1)
    assert not (tmp_path / "answers").exists()
