"""PyTerrier's home folder of the commands: none of the user's files are read or written."""

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "pyterrier_home"
    monkeypatch.setenv("PYTERRIER_HOME", str(folder))
    return folder
