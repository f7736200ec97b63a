"""SyntheticQueries and its state, with a stage that stands for the LLM."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from contextvars import copy_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import web as web_server
from hypothesis import given, settings
from hypothesis import strategies as st
from writer import SETTINGS, Writer, corpus, files, index, rows

from pyterrier_inpars._fingerprint import StreamFingerprint
from pyterrier_inpars._stage import Stage, check_strings
from pyterrier_inpars.datasets import published
from pyterrier_inpars.datasets._download import DownloadError
from pyterrier_inpars.evaluation import exclude_fewshot_topics
from pyterrier_inpars.queries import _resume as resume
from pyterrier_inpars.queries import _shards as shards
from pyterrier_inpars.queries.artifact import SyntheticQueries


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


# What it gives back


def test_frames(tmp_path):
    queries = index(tmp_path / "new" / "queries", corpus(12), Writer([1, 2, 0]))
    results = queries.get_results()
    pt.validate.result_frame(results, extra_columns=["query", "text", "score", "log_probs"])
    assert list(results.columns[:4]) == ["qid", "query", "docno", "text"]
    assert list(results.qid) == [f"{i}-{n}" for i in range(12) for n in range([1, 2, 0][i % 3])]
    assert results.log_probs[3] == [-1 / 6, 0.0]
    assert all(type(p) is float for log_probs in results.log_probs for p in log_probs)
    assert set(results.finish_reason) == {"stop"}
    assert len(queries) == len(results) == 12
    topics, qrels = queries.get_topics(), queries.get_qrels()
    pd.testing.assert_frame_equal(topics, results[["qid", "query"]])
    pd.testing.assert_frame_equal(qrels, results[["qid", "docno"]].assign(label=1))
    assert list(queries.iter_results()) == results.to_dict("records")


def test_metadata(tmp_path):
    queries = index(tmp_path / "queries", corpus(12))
    known = queries.metadata
    assert (known["type"], known["format"]) == pt.inspect.artifact_type_format(queries)
    assert known["package_hint"] == "pyterrier_inpars"
    assert (known["documents"], known["queries"]) == (12, 12)
    assert known["settings"] == {k: v for k, v in SETTINGS.items() if k != "versions"}
    assert known["versions"] == [{"from_shard": 0, "packages": {"torch": "1"}}]
    assert [s["documents"] for s in known["shards"]] == [6, 6]
    mark = StreamFingerprint()
    for document in corpus(12):
        mark = mark.extended(document["docno"], document["text"])
    assert known["fingerprint"] == mark.fingerprint == known["shards"][-1]["fingerprint"]


def test_fingerprint_tells_field_boundaries():
    assert StreamFingerprint().extended("a", "bc") != StreamFingerprint().extended("ab", "c")
    assert StreamFingerprint().extended("a").extended("b") != StreamFingerprint().extended("a", "b")


@pytest.mark.parametrize("documents", [0, 4])
def test_no_queries(tmp_path, documents):
    queries = index(tmp_path / "queries", corpus(documents), Writer([0]))
    assert len(queries) == 0 and queries.metadata["documents"] == documents
    for frame in (queries.get_results(), queries.get_topics(), queries.get_qrels()):
        assert frame.empty and "qid" in frame


def test_inspection(tmp_path):
    queries = SyntheticQueries(tmp_path / "queries")
    assert pt.inspect.indexer_inputs(queries) == [["qid", "query", "docno", "text"]]
    assert repr(queries) == f"SyntheticQueries({str(tmp_path / 'queries')!r})"
    schematic = pt.schematic.transformer_schematic(Writer() >> queries)
    assert schematic["transformers"][-1]["label"] == "Synthetic Queries"
    assert pt.schematic.draw(Writer() >> queries)
    with pytest.raises(ValueError, match="shard_size"):
        SyntheticQueries(tmp_path, shard_size=0)


# Stopped and run again


@settings(deadline=None, max_examples=30)
@given(
    documents=st.integers(0, 30),
    queries=st.lists(st.integers(0, 2), min_size=1, max_size=12),
    batch=st.integers(1, 7),
    shard_size=st.integers(1, 12),
    stops=st.lists(st.integers(0, 29), max_size=4),
)
def test_stopped_anywhere(documents, queries, batch, shard_size, stops):
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
def test_killed(tmp_path):
    """Before and after a shard or a manifest takes its place, the first and the last included."""
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


def test_changed_corpus(tmp_path):
    with pytest.raises(OSError, match="disk"):
        index(tmp_path / "queries", corpus(20, stop=14))
    before, writer = files(tmp_path / "queries"), Writer()
    with pytest.raises(ValueError, match="first 6 documents differ"):
        index(tmp_path / "queries", corpus(20, "another {}"), writer)
    with pytest.raises(ValueError, match="ended after 5 documents, .* has 9"):
        index(tmp_path / "queries", corpus(5), writer)
    assert not writer.written and files(tmp_path / "queries") == before


def test_changed_settings(tmp_path):
    path, prompt = tmp_path / "queries", "Example: " * 100
    old = {"prompt": prompt + "A", "seed": 0, "generation": {"n": 1, "top_p": None}}
    new = {"prompt": prompt + "B", "seed": 0, "generation": {"n": 2}, "model": "m"}
    with pytest.raises(OSError, match="disk"):
        index(path, corpus(20, stop=14), Writer(settings=old))
    with pytest.raises(ValueError, match="started with other settings") as error:
        index(path, corpus(20), Writer(settings=new))
    told = str(error.value)
    assert "generation.n: was 1, is 2" in told and "model: was None, is 'm'" in told
    assert "Example: A'" in told and "Example: B'" in told and "seed" not in told
    assert "top_p" not in told and len(told) < 800
    with pytest.raises(ValueError, match="seed: was 0, is None"):
        SyntheticQueries(path).index(rows(20))
    assert len(index(path, corpus(20), Writer(settings=dict(reversed(old.items()))))) == 20


def test_changed_packages(tmp_path):
    path = tmp_path / "queries"
    with pytest.raises(OSError, match="disk"):
        index(path, corpus(20, stop=14))
    with pytest.warns(UserWarning, match="torch: was '1', is '2'"):
        index(path, corpus(20), Writer(settings=SETTINGS | {"versions": {"torch": "2"}}))
    assert SyntheticQueries(path).metadata["versions"] == [
        {"from_shard": 0, "packages": {"torch": "1"}},
        {"from_shard": 1, "packages": {"torch": "2"}},
    ]


# Other pipelines


def test_two_generators(tmp_path):
    class Both(Stage):
        def _required_columns(self):
            return ["docno", "text"]

        def _transform(self, inp):
            return pd.concat([Writer()(inp), Writer(settings={"model": "other"})(inp)])

    with pytest.raises(ValueError, match="two generators .*\n  model: was 'none', is 'other'"):
        index(tmp_path / "queries", corpus(5), Both())


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
    """Drops the queries of the first twelve documents: whole batches."""

    def _required_columns(self):
        return ["docno"]

    def _transform(self, inp):
        return inp[inp.docno.astype(int) >= 12]


def test_generator_in_small_batches_and_lazy_stages(tmp_path):
    """Documents may be admitted a few at a time, their rows given out at once or one by one."""

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
    assert queries.metadata["settings"] == {}
    assert [s["documents"] for s in queries.metadata["shards"]] == [7, 7, 7, 7, 2]
    with pytest.raises(ValueError, match="differ"):
        queries.index(rows(30)[::-1])
    with pytest.raises(ValueError, match="complete with 30"):
        queries.index(rows(31))


def test_a_stored_set_is_a_source_for_another(tmp_path):
    first = index(tmp_path / "first", corpus(12))
    second = (
        pt.apply.generic(lambda f: f[f.qid != "3-0"]) >> SyntheticQueries(tmp_path / "b")
    ).index(first.iter_results())
    expected = first.get_results().query("qid != '3-0'").reset_index(drop=True)
    pd.testing.assert_frame_equal(second.get_results(), expected)


# What it refuses


def test_same_document_twice(tmp_path):
    documents = [*corpus(20)]
    path = tmp_path / "queries"
    for twice, error in [(13, "qid '13-0' .* document '13' twice"), (2, "qid '2-0' .* '2' twice")]:
        with pytest.raises(ValueError, match=error):
            index(path, [*documents[:15], documents[twice], *documents[15:]])
    with pytest.raises(
        RuntimeError, match="holds 15 of the corpus's documents; run the same index"
    ):
        SyntheticQueries(path).get_results()
    assert len(index(path, documents)) == 20


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"text": None}, "text must be a string, but is None at qid 'q1'"),
        ({"docno": 1}, "docno must be a string, but is 1 at qid 'q1'"),
        ({"query": float("nan")}, "query must be a string, but is nan"),
        (
            {"more": pd.Timestamp(0)},
            "cannot store qid 'q1': .*Timestamp.* cannot be written as JSON",
        ),
        ({"text": "half \ud800"}, "'q1' holds text that is not Unicode"),
        ({"more": "half \ud800"}, "cannot store qid 'q1'.*surrogates"),
    ],
)
def test_bad_row(tmp_path, row, error):
    first, second = rows(2)
    queries = SyntheticQueries(tmp_path / "queries", shard_size=1)
    with pytest.raises(ValueError, match=error):
        queries.index([first, second | row])
    assert len(queries.index([first, second])) == 2


@pytest.mark.parametrize("column", ["qid", "query", "docno", "text"])
def test_missing_column(tmp_path, column):
    row = {name: value for name, value in rows(1)[0].items() if name != column}
    with pytest.raises(ValueError, match=f"lacks the column '{column}'"):
        SyntheticQueries(tmp_path / "queries").index([row])
    assert not (tmp_path / "queries").exists()


def test_absent_and_unfinished(tmp_path):
    queries = SyntheticQueries(tmp_path / "queries")
    reads = [len, SyntheticQueries.get_results, SyntheticQueries.build_package]
    for read in reads:
        with pytest.raises(FileNotFoundError, match="holds nothing: run"):
            read(queries)
    with pytest.raises(OSError, match="disk"):
        index(queries.path, corpus(20, stop=14))
    for read in reads:
        with pytest.raises(RuntimeError, match="holds 9 of the corpus's documents; run the same"):
            read(queries)


def test_path_in_use(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="a folder of its own"):
        index(tmp_path / "file", corpus(3))
    with pytest.raises(FileExistsError, match="a folder of its own"):
        index(tmp_path, corpus(3))
    (tmp_path / "pt_meta.json").write_text('{"type": "sparse_index", "format": "pisa"}')
    with pytest.raises(FileExistsError, match="another artifact, .*'sparse_index', 'pisa'"):
        index(tmp_path, corpus(3))
    assert (tmp_path / "file").read_text() == "mine"


# What is damaged, and made again


def damage(file, how):
    data = file.read_bytes()
    if how == "gone":
        file.unlink()
    elif how == "packed again":
        file.write_bytes(gzip.compress(gzip.decompress(data), mtime=1))
    else:
        file.write_bytes(
            {"cut": data[:-9], "empty": b"", "flipped": bytes([data[0] ^ 1]) + data[1:]}[how]
        )


@pytest.mark.parametrize("how", ["gone", "packed again", "cut", "empty", "flipped"])
def test_damaged_shard(tmp_path, how):
    queries = index(tmp_path / "queries", corpus(12))
    assert queries.verify() == {}
    damage(queries.path / "queries-00001.jsonl.gz", how)
    error = "queries-00001.jsonl.gz (is missing|has been damaged).* run the same index"
    with pytest.raises(ValueError, match=error):
        queries.get_results()
    ((name, fault),) = queries.verify().items()
    assert name == "queries-00001.jsonl.gz" and name in fault


@settings(deadline=None, max_examples=40)
@given(
    queries=st.lists(st.integers(0, 2), min_size=1, max_size=12),
    batch=st.integers(1, 7),
    shard_size=st.integers(1, 12),
    damaged=st.sets(st.integers(0, 29), min_size=1, max_size=5),
    stop=st.none() | st.integers(0, 29),
)
def test_damaged_shards_are_made_again_alone(queries, batch, shard_size, damaged, stop):
    """Whole or unfinished artifacts; the second try is stopped as well, and the third gets all."""
    how = {"batch": batch, "shard_size": shard_size}
    with TemporaryDirectory() as folder:
        whole = index(f"{folder}/whole", corpus(30), Writer(queries), **how)
        expected, known = files(whole.path), whole.metadata["shards"]
        path = Path(folder, "damaged")
        with contextlib.suppress(OSError):
            index(path, corpus(30, stop=stop), Writer(queries), **how)
        names = sorted(path.glob("*.gz")) if path.exists() else []
        harmed = {names[n] for n in damaged if n < len(names)}
        for file in harmed:
            damage(file, "gone" if len(file.name) % 2 else "cut")
        if names:
            assert SyntheticQueries(path).verify().keys() == {file.name for file in harmed}
        times = {file: file.stat().st_mtime_ns for file in names if file not in harmed}
        again = Writer(queries)
        with contextlib.suppress(OSError):
            index(path, corpus(30, stop=17), again, **how)
        index(path, corpus(30), again, **how)
        assert files(path) == expected and SyntheticQueries(path).verify() == {}
        assert times == {file: file.stat().st_mtime_ns for file in times}
        ends = np.cumsum([entry["documents"] for entry in known])
        if stop is None:
            assert set(again.written) == {
                str(n)
                for n in range(30)
                if path / known[np.searchsorted(ends, n + 1)]["file"] in harmed
            }


def test_made_again_in_other_batches(tmp_path):
    """A batch then holds documents of several damaged shards and of sound ones."""
    queries = index(tmp_path / "queries", corpus(40), Writer([1, 2, 0]), batch=3, shard_size=5)
    before = queries.get_results()
    for n in (0, 2, 3, 6):
        (queries.path / f"queries-{n:05d}.jsonl.gz").unlink()
    again = Writer([1, 2, 0])
    index(queries.path, corpus(40), again, batch=16)
    assert set(again.written) == {str(n) for n in range(40) if n // 6 in (0, 2, 3, 6)}
    pd.testing.assert_frame_equal(queries.get_results(), before)
    assert queries.verify() == {}


def test_made_again_on_another_machine(tmp_path):
    """The rows that differ take the place of those lost, and the manifest says what made them."""
    queries = index(tmp_path / "queries", corpus(20))
    (queries.path / "queries-00001.jsonl.gz").unlink()
    other = Writer([2], settings=SETTINGS | {"versions": {"torch": "2"}})
    with pytest.warns(UserWarning) as told:
        index(queries.path, corpus(20), other)
    assert any("queries-00001.jsonl.gz was damaged" in str(w.message) for w in told)
    assert queries.verify() == {} and set(other.written) == {str(n) for n in range(6, 12)}
    assert len(queries) == len(queries.get_results()) == 26
    packages = [entry.get("packages") for entry in queries.metadata["shards"]]
    assert packages == [None, {"torch": "2"}, None, None]


def test_rows_made_again_without_a_generator(tmp_path):
    """Here one document comes in several shards."""
    written = [row | {"docno": str(n % 3)} for n, row in enumerate(rows(20))]
    queries = SyntheticQueries(tmp_path / "queries", shard_size=4).index(written)
    before = files(queries.path)
    for n in (1, 4):
        (queries.path / f"queries-{n:05d}.jsonl.gz").unlink()
    assert files(queries.index(written).path) == before


def test_nothing_is_made_again_from_another_corpus(tmp_path):
    queries = index(tmp_path / "queries", corpus(20))
    (queries.path / "queries-00001.jsonl.gz").unlink()
    before, writer = files(queries.path), Writer()
    for other, error in [
        (
            [*corpus(7), {"docno": "7", "text": "other"}, *[*corpus(20)][8:]],
            "first 12 documents differ",
        ),
        ([*corpus(20)][:8], "ended after 8 documents"),
    ]:
        with pytest.raises(ValueError, match=error):
            index(queries.path, other, writer)
    with pytest.raises(ValueError, match="started with other settings"):
        index(queries.path, corpus(20), Writer(settings={"model": "other"}))
    assert files(queries.path) == before


def changed(text, entry=None, **values):
    manifest = json.loads(text)
    (manifest if entry is None else manifest["shards"][entry]).update(values)
    return json.dumps(manifest)


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text[:-40],
        lambda text: "",
        lambda text: "\xff\x00",
        lambda text: "[1]",
        lambda text: changed(text, documents=13),
        lambda text: changed(text, queries=11),
        lambda text: changed(text, fingerprint="0" * 64),
        lambda text: changed(text, shards=None),
        lambda text: changed(text, shards=[{}]),
        lambda text: changed(text, shards=[]),
        lambda text: changed(text, versions=None),
        lambda text: changed(text, 1, file="../../secret"),
        lambda text: changed(text, 1, documents="6"),
        lambda text: changed(text, 0, sha256=None),
    ],
)
def test_damaged_manifest(tmp_path, harm):
    queries = index(tmp_path / "queries", corpus(12))
    file = queries.path / "pt_meta.json"
    file.write_text(harm(file.read_text()))
    before = files(queries.path)
    for act in (SyntheticQueries.get_results, lambda q: index(q.path, corpus(12))):
        with pytest.raises(ValueError, match="the manifest .*pt_meta.json is damaged: take"):
            act(queries)
    assert list(queries.verify()) == ["pt_meta.json"] and files(queries.path) == before


def test_verify_reads_the_rows(tmp_path):
    queries = index(tmp_path / "queries", corpus(18))
    with pytest.raises(FileNotFoundError, match="holds nothing"):
        SyntheticQueries(tmp_path / "none").verify()
    names = [f"queries-{n:05d}.jsonl.gz" for n in range(3)]
    manifest = json.loads((queries.path / "pt_meta.json").read_bytes())

    def put(n, data):
        (queries.path / names[n]).write_bytes(data)
        manifest["shards"][n]["sha256"] = hashlib.sha256(data).hexdigest()

    put(2, (queries.path / names[0]).read_bytes())
    put(1, gzip.compress(b'{"qid": "6-0"}\n'))
    (queries.path / "pt_meta.json").write_text(json.dumps(manifest))
    assert queries.verify() == {
        names[1]: f"{queries.path / names[1]} has 1 queries, but the manifest says 6",
        names[2]: f"{queries.path / names[2]} has the qid '0-0', which came before",
    }
    for data in (
        b"no gzip",
        gzip.compress(b"no json"),
        gzip.compress(b"{}\n"),
        gzip.compress(b"[1]"),
    ):
        put(1, data)
        (queries.path / "pt_meta.json").write_text(json.dumps(manifest))
        assert list(queries.verify()) == names[1:]
    put(1, gzip.compress(b'{"qid": "6-0"}\n'))
    (queries.path / "pt_meta.json").write_text(json.dumps(manifest))
    whole = files(index(tmp_path / "whole", corpus(18)).path)
    with pytest.warns(UserWarning, match="not with the same bytes"):
        index(queries.path, corpus(18))
    assert queries.verify() == {} and all(
        files(queries.path)[name] == whole[name] for name in names
    )


def test_artifacts_of_the_first_version_are_read(tmp_path):
    """Written out as version 0.1 of the format, whose shards need not have our compressed bytes."""
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


# Ctrl-C, errors, disks and other processes


def test_ctrl_c_keeps_finished_batches(tmp_path, capsys):
    whole = files(index(tmp_path / "whole", corpus(20), shard_size=15).path)
    for stop in range(20):
        path = tmp_path / str(stop)
        for _ in range(2):  # the second time nothing new is done
            with pytest.raises(KeyboardInterrupt):
                index(path, corpus(20), Writer(fail_at=str(stop)), shard_size=15)
        done = stop // 3 * 3
        assert (
            f"{path}') keeps the queries of {done} documents: run the same"
            in capsys.readouterr().err
        )
        assert path.exists() == (done > 0)
        if done < 15:  # stopped with one batch more, of which it cannot tell that it is whole
            with pytest.raises(OSError, match="disk"):
                index(path, corpus(20, stop=done + 4), shard_size=15)
        again = Writer()
        index(path, corpus(20), again, shard_size=15)
        assert files(path) == whole and set(again.written) == {str(n) for n in range(done, 20)}


def test_kept_rows_of_an_open_shard_are_checked(tmp_path):
    whole = files(index(tmp_path / "whole", corpus(20)).path)
    for how in ("gone", "cut", "flipped", "other"):
        path = tmp_path / how
        with pytest.raises(KeyboardInterrupt):
            index(path, corpus(20), Writer(fail_at="10"))
        (kept,) = path.glob("*.open")
        if how == "other":
            (path / "queries-00007-1.open").write_bytes(b"left by another run")
        else:
            damage(kept, how)
        again = Writer()
        index(path, corpus(20), again)
        assert files(path) == whole
        assert set(again.written) == {str(n) for n in range(6 if how != "other" else 9, 20)}
    path = tmp_path / "changed"
    with pytest.raises(KeyboardInterrupt):
        index(path, corpus(20), Writer(fail_at="10"))
    changed = [*corpus(8), {"docno": "8", "text": "other"}, *[*corpus(20)][9:]]
    with pytest.raises(ValueError, match="first 9 documents differ"):
        index(path, changed)


def test_a_bad_document_costs_nothing_done(tmp_path):
    """But the batch before, of which it is not known that all rows have come."""
    documents = [*corpus(20)]
    bad = [*documents[:13], {"docno": "13", "text": 13}, *documents[14:]]
    with pytest.raises(ValueError, match="text must be a string, but is 13"):
        index(tmp_path / "queries", bad, Checking())
    again = Writer()
    index(tmp_path / "queries", documents, again)
    assert set(again.written) == {str(n) for n in range(9, 20)}
    assert files(tmp_path / "queries") == files(index(tmp_path / "whole", documents).path)


class Checking(Writer):
    def _transform(self, inp):
        check_strings(inp, "text")
        return super()._transform(inp)


def test_signals_between_any_two_steps(tmp_path):
    """KeyboardInterrupt at lines that the writer runs; whatever it hits, the files come right."""
    whole = files(
        index(tmp_path / "whole", corpus(9), Writer([2, 0, 1]), batch=2, shard_size=3).path
    )
    for moment in itertools.count():
        left = moment * 11

        def trace(frame, event, arg):
            nonlocal left
            if not frame.f_code.co_filename.endswith(("_shards.py", "artifact.py", "_resume.py")):
                return None
            if event == "line" and frame.f_code.co_name not in ("keep", "writing", "_index"):
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
            return trace

        path = tmp_path / str(moment)
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            index(path, corpus(9), Writer([2, 0, 1]), batch=2, shard_size=3)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        stopped = left <= 0
        index(path, corpus(9), Writer([2, 0, 1]), batch=2, shard_size=3)
        assert files(path) == whole, moment
        shutil.rmtree(path)
        if moment and not stopped:
            break
    assert moment > 20


@pytest.mark.skipif(os.name != "posix", reason="no limit on the size of a file")
def test_full_disk(tmp_path):
    """The system's limit on the size of a file stands for the disk's; see faults/full_disk.py."""
    import resource

    noise = np.random.default_rng(0)
    documents = [{"docno": str(n), "text": noise.bytes(500).hex()} for n in range(30)]
    whole, path = files(index(tmp_path / "whole", documents).path), tmp_path / "queries"
    assert max(map(len, whole.values())) > 3_000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    told = []
    for limit in (0, 500, 2_000, 3_000, 3_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(
                OSError, match="File too large.*(again to go on|another path)"
            ) as error:
                index(path, documents)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        told.append(str(error.value))
        if path.exists():
            assert not any(name.endswith((".part", ".lock")) for name in files(path))
            assert not (path / "progress.json").exists() or SyntheticQueries(path).verify() == {}
    assert "cannot write SyntheticQueries" in told[0]
    assert "cannot store queries-00000.jsonl.gz" in told[1]
    index(path, documents)
    assert files(path) == whole


@contextlib.contextmanager
def without_rights():
    """As somebody whom the permissions of files hold for."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="no permissions of this kind")
