"""The frames that pass between stages, and the one place where a stage checks them."""

from collections.abc import Iterable
from inspect import Parameter
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt


class Stage(pt.Transformer):
    """A transformer over frames that answers PyTerrier's inspection and survives empty batches.

    A subclass names the columns it needs and gives, and what it does with a frame of one row or
    more. Validation comes before the shortcut for an empty frame, since that is how
    ``pt.inspect`` learns what a stage needs. Each parameter ``p`` of ``__init__`` is kept
    as ``self.p``.
    """

    def __init__(self) -> None:  # object's takes *args, which pt.inspect would look for
        super().__init__()

    def _required_columns(self) -> list[str]:
        """Columns that the input frame must have."""
        raise NotImplementedError

    def _output_columns(self, columns: list[str]) -> list[str]:
        """Columns of the output frame, for an input frame with ``columns``."""
        return columns

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Transforms a validated frame of at least one row, whose index counts from 0."""
        raise NotImplementedError

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Transforms a frame; an empty one gives an empty one with the right columns.

        Raises:
            pt.validate.InputValidationError: a column is missing; the error names it.
            ValueError: two columns have one name.
        """
        check_columns(inp, *self._required_columns(), context=self)
        if len(inp) == 0:
            return pd.DataFrame(columns=self._output_columns(list(inp.columns)))
        return self._transform(inp.reset_index(drop=True))

    def transform_iter(self, inp: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Transforms records; none in gives none out (a filter before this stage may drop all)."""
        records = list(inp)
        return self.transform(as_frame(records)).to_dict("records") if records else []

    def __repr__(self) -> str:
        shown = []
        skipped = False
        for attribute in pt.inspect.transformer_attributes(self):
            text, default = _short(attribute.value), attribute.init_default_value
            if default is attribute.value or text == repr(default):
                skipped = True
            elif skipped or attribute.init_parameter_kind is Parameter.KEYWORD_ONLY:
                shown.append(f"{attribute.name}={text}")
            else:
                shown.append(text)
        return f"{type(self).__name__}({', '.join(shown)})"


def _short(value: object) -> str:
    return f"<{len(value)} rows>" if isinstance(value, pd.DataFrame) else repr(value)


def with_columns(columns: Iterable[str], *new: str) -> list[str]:
    """``columns`` followed by those of ``new`` that are not in it yet, each once."""
    return list(dict.fromkeys([*columns, *new]))


def as_frame(rows: Iterable[Any], columns: list[str] | None = None) -> pd.DataFrame:
    """A frame of rows, such as dicts, or tuples where the columns are named.

    Raises:
        ValueError: a string is not Unicode, which pandas cannot hold; the error names it.
    """
    rows = list(rows)
    try:
        return pd.DataFrame(rows, columns=columns)
    except UnicodeEncodeError as error:
        frame = pd.DataFrame(rows, columns=columns, dtype=object)
        for column in frame:
            check_strings(frame[[isinstance(value, str) for value in frame[column]]], column)
        raise ValueError(f"text that is not Unicode: {error}") from error


def check_columns(
    frame: pd.DataFrame, *columns: str, context: pt.Transformer | None = None
) -> None:
    """Checks that a frame has the columns, and no two of one name.

    Args:
        frame: what to check.
        columns: those that it must have.
        context: the transformer that asks, which the error names.

    Raises:
        TypeError: it is no frame.
        pt.validate.InputValidationError: a column is missing; the error names it.
        ValueError: two columns have one name; the error names it.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"a DataFrame is needed, not {_shown(frame)}")
    pt.validate.columns(frame, includes=list(columns), context=context)
    if (twice := frame.columns.duplicated()).any():
        raise ValueError(
            f"two columns are called {frame.columns[twice][0]!r}: rename or drop one of them"
        )


def check_strings(frame: pd.DataFrame, *columns: str) -> None:
    """Checks that every value of the columns is a string, and one that UTF-8 can hold.

    Raises:
        ValueError: names the first value that is not, and the row it stands in.
    """
    for column in columns:
        for row, value in enumerate(frame[column]):
            if not isinstance(value, str):
                raise ValueError(
                    f"{column} must be a string, but is {_shown(value)} "
                    f"{_place(frame, column, row)}: convert it with str() or drop the row"
                )
            if half := half_character(value):
                raise ValueError(
                    f"{column} holds {half!r}, half of a character, {_place(frame, column, row)}: "
                    f"repair it, as text.encode('utf-8', 'replace').decode() does, or drop the row"
                )


def half_character(text: str) -> str:
    """The first lone surrogate in a text, which no file in UTF-8 can hold; empty if none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return text[error.start]
    return ""


def as_numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    """The values of a column as an array of float, none of them NaN.

    Raises:
        ValueError: names the first value that is no number, and the row it stands in.
    """
    numbers = pd.to_numeric(frame[column], errors="coerce").to_numpy(float)
    if (bad := np.isnan(numbers)).any():
        row = int(bad.argmax())
        raise ValueError(
            f"{column} is not a number {_place(frame, column, row)}, but "
            f"{_shown(frame[column].iloc[row])}: score it or drop the row"
        )
    return numbers


def _place(frame: pd.DataFrame, column: str, row: int) -> str:
    """Where a value stands, by the ids of its row."""
    ids = {c: frame[c].iloc[row] for c in ("qid", "docno") if c in frame and c != column}
    return "at " + (", ".join(f"{c} {v!r:.100}" for c, v in ids.items()) or f"row {row}")


def _shown(value: object) -> str:
    return f"{value!r:.200} ({type(value).__name__})"


def finite(name: str, value: object) -> float:
    """Gives back ``value`` if it is a finite number.

    Raises:
        ValueError: it is not; the error names the parameter and the value.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not np.isfinite(float(value)):
        raise ValueError(f"{name} must be a number, not {value!r:.200}")
    return float(value)


def positive_int(name: str, value: object, least: int = 1) -> int:
    """Gives back ``value`` as an int if it is a whole number of at least ``least``.

    Raises:
        ValueError: it is not; the error names the parameter and the value.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r:.200}")
    return int(value)
