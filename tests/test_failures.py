"""Tests the errors and results of failed runs."""

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, config_of
from test_resume import SMALL, SignalAt

from descent.config.hparams import flat_hparams
from descent.config.identity import config_digest
from descent.config.messages import one_line
from descent.errors import UserError
from descent.files import locked, write_atomically
from descent.run.code import code_digests
from descent.run.result import Result, read_result
from descent.run.train import train
from descent.training.sparse_callback import SparseCallback
from regression.data.sources import SyntheticData

FREE = ("trainer.enable_progress_bar=false", "figures=false")


class FailsAt(SparseCallback):
    """Raises an error in a hook."""

    def __init__(self, hook: str, error: BaseException) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise error

        setattr(self, hook, fail)


def test_a_run_that_is_refused_leaves_a_result_with_the_reason(tmp_path: Path) -> None:
    config = config_of(*FREE, *SMALL, "seed=3", "predict_at=[[1,2]]")
    reason = "predict_at must be rows of 5 numbers, one for each feature, got [1, 2]"
    with pytest.raises(UserError) as raised:
        train(config, tmp_path / "a/r", command="the command")
    assert str(raised.value) == reason
    expected = Result(
        "failed", 3, "the command", reason, hparams=flat_hparams(config), code=code_digests(config)
    ).as_dict()
    written = json.loads((tmp_path / "a/r/result.json").read_text())
    assert written == {**expected, "config_digest": config_digest(config)}
    assert "features" not in written and written["hparams"]["optimizer"] == "sgd"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("[1e15,-1e15]", None),
        ("[0,-1.1e15]", "predict_at must be rows of numbers up to 1e+15, got [0, -1100000000000000.0]"),
        ("[1,2,3]", "predict_at must be rows of 2 numbers, one for each feature, got [1, 2, 3]"),
    ],
)
def test_predict_at_rows_need_one_number_per_feature_up_to_1e15(row: str, message: str | None, run: Run) -> None:
    overrides = (*SMALL, "data.num_features=2", "trainer.max_epochs=1", f"predict_at=[{row}]")
    if message is None:
        assert run(*overrides).status == "completed"
    else:
        with pytest.raises(UserError) as raised:
            run(*overrides)
        assert str(raised.value) == message


@pytest.mark.parametrize(("size", "noted"), [(40, False), (41, True)])
def test_only_a_batch_larger_than_the_training_set_is_noted(
    size: int, noted: bool, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    run(*SMALL, f"batch.size={size}", "trainer.max_epochs=1")
    found = [record.getMessage() for record in caplog.records if record.name.startswith(("descent", "regression"))]
    assert found == (["note: batch.size=41 is more than the 40 training rows: each batch has all rows"] * noted)


@pytest.mark.parametrize(
    ("names", "shown"),
    [(("/x/some file",), "/x/some file"), ((b"/x/bytes",), "/x/bytes"), ((), None)],
    ids=["text", "bytes", "none"],
)
def test_a_disk_error_names_the_file_or_the_run_directory(
    names: tuple[Any, ...], shown: str | None, run: Run, tmp_path: Path
) -> None:
    error = OSError(28, "No space left on device", *names)
    with pytest.raises(UserError) as raised:
        run(*SMALL, callbacks=[FailsAt("on_train_start", error)], run_dir=tmp_path / "r")
    message = f"cannot write {shown or tmp_path / 'r'}: No space left on device"
    assert str(raised.value) == message and raised.value.__cause__ is error
    assert (read_result(tmp_path / "r")["status"], read_result(tmp_path / "r")["reason"]) == ("failed", message)


def test_a_disk_error_is_reported_when_the_result_cannot_be_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    def fill(*_: Any) -> None:
        monkeypatch.setattr(os, "fsync", full)
        raise OSError(5, "Input/output error", "/x")

    callback = SparseCallback()
    callback.on_train_start = fill  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"^cannot write /x: Input/output error$"):
        run(*SMALL, callbacks=[callback], run_dir=tmp_path / "r")
    assert not (tmp_path / "r/result.json").exists()