def test_read_only_folder():
    with TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        whole = index(f"{folder}/whole", corpus(12))
        with pytest.raises(OSError, match="disk"):
            index(f"{folder}/begun", corpus(12, stop=8))
        before = files(f"{folder}/begun")
        for path in (folder, f"{folder}/begun"):
            os.chmod(path, 0o555)
        with without_rights():
            for path in (f"{folder}/begun", f"{folder}/new", f"{folder}/new/er"):
                with pytest.raises(
                    PermissionError, match="cannot write SyntheticQueries.*writable"
                ):
                    index(path, corpus(12))
            writer = Writer()
            os_files = files(whole.path)
            assert len(index(whole.path, corpus(12), writer)) == 12 and not writer.written
            assert files(whole.path) == os_files
            assert files(f"{folder}/begun") == before
        for path in (folder, f"{folder}/begun"):
            os.chmod(path, 0o755)


def test_two_writers(tmp_path):
    """The second is refused, in the same process or another; readers are not."""
    path = tmp_path / "queries"
    script = OTHER.format(tests=str(Path(__file__).parents[1]), path=str(path))
    told = []

    def second():
        yield from corpus(10)
        with pytest.raises(RuntimeError, match="being written by process") as error:
            index(path, corpus(20))
        told.append(str(error.value))
        child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        told.append(child.stderr)
        assert child.returncode == 1
        with pytest.raises(RuntimeError, match="not complete: it holds 6"):
            SyntheticQueries(path).get_results()
        yield from [*corpus(20)][10:]

    index(path, second())
    assert all(f"by process {os.getpid()} on " in text for text in told) and len(told) == 2
    assert files(path) == files(index(tmp_path / "whole", corpus(20)).path)


