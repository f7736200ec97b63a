"""What interrupts a writer: Ctrl-C, errors, full and read-only disks, other processes."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from writer import Writer, corpus, damage, files, index

from pyterrier_inpars._stage import check_strings
from pyterrier_inpars.queries import _lock as lock
from pyterrier_inpars.queries.artifact import SyntheticQueries


def test_ctrl_c_keeps_finished_batches(tmp_path, capsys):
    whole = files(index(tmp_path / "whole", corpus(20), shard_size=15).path)
    for stop in range(20):
        path = tmp_path / str(stop)
        for _ in range(2):  # the second run does nothing new
            with pytest.raises(KeyboardInterrupt):
                index(path, corpus(20), Writer(fail_at=str(stop)), shard_size=15)
        done = stop // 3 * 3
        assert (
            f"{path}') keeps the queries of {done} documents: run the same"
            in capsys.readouterr().err
        )
        assert path.exists() == (done > 0)
        if done < 15:  # stopped one batch later, which may be incomplete
            with pytest.raises(OSError, match="disk"):
                index(path, corpus(20, stop=done + 4), shard_size=15)
        again = Writer()
        index(path, corpus(20), again, shard_size=15)
        assert files(path) == whole and set(again.written) == {str(n) for n in range(done, 20)}


def test_partial_shards_are_checked(tmp_path):
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


def test_a_bad_document_loses_no_finished_batch(tmp_path):
    """Except the previous batch, of which some rows might be missing."""
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


WRITER = (
    *("_files.py", "_manifest.py", "_shards.py", "_qids.py", "_lock.py", "artifact.py"),
    *("_resume.py", "_pipeline.py"),
)


def test_ctrl_c_between_any_two_steps(tmp_path):
    """KeyboardInterrupt at any line of the writer: a further run gives the same files."""
    whole = files(
        index(tmp_path / "whole", corpus(9), Writer([2, 0, 1]), batch=2, shard_size=3).path
    )
    for moment in itertools.count():
        left = moment * 23

        def trace(frame, event, arg):
            nonlocal left
            if not frame.f_code.co_filename.endswith(WRITER):
                return None
            if event == "line" and frame.f_code.co_name not in ("keep", "writer_lock", "index"):
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
def test_a_full_disk_loses_no_stored_query(tmp_path):
    """A limit on the file size stands in for the full disk; see faults/full_disk.py."""
    import resource

    noise = np.random.default_rng(0)
    documents = [{"docno": str(n), "text": noise.bytes(500).hex()} for n in range(30)]
    whole, path = files(index(tmp_path / "whole", documents).path), tmp_path / "queries"
    assert max(map(len, whole.values())) > 3_000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    errors = []
    for limit in (0, 500, 2_000, 3_000, 3_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(
                OSError, match="File too large.*(again to resume|another path)"
            ) as error:
                index(path, documents)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        errors.append(str(error.value))
        if path.exists():
            assert not any(name.endswith((".part", ".lock")) for name in files(path))
            assert not (path / "progress.json").exists() or SyntheticQueries(path).verify() == {}
    assert "cannot write SyntheticQueries" in errors[0]
    assert "cannot store queries-00000.jsonl.gz" in errors[1]
    index(path, documents)
    assert files(path) == whole


@contextlib.contextmanager
def without_rights():
    """Drops the rights of root, to whom file permissions do not apply."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="no permissions of this kind")
def test_a_read_only_folder_is_refused_or_read():
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


def test_a_second_writer_is_refused(tmp_path):
    """In the same process or another one; readers are allowed."""
    path = tmp_path / "queries"
    script = OTHER.format(tests=str(Path(__file__).parents[1]), path=str(path))
    errors = []

    def second():
        yield from corpus(10)
        with pytest.raises(RuntimeError, match="being written by process") as error:
            index(path, corpus(20))
        errors.append(str(error.value))
        child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        errors.append(child.stderr)
        assert child.returncode == 1
        with pytest.raises(RuntimeError, match="not complete: it holds 6"):
            SyntheticQueries(path).get_results()
        yield from [*corpus(20)][10:]

    index(path, second())
    assert all(f"by process {os.getpid()} on " in text for text in errors) and len(errors) == 2
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
def test_a_stale_lock_is_ignored(tmp_path):
    path = tmp_path / "queries"
    script = HELD.format(tests=str(Path(__file__).parents[1]), path=str(path))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "waiting\n"
        with pytest.raises(RuntimeError, match=f"being written by process {child.pid} on"):
            index(path, corpus(20))
        child.kill()
    assert str(child.pid) in (path / lock.LOCK).read_text()
    assert files(index(path, corpus(20)).path) == files(index(tmp_path / "whole", corpus(20)).path)


@pytest.mark.skipif(os.name != "posix", reason="no SIGINT of this kind")
def test_ctrl_c_in_a_process_keeps_finished_batches(tmp_path):
    path = tmp_path / "queries"
    script = HELD.format(tests=str(Path(__file__).parents[1]), path=str(path))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "waiting\n"
        child.send_signal(signal.SIGINT)
        try:
            _, stderr = child.communicate(timeout=120)
        finally:
            child.kill()
    assert "keeps the queries of 9 documents: run the same again to resume" in stderr
    assert not (path / lock.LOCK).exists()
    assert files(index(path, corpus(20)).path) == files(index(tmp_path / "whole", corpus(20)).path)
