"""Atomic writes: a file is whole or absent, whatever ends the block."""

import bz2
import datetime
import gzip
import json
import os
import stat

import numpy as np
import pandas as pd
import pytest
import torch

from pyterrier_inpars._files import (
    atomic_file,
    atomic_text,
    plain,
    write_bytes,
    write_json,
    write_text,
)
from pyterrier_inpars._hub import resolved


@pytest.mark.parametrize(
    ("suffix", "unpack"), [("", bytes), (".gz", gzip.decompress), (".bz2", bz2.decompress)]
)
def test_text_is_compressed_by_name_and_line_ends_are_kept(tmp_path, suffix, unpack):
    path = tmp_path / "new" / f"f.txt{suffix}"
    with atomic_text(path) as out:
        out.write("é\r\na\n")
    assert unpack(path.read_bytes()) == "é\r\na\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_bytes_are_written_as_they_are(tmp_path):
    write_bytes(tmp_path / "f.gz", b"not gzip", durable=True)
    assert (tmp_path / "f.gz").read_bytes() == b"not gzip"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["f", "f.gz"])
def test_an_error_keeps_the_earlier_file(tmp_path, error, name):
    write_bytes(tmp_path / name, b"before")
    with pytest.raises(error), atomic_file(tmp_path / name) as out:
        out.write(b"half")
        assert (tmp_path / name).read_bytes() == b"before"
        raise error
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_system_call_leaves_no_file(tmp_path, monkeypatch, step):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(tmp_path / "f", b"data", durable=True)
    assert not list(tmp_path.iterdir())


def test_durable_writes_flush_the_file_before_the_rename_and_the_folder_after(
    tmp_path, monkeypatch
):
    calls, replace, fsync = [], os.replace, os.fsync

    def flush(descriptor):
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append("folder" if folder else os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("rename"), replace(*paths)))
    write_bytes(tmp_path / "f", b"data", durable=True)
    assert calls == [4, "rename", "folder"]
    calls.clear()
    write_bytes(tmp_path / "f", b"data")
    assert calls == ["rename"]


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "f", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


def test_json_takes_numbers_and_arrays_of_numpy_and_torch(tmp_path):
    value = {"a": np.float64(0.5), "b": np.arange(2), "c": torch.tensor([1.0]), "d": "é"}
    write_json(tmp_path / "f.json", value)
    assert (tmp_path / "f.json").read_text() == (
        json.dumps({"a": 0.5, "b": [0, 1], "c": [1.0], "d": "é"}, indent=2) + "\n"
    )


def test_json_takes_dates_and_what_is_missing():
    values = {
        datetime.date(2020, 1, 2): "2020-01-02",
        datetime.time(3, 4): "03:04:00",
        pd.Timestamp("2020-01-02 03:04", tz="UTC"): "2020-01-02T03:04:00+00:00",
        np.datetime64("2020-01-02", "ns"): "2020-01-02T00:00:00",
        np.datetime64("NaT"): None,
        pd.NaT: None,
        pd.NA: None,
    }
    assert json.loads(json.dumps(list(values), default=plain)) == list(values.values())


def test_json_takes_no_other_objects(tmp_path):
    with pytest.raises(TypeError, match=r"\{1\} \(set\) cannot be written as JSON"):
        plain({1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "g.json", {1})
    assert not (tmp_path / "g.json").exists()


def test_models_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolved("~/model") == str(tmp_path / "model")
    (tmp_path / "models.json").write_text('{"hub/name": "~/local"}', encoding="utf-8-sig")
    monkeypatch.setenv("INPARS_LOCAL_MODELS", "~/models.json")
    assert resolved("hub/name") == str(tmp_path / "local")
    assert resolved("hub/other") == "hub/other"
