"""CSV and Parquet files, read with polars. Training, evaluation and prediction read them in this one way.

What a cell's number is:

- text, as all cells of a CSV file are: what polars reads as a number; ``true`` is 1 and ``false`` is 0, in any case
  of the letters;
- in a Parquet file also integers, decimals, floats and booleans.

Anything else is none: a blank cell, other text, ``nan``, ``inf``, a number above ``LARGEST`` in size.
"""

import csv
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import polars.selectors as cs

from descent.errors import UserError, invalid
from regression.data.rows import LARGEST, Array

log = logging.getLogger(__name__)

SUFFIXES = (".csv", ".parquet")


def read_table(path: Path, target: str, features: list[str] | None) -> tuple[Array, Array, tuple[str, ...]]:
    """Reads a table for training.

    Args:
        path: a ``.csv`` or ``.parquet`` file.
        target: the column to predict.
        features: the columns to predict it from; ``None``: every other numeric one.

    Returns:
        inputs (rows, features), targets (rows,), and the names of the features.

    Raises:
        UserError: the file cannot be read, a column is missing or not numeric, or a cell holds no finite number.
    """
    with readable("data.path", path):
        frame = scan(path, "data.path")
        schema = frame.collect_schema()
        if target not in schema:
            raise invalid("data.target", f"a column of {path} ({', '.join(schema)})", target)
        found = features or [name for name in schema if name != target and _may_be_numeric(schema[name])]
        cells = [*as_numbers(frame, found, path), *as_numbers(frame, [target], path)]
        numbers = frame.select(cells).collect(engine="streaming")
        if features is None:
            found = _numeric(frame, numbers, found)
            left_out = [name for name in schema if name != target and name not in found]
            if left_out:
                log.warning("not numeric and left out: %s", ", ".join(left_out))
            if not found and numbers.height:
                raise UserError(f"data.features: {path} has no numeric column besides the target '{target}'")
        table = _checked(frame, numbers, [*found, target], path, "data.path")
    return table[:, :-1], table[:, -1], tuple(found)


def read_columns(path: Path, key: str, names: Sequence[str]) -> Array:
    """The named columns of a file as one array (rows, columns).

    Raises:
        UserError: as ``read_table``; ``key`` begins the message where the file cannot be read.
    """
    with readable(key, path):
        frame = scan(path, key)
        numbers = frame.select(as_numbers(frame, names, path)).collect(engine="streaming")
        return _checked(frame, numbers, names, path, key)


