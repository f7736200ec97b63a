"""Base class of every pipeline stage, and the checks of input frames."""

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from inspect import Parameter
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

DROPPED_BY = "dropped_by"
"""Column with the name of the filter that dropped a row, or None."""
_describes: ContextVar[bool] = ContextVar("_describes", default=False)
"""Whether ``repr`` leaves out parameters that do not change the output, also of nested stages."""


class Stage(pt.Transformer):
    """Base class of a transformer from frames to frames.

    A subclass declares its required and output columns and transforms frames of at least one row.
    ``Stage`` validates the input, returns an empty frame with the output columns for an empty
    input, and supports ``pt.inspect``. Every parameter ``p`` of ``__init__`` must be stored as
    ``self.p`` or ``self._p``.
    """

    _counters: tuple[str, ...] = ()
    """Attributes that count over all calls. `distributed` adds the counts of its workers."""
    _without_effect: tuple[str, ...] = ()
    """Parameters that do not change the output; see `description`."""
    _before: dict[str, int] | None = None
    """Counts when the last call began; None until the first call."""

    def __init__(self) -> None:  # pt.inspect would look for an attribute for object's *args
        super().__init__()

    def _required_columns(self) -> list[str]:
        """Returns the columns that the input frame must have."""
        raise NotImplementedError

    def _output_columns(self, columns: list[str]) -> list[str]:
        """Returns the columns of the output frame for an input frame with ``columns``."""
        return columns

    def _whole_frame(self) -> tuple[str, str] | None:
        """Returns what the stage compares with each other, and what to write instead of a stream.

        None if it can process a frame in parts.
        """
        return None

    def _one_process(self) -> str | None:
        """Returns why several processes cannot apply the stage, and what to do. None if they can.

        `distributed` refuses such a stage.
        """
        return None

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Transforms a validated frame of at least one row, with an index that counts from 0."""
        raise NotImplementedError

    def _validate(self, inp: pd.DataFrame) -> None:
        """Checks the columns of a frame; see `transform`."""
        check_columns(inp, *self._required_columns(), context=self)

    def _transform_valid(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Transforms a validated frame, which may be empty."""
        if len(inp) == 0:
            return pd.DataFrame(columns=self._output_columns(list(inp.columns)))
        return self._transform(inp.reset_index(drop=True))

    def _begin_call(self) -> None:
        """Begins to count a call: a frame, or all batches of one run of ``index()``."""
        self._before = {name: getattr(self, name) for name in self._counters}

    def _last(self, counter: str) -> int:
        """Returns what the last call added to a counter."""
        return getattr(self, counter) - (self._before or {}).get(counter, 0)

    def _last_call(self) -> dict[str, Any]:
        """Returns what the last call added, which `_add_call` adds to a copy of the stage."""
        return {name: self._last(name) for name in self._counters}

    def _add_call(self, added: dict[str, Any]) -> None:
        """Adds what a copy of the stage, such as that of a worker, returned by `_last_call`."""
        for name in self._counters:
            setattr(self, name, getattr(self, name) + added[name])

    def _drops(self) -> list[tuple[str, int, int]]:
        """Returns what the last call dropped, as rows of `funnel`: name, rows seen, dropped."""
        return []

    def transform_outputs(self, input_columns: list[str]) -> list[str]:
        """Returns the output columns for input columns, without a call.

        Raises:
            pt.validate.InputValidationError: A required column is missing.
        """
        self._validate(pd.DataFrame(columns=input_columns))
        return self._output_columns(list(input_columns))

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Validates and transforms a frame.

        Args:
            inp: Input frame. An empty one gives an empty frame with the output columns.

        Returns:
            The output frame.

        Raises:
            TypeError: The input is not a DataFrame.
            pt.validate.InputValidationError: A required column is missing.
            ValueError: Two columns have the same name.
        """
        # Validation comes first: pt.inspect passes an empty frame to learn the required columns.
        self._validate(inp)
        self._begin_call()
        return self._transform_valid(inp)

    def transform_iter(self, inp: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Transforms records; an empty input, such as after a filter, gives an empty list.

        Values of optional fields do not depend on the other records of a batch: integers stay
        integers, and a field that a record lacks is missing from its output too.

        Raises:
            ValueError: The stage compares all rows of a frame, and the stream is not empty. The
                error shows what to write instead.
        """
        records = list(inp)
        if not records:
            return []
        if whole := self._whole_frame():
            compared, remedy = whole
            raise ValueError(
                f"{self!r} compares all {compared}, but a stream arrives in batches: {remedy}"
            )
        frame = as_frame(records)
        self._validate(frame)
        return list(map(without_missing, self._transform_valid(frame).to_dict("records")))

    def __repr__(self) -> str:
        shown: list[str] = []
        by_name = False  # once a default is skipped, later arguments need their names
        left_out = self._without_effect if _describes.get() else ()
        for attribute in pt.inspect.transformer_attributes(self):
            kind, value = attribute.init_parameter_kind, attribute.value
            if kind is Parameter.VAR_KEYWORD:
                shown.extend(f"{name}={_short(option)}" for name, option in value.items())
                continue
            text, default = _short(value), attribute.init_default_value
            if default is value or text == repr(default) or attribute.name in left_out:
                by_name = True
            elif by_name or kind is Parameter.KEYWORD_ONLY:
                shown.append(f"{attribute.name}={text}")
            else:
                shown.append(text)
        return f"{type(self).__name__}({', '.join(shown)})"


