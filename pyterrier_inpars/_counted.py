"""Numbers of things, in messages."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, such as ``1 document`` or ``1,000 queries``."""
    if number != 1:
        noun = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun}"


def are_many(count: int, whole: int, limits: tuple[int, float]) -> bool:
    """Returns whether a part of a whole is enough for a warning.

    Args:
        count: Size of the part.
        whole: Size of the whole.
        limits: Least size, and share of the whole above which it is enough.
    """
    return count >= limits[0] and count > limits[1] * whole
