"""Demo models of packages that are missing or hold another file."""

import hashlib

import pytest

from pyterrier_inpars.demo._packages import join_parts


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two installed distributions, each with a part of a file."""
    for number, part in enumerate([b"first part, ", b"second part"], 1):
        info = tmp_path / f"model_part{number}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: model-part{number}\nVersion: 1.0\n")
        (tmp_path / f"part{number}.bin").write_bytes(part)
        (tmp_path / f"part{number}.py").write_text("")
        (info / "RECORD").write_text(f"part{number}.bin,,\npart{number}.py,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    return ["model-part1", "model-part2"]


WHOLE = hashlib.sha256(b"first part, second part").hexdigest()


def test_parts_are_joined_in_order(packages, tmp_path):
    path = join_parts(packages, "demo", tmp_path / "model.bin", WHOLE)
    assert path.read_bytes() == b"first part, second part"


def test_another_file_is_an_error_and_removed(packages, tmp_path):
    path = tmp_path / "model.bin"
    with pytest.raises(ValueError, match=r"model.bin .* has SHA-256 \w{64}, not .*reinstall"):
        join_parts(packages[::-1], "demo", path, WHOLE)
    assert not path.exists()


def test_a_missing_package_is_named_with_its_extra(packages, tmp_path):
    path = tmp_path / "model.bin"
    with pytest.raises(ModuleNotFoundError, match=r"model-part9 .* 'pyterrier_inpars\[demo\]'"):
        join_parts([packages[0], "model-part9"], "demo", path, WHOLE)


def test_an_incomplete_model_is_not_left_behind(tmp_path, monkeypatch):
    from pyterrier_inpars.demo import models

    monkeypatch.setattr(models, "_MPNET_PARTS", ["no-such-package"])
    folder = tmp_path / "mpnet"
    with pytest.raises(ModuleNotFoundError):
        models.strong_encoder(folder)
    assert not folder.exists()
