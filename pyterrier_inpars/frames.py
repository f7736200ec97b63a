"""The frames that pass between stages, and the one place where a stage checks them."""

from collections.abc import Iterable
from inspect import Parameter
from typing import Any

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

    def needs(self) -> list[str]:
        """Columns that the input frame must have."""
        raise NotImplementedError

    def gives(self, columns: list[str]) -> list[str]:
        """Columns of the output frame, for an input frame with ``columns``."""
        return columns

    def run(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Transforms a validated frame of at least one row, whose index counts from 0."""
        raise NotImplementedError

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Transforms a frame; an empty one gives an empty one with the right columns.

        Raises:
            pt.validate.InputValidationError: a column is missing; the error names it.
        """
        pt.validate.columns(inp, includes=self.needs(), context=self)
        if len(inp) == 0:
            return pd.DataFrame(columns=self.gives(list(inp.columns)))
        return self.run(inp.reset_index(drop=True))

    def transform_iter(self, inp: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Transforms records; none in gives none out (a filter before this stage may drop all)."""
        records = list(inp)
        return self.transform(pd.DataFrame(records)).to_dict("records") if records else []

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


def with_columns(columns: list[str], *new: str) -> list[str]:
    """``columns`` followed by those of ``new`` that are not in it yet."""
    return columns + [c for c in new if c not in columns]


def check_strings(frame: pd.DataFrame, *columns: str) -> None:
    """Checks that every value of the columns is a string.

    Raises:
        ValueError: names the first value that is not one, and the row it stands in.
    """
    for column in columns:
        for row, value in enumerate(frame[column]):
            if not isinstance(value, str):
                ids = {
                    c: frame[c].iloc[row] for c in ("qid", "docno") if c in frame and c != column
                }
                where = ", ".join(f"{c} {v!r}" for c, v in ids.items()) or f"row {row}"
                raise ValueError(
                    f"{column} must be a string, but is {value!r} ({type(value).__name__}) "
                    f"at {where}: convert it with str() or drop the row"
                )


def positive_int(name: str, value: object, least: int = 1) -> int:
    """Gives back ``value`` if it is a whole number of at least ``least``.

    Raises:
        ValueError: it is not; the error names the parameter and the value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return value
