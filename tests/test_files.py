"""Tests error messages at their edges, and that files are written completely or not at all."""

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from descent.config.metric import Metric, in_split, monitors_of, without_split
from descent.errors import UserError, invalid, unknown_key, validation_error
from descent.files import atomic_file, locked, replaced


@pytest.mark.parametrize(
    ("length", "shown"),
    [(198, f"'{'x' * 198}'"), (199, f"'{'x' * 99} ... {'x' * 99}'")],  # 200 and 201 characters with quotes
)
def test_a_value_of_more_than_200_characters_is_shortened(length: int, shown: str) -> None:
    assert str(invalid("a.b", "a rule", "x" * length)) == f"a.b must be a rule, got {shown}"


@pytest.mark.parametrize(
    ("key", "known", "message"),
    [
        ("sede", ["seed", "name"], "sede is not a key: did you mean seed?"),
        ("a.b.sede", ["seed", "name"], "a.b.sede is not a key: did you mean a.b.seed?"),
        ("zz", ["seed", "name"], "zz is not a key: the keys here are seed, name"),
        ("a.b.zz", ["seed", "name"], "a.b.zz is not a key: the keys here are a.b.seed, a.b.name"),
    ],
)
def test_the_error_of_an_unknown_key_lists_its_neighbours(key: str, known: list[str], message: str) -> None:
    assert str(unknown_key(key, known)) == message


@dataclass
class Inner:
    number: int = 0


@dataclass
class Outer:
    needed: int
    inner: Inner = field(default_factory=Inner)
    table: dict[str, int] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("value", "path", "separator", "message"),
    [
        ({}, "", ".", "needed is missing"),
        ({}, "a", "/", "a/needed is missing"),
        ({"needed": 1, "inner": {"number": "x"}, "table": 1}, "", ".", "inner.number must be a valid integer, "),
        ({"needed": 1, "inner": {"number": "x"}}, "a.b", ".", "a.b.inner.number must be a valid integer, "),
        ({"needed": 1, "inner": {"number": "x"}}, "a", "/", "a/inner/number must be a valid integer, "),
        ({"needed": 1, "inner": 3}, "", ".", "inner must be a group of keys, got 3"),
        ({"needed": 1, "table": [None]}, "", ".", "table must be a group of keys, got [null]"),
    ],
)
def test_pydantics_first_error_is_reported_with_the_full_key(
    value: Any, path: str, separator: str, message: str
) -> None:
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(Outer).validate_python(value)
    assert str(validation_error(raised.value, path, separator)).startswith(message)


def test_a_metrics_split_is_removed_and_replaced() -> None:
    names = ["val/acc", "train/acc", "test/acc", "acc", "gan/acc", "val", "val/", "val/a/b", "gan/val/acc"]
    assert [without_split(name) for name in names] == [
        *("acc", "acc", "acc", "acc", "gan/acc", "val", "val/", "a/b", "gan/val/acc"),
    ]
    assert [in_split("test", name) for name in names[:5]] == [*["test/acc"] * 4, "test/gan/acc"]
    assert (Metric("loss", "min").merit(2.0), Metric("acc", "max").merit(2.0)) == (-2.0, 2.0)


def test_each_monitor_is_listed_once_in_order() -> None:
    loss: dict[str, Any] = {"monitor": {"metric": "val/loss", "mode": "min"}}
    acc: dict[str, Any] = {"monitor": {"metric": "val/acc", "mode": "max"}}
    assert monitors_of([loss, acc, {}, {"monitor": None}, loss], []) == [("val/acc", "max"), ("val/loss", "min")]
    assert monitors_of([{}], ["val/loss", "train/loss"]) == [("val/loss", "min")]
    assert monitors_of([{"monitor": None}], ["train/loss"]) == monitors_of([], []) == [("train/loss", "min")]


FULL_DISK = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def raised_while(context: BaseException, error: BaseException) -> BaseException:
    error.__context__ = context
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FULL_DISK, "cannot write {}: No space left on device"),
        (raised_while(FULL_DISK, RuntimeError("of torch's")), "cannot write {}: No space left on device"),
        (raised_while(KeyError("b"), RuntimeError("of torch's")), None),
        (RuntimeError("of torch's"), None),
        (raised_while(FULL_DISK, KeyboardInterrupt()), None),  # not a disk error
    ],
    ids=["disk", "wrapped", "other context", "other", "interrupt"],
)
def test_a_failed_write_leaves_the_old_file(error: BaseException, message: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"first")
    with pytest.raises(BaseException) as raised, atomic_file(path) as file:
        file.write(b"half")
        assert {each.name for each in tmp_path.iterdir()} == {"a.json", "a.json.tmp"}
        raise error
    if message is None:
        assert raised.value is error
    else:
        assert type(raised.value) is UserError and str(raised.value) == message.format(path)
        assert raised.value.__cause__ is error
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"a.json": b"first"}


def test_a_temporary_file_replaces_the_output_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for content in ("first", "second"):
        with replaced(Path("out.csv")) as temporary, replaced(tmp_path / "out.csv") as other:
            assert temporary.is_absolute() and temporary.parent == tmp_path  # on the same disk
            assert temporary.suffix == ".csv" and temporary.name.startswith(".") and temporary != other
            temporary.write_text("half")
            temporary.write_text(content)
            other.write_text("of the one that ends first")
        assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"out.csv": content}
    with pytest.raises(KeyboardInterrupt), replaced(Path("out.csv")) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"out.csv": "second"}


def test_each_directory_has_its_own_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "a", "the run"), locked(tmp_path / "b", "the run"):
        assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
            *("a", "a/.lock", "b", "b/.lock"),
        ]
