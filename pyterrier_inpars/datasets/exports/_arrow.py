"""Parquet files, and data sets of the package ``datasets``: all columns, by Arrow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_inpars._files import atomic_file
from pyterrier_inpars._stage import as_frame, check_columns, check_strings
from pyterrier_inpars.datasets.exports._rows import COLUMNS, checked_chunks

if TYPE_CHECKING:
    import datasets
    import pyarrow

    from pyterrier_inpars.queries.artifact import SyntheticQueries


def to_dataset(queries: pd.DataFrame | SyntheticQueries) -> datasets.Dataset:
    """Returns synthetic queries or training examples as a data set of ``datasets``.

    Args:
        queries: Frame ``qid, query, docno, text`` and others, or a :class:`SyntheticQueries`.

    Returns:
        Data set with all columns. A missing value (None, NaN) is null.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: An id, query or text is not a string, or the values of a column have no common
            type.
    """
    import datasets
    import pyarrow

    schema = _schema(queries)
    tables = [_table(rows, schema) for rows in checked_chunks(queries)]
    return datasets.Dataset(pyarrow.concat_tables([schema.empty_table(), *tables]))


def from_dataset(dataset: datasets.Dataset) -> pd.DataFrame:
    """Returns a data set, such as of :func:`to_dataset`, as a frame.

    Raises:
        TypeError: It is another object, such as a ``DatasetDict`` of several splits.
        pt.validate.InputValidationError: A column is missing.
        ValueError: An id, query or text is not a string.
    """
    import datasets

    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(
            f"dataset must be a datasets.Dataset, not a {type(dataset).__name__}: give one split "
            "of a DatasetDict, such as dataset['train']"
        )
    # Not dataset.data: select, filter and shuffle leave it as it was.
    return _frame(dataset.with_format("arrow")[:])


def write_parquet(queries: pd.DataFrame | SyntheticQueries, path: str | Path) -> None:
    """Writes synthetic queries or training examples to a Parquet file, with all columns.

    An artifact is read shard by shard, twice.

    Args:
        queries: See :func:`to_dataset`.
        path: File to write. Missing parent folders are created.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: See :func:`to_dataset`.
    """
    import pyarrow.parquet

    schema = _schema(queries)
    with (
        atomic_file(path, compress=False) as file,
        pyarrow.parquet.ParquetWriter(file, schema) as writer,
    ):
        for rows in checked_chunks(queries):
            writer.write_table(_table(rows, schema))


def read_parquet(path: str | Path) -> pd.DataFrame:
    """Reads a Parquet file, such as of :func:`write_parquet`, as a frame.

    Raises:
        pt.validate.InputValidationError: A column is missing.
        ValueError: The file is not in Parquet, or an id, query or text is not a string.
        FileNotFoundError: The file does not exist.
    """
    import pyarrow.parquet

    try:
        return _frame(pyarrow.parquet.read_table(Path(path).expanduser()))
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error


def _schema(queries: Any) -> pyarrow.Schema:
    """Returns the Arrow schema of all rows: the columns of the frame, or as they come."""
    import pyarrow

    names = dict.fromkeys(getattr(queries, "columns", COLUMNS))
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"the name of a column must be a string, not {wrong[0]!r}: rename it")
    types: dict[str, pyarrow.Schema] = {}
    for rows in checked_chunks(queries):
        present = dict.fromkeys(name for row in rows for name in row)
        names |= present
        for name in present:
            try:
                found = pyarrow.array([row.get(name) for row in rows]).type
                known = types.get(name, pyarrow.schema([(name, found)]))
                types[name] = pyarrow.unify_schemas(
                    [known, pyarrow.schema([(name, found)])], promote_options="permissive"
                )
            except (pyarrow.ArrowException, OverflowError) as error:
                raise ValueError(
                    f"the values of {name!r} have no common type; convert or drop them: {error}"
                ) from error
    empty = pyarrow.null()
    return pyarrow.schema(
        [(name, types[name].field(name).type if name in types else empty) for name in names]
    )


def _table(rows: list[dict[str, Any]], schema: pyarrow.Schema) -> pyarrow.Table:
    import pyarrow

    columns = {name: [row.get(name) for row in rows] for name in schema.names}
    return pyarrow.table(columns, schema=schema)


def _frame(table: pyarrow.Table) -> pd.DataFrame:
    """Returns an Arrow table as a checked frame; nulls are missing values."""
    rows = [
        {name: value for name, value in row.items() if value is not None}
        for row in table.to_pylist()
    ]
    frame = as_frame(rows).reindex(columns=table.column_names)
    check_columns(frame, *COLUMNS)
    check_strings(frame, *COLUMNS)
    return frame
