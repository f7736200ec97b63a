"""Interrupted runs of ``index()``: resumed, they give the files of an uninterrupted run."""

import contextlib
import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextvars import copy_context
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writer import SETTINGS, Writer, corpus, files, index, rows

from pyterrier_inpars._fingerprint import StreamFingerprint
from pyterrier_inpars._stage import Stage
from pyterrier_inpars.queries import _resume as resume
from pyterrier_inpars.queries.artifact import SyntheticQueries


@settings(deadline=None, max_examples=30)
@given(
    documents=st.integers(0, 30),
    queries=st.lists(st.integers(0, 2), min_size=1, max_size=12),
    batch=st.integers(1, 7),
    shard_size=st.integers(1, 12),
    stops=st.lists(st.integers(0, 29), max_size=4),
)
def test_runs_stopped_anywhere_give_the_same_files(documents, queries, batch, shard_size, stops):
    with TemporaryDirectory() as folder:
        whole = index(
            f"{folder}/whole",
            corpus(documents),
            Writer(queries),
            batch=batch,
            shard_size=shard_size,
        )
        path = f"{folder}/stopped"
        for stop in stops:
            for how in ({"fail_at": str(stop)}, {}):
                with contextlib.suppress(OSError, KeyboardInterrupt):
                    index(
                        path,
                        corpus(documents, stop=None if how else stop),
                        Writer(queries, **how),
                        batch=batch,
                        shard_size=shard_size,
                    )
        again = index(path, corpus(documents), Writer(queries), batch=batch, shard_size=shard_size)
        assert files(path) == files(whole.path)
        assert not any(name.endswith(".part") for name in files(path))
        assert len(again) == sum(queries[i % len(queries)] for i in range(documents))


def test_stopped_after_every_document(tmp_path):
    whole = files(index(tmp_path / "whole", corpus(17)).path)
    for stop in range(17):
        path = tmp_path / str(stop)
        with pytest.raises(OSError, match="disk of the corpus"):
            index(path, corpus(17, stop=stop))
        with pytest.raises(KeyboardInterrupt):
            index(path, corpus(17), Writer(fail_at="16"))
        assert files(index(path, corpus(17)).path) == whole


def test_only_the_rest_is_generated(tmp_path):
    first, second = Writer(), Writer()
    with pytest.raises(OSError, match="disk of the corpus"):
        index(tmp_path / "queries", corpus(20, stop=14), first)
    manifest = json.loads((tmp_path / "queries" / "progress.json").read_text())
    assert manifest["documents"] == 6 and manifest["open"]["documents"] == 3
    index(tmp_path / "queries", corpus(20), second)
    assert set(second.written) == {str(i) for i in range(9, 20)}


def test_other_batches_and_shards_give_the_same_rows(tmp_path):
    whole = index(tmp_path / "whole", corpus(50), Writer([2, 0, 1]))
    for stop, batch, shard_size in [(17, 7, 4), (31, 2, 9), (None, 11, 1)]:
        try:
            again = index(
                tmp_path / "again",
                corpus(50, stop=stop),
                Writer([2, 0, 1]),
                batch=batch,
                shard_size=shard_size,
            )
        except OSError:
            assert stop
    pd.testing.assert_frame_equal(again.get_results(), whole.get_results())
    assert again.metadata["fingerprint"] == whole.metadata["fingerprint"]


def test_run_again_when_complete(tmp_path):
    queries = index(tmp_path / "queries", corpus(12))
    before, writer = files(queries.path), Writer()
    assert len(index(queries.path, corpus(12), writer)) == 12
    assert not writer.written and files(queries.path) == before
    for other, error in [(13, "is complete with 12 documents"), (11, "ended after 11 documents")]:
        with pytest.raises(ValueError, match=error):
            index(queries.path, corpus(other), writer)
    with pytest.raises(ValueError, match="differ in identifier, text or order"):
        index(queries.path, corpus(12, "another {}"), writer)
    assert not writer.written and files(queries.path) == before


