"""The script for a GPU, on the CPU with tiny shapes: every section runs, and failures show."""

import json
import math
import sys

import gpu
import pytest

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
