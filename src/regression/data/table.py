"""Reads tables for training and evaluation."""

import difflib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import polars.selectors as cs

from descent.errors import UserError, invalid
from regression.data.cells import (
    as_numbers,
    bad_cell,
    column,
    filled,
    is_numeric,
    is_text,
    missing_cells,
    missing_error,
    parsed,
    usable,
)
from regression.data.encoding import Encoding, Feature, Missing
from regression.data.files import readable, scan
from regression.data.rows import Array

log = logging.getLogger(__name__)

UNTRAINED = "the run was trained with data.missing=error, not with drop or mean"
MOST_CATEGORIES = 100  # of a column
FEWEST_ROWS = 20  # with fewer rows, consecutive numbers do not suggest an identifier


def read_table(
    path: Path,
    target: str,
    features: Sequence[str] | None,
    exclude: Sequence[str] = (),
    missing: Missing = "error",
    onehot: bool = False,
) -> tuple[Array, Array, tuple[Feature, ...]]:
    """Reads a table for training.

    Args:
        path: a ``.csv`` or ``.parquet`` file.
        target: the column to predict.
        features: the columns to predict it from; ``None``: all other numeric ones, and with ``onehot`` those of text.
        exclude: columns that are not features, if ``features`` is ``None``.
        missing: ``drop`` leaves out rows with a missing cell, ``mean`` only rows without a target.
        onehot: whether a column of text becomes a feature for each category, in alphabetical order.

    Returns:
        inputs (rows, features) with nan for missing cells, targets (rows,), and the features.

    Raises:
        UserError: the file cannot be read, a column is missing, not numeric or has too many categories, or a cell is
            missing or cannot be used.
    """
    with readable("data.path", path):
        frame = scan(path, "data.path")
        schema = frame.collect_schema()
        if target not in schema:
            raise invalid("data.target", f"a column of {path} ({', '.join(schema)})", target)
        check_known(exclude, list(schema), path)
        others = [name for name in schema if name != target and name not in exclude]
        names = list(features or (name for name in others if is_numeric(schema[name]) or is_text(schema[name])))
        choosing = features is None or onehot
        plain = [Feature(name) for name in names if not (choosing and _is_enumerated(schema[name]))]
        cells = [*as_numbers(frame, plain, path), *as_numbers(frame, [Feature(target)], path)]
        numbers = frame.select(cells).collect(engine="streaming")
        text = text_columns(frame, numbers, names) if choosing else set()
        found: list[Feature] = []
        for name in names:
            texts = _categories(frame, name, path) if onehot and name in text else []
            if texts:
                found += [Feature(name, text) for text in texts]
            elif name not in text or features is not None:
                found.append(Feature(name))
        if features is None:
            left_out = [name for name in others if name not in {feature.column for feature in found}]
            if left_out:
                log.warning("note: non-numeric columns are left out: %s", ", ".join(left_out))
            if not found and numbers.height:
                raise UserError(f"data.features: {path} has no numeric column besides the target '{target}'")
        every = [*found, Feature(target)]
        if twice := {name for name, count in Counter(feature.name for feature in every).items() if count > 1}:
            raise UserError(f"the features of {path} must have different names, got {', '.join(twice)} twice")
        numbers = numbers.drop(cs.by_name(text, require_all=False))
        encoded = [feature for feature in found if feature.name not in numbers.columns]
        numbers = numbers.hstack(frame.select(as_numbers(frame, encoded, path)).collect(engine="streaming"))
        numbers = numbers.select(cs.by_name([feature.name for feature in every]))
        _check(frame, numbers, every, path, "data.path")
        cure = "data.missing=drop leaves out those rows, data.missing=mean fills in the column's mean"
        if missing == "error" and numbers[target].null_count():
            cure += f" (rows without {target} are left out by both)"
        numbers = _complete(frame, numbers, every, missing, path, cure)
    table = numbers.to_numpy()
    if features is None:
        _note_identifiers(table[:, :-1], found)
    return table[:, :-1], table[:, -1], tuple(found)


