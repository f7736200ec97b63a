"""Unknown option names, refused with the nearest known one."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pyterrier_inpars._names import did_you_mean


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
            raise TypeError(
                f"{what} has no option {name!r}: {did_you_mean(name, known)}See {whose}"
            )