KILLS = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from writer import corpus, index
calls, replace = 0, os.replace
def killed(source, target):
    global calls
    calls += 1
    if calls == {call} and not {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if calls == {call} and {after}:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = killed
index({path!r}, corpus(20))
"""


@pytest.mark.skipif(os.name != "posix", reason="no SIGKILL")
def test_killed_processes_are_resumed(tmp_path):
    """Killed before and after a shard or a manifest is renamed, the first and last one included."""
    whole = files(index(tmp_path / "whole", corpus(20)).path)
    moments = [(1, False), (1, True), (2, False), (4, True), (5, True), (9, False)]
    children = []
    for call, after in moments:
        path = str(tmp_path / f"killed-{call}-{after}")
        script = KILLS.format(
            tests=str(Path(__file__).parents[1]), call=call, after=after, path=path
        )
        children.append((path, subprocess.Popen([sys.executable, "-c", script])))
    for path, child in children:
        assert child.wait(120) == -signal.SIGKILL
        assert not SyntheticQueries(path).built()
        with pytest.raises((FileNotFoundError, RuntimeError)):
            SyntheticQueries(path).get_results()
        assert files(index(path, corpus(20)).path) == whole


# Changes between runs


def test_a_changed_corpus_is_refused(tmp_path):
    with pytest.raises(OSError, match="disk"):
        index(tmp_path / "queries", corpus(20, stop=14))
    before, writer = files(tmp_path / "queries"), Writer()
    with pytest.raises(ValueError, match="first 6 documents differ"):
        index(tmp_path / "queries", corpus(20, "another {}"), writer)
    with pytest.raises(ValueError, match="ended after 5 documents, .* has 9"):
        index(tmp_path / "queries", corpus(5), writer)
    assert not writer.written and files(tmp_path / "queries") == before


@pytest.mark.parametrize("place", [["extract"], ["prompt", "extract"], ["prompt", "a", "extract"]])
def test_a_function_that_was_only_named_is_not_compared_by_its_hash(tmp_path, place):
    def described(**function):
        for name in reversed(place):
            function = {name: function}
        return {"model": "m", **function}

    def interrupted(**function):
        with pytest.raises(OSError, match="disk"):
            index(path, corpus(20, stop=14), Writer(settings=described(**function)))

    path = tmp_path / "queries"
    interrupted(function="m.f")
    interrupted(function="m.f", hash="a")
    for other in ({"function": "m.g", "hash": "a"}, {"regex": "a"}):
        with pytest.raises(ValueError, match="started with other settings"):
            index(path, corpus(20), Writer(settings=described(**other)))
    index(path, corpus(20), Writer(settings=described(function="m.f", hash="a")))
    path = tmp_path / "hashed"
    interrupted(function="m.f", hash="a")
    with pytest.raises(ValueError, match="hash: was 'a', is 'b'"):
        index(path, corpus(20), Writer(settings=described(function="m.f", hash="b")))


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({}, {}),  # greedy, by the defaults of Sampling
        ({"seed": 1}, {}),
        ({"top_p": 0.9}, {"top_p": None}),
        ({"parameters": {"temperature": None, "seed": 5}, "seed": 5}, {"seed": None}),
        ({"temperature": 0.7, "parameters": {}}, {"temperature": 0.7, "parameters": {}}),
    ],
)
def test_sampling_that_a_server_decides_was_once_described_as_given(tmp_path, earlier, later):
    def parts(described):
        return {"parts": {"a": {"settings": described, "versions": []}}}

    base = {"temperature": None, "parameters": {"temperature": None}}
    old = base | {"top_p": 1.0, "seed": 0} | earlier
    new = base | {"top_p": None, "seed": None} | later
    same = not ({"top_p", "parameters"} & earlier.keys())
    for number, wrapped in enumerate([dict, parts]):
        path = tmp_path / str(number)
        with pytest.raises(OSError, match="disk"):
            index(path, corpus(20, stop=14), Writer(settings=wrapped(old)))
        if same:
            stored = index(path, corpus(20), Writer(settings=wrapped(new)))
            assert stored.metadata["settings"] == wrapped(new)
        else:
            with pytest.raises(ValueError, match="started with other settings"):
                index(path, corpus(20), Writer(settings=wrapped(new)))


def test_documents_that_failed_are_counted_once():
    known = resume.FailedDocument("0", "e", 1)
    state = resume.ResumeState("q", failed=[known])
    for docno in ("0", "1", "2", "1"):
        state.add_failure(docno, "e")
    assert state.progress.failed == 2
    assert [document.docno for document in state.failed] == ["0", "0", "1", "2", "1"]


def test_changed_settings_are_refused(tmp_path):
    path, prompt = tmp_path / "queries", "Example: " * 100
    old = {"prompt": prompt + "A", "seed": 0, "generation": {"n": 1, "top_p": None}}
    new = {"prompt": prompt + "B", "seed": 0, "generation": {"n": 2}, "model": "m"}
    with pytest.raises(OSError, match="disk"):
        index(path, corpus(20, stop=14), Writer(settings=old))
    with pytest.raises(ValueError, match="started with other settings") as error:
        index(path, corpus(20), Writer(settings=new))
    message = str(error.value)
    assert "generation.n: was 1, is 2" in message and "model: was None, is 'm'" in message
    assert "Example: A'" in message and "Example: B'" in message and "seed" not in message
    assert "top_p" not in message and len(message) < 800
    with pytest.raises(ValueError, match="seed: was 0, is None"):
        SyntheticQueries(path).index(rows(20))
    assert len(index(path, corpus(20), Writer(settings=dict(reversed(old.items()))))) == 20


def test_changed_package_versions_give_a_warning(tmp_path):
    path = tmp_path / "queries"
    with pytest.raises(OSError, match="disk"):
        index(path, corpus(20, stop=14))
    with pytest.warns(UserWarning, match="torch: was '1', is '2'"):
        index(path, corpus(20), Writer(settings=SETTINGS | {"versions": {"torch": "2"}}))
    assert SyntheticQueries(path).metadata["versions"] == [
        {"from_shard": 0, "packages": {"torch": "1"}},
        {"from_shard": 1, "packages": {"torch": "2"}},
    ]


def test_artifacts_of_version_0_1_are_read(tmp_path):
    """In the format of version 0.1; shards may be compressed to other bytes."""
    text = "".join(json.dumps(row) + "\n" for row in rows(3)).encode()
    data = gzip.compress(text, 1, mtime=7)
    mark = StreamFingerprint()
    for row in rows(3):
        mark = mark.extended(*row.values())
    manifest = {
        "type": "synthetic_queries",
        "format": "inpars",
        "package_hint": "pyterrier_inpars",
        "documents": 3,
        "fingerprint": mark.fingerprint,
        "queries": 3,
        "settings": {},
        "versions": [{"from_shard": 0, "packages": {}}],
        "shards": [
            {
                "file": "queries-00000.jsonl.gz",
                "sha256": hashlib.sha256(data).hexdigest(),
                "documents": 3,
                "queries": 3,
                "fingerprint": mark.fingerprint,
            }
        ],
    }
    for name in ("pt_meta.json", "progress.json"):
        path = tmp_path / name
        path.mkdir()
        (path / name).write_text(json.dumps(manifest))
        (path / "queries-00000.jsonl.gz").write_bytes(data)
        queries = SyntheticQueries(path)
        assert queries.verify() == {}
        queries.index(rows(3))
        assert [*queries.iter_results()] == rows(3)
        assert (path / "queries-00000.jsonl.gz").read_bytes() == data


# Pipelines


def test_two_generators_are_refused(tmp_path):
    other = Writer(settings={"model": "other"})
    with pytest.raises(ValueError, match="two generators, Writer.*own artifact"):
        index(tmp_path / "queries", corpus(5), Writer() >> other)

    def both():
        yield from Writer().transform_iter(corpus(3))
        yield from other.transform_iter(corpus(3))

    with pytest.raises(ValueError, match="two generators .*\n  model: was 'none', is 'other'"):
        SyntheticQueries(tmp_path / "queries").index(both())


@pytest.mark.parametrize("use", ["transform", "transform_iter", "pipeline", "corpus", "before"])
def test_only_the_stream_of_the_pipeline_is_counted(tmp_path, use):
    """Previews with the same or another generator, before, in and after its batches."""
    frame, writer, other = pd.DataFrame(corpus(4)), Writer(), Writer(settings={"model": "other"})

    def preview(inp=None):
        for generator in (writer, other):
            if use == "transform_iter":
                rows = list(generator.transform_iter(frame.to_dict("records")))
            elif use == "pipeline":
                rows = (generator >> Dropper(0))(frame)
            else:
                rows = generator(frame)
            assert len(rows) == 4
        return inp

    def previewed(stop=None):
        for document in corpus(12, stop=stop):
            preview()
            yield document

    def run(path, stop=None):
        stages = writer >> pt.apply.generic(preview) >> Dropper(0)
        if use == "before":
            stages = pt.apply.generic(preview) >> stages
        documents = corpus(12, stop=stop) if use == "before" else previewed(stop)
        return index(path, documents, stages)

    for stop in (4, 10):
        with pytest.raises(OSError, match="disk"):
            run(tmp_path / "queries", stop)
    queries = run(tmp_path / "queries")
    assert queries.metadata["documents"] == 12 == len(queries)
    plain = writer >> pt.apply.generic(preview) >> Dropper(0)
    clean = index(tmp_path / "clean", corpus(12), plain)
    assert files(queries.path) == files(clean.path)
    assert index(queries.path, corpus(12), plain).metadata == clean.metadata


class Bare(pt.Transformer):
    """A stage of another package, without a ``repr``."""

    def transform(self, inp):
        return inp


def test_stages_after_the_generator_are_part_of_the_manifest(tmp_path):
    stages = Writer() >> Dropper(3) >> pt.apply.generic(lambda frame: frame) >> Bare()
    queries = index(tmp_path / "queries", corpus(6), stages)
    assert queries.metadata["stages"] == [
        *["Dropper(3)", "pt.apply.generic()", f"<{__name__}.Bare object>"]
    ]
    assert index(tmp_path / "plain", corpus(6)).metadata["stages"] == []


@pytest.mark.parametrize(
    "other", [lambda: Dropper(1), lambda: Dropper(0) >> Bare(), lambda: pt.apply.generic(len)]
)
def test_changed_stages_after_the_generator_are_refused(tmp_path, other):
    path = tmp_path / "queries"
    with pytest.raises(OSError, match="disk"):
        index(path, corpus(20, stop=14), Writer() >> Dropper(0))
    before = files(path)
    for stages in (Writer() >> other(), Writer()):
        with pytest.raises(ValueError, match=r"other settings:\n  stages: was \['Dropper\(0\)'\]"):
            index(path, corpus(20), stages)
    assert files(path) == before
    # stages before the generator are covered by the fingerprint of the documents
    assert len(index(path, corpus(20), Bare() >> Writer() >> Dropper(0))) == 20


def test_stages_without_a_generator_are_compared(tmp_path):
    queries = SyntheticQueries(tmp_path / "queries", shard_size=5)

    def stopped():
        yield from rows(20)[:15]
        raise OSError

    with pytest.raises(OSError):
        (Dropper(0) >> queries).index(stopped(), batch_size=5)
    with pytest.raises(ValueError, match=r"stages: was \['Dropper\(0\)'\], is \['Dropper\(9\)'\]"):
        (Dropper(9) >> queries).index(rows(20), batch_size=5)
    assert len((Dropper(0) >> queries).index(rows(20), batch_size=5)) == 20


def test_stages_of_version_0_1_are_unknown(tmp_path):
    path = tmp_path / "queries"
    for stages, warns in ((Writer(), False), (Writer() >> Dropper(0), True)):
        with pytest.raises(OSError, match="disk"):
            index(path, corpus(20, stop=14), stages)
        manifest = json.loads((path / "progress.json").read_text())
        del manifest["stages"]
        (path / "progress.json").write_text(json.dumps(manifest))
        with (
            pytest.warns(match="stages after .*: check that they were Dropper")
            if warns
            else (contextlib.nullcontext())
        ):
            assert len(index(path, corpus(20), stages)) == 20
        assert "stages" not in SyntheticQueries(path).metadata
        shutil.rmtree(path)


def test_prompts_kept_by_version_0_1_are_unknown(tmp_path):
    """Later versions compare the setting keep_prompt."""
    path = tmp_path / "queries"
    kept = Writer(settings=SETTINGS | {"keep_prompt": True})
    with pytest.raises(OSError, match="disk"):
        index(path, corpus(20, stop=14))
    with pytest.raises(ValueError, match="keep_prompt: was None, is True"):
        index(path, corpus(20), kept)
    manifest = json.loads((path / "progress.json").read_text())
    del manifest["stages"]
    (path / "progress.json").write_text(json.dumps(manifest))
    assert len(index(path, corpus(20), kept)) == 20


def test_stages_around_the_generator(tmp_path):
    def pipeline(path, stop=None):
        documents = ({"id": d["docno"], "body": d["text"]} for d in corpus(30, stop=stop))
        rename = pt.apply.generic(
            lambda frame: frame.rename(columns={"id": "docno", "body": "text"})
        )
        queries = SyntheticQueries(path, shard_size=5)
        return (rename >> Writer() >> Dropper() >> queries).index(documents, batch_size=3)

    whole = pipeline(tmp_path / "whole")
    for stop in (7, 14, 25):
        with pytest.raises(OSError, match="disk"):
            pipeline(tmp_path / "stopped", stop)
    pipeline(tmp_path / "stopped")
    assert files(tmp_path / "stopped") == files(whole.path)
    assert list(whole.get_results().docno) == [str(i) for i in range(12, 30)]
    assert [s["documents"] for s in whole.metadata["shards"]] == [15, 6, 6, 3]


class Dropper(Stage):
    """Drops the queries of the first documents: whole batches."""

    def __init__(self, first=12):
        self.first = first

    def _required_columns(self):
        return ["docno"]

    def _transform(self, inp):
        return inp[inp.docno.astype(int) >= self.first]


def test_generator_in_small_batches_and_lazy_stages(tmp_path):
    """Documents may be added a few at a time, and their rows yielded at once or one by one."""

    class Lazy(Writer):
        def transform_iter(self, inp):
            for document in inp:
                yield from super().transform_iter([document])

    class Slices(Writer):
        def _transform(self, inp):
            return pd.concat([Writer._transform(self, inp[i : i + 1]) for i in range(len(inp))])

    whole = index(tmp_path / "whole", corpus(20), Writer([1, 0, 2]), batch=5)
    for kind in (Lazy, Slices):
        path = tmp_path / kind.__name__
        for stop in (6, 12, 17):
            with pytest.raises(OSError, match="disk"):
                index(path, corpus(20, stop=stop), kind([1, 0, 2]), batch=5)
        again = index(path, corpus(20), kind([1, 0, 2]), batch=5)
        pd.testing.assert_frame_equal(again.get_results(), whole.get_results())
        assert again.metadata["fingerprint"] == whole.metadata["fingerprint"]


def test_rows_without_a_generator(tmp_path):
    def stopped(n):
        yield from rows(30)[:n]
        raise KeyboardInterrupt

    queries = SyntheticQueries(tmp_path / "stopped", shard_size=7)
    for n in (3, 9, 9, 25):
        with pytest.raises(KeyboardInterrupt):
            queries.index(stopped(n))
    assert len(queries.index(iter(rows(30)))) == 30
    whole = SyntheticQueries(tmp_path / "whole", shard_size=7).index(rows(30))
    assert files(queries.path) == files(whole.path)
    assert queries.get_results().to_dict("records") == rows(30)
    assert queries.metadata["settings"] is None
    assert [s["documents"] for s in queries.metadata["shards"]] == [7, 7, 7, 7, 2]
    with pytest.raises(ValueError, match="differ"):
        queries.index(rows(30)[::-1])
    with pytest.raises(ValueError, match="complete with 30"):
        queries.index(rows(31))


# The resume state and the fingerprint


def test_fingerprint_separates_fields():
    assert StreamFingerprint().extended("a", "bc") != StreamFingerprint().extended("ab", "c")
    assert StreamFingerprint().extended("a").extended("b") != StreamFingerprint().extended("a", "b")


def test_all_documents_are_pending_without_a_resume_state():
    frame = pd.DataFrame(corpus(3))
    assert resume.pending_documents(frame, SETTINGS) is frame
    assert len(Writer()(frame)) == 3


def test_pending_documents_of_another_text_field():
    frame = pd.DataFrame(corpus(3)).rename(columns={"text": "body"})
    state = resume.ResumeState("any", shard_ends=[StreamFingerprint().extended("0", "document 0")])
    with resume.activated(state):
        assert [*resume.pending_documents(frame, {}, "body").docno] == ["1", "2"]


def test_resume_state_is_active_only_inside_its_block():
    frame = pd.DataFrame(corpus(3))
    outer, inner = resume.ResumeState("outer"), resume.ResumeState("inner")
    with resume.activated(outer):
        resume.pending_documents(frame, {})
        with pytest.raises(KeyError), resume.activated(inner):
            resume.pending_documents(frame, {})
            raise KeyError
        thread = threading.Thread(
            target=resume.pending_documents, args=(frame, {"model": "another"})
        )
        thread.start()
        thread.join()
        resume.pending_documents(frame, {})
    resume.pending_documents(frame, {"model": "another"})
    assert (outer.position.documents, inner.position.documents) == (6, 3)


def test_index_leaves_no_resume_state_active(tmp_path):
    index(tmp_path / "a", corpus(3))
    with pytest.raises(KeyboardInterrupt):
        index(tmp_path / "b", corpus(3), Writer(fail_at="1"))
    assert copy_context().get(resume._active) is None


def test_threads_index_in_parallel(tmp_path):
    threads = [
        threading.Thread(target=index, args=(tmp_path / str(i), corpus(20 + i))) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(SyntheticQueries(tmp_path / str(i))) for i in range(4)] == [20, 21, 22, 23]