OTHER = """
import sys
sys.path.insert(0, {tests!r})
from writer import corpus, index
index({path!r}, corpus(20))
"""
HELD = """
import os, signal, sys, time
sys.path.insert(0, {tests!r})
from writer import corpus, index
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
def waiting():
    yield from corpus(14)
    print("waiting", flush=True)
    time.sleep(600)
index({path!r}, waiting())
"""


@pytest.mark.skipif(os.name != "posix", reason="no SIGKILL")
def test_the_lock_of_a_dead_writer_is_taken_over(tmp_path):
    path = tmp_path / "queries"
    script = HELD.format(tests=str(Path(__file__).parents[1]), path=str(path))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "waiting\n"
        with pytest.raises(RuntimeError, match=f"being written by process {child.pid} on"):
            index(path, corpus(20))
        child.kill()
    assert str(child.pid) in (path / shards.LOCK).read_text()
    assert files(index(path, corpus(20)).path) == files(index(tmp_path / "whole", corpus(20)).path)


@pytest.mark.skipif(os.name != "posix", reason="no SIGINT of this kind")
def test_ctrl_c_in_a_process(tmp_path):
    path = tmp_path / "queries"
    script = HELD.format(tests=str(Path(__file__).parents[1]), path=str(path))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "waiting\n"
        child.send_signal(signal.SIGINT)
        try:
            _, told = child.communicate(timeout=120)
        finally:
            child.kill()
    assert "keeps the queries of 9 documents: run the same again to go on" in told
    assert not (path / shards.LOCK).exists()
    assert files(index(path, corpus(20)).path) == files(index(tmp_path / "whole", corpus(20)).path)