def description(stage: pt.Transformer) -> str:
    """Returns the ``repr`` of a stage, without parameters that do not change its output."""
    token = _describes.set(True)
    try:
        return repr(stage)
    finally:
        _describes.reset(token)


def begin_call(stages: Iterable[pt.Transformer]) -> list[Stage]:
    """Begins a call of the stages of a pipeline, and returns those that count it."""
    counting = [stage for stage in stages if isinstance(stage, Stage)]
    for stage in counting:
        stage._begin_call()
    return counting


def is_missing(value: object) -> bool:
    """Returns whether a value of a record is what pandas sets where a field is missing.

    It is NaN, ``pd.NA`` or ``pd.NaT``, but not None, which a field may have.
    """
    if type(value) is str:  # most values are; the others take twenty times as long
        return False
    return value is pd.NA or value is pd.NaT or (isinstance(value, Real) and value != value)


def without_missing(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record without the fields that are missing; see `is_missing`."""
    return {name: value for name, value in record.items() if not is_missing(value)}


def _short(value: object) -> str:
    return f"<{len(value)} rows>" if isinstance(value, pd.DataFrame) else repr(value)


def with_columns(columns: Iterable[str], *new: str) -> list[str]:
    """Returns ``columns`` followed by those of ``new`` that are not among them."""
    return list(dict.fromkeys([*columns, *new]))


def input_modes(
    required: Sequence[str], whole: Sequence[str], optional: Sequence[str] = ()
) -> list[list[str]]:
    """Returns sets of input columns for ``transform_inputs``, the largest first.

    PyTerrier takes the first set as the input of a pipeline, and later stages may need columns that
    this one ignores.

    Args:
        required: Columns that the stage needs.
        whole: Columns that frames usually have there.
        optional: Columns that some frames have.
    """
    whole = with_columns(whole, *required)
    modes = [with_columns(whole, *optional), whole, list(required)]
    return [mode for i, mode in enumerate(modes) if mode not in modes[:i]]


def as_frame(rows: Iterable[Any], columns: list[str] | None = None) -> pd.DataFrame:
    """Builds a frame from rows.

    Values keep their types: a column of dicts with values of several types, or without a value in
    some of them, has the dtype object. pandas would turn 1999 into 1999.0 there.

    Args:
        rows: Rows as dicts, or as tuples if ``columns`` is given.
        columns: Names of the columns.

    Returns:
        The frame, indexed from 0.

    Raises:
        ValueError: A string contains a lone surrogate, which pandas cannot store.
    """
    rows = list(rows)
    try:
        frame = pd.DataFrame(rows, columns=columns)
        if rows and isinstance(rows[0], dict):
            for name in frame:
                if len({type(row.get(name, np.nan)) for row in rows}) > 1:
                    values = [row.get(name, np.nan) for row in rows]
                    frame[name] = pd.Series(values, dtype=object)
        return frame
    except UnicodeEncodeError as error:
        frame = pd.DataFrame(rows, columns=columns, dtype=object)
        for column in frame:
            check_strings(frame[[isinstance(value, str) for value in frame[column]]], column)
        raise ValueError(f"invalid Unicode: {error}") from error


def check_columns(
    frame: pd.DataFrame, *columns: str, context: pt.Transformer | None = None
) -> None:
    """Checks that a frame has certain columns and that its column names are unique.

    Args:
        frame: Frame to check.
        columns: Required columns.
        context: Transformer to name in the error.

    Raises:
        TypeError: ``frame`` is not a DataFrame.
        pt.validate.InputValidationError: A column is missing.
        ValueError: Two columns have the same name.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"a DataFrame is needed, not {_shown(frame)}")
    pt.validate.columns(frame, includes=list(columns), context=context)
    if (twice := frame.columns.duplicated()).any():
        raise ValueError(
            f"two columns are called {frame.columns[twice][0]!r}: rename or drop one of them"
        )


