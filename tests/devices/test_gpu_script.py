"""The script for a GPU, on the CPU with tiny shapes: every section runs, and failures show."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import gpu
import pytest
import torch

pytestmark = pytest.mark.usefixtures("one_thread")
WARNINGS = ("ignore:.*accepts no explicit attention masks", "ignore:.*is not validated")


@pytest.fixture
def run(tmp_path):
    return gpu.Run("cpu", gpu.SHAPES["tiny"], tmp_path, "section")


@pytest.mark.slow
@pytest.mark.filterwarnings(*WARNINGS)
@pytest.mark.parametrize(
    "section",
    [
        pytest.param("equality", marks=pytest.mark.long),
        "generation 1B",  # 7B has the same tiny shape
        pytest.param("reranking", marks=pytest.mark.long),
        "training",
        "memory",
    ],
)
def test_every_section_passes(section, run):
    rows = list(gpu.rows_of(section, run))
    assert rows and not [row for row in rows if "FAIL" in row.verdict]
    assert {row.section for row in rows} == {section}
    if section.startswith(("generation", "reranking")):
        assert any(row.verdict.startswith("×") for row in rows)


def test_a_peer_that_does_not_fit_is_skipped(run, monkeypatch):
    """Speed, hours and rows of ours are there; a lack of memory of ours is an error."""

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu, "transformers_generate", full)
    monkeypatch.setattr(gpu, "transformers_generate_batch", full)
    monkeypatch.setattr(gpu.Run, "rows_that_fit", lambda run, most, size: 2)
    rows = list(gpu.rows_of("generation 7B", run))
    assert not [row for row in rows if "FAIL" in row.verdict]
    (speed,) = [row for row in rows if row.verdict == "skipped" and "queries/s" in row.ours]
    assert speed.what == "Llama 7B, float32, 2 rows" and "out of memory" in speed.other
    assert any("100,000 queries" in row.what for row in rows)


def test_rows_that_fit(run, monkeypatch):
    """Half of the free memory, in keys and values."""
    assert run.rows_that_fit(64, 1e9) == 64
    run.device = "cuda"
    monkeypatch.setattr(gpu.Run, "forget_memory", lambda run: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (9e9, 24e9))
    assert [run.rows_that_fit(64, size) for size in (1e3, 5e8, 1e10)] == [64, 9, 1]


def test_bytes_of_a_token(run):
    model = gpu.language_model(run, gpu.TINY_LLAMA, "float32").model
    cache = model(torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
    taken = sum(states.nbytes for layer in cache.layers for states in (layer.keys, layer.values))
    assert gpu.bytes_per_token(model) == taken / 3


def test_sections_share_a_model(run):
    path = Path(gpu.monot5_model(run, "base"))
    before = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    assert "model.safetensors" in {file.name for file in before}
    assert gpu.monot5_model(run, "base") == str(path)
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == before


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
@pytest.mark.parametrize("visible, expected", [(None, "0"), ("3", "3"), ("2,1", "2")])
def test_the_script_uses_one_gpu(visible, expected, tmp_path):
    """A Trainer would train on all that it sees."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES" "$@"\n')
    python.chmod(0o755)
    known = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    known |= {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    known |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    script = Path(gpu.__file__).with_suffix(".sh")
    done = subprocess.run(["sh", script, "--x"], env=known, capture_output=True, text=True)
    assert done.stdout.split()[0] == expected and done.stdout.split()[-1] == "--x"


@pytest.mark.parametrize(
    "value, most", [(math.nan, True), (math.nan, False), (2, True), (0, False)]
)
def test_a_value_beyond_its_limit_fails(run, value, most):
    assert run.check("what", value, 1, most).verdict == "FAIL"
    assert run.check("what", 1, 1, most).verdict == "pass"


def test_an_error_is_a_line(run, monkeypatch, capsys):
    def broken(run):
        yield run.note("first", "1")
        raise ValueError("two\nlines")

    monkeypatch.setitem(gpu.SECTIONS, "broken", (broken, 1))
    first, error = gpu.rows_of("broken", run)
    assert first.what == "first"
    assert error == gpu.Row("broken", "ValueError", "two lines", "", "FAIL")


ROW = gpu.Row("section", "what", "1", "", "pass")
PRINT = f"print({json.dumps(ROW._asdict())!r}, flush=True); print('noise', flush=True); "


@pytest.mark.parametrize(
    "then, what, shown",
    [
        ("import time; time.sleep(60)", "time limit", ""),
        ("import os; os.abort()", "status", ""),
        ("import sys; sys.exit('no kernel image')", "status", "no kernel image"),
    ],
)
def test_a_section_that_hangs_or_crashes_keeps_its_lines(capsys, then, what, shown):
    limit = 5.0 if what == "time limit" else 60.0
    found = gpu.in_process("section", [sys.executable, "-c", PRINT + then], limit)
    assert found[0] == ROW
    assert [(row.what, row.verdict) for row in found[1:]] == [(what, "FAIL")]
    assert shown in capsys.readouterr().err


def test_the_table_and_the_status(monkeypatch, tmp_path, capsys):
    """One section fails and the other runs; the status is 1, and the file has all lines."""
    monkeypatch.setattr(gpu, "machine", lambda device: "a machine")

    def in_process(name, command, limit):
        assert command[2:4] == ["--here", name] and 0 < limit <= 30
        return [ROW._replace(section=name, verdict="FAIL" if name == "memory" else "×2.00")]

    monkeypatch.setattr(gpu, "in_process", in_process)
    file = tmp_path / "rows.json"
    chosen = ["--seconds", "30", "--json", str(file), "--sections"]
    assert gpu.main([*chosen, "memory", "training"]) == 1
    shown = capsys.readouterr().out
    assert "2 lines, 1 failed" in shown and "training  what  1            ×2.00" in shown
    assert [row["section"] for row in json.loads(file.read_text())] == ["memory", "training"]
    assert gpu.main([*chosen, "training"]) == 0
