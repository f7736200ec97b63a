"""JSON Lines: lines to write, and lists in the objects that are read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any

from pyterrier_inpars._files import atomic_text, plain


def write_lines(path: str | Path, records: Iterable[dict[str, Any]]) -> None:
    """Writes a file with a line for each record."""
    with atomic_text(path) as out:
        out.writelines(map(as_line, records))


def as_line(record: dict[str, Any]) -> str:
    """Returns a record as a line of JSON."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False, default=plain) + "\n"


def list_of(where: str, record: dict[str, Any], name: str, kind: type) -> list[Any]:
    """Returns a field of a line that is a list.

    Args:
        where: Place of the line, for the error.
        record: Object of the line.
        name: Name of the field.
        kind: Type of the items.

    Raises:
        ValueError: The field is missing, or not such a list.
    """
    value = record.get(name)
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        kinds = {str: "strings", dict: "JSON objects", Real: "numbers"}
        raise ValueError(
            f"{where}: {name} must be a list{f' of {kinds[kind]}' if kind in kinds else ''}, not "
            f"{value!r:.200}"
        )
    return value


def list_for(
    where: str, record: dict[str, Any], name: str, texts: list[str], kind: type = object
) -> list[Any] | None:
    """Returns a field of a line that is a list with one value for each text.

    Args:
        where: Place of the line, for the error.
        record: Object of the line.
        name: Name of the field.
        texts: The texts.
        kind: Type of the values.

    Returns:
        ``None`` if the line has no such field.

    Raises:
        ValueError: The field is not such a list, or has more or fewer values.
    """
    if record.get(name) is None:
        return None
    values = list_of(where, record, name, kind)
    if len(values) != len(texts):
        raise ValueError(
            f"{where}: {name} must have {len(texts)} values, one for each text, not {values!r:.200}"
        )
    return values
