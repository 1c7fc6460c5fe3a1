"""Tests edge cases of ``_target_``: unreadable classes, defaults, nesting and Trainer arguments."""

import ast
from pathlib import Path
from typing import Any

import pytest

from descent.config.optimizers import check_spec, unfilled
from descent.config.source import Argument, read_module
from descent.config.targets import check_finite, check_nested, check_target, is_default, nested_targets
from descent.config.trainer import ELSEWHERE, refusal
from descent.config.types import check
from descent.errors import UserError

PACKAGES = ["edges_of_test"]


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edges_of_test").mkdir()
    (tmp_path / "edges_of_test/__init__.py").write_text(
        "class Nothing: ...\n"
        "class MayBe(Unknown):\n    def __init__(self, params, lr: int, sizes: tuple[int, ...] = (1, 2)): ...\n"
    )
    (tmp_path / "edges_of_test/fast.cpython-311-x86_64-linux-gnu.so").touch()
    monkeypatch.syspath_prepend(str(tmp_path))


def test_an_unreadable_class_is_accepted_with_finite_numbers() -> None:
    compiled = {"_target_": "edges_of_test.fast.A", "x": [1.0, "a"]}
    assert check_target(compiled, "optimizer", PACKAGES) == compiled
    with pytest.raises(UserError, match=r"^optimizer\.x must be a number between -1e30 and 1e30, got nan$"):
        check_target({**compiled, "x": [float("nan")]}, "optimizer", PACKAGES)
    may_be = {"_target_": "edges_of_test.MayBe", "lr": 2, "sizes": [3]}  # its base class is unknown
    assert check_target(may_be, "optimizer", PACKAGES, 1, "mine") == may_be
    with pytest.raises(UserError, match=r"^optimizer\.lr is missing: optimizer=mine needs it$"):
        check_target({"_target_": "edges_of_test.MayBe"}, "optimizer", PACKAGES, 1, "mine")
    with pytest.raises(UserError, match=r"^other\.a is not a key: edges_of_test\.Nothing takes none$"):
        check_target({"_target_": "edges_of_test.Nothing", "a": 1}, "other", PACKAGES)


def argument(default: str | None) -> Argument:
    module = read_module("edges_of_test")
    assert module is not None
    return Argument(module, default is None, None, default and ast.parse(default, mode="eval").body)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        (1, "1", True),
        (1.0, "1", True),
        (2, "1", False),
        (True, "1", False),
        (1, "True", False),
        (True, "True", True),
        (None, "None", True),
        (0, "None", False),
        ([1, 2], "(1, 2)", True),
        ([1, 2], "[1, 2]", True),
        ([2, 1], "(1, 2)", False),
        ("a", "'a'", True),
        (None, None, False),
        (1, "f(1)", False),
    ],
)
def test_is_default_compares_a_value_with_the_default(value: Any, default: str | None, expected: bool) -> None:
    assert is_default(value, argument(default)) is expected


@pytest.mark.parametrize("value", [1e30, -1e30, float("inf"), float("-inf"), float("nan")])
def test_a_too_large_or_nonfinite_number_is_named_at_any_depth(value: float) -> None:
    check_finite({"a": [9.9e29, {"b": -9.9e29}], 3: 10**40, "c": "1e99"}, "model.x")
    for nested, key in (([{"b": [value]}], "x.b"), ({"a": {"b": value}}, "x.a.b"), (value, "x")):
        with pytest.raises(UserError) as raised:
            check_finite(nested, "x")
        assert str(raised.value) == f"{key} must be a number between -1e30 and 1e30, got {value!r}"


def test_nested_targets_are_found_at_any_depth() -> None:
    inner, outer = {"_target_": "a.B", "x": [{"_target_": "a.C"}]}, {"y": {"z": [1, None]}}
    value = {"p": inner, "q": [outer, {"_target_": "ab.D"}]}
    assert nested_targets(value) == [inner, {"_target_": "a.C"}, {"_target_": "ab.D"}]
    check_nested([inner, outer], "model", ["a"])
    for target in ("ab.D", 3):
        value["q"][1]["_target_"] = target  # type: ignore[index]
        with pytest.raises(UserError) as raised:
            check_nested(value, "model", ["c", "a"])
        assert str(raised.value) == (
            f"each _target_ in model must be a class in c, a (the key packages lists them), got {target!r}"
        )


def test_an_existing_file_is_accepted(tmp_path: Path) -> None:
    from descent.config.types import AbsolutePath, ExistingFile

    (tmp_path / "a.csv").touch()
    assert check(ExistingFile, "a.csv", "key", tmp_path) == str(tmp_path / "a.csv")
    for name in ("b.csv", ".", "a\0", "x" * 5000):
        with pytest.raises(UserError, match=r"^key must be a file, got "):
            check(ExistingFile, name, "key", tmp_path)
    assert check(AbsolutePath, "b", "key") == str(Path.cwd() / "b")
    with pytest.raises(UserError, match=r"^key must be a path, got 3$"):
        check(AbsolutePath, 3, "key")


def test_schedule_lengths_may_be_null() -> None:
    spec = {"_target_": "torch.optim.lr_scheduler.LinearLR", "total_iters": None, "interval": "step"}
    assert check_spec(spec, "scheduler", ["torch"]) == spec
    assert unfilled(spec) == ["total_iters"] and unfilled({"T_max": 0, "total_steps": 1}) == []
    assert unfilled({"schedulers": None}) == []
    parts = [{"T_max": None}, {"total_iters": 3}, {"total_steps": None}]
    assert unfilled({"total_iters": None, "schedulers": parts}) == ["total_iters", "T_max", "total_steps"]
    with pytest.raises(UserError, match=r"^optimizer\.T_max is not a key"):
        check_spec({"_target_": "torch.optim.SGD", "T_max": None}, "optimizer", ["torch"])
    for value in (0, None, True):
        with pytest.raises(UserError, match=r"^scheduler\.frequency must be a positive integer, got "):
            check_spec({**spec, "frequency": value}, "scheduler", ["torch"])
    with pytest.raises(UserError, match=r"^optimizer\.full_batch_only must be true or false, got null$"):
        check_spec({"_target_": "torch.optim.SGD", "full_batch_only": None}, "optimizer", ["torch"])


SUMMARY = "+callbacks.summary._target_=lightning.pytorch.callbacks.ModelSummary prints one"


def test_a_refused_trainer_argument_names_the_right_key() -> None:
    assert {name: refusal(name) for name in [*ELSEWHERE, "max_epochs", "devices", "zzz"]} == {
        name: why and f"trainer.{name} must not be set: {why}"
        for name, why in {
            "logger": "logger=... chooses the logger",
            "callbacks": "each entry of callbacks is one",
            "gradient_clip_val": "set clip.gradient_clip_val instead",
            "gradient_clip_algorithm": "set clip.gradient_clip_algorithm instead",
            "max_time": "set stopping.max_seconds instead",
            "enable_checkpointing": "runs resume from their checkpoints; checkpoint.* sets when they are written",
            "default_root_dir": "output goes below logs/, and name=... names it",
            "plugins": "the project's own plugin writes checkpoints; trainer.precision chooses the precision",
            "enable_model_summary": SUMMARY,
            "num_sanity_val_steps": "trainer.fast_dev_run=true tries validation before a long run",
            "barebones": "runs write checkpoints and logs",
            "use_distributed_sampler": "each batch is split over the processes, and each row goes to one of them",
            **{"max_epochs": None, "devices": None, "zzz": None},
        }.items()
    }