def scan(path: Path, key: str) -> pl.LazyFrame:
    """A file as it is, without the blank lines of a CSV file. Its cells are text there.

    Args:
        path: exactly this file: its name is no pattern.
        key: what the user named the file with; begins the message of an error.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise invalid(key, "a file named .csv or .parquet", str(path))
    if not path.is_file():
        raise invalid(key, "a CSV or Parquet file", str(path))
    whole = path.absolute()  # polars takes a leading ~ for the home directory
    if path.suffix.lower() == ".parquet":
        return pl.scan_parquet(whole, glob=False, hive_partitioning=False)
    with whole.open(encoding="utf-8-sig", newline="") as file:
        header = next((row for row in csv.reader(file) if row), [])
    repeated = [name for name in header if header.count(name) > 1]
    if repeated:
        raise UserError(f"{key} must have different column names, got {repeated[0]} twice in {path}")
    frame = pl.scan_csv(whole, glob=False, infer_schema=False)
    if len(frame.collect_schema()) != len(header):
        raise invalid(key, "a CSV file with columns separated by ',' and lines that end in a line feed", str(path))
    return frame.filter(~pl.all_horizontal(pl.all().is_null()))


def as_numbers(frame: pl.LazyFrame, names: Sequence[str], path: Path) -> list[pl.Expr]:
    """For each of the named columns, the numbers of its cells as Float64, and null where a cell has none.

    ``nan``, ``inf`` and numbers above ``LARGEST`` are left to ``usable``.

    Raises:
        UserError: a column is missing, or is neither text nor numeric.
    """
    schema = frame.collect_schema()
    missing = [name for name in names if name not in schema]
    if missing:
        raise UserError(f"{path} must have the columns {', '.join(names)}; {', '.join(missing)} missing")
    for name in names:
        if not _may_be_numeric(schema[name]):
            raise invalid(f"column {name} of {path}", "numeric", str(schema[name]))
    return [_number(name, schema[name]) for name in names]


def usable(numbers: Array) -> bool:
    """Whether all are finite, and at most ``LARGEST`` in size."""
    return bool((np.abs(numbers) <= LARGEST).all())  # false for nan


def bad_cell(frame: pl.LazyFrame, names: Sequence[str], path: Path) -> UserError | None:
    """The error for the first row with a cell that has no usable number; ``None``: there is no such row."""
    numbers = as_numbers(frame, names, path)
    good = pl.all_horizontal((number.abs() <= LARGEST).fill_null(False) for number in numbers)  # false for nan
    bad_rows = frame.select(good.alias("good")).with_row_index("row").filter(~pl.col("good")).head(1)
    found = bad_rows.collect(engine="streaming")
    if not found.height:
        return None
    row = found["row"][0]
    cells = frame.slice(row, 1).select(_column(name) for name in names).collect(engine="streaming")
    for name, number, cell in zip(names, cells.select(numbers).row(0), cells.row(0), strict=True):
        if number is None or not np.isfinite(number):
            return invalid(f"column {name} of {path}", f"a finite number in data row {row + 1}", cell)
        if abs(number) > LARGEST:
            rule = f"a number up to {LARGEST:g}, whose square can be summed, in data row {row + 1}"
            return invalid(f"column {name} of {path}", rule, cell)
    return None


@contextmanager
def readable(key: str, path: Path) -> Iterator[None]:
    """What polars says of a file that it cannot read, as one line that begins with ``key``."""
    try:
        yield
    except pl.exceptions.NoDataError:
        raise UserError(f"{key} must be a file with rows of data, got an empty file: {path}") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError, OSError, csv.Error) as error:
        raise UserError(f"{key} must be a readable CSV or Parquet file, got {path}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _checked(frame: pl.LazyFrame, numbers: pl.DataFrame, names: Sequence[str], path: Path, key: str) -> Array:
    """The named columns of ``numbers``, read from ``frame``, as an array (rows, columns)."""
    if numbers.height == 0:
        raise UserError(f"{key} must be a file with rows of data, got none in {path}")
    table = numbers.select(_column(name) for name in names).to_numpy()
    if not all(usable(column) for column in table.T):  # column by column: the whole would be in memory once more
        raise bad_cell(frame, names, path) or UserError(f"{key} must not change while it is read: {path}")
    return table


def _numeric(frame: pl.LazyFrame, numbers: pl.DataFrame, names: Sequence[str]) -> list[str]:
    """Without the columns of text of which less than half is numbers; where it is more, the rest are mistakes."""
    schema = frame.collect_schema()
    doubtful = [name for name in names if schema[name] == pl.String and numbers[name].null_count()]
    if not doubtful:
        return list(names)
    filled = frame.select(_column(name).count() for name in doubtful).collect(engine="streaming").row(0)
    text = {name for name, count in zip(doubtful, filled, strict=True) if 2 * numbers[name].count() < max(count, 1)}
    return [name for name in names if name not in text]


def _may_be_numeric(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype in (pl.Boolean, pl.String)


def _column(name: str) -> pl.Expr:
    """Exactly this one: ``pl.col`` takes ``*`` and ``^..$`` for patterns."""
    return cs.by_name(name).as_expr()


def _number(name: str, dtype: pl.DataType) -> pl.Expr:
    cell = _column(name)
    if dtype != pl.String:
        return cell.cast(pl.Float64)
    truth = cell.str.to_lowercase()
    one_or_zero = pl.when(truth == "true").then(1.0).when(truth == "false").then(0.0)
    return cell.cast(pl.Float64, strict=False).fill_null(one_or_zero)
