"""The nearest known names, for errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a suggestion with the known names nearest to a name, best first; empty if none is."""
    spelled = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold(), spelled, n=3)
    return f"did you mean {' or '.join(repr(spelled[n]) for n in near)}? " if near else ""