def read_rows(path: Path, key: str, encoding: Encoding, target: str) -> tuple[Array, Array]:
    """Inputs (rows, features) and targets (rows,) of a file, to evaluate a run.

    Raises:
        UserError: as for ``read_table``; if the file cannot be read, the message begins with ``key``.
    """
    with readable(key, path):
        frame = scan(path, key)
        every = [*encoding.features, Feature(target)]
        numbers = frame.select(as_numbers(frame, every, path)).collect(engine="streaming")
        _check(frame, numbers, every, path, key)
        numbers = _complete(frame, numbers, every, encoding.missing, path, UNTRAINED)
    table = numbers.to_numpy(writable=True)
    encoding.fill(table[:, :-1])
    return table[:, :-1], table[:, -1]


def _check(frame: pl.LazyFrame, numbers: pl.DataFrame, features: Sequence[Feature], path: Path, key: str) -> None:
    """Raises an error if ``numbers``, read from ``frame``, have no rows or cannot be used."""
    if numbers.height == 0:
        raise UserError(f"{key} must be a file with rows of data, got none in {path}")
    if not usable(numbers):
        raise bad_cell(frame, features, path) or UserError(f"{key} must not change while it is read: {path}")


def _complete(
    frame: pl.LazyFrame, numbers: pl.DataFrame, features: Sequence[Feature], missing: Missing, path: Path, cure: str
) -> pl.DataFrame:
    """Leaves out rows with missing cells, as ``missing`` says; the last of the features is the target."""
    needed = [feature.name for feature in (features if missing != "mean" else features[-1:])]
    kept = numbers.drop_nulls(cs.by_name(needed))
    if kept.height == numbers.height:
        return numbers
    if missing == "error":
        raise missing_error(path, missing_cells(frame, features), cure)
    what = "a missing cell" if missing == "drop" else f"no {features[-1].name}"
    if not kept.height:
        raise UserError(f"{path} must have a row that can be used: every row has {what}")
    log.warning(
        "note: %d of the %d rows of %s have %s and are left out",
        *(numbers.height - kept.height, numbers.height, path, what),
    )
    return kept


def text_columns(frame: pl.LazyFrame, numbers: pl.DataFrame, names: Sequence[str]) -> set[str]:
    """The columns of text with numbers in less than half of their cells; with more, the rest count as errors."""
    schema = frame.collect_schema()
    enumerated = {name for name in names if name not in numbers.columns}
    texts = [name for name in names if schema.get(name) == pl.String]
    without = numbers.select((column(name).is_null() | column(name).is_nan()).any() for name in texts)
    doubtful = [name for name in texts if without[name].item()]
    if not doubtful:
        return enumerated
    cells = [
        cell(name, pl.String()).count().alias(f"{cell.__name__} {name}")
        for cell in (filled, parsed)
        for name in doubtful
    ]
    counts = frame.select(cells).collect(engine="streaming").row(0)
    pairs = zip(doubtful, counts[: len(doubtful)], counts[len(doubtful) :], strict=True)
    return enumerated | {name for name, there, numeric in pairs if 2 * numeric < max(there, 1)}


def _is_enumerated(dtype: pl.DataType) -> bool:
    return dtype in (pl.Categorical, pl.Enum)


def _categories(frame: pl.LazyFrame, name: str, path: Path) -> list[str]:
    """The categories of a column, in alphabetical order."""
    cells = filled(name, frame.collect_schema()[name]).drop_nulls().unique().sort()
    found: list[str] = frame.select(cells).collect(engine="streaming").to_series().to_list()
    if len(found) > MOST_CATEGORIES:
        rule = f"one with at most {MOST_CATEGORIES} categories (data.exclude=[{name}] leaves it out)"
        raise invalid(f"column {name} of {path}", rule, len(found))
    return found


def check_known(names: Sequence[str], known: Sequence[str], path: Path) -> None:
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"its columns are {', '.join(known)}"
            raise UserError(f"data.exclude must name columns of {path}; {name} is not one: {hint}")


def _note_identifiers(inputs: Array, features: Sequence[Feature]) -> None:
    """Notes which columns look like identifiers: distinct integers that are named so or are consecutive."""
    for cells, (name, category) in zip(inputs.T, features, strict=True):
        named = name.lower() == "id" or name.lower().endswith("_id")
        consecutive = len(cells) >= FEWEST_ROWS and cells.max() - cells.min() == len(cells) - 1
        if category is not None or len(features) == 1 or not (named or consecutive):
            continue
        if (cells == np.floor(cells)).all() and len(np.unique(cells)) == len(cells):
            log.warning("note: column %s looks like an identifier: data.exclude=[%s] leaves it out", name, name)
