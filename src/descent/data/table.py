"""CSV and Parquet files, read with polars and checked cell by cell; shared by training and prediction."""

import csv
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from descent.errors import UserError, must

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)
Array = NDArray[np.float64]


def read_table(path: str, target: str, features: list[str] | None) -> tuple[Array, Array, tuple[str, ...]]:
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
    frame = read_frame(str(Path(path).expanduser()))
    if frame.height == 0:
        raise UserError(f"data.path must be a file with rows of data, got none in {path}")
    if target not in frame.columns:
        raise must("data.target", f"a column of {path} ({', '.join(frame.columns)})", target)
    if features is None:
        features = [c for c in frame.columns if c != target and _is_numeric(frame[c])]
        left_out = [c for c in frame.columns if c != target and c not in features]
        if left_out:
            log.warning("not numeric and left out: %s", ", ".join(left_out))
        if not features:
            raise UserError(f"data.features: {path} has no numeric column besides the target '{target}'")
    names = tuple(features)
    return columns(frame, names, path), columns(frame, (target,), path)[:, 0], names


def _is_numeric(cells: "pl.Series") -> bool:
    """Numbers, true and false, or text of which half or more is numbers: there the rest is taken for mistakes."""
    import polars as pl

    if cells.dtype == pl.String:
        return cells.cast(pl.Float64, strict=False).count() * 2 >= max(cells.count(), 1)
    return cells.dtype.is_numeric() or cells.dtype == pl.Boolean


def read_frame(path: str) -> "pl.DataFrame":
    """The whole file as a data frame.

    Raises:
        UserError: it is not a CSV or Parquet file that polars can read.
    """
    import polars as pl  # a third of a second, needed for tables alone

    read = pl.read_parquet if Path(path).suffix.lower() == ".parquet" else _read_csv
    try:
        return read(path)
    except pl.exceptions.NoDataError:
        raise UserError(f"data.path must be a file with rows of data, got an empty file: {path}") from None
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError, csv.Error) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"data.path must be a readable CSV or Parquet file, got {path}: {reason}") from error


def _read_csv(path: str) -> "pl.DataFrame":
    import polars as pl

    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), [])
    repeated = {name for name in header if header.count(name) > 1}
    if repeated:
        raise UserError(f"data.path must have different column names, got {repeated.pop()} twice in {path}")
    # the whole file decides a column's type: one text cell in row 10,000 must not end as a parse error
    frame = pl.read_csv(path, infer_schema_length=None)
    return frame.filter(~pl.all_horizontal(pl.all().is_null()))  # blank lines


def columns(frame: "pl.DataFrame", names: tuple[str, ...], path: str) -> Array:
    """The named columns as one array (rows, columns).

    Raises:
        UserError: a column is missing; a cell is blank, text, ``nan`` or ``inf``: column and row are named.
    """
    import polars as pl

    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise UserError(f"{path} must have the columns {', '.join(names)}; {', '.join(missing)} missing")
    for name in names:
        cells = frame[name]
        if cells.dtype == pl.String:  # one cell that is no number makes the column text
            numbers = cells.cast(pl.Float64, strict=False)
        elif cells.dtype.is_numeric() or cells.dtype == pl.Boolean:
            numbers = cells.cast(pl.Float64)
        else:
            raise must(f"column {name} of {path}", "numeric", str(cells.dtype))
        bad = (numbers.is_null() | ~numbers.is_finite().fill_null(False)).arg_true()
        if len(bad):
            row = int(bad[0])
            raise must(f"column {name} of {path}", f"a finite number in data row {row + 1}", cells[row])
        if cells.dtype == pl.String:
            frame = frame.with_columns(numbers)
    return frame.select(pl.col(name).cast(pl.Float64) for name in names).to_numpy()
