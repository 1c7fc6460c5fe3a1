"""Converts cells of a table to numbers, as polars expressions.

A missing cell becomes null, a cell without a number nan. A cell's number is:

- of text, which all cells of a CSV file are: the number that polars reads; ``true`` is 1 and ``false`` is 0,
  regardless of case;
- in a Parquet file also an integer, decimal, float or boolean;
- for a category of a column: 1 if the cell is that category, 0 if it is another feature's, otherwise none.

A cell is missing if it is null or only white space. Other cells cannot be used if they are not a number, or are
``nan``, ``inf`` or a number above ``LARGEST`` in absolute value.
"""

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path

import numpy as np
import polars as pl
import polars.selectors as cs

from descent.errors import UserError, invalid
from regression.data.encoding import Feature
from regression.data.rows import LARGEST

MISSING = ("na", "n/a", "null", "none", "?", "-")  # what other programs write in a missing cell


def as_numbers(frame: pl.LazyFrame, features: Sequence[Feature], path: Path) -> list[pl.Expr]:
    """The numbers of each feature as Float64, named like the feature.

    Raises:
        UserError: a column is missing, or is neither text nor numeric.
    """
    schema = frame.collect_schema()
    columns = list(dict.fromkeys(feature.column for feature in features))
    missing = [name for name in columns if name not in schema]
    if missing:
        raise UserError(f"{path} must have the columns {', '.join(columns)}; {', '.join(missing)} missing")
    for name, category in features:
        if category is None and not (is_numeric(schema[name]) or schema[name] in (pl.String, pl.Null)):
            raise invalid(f"column {name} of {path}", "numeric", str(schema[name]))
    categories = _categories(features)
    return [
        (number(name, schema[name]) if category is None else _is(name, category, categories[name])).alias(feature.name)
        for feature in features
        for name, category in [feature]
    ]


def usable(numbers: pl.DataFrame) -> bool:
    """Whether all numbers that are not missing are finite and at most ``LARGEST`` in absolute value."""
    return all(numbers.select((pl.all().abs() <= LARGEST).all()).row(0))  # false for nan


def bad_cell(frame: pl.LazyFrame, features: Sequence[Feature], path: Path) -> UserError | None:
    """The error for the first row with a cell that cannot be used; ``None`` if there is no such row."""
    firsts = list({feature.column: feature for feature in features}.values())
    categories = _categories(features)
    numbers = [cells.alias(str(i)) for i, cells in enumerate(as_numbers(frame, features, path))]
    good = pl.all_horizontal((cells.abs() <= LARGEST).fill_null(True) for cells in numbers)  # false for nan
    bad_rows = frame.select(good.alias("good")).with_row_index("row").filter(~pl.col("good")).head(1)
    found = bad_rows.collect(engine="streaming")
    if not found.height:
        return None
    row = found["row"][0]
    cells = frame.slice(row, 1).select(column(first.column) for first in firsts).collect(engine="streaming")
    values = dict(zip(features, cells.select(numbers).row(0), strict=True))
    for feature, cell in zip(firsts, cells.row(0), strict=True):
        value, where = values[feature], f"column {feature.column} of {path}"
        if value is None or abs(value) <= LARGEST:
            continue
        if feature.category is not None:
            known = ", ".join(categories[feature.column])
            error = invalid(where, f"a category of the run's training rows ({known}) in data row {row + 1}", cell)
            unseen = numbers[features.index(feature)].is_nan().sum()
            count = frame.select(unseen).collect(engine="streaming").item()
            rows = "1 row has" if count == 1 else f"{count:,} rows have"
            return UserError(f"{error}; {rows} an unknown category: remove such rows, or train with rows that have it")
        if np.isfinite(value):
            rule = f"a number up to {LARGEST:g} (squares of larger numbers may overflow) in data row {row + 1}"
            return invalid(where, rule, cell)
        hint = (
            " (leave a missing cell empty, with data.missing=drop or mean)"
            if str(cell).strip().lower() in MISSING
            else ""
        )
        return invalid(where, f"a finite number in data row {row + 1}{hint}", cell)
    return None


def missing_cells(frame: pl.LazyFrame, features: Sequence[Feature]) -> dict[str, int]:
    """The number of missing cells of each column that has any."""
    columns = list(dict.fromkeys(feature.column for feature in features))
    schema = frame.collect_schema()
    counts = frame.select(filled(name, schema[name]).null_count() for name in columns).collect(engine="streaming")
    return {name: count for name, count in zip(columns, counts.row(0), strict=True) if count}


def missing_error(path: Path, counts: Mapping[str, int], cure: str) -> UserError:
    shown = ", ".join(f"{name} {count}" for name, count in counts.items())
    return UserError(f"{path} has missing cells: {shown}; {cure}")


def is_numeric(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype == pl.Boolean


def is_text(dtype: pl.DataType) -> bool:
    return dtype in (pl.String, pl.Categorical, pl.Enum)


def column(name: str) -> pl.Expr:
    """The column of exactly this name: ``pl.col`` treats ``*`` and ``^..$`` as patterns."""
    return cs.by_name(name).as_expr()


def filled(name: str, dtype: pl.DataType) -> pl.Expr:
    """The cells, with null for missing ones."""
    if not is_text(dtype):
        return column(name)
    cell = column(name).cast(pl.String)
    return pl.when(cell.str.strip_chars() != "").then(cell)


def parsed(name: str, dtype: pl.DataType) -> pl.Expr:
    """The numbers, with null for cells without a number."""
    cell = column(name)
    if dtype != pl.String:
        return cell.cast(pl.Float64)
    truth = cell.str.to_lowercase()
    one_or_zero = pl.when(truth == "true").then(1.0).when(truth == "false").then(0.0)
    return cell.cast(pl.Float64, strict=False).fill_null(one_or_zero)


def number(name: str, dtype: pl.DataType) -> pl.Expr:
    numbers = parsed(name, dtype)
    return numbers.fill_null(pl.when(filled(name, dtype).is_not_null()).then(nan)) if dtype == pl.String else numbers


def _is(name: str, category: str, known: Sequence[str]) -> pl.Expr:
    cell = filled(name, pl.String())
    return pl.when(cell.is_in(known)).then((cell == category).cast(pl.Float64)).when(cell.is_not_null()).then(nan)


def _categories(features: Sequence[Feature]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, category in features:
        found.setdefault(name, []).extend([] if category is None else [category])
    return found
