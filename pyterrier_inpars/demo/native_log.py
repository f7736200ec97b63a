"""Output of native code, such as the log of PISA."""

import os
import sys


def mute_native_log() -> None:
    """Discards what native code prints, such as the log of PISA, for the rest of the process.

    What Python prints stays: ``sys.stdout`` and ``sys.stderr`` become streams of their own. Call it
    first in a script or a notebook.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if _number(stream) == number:
            stream.flush()
            own = os.fdopen(os.dup(number), "w", 1, encoding=stream.encoding, errors=stream.errors)
            setattr(sys, name, own)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)


def _number(stream: object) -> int | None:
    """Returns the file descriptor of a stream; None if it has none, as in a notebook."""
    try:
        return stream.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return None
