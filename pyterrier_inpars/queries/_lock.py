"""The lock of `SyntheticQueries`: one process writes at a time."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = "queries-writer.lock"
"""Name of the lock file, which holds the PID and the host of the writer."""


@contextmanager
def writer_lock(folder: Path, name: str, required: bool) -> Iterator[None]:
    """Locks a folder against other writers until the block ends, and creates it if needed.

    Only one process may write at a time; a second one fails with the PID of the lock holder. The
    lock is the operating system's: it ends with the process that holds it, so stale lock files are
    ignored. Between machines on a network file system, it works only if ``flock`` does there.

    Args:
        folder: Folder to lock.
        name: Name of the artifact in error messages.
        required: Whether a folder that cannot be written is an error. If not, the block runs
            without a lock.

    Raises:
        RuntimeError: Another process holds the lock; the error names it.
        OSError: The folder cannot be written, and ``required`` is set.
    """
    from filelock import FileLock, Timeout

    is_new, file = not folder.exists(), folder / LOCK
    lock = FileLock(file)
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
            file.write_text(f"{os.getpid()} on {platform.node()}")
        except Timeout:
            raise RuntimeError(
                f"{name} is being written by process {file.read_text()}: wait for it or stop it, "
                "or write to another path"
            ) from None
        except OSError as error:
            if required:
                raise OSError(
                    error.errno,
                    f"cannot write {name}: {error.strerror}. Make the folder writable and free "
                    "space on the disk, or write to another path",
                    str(folder),
                ) from error
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # Windows cannot remove an open file
                file.unlink()
            lock.release()
        if is_new:
            with suppress(OSError):  # the folder is not empty
                folder.rmdir()