@pytest.fixture
def interrupted(run: Run, tmp_path: Path) -> Path:
    """The directory of a run that was interrupted in its second epoch of four."""
    run(*SMALL, callbacks=[SignalAt(7)], run_dir=tmp_path / "r")
    return tmp_path / "r"


def test_a_resumed_run_keeps_its_old_result_until_its_first_new_step(interrupted: Path, run: Run) -> None:
    before, events = read_result(interrupted), set(interrupted.glob("events*"))
    for hook, kind in {
        "setup": ZeroDivisionError,
        "on_fit_start": MemoryError,
        "on_train_batch_start": ValueError,
    }.items():
        error = kind("mine")
        with pytest.raises(kind) as raised:
            run(*SMALL, callbacks=[FailsAt(hook, error)], run_dir=interrupted, resume=True)
        assert raised.value is error
        if hook != "on_train_batch_start":
            assert read_result(interrupted) == before
            assert set(interrupted.glob("events*")) == events
    found = read_result(interrupted)
    assert (found["status"], found["reason"], found["steps"]) == ("failed", "ValueError: mine", 0)
    assert len(set(interrupted.glob("events*")) - events) == 1


def test_an_error_while_loading_is_reported_as_an_error_of_the_checkpoint(interrupted: Path, run: Run) -> None:
    before = read_result(interrupted)
    for kind in (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError):
        error = kind("what\n  is  wrong")
        with pytest.raises(UserError) as raised:
            run(*SMALL, callbacks=[FailsAt("on_load_checkpoint", error)], run_dir=interrupted, resume=True)
        assert str(raised.value) == (
            f"{interrupted}/checkpoints/last.ckpt must be a whole checkpoint of this run, written by the same code;"
            f" it cannot be loaded: {kind.__name__}: {' '.join(str(error).split())}"
        )
        assert raised.value.__cause__ is error
        assert read_result(interrupted) == before
        assert len(list(interrupted.glob("events*"))) == 1


