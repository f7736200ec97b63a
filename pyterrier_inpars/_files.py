"""Atomic writes, checksums of files, and conversion of values that JSON lacks."""

from __future__ import annotations

import importlib
import io
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date, time
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyterrier as pt


@contextmanager
def atomic_file(
    path: str | os.PathLike[str], *, compress: bool = True, durable: bool = False
) -> Iterator[IO[bytes]]:
    """Opens a binary file that takes its name only when the block ends without an error.

    The data goes to a temporary file ``NAME.THREAD.part`` in the same folder, which is renamed at
    the end. An error removes the temporary file and leaves an earlier file as it was. A killed
    process may leave the temporary file behind.

    Args:
        path: File to write; a leading ``~`` is the user's home folder. Missing parent folders are
            created.
        compress: Whether a name that ends in ``.gz``, ``.bz2`` or ``.lz4`` selects compression,
            in upper case too.
        durable: Whether file and folder are flushed to disk (``fsync``), so that the file survives
            a power failure once the block has ended.

    Yields:
        The temporary file, open for writing.
    """
    path = Path(path).expanduser().absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    # pt.io.finalized_open makes files writable for everyone, and autoopen needs the suffix last.
    suffix = path.suffix.lower() if compress else ""
    part = path.with_name(f"{path.name}.{threading.get_native_id()}.part{suffix}")
    try:
        with (pt.io.autoopen if compress else open)(str(part), "wb") as out:
            yield out
        if durable:
            _sync(part, os.O_RDWR)
        os.replace(part, path)
        if durable and os.name == "posix":
            _sync(path.parent, os.O_RDONLY)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def open_binary(path: str | os.PathLike[str]) -> IO[bytes]:
    """Opens a file for reading, decompressed by its suffix, in upper case too.

    A leading ``~`` is the user's home folder.
    """
    path = Path(path).expanduser()
    if (suffix := path.suffix.lower()) == path.suffix:
        return pt.io.autoopen(str(path), "rb")
    # pt.io.autoopen knows suffixes in lower case only.
    modules = {".gz": "gzip", ".bz2": "bz2", ".lz4": "lz4.frame"}
    return (
        importlib.import_module(modules[suffix]).open(path)
        if suffix in modules
        else open(path, "rb")
    )


@contextmanager
def atomic_text(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """Opens a UTF-8 text file as `atomic_file` does; line ends are written unchanged."""
    with atomic_file(path) as file:
        out = io.TextIOWrapper(file, encoding="utf-8", newline="")
        yield out
        out.detach()


def write_bytes(path: str | os.PathLike[str], data: bytes, *, durable: bool = False) -> None:
    """Writes a file of exactly these bytes, uncompressed; see `atomic_file`."""
    with atomic_file(path, compress=False, durable=durable) as out:
        out.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file in UTF-8, uncompressed; see `atomic_file`."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a JSON file, indented by two spaces; see `atomic_file`."""
    write_text(path, json.dumps(value, indent=2, default=plain) + "\n")


def plain(value: Any) -> Any:
    """Converts a value that JSON lacks; for ``json.dumps(default=plain)``.

    NumPy and torch numbers and arrays become those of Python, dates and times a text in ISO 8601,
    and what is missing (``pd.NaT``, ``pd.NA``) null.

    Raises:
        TypeError: ``value`` is of another type.
    """
    if isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    if value is pd.NaT or value is pd.NA:
        return None
    if isinstance(value, date | time):  # also datetime and pd.Timestamp
        return value.isoformat()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be written as JSON")


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal."""
    digest = sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
