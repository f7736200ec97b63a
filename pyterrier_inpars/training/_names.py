"""Unknown option names, refused with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


def check_names(what: str, given: Iterable[str], known: Collection[str], whose: str) -> None:
    """Checks that every given option is a known one.

    Args:
        what: Parameter or class that takes the options.
        given: Names of the given options.
        known: Names that exist.
        whose: Where the reader finds the names.

    Raises:
        TypeError: A name is unknown; the error suggests the nearest known name.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise TypeError(f"{what} has no option {name!r}: {hint}See {whose}")