def check_strings(frame: pd.DataFrame, *columns: str) -> None:
    """Checks that all values of the columns are strings that UTF-8 can encode.

    Raises:
        ValueError: A value is not such a string. The error names the value and its row.
    """
    for column in columns:
        for row, value in enumerate(frame[column].tolist()):
            if not isinstance(value, str):
                raise ValueError(
                    f"{column} must be a string, but is {_shown(value)} "
                    f"{_place(frame, column, row)}: convert it with str() or drop the row"
                )
            if surrogate := lone_surrogate(value):
                raise ValueError(
                    f"{column} contains the lone surrogate {surrogate!r} "
                    f"{_place(frame, column, row)}: repair it with "
                    f"text.encode('utf-8', 'replace').decode() or drop the row"
                )


def check_kept(frame: pd.DataFrame) -> None:
    """Checks that no row is one that a filter with ``explain=True`` dropped.

    Raises:
        ValueError: There is such a row. The error names it and the filter.
    """
    if DROPPED_BY in frame and (dropped := frame[DROPPED_BY].notna().to_numpy()).any():
        row = int(dropped.argmax())
        raise ValueError(
            f"{dropped.sum():,} of {len(frame):,} rows were dropped by a filter with explain=True, "
            f"such as {frame[DROPPED_BY].iloc[row]} {_place(frame, DROPPED_BY, row)}: select the "
            f"others with frame[frame[{DROPPED_BY!r}].isna()]"
        )


def fields_of(text_field: str | Sequence[str]) -> list[str]:
    """Returns the columns of a text field, which may be one name or several."""
    return [text_field] if isinstance(text_field, str) else list(text_field)


def joined_text(frame: pd.DataFrame, text_field: str | Sequence[str]) -> list[str]:
    """Returns the text of each row: the column, or several columns joined by spaces.

    Of several columns, missing and empty values are left out.

    Raises:
        ValueError: A value is not a string that UTF-8 can encode.
    """
    fields = fields_of(text_field)
    if len(fields) > 1:
        frame = frame.assign(**{name: frame[name].astype(object).fillna("") for name in fields})
    check_strings(frame, *fields)
    if len(fields) == 1:
        return frame[fields[0]].tolist()
    rows = zip(*(frame[name] for name in fields), strict=True)
    return [" ".join(filter(None, map(str.strip, row))) for row in rows]


def lone_surrogate(text: str) -> str:
    """Returns the first lone surrogate, which UTF-8 cannot encode, or an empty string."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return text[error.start]
    return ""


def as_numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Converts a column to a float array without NaN.

    Raises:
        ValueError: A value is not a number. The error names the value and its row.
    """
    numbers = pd.to_numeric(frame[column], errors="coerce").to_numpy(float)
    if (bad := np.isnan(numbers)).any():
        row = int(bad.argmax())
        raise ValueError(
            f"{column} is not a number {_place(frame, column, row)}: got "
            f"{_shown(frame[column].iloc[row])}; set a number or drop the row"
        )
    return numbers


def as_finite_numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Converts a column to a float array without NaN and infinite numbers.

    Raises:
        ValueError: A value is not a finite number. The error names the value and its row.
    """
    numbers = as_numbers(frame, column)
    if (infinite := np.isinf(numbers)).any():
        row = int(infinite.argmax())
        raise ValueError(
            f"{column} must be a finite number, but is {numbers[row]} "
            f"{_place(frame, column, row)}: drop the row"
        )
    return numbers


def _place(frame: pd.DataFrame, column: str, row: int) -> str:
    """Describes a row by its ids, or by its number if it has none."""
    ids = {c: frame[c].iloc[row] for c in ("qid", "docno") if c in frame and c != column}
    return "at " + (", ".join(f"{c} {v!r:.100}" for c, v in ids.items()) or f"row {row}")


def _shown(value: object) -> str:
    return f"{value!r:.200} ({type(value).__name__})"
