"""Pipelines over a Ray cluster, against the same ones run here."""

import contextlib
import os
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
import pytest
import tiny_llm
from hypothesis import given
from hypothesis import strategies as st
from writer import SETTINGS, Writer, corpus, files, rows
from writer import index as local

from pyterrier_inpars import CopyFilter, QueryGenerator, ScoreFilter, distributed
from pyterrier_inpars._fingerprint import StreamFingerprint
from pyterrier_inpars._stage import Stage
from pyterrier_inpars.queries._resume import ResumeState
from pyterrier_inpars.queries._shards import documents_kept
from pyterrier_inpars.queries.artifact import SyntheticQueries

HOW = {"batch_size": 3, "workers": 1}


@pytest.fixture(scope="module", autouse=True)
def in_the_workers():
    """What Ray's processes inherit: where the classes of this file are, and no report of use."""
    with pytest.MonkeyPatch.context() as patch:
        tests = Path(__file__).parents[1]
        patch.setenv(
            "PYTHONPATH", f"{tests}{os.pathsep}{tests / 'distributed'}", prepend=os.pathsep
        )
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
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
    """Takes longest for the first documents, so that the last are done first."""

    def _transform(self, inp):
        time.sleep(0.3 if int(inp.docno[0]) % 12 == 0 else 0)
        return super()._transform(inp)


class Ends(Writer):
    """Ends its process at one document: as many times as there are files in a folder."""

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
    """Before the generator: notes the first document of a batch, and waits from one of them on."""

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


def comes_true(condition, seconds=60):
    """Whether the condition holds at some time from now on, asked again and again."""
    deadline = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return held


# Without Ray


def test_ray_is_named_where_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for act in (
        lambda: index(tmp_path / "queries", corpus(3)),
        lambda: distributed.transform(CopyFilter(), pd.DataFrame(rows(3))),
    ):
        with pytest.raises(ImportError, match=r"pip install pyterrier_inpars\[ray\]"):
            act()
    assert not (tmp_path / "queries").exists()


@given(st.lists(st.sampled_from("abcdef"), max_size=20), st.integers(1, 8))
def test_parts_of_whole_queries(qids, size):
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


def test_what_is_stored_is_not_handed_out():
    """But for the first batch, which tells the settings."""
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
    assert [part.records for part in parts] == [documents[i : i + 4] for i in range(0, 20, 4)]
    assert parts[3].name == "documents 13 to 16 ('12' to '15')"


# On a cluster


