"""Every script of the repository that takes arguments starts, and says what they are."""

import runpy
import sys
from pathlib import Path

import pytest

from pyterrier_inpars import demo

ROOT = Path(__file__).parents[2]
FOLDERS = ("examples", "examples/comparisons", "tests/benchmarks", "tests/faults", "tests/servers")
SCRIPTS = [
    path.relative_to(ROOT)
    for folder in FOLDERS
    for path in sorted((ROOT / folder).glob("*.py"))
    if '__name__ == "__main__"' in (text := path.read_text())
    and ("ArgumentParser(" in text or "arguments_of(" in text)
]


@pytest.fixture
def path(request, monkeypatch):
    """A script whose folder alone is searched for its neighbours, as if Python had started it."""
    script = ROOT / request.param
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    monkeypatch.setattr(demo, "mute_native_log", lambda: None)  # lasts as long as the process
    names = {path.stem for folder in FOLDERS for path in (ROOT / folder).glob("*.py")}
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield script
    for name in names & sys.modules.keys():
        del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.parametrize("path", SCRIPTS, indirect=True, ids=str)
def test_script_prints_its_help(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {path.name}")