# Text and numbers


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "query": st.text(),
                "docno": st.text(),
                "text": st.text(),
                "score": st.floats(allow_nan=False),
                "log_probs": st.lists(st.floats(max_value=0), max_size=3),
            }
        ),
        max_size=8,
    )
)
def test_any_row_comes_back(records):
    records = [{"qid": str(i)} | record for i, record in enumerate(records)]
    with TemporaryDirectory() as folder:
        queries = SyntheticQueries(folder, shard_size=3).index(records)
        assert repr(list(queries.iter_results())) == repr(records)
        frame = queries.get_results()
        assert [*frame["text"]] == [record["text"] for record in records]


def test_odd_documents(tmp_path):
    texts = [
        "",
        " \n\t",
        "{text} {0} {{",
        "a\u2028b\u2029c\x85d\r\ne\x00f",
        "word " * 100_000,
        "😀é",
    ]
    documents = [{"docno": str(i), "text": text} for i, text in enumerate(texts)]
    with pytest.raises(OSError, match="gone"):
        index(tmp_path / "queries", with_error(documents), batch=1, shard_size=1)
    results = index(tmp_path / "queries", documents, batch=1, shard_size=1).get_results()
    assert list(results.text) == texts


def with_error(documents):
    yield from documents
    raise OSError("gone")


