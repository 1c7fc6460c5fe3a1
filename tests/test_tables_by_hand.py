"""Tests reading small tables, and every message of a bad one."""

import csv
import logging
import math
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from descent.errors import UserError
from regression.data import table
from regression.data.encoding import Encoding, Feature
from regression.data.table import read_rows, read_table


def written(path: Path, content: str | pl.DataFrame) -> Path:
    path.write_text(content) if isinstance(content, str) else content.write_parquet(path)
    return path


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as raised:
        call()
    return str(raised.value)


def read_columns(path: Path, key: str, names: list[str]) -> np.ndarray:
    """Reads the columns, with the last as the target, into one array."""
    inputs, targets = read_rows(path, key, Encoding([Feature(name) for name in names[:-1]]), names[-1])
    return np.column_stack([inputs, targets])


TEXT = "name,x,city,y,blank\nann,1,Rome,5,\nbob,-1e15,Oslo,1e15,\n"


def test_non_numeric_columns_are_named_once_without_the_target(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inputs, targets, names = read_table(written(tmp_path / "rows.CSV", TEXT), "y", None)
    assert (inputs.tolist(), targets.tolist(), names) == ([[1], [-1e15]], [5, 1e15], (Feature("x"),))
    said = [(record.levelno, record.message) for record in caplog.records]
    assert said == [(logging.WARNING, "note: non-numeric columns are left out: name, city, blank")]
    caplog.clear()
    read_table(written(tmp_path / "all.csv", "x,y\n1,2\n"), "y", None)
    read_table(tmp_path / "rows.CSV", "y", ["x"])
    assert not caplog.records


def test_a_column_of_mostly_blanks_is_a_feature_with_missing_cells(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", "x,y\n1,1\n,2\n,3\n,4\n")
    said = refusal(lambda: read_table(path, "y", None))
    cure = "data.missing=drop leaves out those rows, data.missing=mean fills in the column's mean"
    assert said == f"{path} has missing cells: x 3; {cure}"


def test_given_columns_are_read_in_the_given_order(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1, 2], "b": ["3", "true"], "day": [date(2024, 1, 1)] * 2, "c": [True, False]})
    path = written(tmp_path / "rows.PARQUET", frame)
    assert read_columns(path, "--data", ["c", "a", "b"]).tolist() == [[1, 1, 3], [0, 2, 1]]
    assert read_table(path, "a", ["c", "b"])[0].tolist() == [[1, 3], [0, 1]]


def test_column_names_may_contain_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'"a\r\nb","a\nb",y\n1,2,3\n')
    inputs, _, names = read_table(path, "y", None)
    assert (inputs.tolist(), names) == ([[1, 2]], (Feature("a\r\nb"), Feature("a\nb")))


