"""Preparing a demo model, of which several processes may be in need at once."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyterrier_inpars.demo.models import _prepared


def test_a_model_that_several_need_at_once_is_prepared_once(tmp_path):
    made = []

    def make(unfinished: Path) -> None:
        made.append(unfinished)
        time.sleep(0.2)
        (unfinished / "weights").write_bytes(b"w")

    folder = tmp_path / "models" / "tiny"
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: _prepared(folder, "tiny", make), range(4)))
    assert found == [str(folder)] * 4
    assert len(made) == 1
    assert (folder / "weights").read_bytes() == b"w"


def test_a_model_whose_preparation_failed_is_prepared_again(tmp_path):
    def fail(unfinished: Path) -> None:
        (unfinished / "weights").write_bytes(b"half")
        raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        _prepared(tmp_path / "tiny", "tiny", fail)
    assert not (tmp_path / "tiny").exists()
    _prepared(tmp_path / "tiny", "tiny", lambda folder: (folder / "weights").touch())
    assert (tmp_path / "tiny" / "weights").exists()
