"""Tests of the progress bar in a terminal, in a log file and in a notebook."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from pyterrier_inpars import _progress
from pyterrier_inpars._progress import Progress, hidden_bars, rate


class Steps:
    """Steps whose number only ``__length_hint__`` tells, as of an iterator over a list."""

    def __iter__(self):
        return iter(range(4))

    def __length_hint__(self):
        return 4


def in_terminal(code, columns):
    """Runs code whose stderr is a terminal; returns what it shows, redrawing by redrawing."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24 * bool(columns), columns, 0, 0))
    env = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen([sys.executable, "-c", code], stderr=terminal, env=env) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                part = os.read(controller, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
        assert process.wait() == 0
    os.close(controller)
    return [part.strip() for part in re.split(r"[\r\n]+", shown.decode()) if part.strip()]


@pytest.mark.parametrize("columns", [120, 0])
def test_in_a_terminal(columns):
    code = (
        "from pyterrier_inpars._progress import Progress, SECONDS\n"
        "SECONDS['terminal'] = 0\n"
        "for i in Progress(range(1234), 'reading', unit='documents'): pass"
    )
    shown = in_terminal(code, columns)
    assert shown[0].startswith("reading: 0%|") and "| 0/1,234 documents [00:00<?" in shown[0]
    assert shown[-1].startswith("reading: 100%|") and "| 1,234/1,234 documents [" in shown[-1]


LONG = """
from pyterrier_inpars._progress import Progress, SECONDS
SECONDS["terminal"] = 0
def details(seconds):
    drops = "dropped: 1,234 CopyFilter, 567 DuplicateFilter, 8,910 RoundTripFilter"
    return ["24,690 queries (12/s)", (drops, "10,711 dropped"), ""]
with Progress(title="synthetic queries", total=TOTAL, unit="documents", details=details) as bar:
    bar.update(12_345)
    bar.set_postfix_str("3 lost")
"""


@pytest.mark.parametrize("total", ["12_345", "1_000_000", "None"])
@pytest.mark.parametrize("columns", [80, 100, 120, 200])
def test_a_long_line_is_shortened_and_not_cut(columns, total):
    *_, line = in_terminal(LONG.replace("TOTAL", total), columns)
    assert len(line) <= columns and line.endswith(" dropped, 3 lost]" if columns < 160 else "lost]")
    assert "24,690 queries (12/s), " in line and "12,345" in line
    assert ("1,234 CopyFilter" in line) == (columns == 200)
    assert line.startswith("synthetic queries: ") or columns < 120
    if columns >= 120 and total != "None":
        assert "%|" in line


def test_a_line_that_no_format_fits_is_cut():
    *_, line = in_terminal(LONG.replace("TOTAL", "1_000_000"), 40)
    assert line.startswith("12,345/1,000,000 [")


def test_in_a_log_it_is_a_line_at_the_end(capsys):
    for _ in Progress(Steps(), "reading", unit="documents"):
        assert capsys.readouterr().err == ""
    line = capsys.readouterr().err
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d reading: 4 of 4 documents \(100%\), [\d,]+/s, 00:00 elapsed\n", line
    )


def test_in_a_log_it_is_a_line_each_interval(capsys, monkeypatch):
    monkeypatch.setitem(_progress.SECONDS, "log", 0)
    with Progress(title="reading", unit="pages", initial=2, details=lambda s: ["3 lost"]) as bar:
        bar.update(5)
        bar.set_postfix_str("loss 0.5")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3  # update, postfix, end
    assert lines[0].endswith("reading: 7 pages, 3 lost, 00:00 elapsed")
    assert lines[-1].endswith("reading: 7 pages, 3 lost, loss 0.5, 00:00 elapsed")


def test_more_steps_than_the_total(capsys):
    with Progress(title="reading", total=2) as bar:
        bar.update(3)
    assert "3 of 3 steps (100%)" in capsys.readouterr().err
    assert "3/3" in str(bar)


@pytest.mark.parametrize("hide", [True, False])
def test_hidden(capsys, hide):
    if hide:
        with hidden_bars():
            list(Progress(range(3)))
    else:
        list(Progress(range(3), verbose=False))
    assert capsys.readouterr().err == ""
    assert list(Progress(range(3), verbose=False)) == [0, 1, 2]


def test_hidden_by_the_environment():
    code = "from pyterrier_inpars._progress import Progress; print(list(Progress(range(3))))"
    env = {**os.environ, "TQDM_DISABLE": "1"}
    process = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True)
    assert (process.stdout.strip(), process.stderr) == (b"[0, 1, 2]", b"")


def test_without_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)  # as in pythonw
    assert list(Progress(range(3))) == [0, 1, 2]


@pytest.mark.parametrize(
    "count, seconds, shown",
    [(0, 5, ""), (5, 0, ""), (1234567, 1, "1,234,567/s"), (25, 2, "12/s"), (5, 2, "2.5/s")]
    + [(9.96, 1, "10/s"), (1, 10, "6.0/min"), (1, 1800, "2.0/h"), (1, 10**5, "0.0/h")],
)
def test_rate(count, seconds, shown):
    assert rate(count, seconds) == shown


NOTEBOOK = """
from pyterrier_inpars import _progress
_progress.SECONDS["notebook"] = 0
for i in _progress.Progress(range(500), "<reading>", unit="documents"): pass
"""


def test_in_a_notebook_it_is_one_output():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK)])
    nbclient.NotebookClient(notebook, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert "&lt;reading&gt;" in output.data["text/html"]
    assert 'value="1.0000"' in output.data["text/html"]
    assert output.data["text/plain"].startswith("<reading>: 500 of 500 documents (100%)")
