"""Names that must be known ones: a check, and the nearest known name for an error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def one_of(name: str, value: Any, known: Iterable[str]) -> Any:
    """Returns an argument if it is a known name.

    Args:
        name: Name of the parameter.
        value: The argument.
        known: Known names.

    Raises:
        ValueError: It is none of them. The error names the parameter.
    """
    names = list(known)
    if value not in names:
        raise ValueError(f"{name} must be {' or '.join(map(repr, names))}, not {value!r:.200}")
    return value


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a suggestion with the known names nearest to a name, best first; empty if none is."""
    spelled = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold(), spelled, n=3)
    return f"did you mean {' or '.join(repr(spelled[n]) for n in near)}? " if near else ""