def test_an_error_of_a_hook_of_the_projects_is_not_blamed_on_the_checkpoint(
    interrupted: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_result(interrupted)

    def setup(self: SyntheticData, stage: str) -> None:
        raise ValueError("no images in photos")

    monkeypatch.setattr(SyntheticData, "setup", setup)
    with pytest.raises(ValueError, match="no images in photos") as raised:
        run(*SMALL, run_dir=interrupted, resume=True)
    assert re.fullmatch(r"ValueError in \S+setup: no images in photos", one_line(raised.value))
    assert read_result(interrupted) == before
    assert len(list(interrupted.glob("events*"))) == 1


def test_a_new_run_raises_an_error_before_its_first_step_unchanged(run: Run, tmp_path: Path) -> None:
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as raised:
        run(*SMALL, callbacks=[FailsAt("on_fit_start", error)], run_dir=tmp_path / "r")
    assert raised.value is error
    assert read_result(tmp_path / "r")["reason"] == "ValueError: mine"
    assert len(list((tmp_path / "r").glob("events*"))) == 1


def test_on_start_is_called_once_after_loading_and_before_the_first_step(tmp_path: Path) -> None:
    order: list[str] = []

    class Notes(SparseCallback):
        def on_load_checkpoint(self, *_: Any) -> None:
            order.append("loaded")

        def on_train_batch_start(self, *_: Any) -> None:
            order.append("step")

    config = config_of(*FREE, *SMALL, "trainer.max_epochs=1")
    train(config, tmp_path / "r", callbacks=[SignalAt(2)], on_start=lambda: order.append("start"))
    train(config, tmp_path / "r", callbacks=[Notes()], resume=True, on_start=lambda: order.append("start"))
    assert order[:4] == ["start", "loaded", "start", "step"] and order.count("start") == 2


def test_figures_are_drawn_unless_disabled_or_in_a_fast_dev_run(tmp_path: Path) -> None:
    found = {}
    for name, overrides in {
        "one feature": ["data.num_features=1"],
        "five": [],
        "none": ["figures=false"],
        "a trial": ["trainer.fast_dev_run=true"],
    }.items():
        config = config_of(
            "trainer.enable_progress_bar=false", *SMALL, "data.num_samples=20", "trainer.max_epochs=1", *overrides
        )
        assert train(config, tmp_path / name).status == "completed"
        found[name] = {path.name for path in (tmp_path / name).glob("figures/*")}
    assert found == {
        "one feature": {"fit.png", "path.png", "predicted.png"},
        "five": {"predicted.png"},
        "none": set(),
        "a trial": set(),
    }
    assert not (tmp_path / "a trial/checkpoints").exists()


def test_fast_dev_run_has_all_metrics_and_writes_only_the_result(run: Run, tmp_path: Path) -> None:
    result = run(*SMALL, "trainer.fast_dev_run=true", run_dir=tmp_path / "r")
    assert (result.status, result.steps, result.best) == ("completed", 1, None)
    assert {name for name in result.metrics if not name.startswith("optimum/")} == {
        *("train/loss", "val/loss", "val/mae", "val/r2", "test/loss", "test/mae", "test/r2"),
    }
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert {path.name for path in (tmp_path / "r").iterdir()} == {".lock", "result.json"}


def test_fast_dev_run_refuses_a_monitor_that_is_not_logged(run: Run) -> None:
    with pytest.raises(
        UserError, match=r"monitor.metric must be one that was logged \(train/loss, .*got 'val/accuracy'"
    ):
        run(*SMALL, "trainer.fast_dev_run=true", "monitor.metric=val/accuracy")


def test_a_second_run_in_a_directory_replaces_the_first_with_a_note(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(*SMALL, run_dir=tmp_path / "r")
    (tmp_path / "r/evaluation.json").write_text("{}")
    assert "replaced" not in caplog.text
    run(*SMALL, run_dir=tmp_path / "r")
    assert f"the run in {tmp_path / 'r'} is replaced; resume=True would continue it" in caplog.text
    assert not (tmp_path / "r/evaluation.json").exists()


def test_a_write_error_names_the_file_and_the_cause(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    with pytest.raises(UserError) as raised:
        write_atomically(tmp_path / "file/below", b"x")
    assert str(raised.value) in (
        f"cannot write {tmp_path}/file/below: {cause}" for cause in ("File exists", "Not a directory")
    )
    (tmp_path / "directory").mkdir()
    with pytest.raises(UserError, match=rf"^cannot write {tmp_path}/directory: Is a directory$"):
        write_atomically(tmp_path / "directory", b"x")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "directory"}
    write_atomically(tmp_path / "a/b/new", memoryview(b"xy"))
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["new"]
    assert (tmp_path / "a/b/new").read_bytes() == b"xy"


def test_a_lock_is_released_after_an_error_and_reports_its_own_errors(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a/b", "the sweep"):
        raise ZeroDivisionError
    with locked(tmp_path / "a/b", "the sweep"):
        assert (tmp_path / "a/b/.lock").exists()
        with (
            pytest.raises(UserError, match=rf"^the run {tmp_path}/a/b is in use by another process$"),
            locked(tmp_path / "a/b", "the run"),
        ):
            pass
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=rf"^cannot write {tmp_path}/file/\.lock: File exists$"),
        locked(tmp_path / "file", "the run"),
    ):
        pass


def test_only_longer_true_with_more_epochs_changes_the_length(interrupted: Path) -> None:
    for longer, epochs, refused in ((False, 5, True), (True, 3, True), (True, 5, False)):
        config = config_of(*FREE, *SMALL, f"trainer.max_epochs={epochs}")
        if not refused:
            assert train(config, interrupted, resume=True, longer=longer).epochs == epochs
            continue
        with pytest.raises(UserError) as raised:
            train(config, interrupted, resume=True, longer=longer)
        assert str(raised.value) == (
            f"{interrupted}/checkpoints/last.ckpt must have the same config to be resumed:"
            f" trainer.max_epochs was 4 and is {epochs}"
        )