WHOLE: dict[str, tuple[str, str]] = {
    "no rows": ("x,y\n", "KEY must be a file with rows of data, got none in PATH"),
    "empty": ("", "KEY must be a file with rows of data, got an empty file: PATH"),
    "twice": ("x,y,y,x\n1,2,3,4\n", "KEY must have different column names, got x twice in PATH"),
    "twice after a mark of the byte order": (
        "\ufeffx,x,y\n1,2,3\n",
        "KEY must have different column names, got x twice in PATH",
    ),
    "one too large": (
        "x,y\n1e15,2\n2,1\n1,-1.5e15\n",
        "column y of PATH must be a number up to 1e+15 (squares of larger numbers may overflow) in data row 3,"
        " got '-1.5e15'",
    ),
    "two in a row": ("x,y\n1,2\n\noops,inf\n", "column x of PATH must be a finite number in data row 2, got 'oops'"),
    "one missing, one bad": ("x,y\n1,2\n\n,inf\n", "column y of PATH must be a finite number in data row 2, got 'inf'"),
    "carriage returns": (
        "x,y\r1,2\r",
        "KEY must be a CSV file with columns separated by ',' and lines that end in a line feed, got 'PATH'",
    ),
    "a header without end": (
        f'"{"x" * 140_000}",y\n1,2\n',
        "KEY must be a readable CSV or Parquet file, got PATH: field larger than field limit (131072)",
    ),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_bad_table_is_refused_with_these_messages(kind: str, tmp_path: Path) -> None:
    content, message = WHOLE[kind]
    path = written(tmp_path / "rows.csv", content)
    for key, call in (
        ("data.path", lambda: read_table(path, "y", ["x"])),
        ("--data", lambda: read_columns(path, "--data", ["x", "y"])),
    ):
        assert refusal(call) == message.replace("KEY", key).replace("PATH", str(path))


def test_bad_columns_are_refused_with_these_messages(tmp_path: Path) -> None:
    frame = pl.DataFrame({"day": [date(2024, 1, 1)], "x": [1.0], "y": [2.0]})
    path = written(tmp_path / "rows.parquet", frame)
    assert (
        refusal(lambda: read_table(path, "z", None)) == f"data.target must be a column of {path} (day, x, y), got 'z'"
    )
    missing = f"{path} must have the columns a, x, b; a, b missing"
    assert refusal(lambda: read_columns(path, "--data", ["a", "x", "b"])) == missing
    assert refusal(lambda: read_table(path, "day", None)) == f"column day of {path} must be numeric, got 'Date'"
    nothing = written(tmp_path / "none.parquet", frame.drop("x"))
    numeric = f"data.features: {nothing} has no numeric column besides the target 'y'"
    assert refusal(lambda: read_table(nothing, "y", None)) == numeric
    empty = written(tmp_path / "empty.parquet", frame.drop("x").clear())
    assert (
        refusal(lambda: read_table(empty, "y", None))
        == f"data.path must be a file with rows of data, got none in {empty}"
    )
    for other, rule in (("rows.txt", "a file named .csv or .parquet"), ("no.csv", "an existing CSV or Parquet file")):
        with pytest.raises(UserError) as raised:
            read_columns(tmp_path / other, "IN", ["x", "y"])
        assert str(raised.value) == f"IN must be {rule}, got '{tmp_path / other}'"
    (tmp_path / "folder.csv").mkdir()
    assert "IN must be an existing CSV or Parquet file" in refusal(
        lambda: read_columns(tmp_path / "folder.csv", "IN", ["x", "y"])
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (pl.exceptions.ComputeError("one\ntwo"), "one"),
        (pl.exceptions.PanicException("  a panic\n"), "a panic"),
        (PermissionError(13, "Permission denied"), "[Errno 13] Permission denied"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "'utf-8' codec can't decode byte 0xff in position 0: bad"),
        (csv.Error(), "Error"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_unreadable_table_is_refused_with_the_first_line_of_the_reason(
    error: BaseException, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    path = written(tmp_path / "rows.csv", "x,y\n1,2\n")
    monkeypatch.setattr(pl, "scan_csv", fail)
    said = refusal(lambda: read_table(path, "y", None))
    assert said == f"data.path must be a readable CSV or Parquet file, got {path}: {reason}"


def test_a_table_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "rows.csv", "x,y\n1,nan\n")
    look = table.bad_cell

    def mended(*args: Any) -> UserError | None:
        written(path, "x,y\n1,2\n")
        return look(*args)

    monkeypatch.setattr(table, "bad_cell", mended)
    said = refusal(lambda: read_columns(path, "--data", ["x", "y"]))
    assert said == f"--data must not change while it is read: {path}"


@pytest.mark.parametrize("number", [1e15, -1e15, np.nextafter(1e15, 2e15), -2e15, math.inf, math.nan])
def test_numbers_up_to_1e15_are_accepted(number: float, tmp_path: Path) -> None:
    path = written(tmp_path / "rows.parquet", pl.DataFrame({"x": [1.0, number], "y": [number, 3.0]}))
    if abs(number) == 1e15:
        assert read_columns(path, "--data", ["x", "y"]).tolist() == [[1, number], [number, 3]]
    else:
        what = (
            r"a number up to 1e.15 \(squares of larger numbers may overflow\)"
            if math.isfinite(number)
            else "a finite number"
        )
        with pytest.raises(UserError, match=f"column y of .* must be {what} in data row 1, got {number}$"):
            read_columns(path, "--data", ["x", "y"])
