"""Checks of arguments: numbers within bounds, and known names."""

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np


def finite(
    name: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> float:
    """Converts an argument to a float.

    Args:
        name: Name of the parameter.
        value: The argument.
        above: Bound that it must exceed.
        least: Bound that it must reach.
        below: Bound that it must not reach.
        most: Bound that it must not exceed.

    Raises:
        ValueError: ``value`` is not a finite number, or out of bounds. The error names the
            parameter.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not np.isfinite(float(value)):
        raise ValueError(f"{name} must be a number, not {value!r:.200}")
    number = float(value)
    if (
        (above is not None and number <= above)
        or (least is not None and number < least)
        or (below is not None and number >= below)
        or (most is not None and number > most)
    ):
        bounds = {"above": above, "at least": least, "below": below, "at most": most}
        shown = " and ".join(f"{word} {b:g}" for word, b in bounds.items() if b is not None)
        raise ValueError(f"{name} must be {shown}, not {value!r:.200}")
    return number


def positive_int(name: str, value: object, least: int = 1) -> int:
    """Converts an argument to an int.

    Raises:
        ValueError: ``value`` is not a whole number of at least ``least``. The error names the
            parameter ``name``.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r:.200}")
    return int(value)


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