def test_java_is_not_ended(tmp_path, monkeypatch):
    """Ray is not started where Java would die of it."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setitem(sys.modules, "jnius_config", SimpleNamespace(vm_running=True))
    with pytest.raises(RuntimeError, match=r"call ray.init\(\) before .* Java"):
        index(tmp_path / "queries", corpus(3))


@pytest.mark.slow
def test_equal_to_a_local_run(tmp_path, ray):
    whole = local(tmp_path / "local", corpus(50), Writer([2, 0, 1]))
    made = index(tmp_path / "ray", corpus(50), Slow([2, 0, 1]), workers=2)
    assert files(made.path) == files(whole.path)
    assert files(index(tmp_path / "none", []).path) == files(local(tmp_path / "empty", []).path)


@pytest.mark.slow
def test_default_batches_are_pyterriers(tmp_path, ray):
    class Large(Writer):
        batch_size = 130

    queries = SyntheticQueries(tmp_path / "local", shard_size=10)
    (Large() >> CopyFilter() >> queries).index(corpus(300))
    pipeline = Large() >> CopyFilter()
    made = index(tmp_path / "ray", corpus(300), pipeline, batch_size=None, shard_size=10)
    assert files(made.path) == files(queries.path)


@pytest.mark.slow
def test_goes_on_there_and_here(tmp_path, ray):
    """Runs stopped by their corpus, here and on the cluster, and ended by the other."""
    whole = files(local(tmp_path / "whole", corpus(40)).path)
    for number, runs in enumerate([(local, index, index), (index, local)]):
        path = tmp_path / str(number)
        for run, stop in zip(runs[:-1], (14, 29), strict=False):
            with pytest.raises(OSError, match="disk of the corpus"):
                run(path, corpus(40, stop=stop))
            assert documents_kept(manifest(path)) == {14: 9, 29: 24}[stop]
        assert files(runs[-1](path, corpus(40)).path) == whole


def manifest(path):
    return SyntheticQueries(path)._manifest()


@pytest.mark.slow
def test_complete_other_and_damaged(tmp_path, ray):
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
def test_errors_of_the_pipeline(tmp_path, ray):
    """They are what they are, come in their turn, and keep what was done before."""

    class Refuses(Slow):
        def _transform(self, inp):
            if "13" in set(inp.docno):
                raise LookupError("no word for it")
            return super()._transform(inp)

    for number, pipeline in enumerate((Refuses(), lambda: Refuses())):
        path = tmp_path / str(number)
        with pytest.raises(LookupError, match="no word for it") as error:
            index(path, corpus(30), pipeline)
        told = str(error.value.__cause__)
        assert "documents 13 to 15 ('12' to '14')" in told and "in run" in told
        assert manifest(path)["documents"] == 6 and manifest(path)["open"]["documents"] == 3
        assert files(index(path, corpus(30)).path) == files(local(tmp_path / "w", corpus(30)).path)

    def broken():
        raise OSError("no such model")

    with pytest.raises(OSError, match="no such model"):
        index(tmp_path / "broken", corpus(30), broken)
    assert not (tmp_path / "broken").exists()


@pytest.mark.slow
def test_pipelines_that_cannot_be_followed(tmp_path, ray):
    class Upper(Stage):
        def _required_columns(self):
            return ["text"]

        def _transform(self, inp):
            return inp.assign(text=inp.text.str.upper())

    for pipeline, error in [
        (CopyFilter(), "has no QueryGenerator; distributed.transform"),
        (Upper() >> Writer(), "not given the documents of the corpus, with their 'text'"),
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
def test_lost_workers(tmp_path, ray, monkeypatch):
    """Two lose two batches, which are done again; one that always ends them is named."""
    whole = files(local(tmp_path / "whole", corpus(40)).path)
    marks = tmp_path / "marks"
    marks.mkdir()
    for name in "ab":
        (marks / name).touch()
    made = index(tmp_path / "queries", corpus(40), Ends("13", marks), workers=2)
    assert not list(marks.iterdir()) and files(made.path) == whole
    for name in range(9):
        (marks / str(name)).touch()
    monkeypatch.setattr(distributed, "_LOSSES", 2)
    with pytest.raises(RuntimeError, match="workers end at documents 13 to 15 .*memory enough"):
        index(tmp_path / "again", corpus(40), Ends("13", marks))
    assert len(list(marks.iterdir())) == 7
    (kept,) = (tmp_path / "again").glob("*.open")
    assert files(local(tmp_path / "again", corpus(40)).path) == whole and not kept.exists()


@pytest.mark.slow
def test_reads_no_further_ahead_than_it_must(tmp_path, ray):
    """The first batch takes long; what is read meanwhile is bounded."""
    read = []

    def documents():
        for document in corpus(300):
            read.append(document)
            yield document

    args = tmp_path / "queries", documents(), Waits(0, tmp_path) >> Writer()
    thread = threading.Thread(target=index, args=args)
    thread.start()
    most = distributed._AHEAD * 3
    try:
        assert comes_true(lambda: len(read) >= most)
        time.sleep(1)
        assert len(read) == most
    finally:
        (tmp_path / "go").touch()
        thread.join()
    assert len(SyntheticQueries(tmp_path / "queries")) == 300


@pytest.mark.slow
def test_ctrl_c(tmp_path, ray, capsys):
    """While the workers are at it: what is done is kept, and the run can go on."""
    path = tmp_path / "queries"

    def interrupt():
        log = tmp_path / "log"
        log.touch()
        comes_true(
            lambda: (told := manifest(path)) and told["documents"] and "12" in log.read_text()
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
    told = capsys.readouterr().err
    kept = documents_kept(manifest(path))
    assert 5 <= kept <= 12
    assert f"keeps the queries of {kept} documents: run the same again to go on" in told
    (tmp_path / "go").touch()
    index(path, corpus(40), Waits(12, tmp_path) >> Writer())
    assert files(path) == files(local(tmp_path / "whole", corpus(40)).path)


@pytest.mark.slow
def test_transform(ray):
    class Rank(Stage):
        """Sees one query at a time, as rerankers do, and says which process did it."""

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


# A machine that is lost


@pytest.mark.slow
def test_a_node_is_killed(tmp_path):
    """With a tiny model; what the run makes is what a local one makes."""
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
                assert comes_true(lambda: waiting() == 2, seconds=300)  # both workers in a batch
                assert documents_kept(manifest(path)) > 0
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
        assert len(runs) == 20 and sum(runs.values()) == 21  # the one lost, and done again
    finally:
        ray.shutdown()
        cluster.shutdown()