def test_arrays_are_stored_as_lists(tmp_path):
    row = rows(1)[0] | {"log_probs": np.array([-0.5, -1], np.float32), "score": np.float32(0.1)}
    (stored,) = SyntheticQueries(tmp_path / "queries").index([row]).iter_results()
    assert stored["log_probs"] == [-0.5, -1.0] and stored["score"] == float(np.float32(0.1))


# The state


def test_admit_without_a_ledger():
    frame = pd.DataFrame(corpus(3))
    assert resume.pending_documents(frame, SETTINGS) is frame
    assert len(Writer()(frame)) == 3


def test_text_field():
    frame = pd.DataFrame(corpus(3)).rename(columns={"text": "body"})
    state = resume.ResumeState("any", shard_ends=[StreamFingerprint().extended("0", "document 0")])
    with resume.activated(state):
        assert [*resume.pending_documents(frame, {}, "body").docno] == ["1", "2"]


def test_ledger_is_open_only_inside_its_block():
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


def test_index_leaves_no_ledger_open(tmp_path):
    index(tmp_path / "a", corpus(3))
    with pytest.raises(KeyboardInterrupt):
        index(tmp_path / "b", corpus(3), Writer(fail_at="1"))
    assert copy_context().get(resume._active) is None


def test_threads_index_side_by_side(tmp_path):
    threads = [
        threading.Thread(target=index, args=(tmp_path / str(i), corpus(20 + i))) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(SyntheticQueries(tmp_path / str(i))) for i in range(4)] == [20, 21, 22, 23]


