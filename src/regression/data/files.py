"""Reads CSV and Parquet files with polars, for training, evaluation and prediction."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from descent.batches.parquet import scan_parquet
from descent.errors import UserError, invalid

SUFFIXES = (".csv", ".parquet")


def scan(path: Path, key: str) -> pl.LazyFrame:
    """The rows of a file. Of a CSV file all cells are text, and blank lines are dropped.

    Args:
        path: exactly this file: its name is not a pattern.
        key: the config key or option that names the file; error messages begin with it.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise invalid(key, "a file named .csv or .parquet", str(path))
    if not path.is_file():
        raise invalid(key, "an existing CSV or Parquet file", str(path))
    if path.suffix.lower() == ".parquet":
        return scan_parquet(path)
    whole = path.absolute()  # polars expands a leading ~ to the home directory
    with whole.open(encoding="utf-8-sig", newline="") as file:
        rows = (row for row in csv.reader(file) if row)
        header, first = next(rows, []), next(rows, [""])
    repeated = [name for name in header if header.count(name) > 1]
    if repeated:
        raise UserError(f"{key} must have different column names, got {repeated[0]} twice in {path}")
    others = [mark for mark in ";\t|" if len(header) == 1 and mark in header[0] and mark in ",".join(first)]
    if others:
        raise invalid(key, f"a CSV file with columns separated by ',', not {others[0]!r}", str(path))
    frame = pl.scan_csv(whole, glob=False, infer_schema=False)
    if len(frame.collect_schema()) != len(header):
        raise invalid(key, "a CSV file with columns separated by ',' and lines that end in a line feed", str(path))
    return frame.filter(~pl.all_horizontal(pl.all().is_null()))


@contextmanager
def readable(key: str, path: Path) -> Iterator[None]:
    """Turns polars' errors about a file that it cannot read into one line that begins with ``key``."""
    try:
        yield
    except pl.exceptions.NoDataError:
        raise UserError(f"{key} must be a file with rows of data, got an empty file: {path}") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError, OSError, csv.Error) as error:
        raise UserError(f"{key} must be a readable CSV or Parquet file, got {path}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