# Sharing


@pytest.fixture
def served(tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_package(tmp_path, served, monkeypatch):
    monkeypatch.setattr(pt.io, "pyterrier_home", lambda: str(tmp_path / "home"))
    queries = index(tmp_path / "queries", corpus(12))
    queries.build_package(verbose=False)
    for kind in (pt.Artifact, SyntheticQueries):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # tarfile's, in PyTerrier
            shared = kind.from_url(f"{served}/queries.tar.lz4")
        assert isinstance(shared, SyntheticQueries) and shared.path != queries.path
        assert files(shared.path) == files(queries.path)
        pd.testing.assert_frame_equal(shared.get_results(), queries.get_results())


def test_artifact_load(tmp_path):
    index(tmp_path / "queries", corpus(3))
    loaded = pt.Artifact.load(str(tmp_path / "queries"))
    assert isinstance(loaded, SyntheticQueries) and len(loaded) == 3


# What others have published


PUBLISHED = [
    {"doc_id": n // 2, "doc_text": f"text {n // 2}", "question": f" q {n}", "log_probs": [-n, -1]}
    for n in range(2_500)
]
V1 = "/inpars/nfcorpus_synthetic_queries_100k.jsonl"


@pytest.fixture
def web(tmp_path, monkeypatch):
    with web_server.offline_but_for_this_machine(monkeypatch, tmp_path / "home") as web:
        urls = {version: web.home + "/" + url.split("/", 3)[3] for version, url in QUERIES.items()}
        monkeypatch.setattr("pyterrier_inpars.datasets.published.QUERIES", urls)
        web.serve(V1, jsonl(PUBLISHED))
        yield web


QUERIES = dict(published.QUERIES)


def jsonl(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def test_published_queries(web, tmp_path):
    queries = SyntheticQueries.from_published("inpars-v1", "nfcorpus")
    expected = pd.DataFrame(
        [
            {
                "qid": f"{n // 2}-{n % 2 + 1}",
                "query": f"q {n}",
                "docno": str(n // 2),
                "text": f"text {n // 2}",
                "log_probs": [float(-n), -1.0],
                "score": (-n - 1) / 2,
            }
            for n in range(2_500)
        ]
    )
    pd.testing.assert_frame_equal(queries.get_results(), expected)
    assert tmp_path / "home" in queries.path.parents
    assert queries.metadata["settings"] == {
        "published": "inpars-v1",
        "collection": "nfcorpus",
        "url": web.home + V1,
        "sha256": hashlib.sha256(jsonl(PUBLISHED)).hexdigest(),
    }
    assert queries.fewshot_topics.empty
    before = files(queries.path)
    shutil.rmtree(tmp_path / "home" / "inpars" / "downloads")
    web.files.clear()
    again = SyntheticQueries.from_published("inpars-v1", "nfcorpus")
    assert again.path == queries.path and files(again.path) == before and web.asked == [V1]


def test_published_queries_at_a_path(web, tmp_path):
    web.serve(
        "/datasets/inpars/generated-data/resolve/main/trec-covid/queries.jsonl",
        jsonl([{"doc_id": "x", "text": "t", "query": "q"}]),
    )
    queries = SyntheticQueries.from_published("inpars-v2", "trec-covid", tmp_path / "v2")
    assert queries.path == tmp_path / "v2"
    assert queries.get_results().to_dict("records") == [
        {"qid": "x-1", "query": "q", "docno": "x", "text": "t"}
    ]
    for other in [("inpars-v1", "nfcorpus"), ("inpars-v2", "nfcorpus")]:
        with pytest.raises(FileExistsError, match="does not hold inpars-v. for nfcorpus"):
            SyntheticQueries.from_published(*other, tmp_path / "v2")
    index(tmp_path / "own", corpus(3))
    with pytest.raises(FileExistsError, match="give another path"):
        SyntheticQueries.from_published("inpars-v1", "nfcorpus", tmp_path / "own")


def test_published_queries_go_on_where_they_were_stopped(web, tmp_path, monkeypatch):
    whole = SyntheticQueries.from_published("inpars-v1", "nfcorpus")
    path = tmp_path / "again"
    store = shards.Writer.store

    def stop(writer, *args):
        store(writer, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shards.Writer, "store", stop)
        SyntheticQueries.from_published("inpars-v1", "nfcorpus", path)
    assert len(files(path)) == 2 and not SyntheticQueries(path).built()
    SyntheticQueries.from_published("inpars-v1", "nfcorpus", path)
    assert files(path) == files(whole.path)


@pytest.mark.parametrize("bad", [{"doc_id": "x", "query": "q"}, {"doc_id": 1.5, "query": "q"}, 404])
def test_published_queries_that_cannot_be_used(web, tmp_path, bad):
    content = jsonl([*PUBLISHED[:5], bad]) if isinstance(bad, dict) else bad
    web.serve(V1, content)
    messages = "no text of document 'x': add the texts|line 6: doc_id must be|answered 404"
    with pytest.raises((ValueError, DownloadError), match=messages):
        SyntheticQueries.from_published("inpars-v1", "nfcorpus", tmp_path / "queries")
    assert not (tmp_path / "queries").exists()


def test_texts_can_be_added(web, tmp_path):
    """As the error says."""
    web.serve(V1, jsonl({"doc_id": n, "query": f"q {n}"} for n in range(3)))
    rows = published.read_queries("inpars-v1", "nfcorpus")
    queries = SyntheticQueries(tmp_path / "queries")
    queries.index(row | {"text": f"text {row['docno']}"} for row in rows)
    assert queries.get_results()["text"].tolist() == ["text 0", "text 1", "text 2"]


def test_the_topics_shown_travel_with_the_queries(tmp_path):
    topics = [{"qid": "1", "query": "a b"}, {"qid": "2", "query": "c"}]
    writer = Writer(settings=SETTINGS | {"fewshot_topics": topics})
    queries = index(tmp_path / "shown", corpus(3), writer)
    assert queries.fewshot_topics.to_dict("records") == topics
    left = exclude_fewshot_topics(pd.DataFrame({"qid": ["1", "3"], "query": ["x", "y"]}), queries)
    assert left["qid"].tolist() == ["3"]
    for none in (index(tmp_path / "none", corpus(3)), SyntheticQueries(tmp_path / "rows")):
        none.built() or none.index(rows(2))
        assert list(none.fewshot_topics.columns) == ["qid", "query"] and none.fewshot_topics.empty
