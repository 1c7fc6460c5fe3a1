"""Tests stopping rules, timing, monitors and signals, also across interruptions."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, needs_fast, save_config
from lightning.pytorch import Callback, LightningModule, Trainer
from sklearn.metrics import mean_squared_error
from test_resume import SignalAt, Trace
from test_stepping import PER_EPOCH, SMALL, curve, rows
from torch.optim.optimizer import register_optimizer_step_post_hook

from descent.errors import UserError
from descent.run.result import Result
from descent.run.resume import resume
from descent.training.sparse_callback import SparseCallback
from regression.callbacks.parameters import Parameters
from regression.data.module import RegressionData
from regression.model import LinearRegression


class LossOfAllRows(Callback):
    """Records the training loss of all rows after each epoch, computed by NumPy."""

    def __init__(self, *overrides: str) -> None:
        inputs, targets, parts = rows(*overrides)
        self.x, self.y = inputs[parts.train], targets[parts.train]
        self.losses: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LinearRegression)
        weight, bias = pl_module.own_units()
        self.losses.append(float(np.mean((self.x @ np.array(weight) + bias - self.y) ** 2)))


def assert_validated_at_the_end(result: Result, run_dir: Path) -> None:
    """Asserts a validation after the last epoch, which is not otherwise due for one."""
    validated = curve(run_dir, "val/loss")
    assert list(validated) == [*range(PER_EPOCH, 20 * PER_EPOCH + 1, PER_EPOCH), result.steps]
    assert result.steps > 21 * PER_EPOCH
    x, y, parts = rows(*SMALL)
    assert result.parameters is not None
    predicted = x[parts.val] @ result.parameters["weight"] + result.parameters["bias"]
    assert validated[result.steps] == pytest.approx(mean_squared_error(y[parts.val], predicted), rel=1e-6)


def test_loss_change_stops_after_three_consecutive_small_changes(run: Run, tmp_path: Path) -> None:
    overrides = [*SMALL, "optimizer.lr=0.05", "trainer.max_epochs=100", "stopping.loss_change=0.0012"]
    loss = LossOfAllRows(*overrides)
    result = run(*overrides, callbacks=[loss])
    changes = [abs(after - before) / before for before, after in pairwise(loss.losses)]
    small = [epoch for epoch, change in enumerate(changes, 2) if change < 0.0012]
    assert len(small) > 4 and small[2] < small[-1] - 4  # counting all small changes would stop earlier
    assert small[-3:] == [result.epochs - 2, result.epochs - 1, result.epochs]
    assert not any({epoch + 1, epoch + 2} <= set(small) for epoch in small[:-3])
    assert result.stopped is not None and result.stopped.startswith("relative change of the training loss")
    assert_validated_at_the_end(result, tmp_path / "0")
    # interrupted after an isolated small change, and after the first and second of the three
    for number, epoch in enumerate([small[0], small[-3], small[-2], None]):
        callbacks = [] if epoch is None else [SignalAt(epoch * PER_EPOCH + 2)]
        found = run(*overrides, callbacks=callbacks, run_dir=tmp_path / "r", resume=number > 0)
        assert found.status == ("completed" if epoch is None else "interrupted")
    assert (found.epochs, found.stopped, found.parameters) == (result.epochs, result.stopped, result.parameters)


@pytest.mark.parametrize(
    "overrides",
    [
        ["stopping.monitor=train/loss"],
        ["stopping.monitor=train/loss", "trainer.check_val_every_n_epoch=4"],
        ["monitor.metric=val/loss", "data.val_fraction=0"],
    ],
    ids=",".join,
)
def test_patience_on_the_training_loss_uses_the_full_loss_after_each_epoch(overrides: list[str], run: Run) -> None:
    overrides = [*SMALL, "stopping=patience", "stopping.patience=3", "optimizer.lr=0.05", *overrides]
    loss = LossOfAllRows(*overrides)
    result = run(*overrides, callbacks=[loss])
    assert result.stopped == "train/loss has not improved for 3 validations"
    assert result.epochs == len(loss.losses) < 1000
    assert loss.losses.index(min(loss.losses)) == len(loss.losses) - 1 - 3 > 4
    assert loss.losses[:5] == sorted(loss.losses[:5], reverse=True)


@pytest.mark.parametrize("rule", [[], ["stopping=patience"]], ids=str)
def test_a_monitor_that_is_not_logged_is_refused_with_the_logged_metrics(rule: list[str], run: Run) -> None:
    with pytest.raises(UserError) as raised:
        run(*SMALL, *rule, "monitor.metric=val/acc", "monitor.mode=max")
    assert str(raised.value) == "monitor.metric must be one that was logged (val/loss, val/mae, val/r2), got 'val/acc'"
    with pytest.raises(UserError) as raised:
        run(*SMALL, *rule, "monitor.metric=val/r2", "monitor.mode=max", "data.val_fraction=0")
    assert str(raised.value).removeprefix("stopping.monitor or ") == (
        "monitor.metric must be one that was logged (none was), with train/ instead of val/, because there are no"
        " validation rows, got 'train/r2'"
    )


def test_a_stopping_monitor_that_is_not_logged_is_refused_by_its_own_key(run: Run) -> None:
    with pytest.raises(
        UserError, match=r"^stopping\.monitor or monitor\.metric must be one that was logged \(.*\), got 'val/acc'$"
    ):
        run(*SMALL, "stopping=patience", "stopping.monitor=val/acc", "stopping.mode=max")


@pytest.mark.parametrize(
    ("options", "metric", "step"),
    [
        ([], "train/r2", PER_EPOCH),  # in fast steps
        (["batch=full", "batch.size=null"], "train/r2", 1),
        (["+callbacks.timer._target_=lightning.pytorch.callbacks.Timer"], "train/r2", PER_EPOCH),
        (["data.val_fraction=0"], "r2", 7),  # more training rows, 7 steps
        ([], "val/acc", 5 * PER_EPOCH),  # the first validation
    ],
    ids=str,
)
def test_a_monitor_that_is_not_logged_is_refused_at_the_first_chance(
    options: list[str], metric: str, step: int, run: Run
) -> None:
    rare, trace = ("trainer.check_val_every_n_epoch=5", "trainer.max_epochs=9"), Trace()
    with pytest.raises(UserError, match=f"monitor.metric must be one that was logged .*, got '{metric}'"):
        run(*SMALL, *rare, *options, f"monitor.metric={metric}", "monitor.mode=max", callbacks=[trace])
    assert max(trace.steps) == step


def test_a_training_metric_as_monitor_is_compared_at_validations(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinearRegression, "on_train_epoch_end", lambda self: self.log("train/x", self.current_epoch))
    rare = "trainer.check_val_every_n_epoch=3", "trainer.max_epochs=8"
    result = run(*SMALL, *rare, "monitor.metric=train/x", "monitor.mode=min")
    assert result.best == {"step": 3 * PER_EPOCH, "metric": "train/x", "value": 2.0}


class Clock:
    """A clock that advances one second per optimizer step."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def step(self, *_: Any) -> None:
        self.now += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, clock)
    hook = register_optimizer_step_post_hook(clock.step)
    yield clock
    hook.remove()


@pytest.mark.parametrize("steps", [[], [7, 20, 22]], ids=str)
def test_seconds_count_all_steps_and_no_time_between_runs(
    steps: list[int], clock: Clock, run: Run, tmp_path: Path
) -> None:
    overrides = [*SMALL, "trainer.max_epochs=6", "trainer.log_every_n_steps=1", "stopping.max_seconds=29.5"]
    for number, step in enumerate([*steps, -1]):
        result = run(*overrides, callbacks=[SignalAt(step)], run_dir=tmp_path / "r", resume=number > 0)
        assert result.status == ("completed" if step == -1 else "interrupted")
        assert result.seconds == result.steps
        clock.now += 60  # time between the runs
    assert result.stopped == "its budget of 29.5 seconds is spent"
    assert result.seconds == result.steps == 30
    assert curve(tmp_path / "r", "train/seconds") == {step: step for step in range(31)}


def test_data_setup_does_not_count_as_training_time(clock: Clock, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = RegressionData.setup

    def slow(self: RegressionData, stage: str) -> None:
        clock.now += 100
        setup(self, stage)

    monkeypatch.setattr(RegressionData, "setup", slow)
    result = run(*SMALL)
    assert clock.now > 100
    assert result.seconds == result.steps


def test_checkpoints_are_written_at_the_interval_in_seconds(clock: Clock, run: Run) -> None:
    written = [0]

    class Written(SparseCallback):
        def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
            if "optimizer_states" in checkpoint:  # last.ckpt
                written.append(trainer.global_step)

    run(*SMALL, "trainer.max_epochs=6", "checkpoint.every_seconds=8", callbacks=[Written()])
    assert written[-1] == 36
    # at the next safe point: one step later, or two at the end of an epoch
    assert all(8 <= after - before <= 10 for before, after in pairwise(written[:-1]))
    assert len(written) in (5, 6)


def test_writing_checkpoints_takes_at_most_a_twentieth_of_the_time(
    clock: Clock, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    began, took = list[float](), [3, 1, 6.1, 0.5, 0, 0, 0]

    class Slow(SparseCallback):
        def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
            if "optimizer_states" in checkpoint:  # last.ckpt
                began.append(clock.now)
                clock.now += took[len(began) - 1]

    run(*SMALL, "trainer.max_epochs=42", "checkpoint.every_seconds=16", callbacks=[Slow()])  # 252 steps of a second
    gaps = [after - before - seconds for before, after, seconds in zip(began, began[1:], took, strict=False)]
    for gap, wanted in zip(gaps[:-1], [19 * 3, 19, 19 * 6.1, 16, 16, 16], strict=False):
        assert wanted <= gap <= wanted + 2  # at the next safe point
    assert began[0] - 1000 <= 18 and len(gaps) == 6
    said = [message for message in caplog.messages if "writing a checkpoint" in message]
    assert said == [
        f"note: writing a checkpoint takes {n} s, so writes are {19 * n:.3g} s apart, not checkpoint.every_seconds=16"
        for n in (3, 6.1)  # again if it has doubled
    ]


def test_slow_checkpoints_are_noted_once_across_resumes(
    clock: Clock, run: Run, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    class Slow(SparseCallback):
        def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
            clock.now += 0.9

    options = *SMALL, "checkpoint.every_seconds=16"
    run(
        *options, "trainer.max_epochs=2", callbacks=[Slow()], run_dir=tmp_path / "short"
    )  # 12 seconds: no checkpoint but the last
    assert "writing a checkpoint" not in caplog.text
    for step in (60, -1):
        given = [SignalAt(step), Slow()]
        run(*options, "trainer.max_epochs=20", callbacks=given, run_dir=tmp_path / "long", resume=True)
    assert caplog.text.count("note: writing a checkpoint takes") == 1


def test_a_loss_of_zero_counts_as_settled(run: Run) -> None:
    exact = "model.init_weight=2", "model.init_bias=0"  # y = 2 x
    result = run("data=line", "batch=full", *exact, "stopping.loss_change=1e-6", "trainer.max_epochs=9")
    assert result.metrics["train/loss"] == 0
    assert result.epochs == 4
    assert result.stopped is not None and result.stopped.startswith("relative change of the training loss 0 below")


def test_a_run_trains_in_a_thread(run: Run) -> None:
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(run(*SMALL)))
    thread.start()
    thread.join()
    assert [result.status for result in results] == ["completed"]
    assert results[0].parameters == run(*SMALL).parameters


def test_a_run_at_max_steps_is_finished(run: Run, tmp_path: Path) -> None:
    run(*SMALL, "trainer.max_steps=13", run_dir=tmp_path / "r")
    save_config(tmp_path / "r", *SMALL, "trainer.max_steps=13")
    with pytest.raises(UserError, match=r"r is finished: it has taken the 13 steps of trainer.max_steps"):
        resume(tmp_path / "r")


class Path2d(Callback):
    """Keeps the path that the figure is drawn from."""

    path: Sequence[Sequence[float]] = ()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (parameters,) = (callback for callback in trainer.callbacks if isinstance(callback, Parameters))  # type: ignore[attr-defined]
        self.path = parameters.path


def test_the_drawn_path_has_all_steps(run: Run, tmp_path: Path) -> None:
    overrides, path = [*SMALL, "data.num_features=1", "trainer.log_every_n_steps=1"], Path2d()
    for number, step in enumerate([7, 20, -1]):
        run(*overrides, callbacks=[path, SignalAt(step)], run_dir=tmp_path / "r", resume=number > 0)
    weight, bias = (curve(tmp_path / "r", f"parameters/{name}") for name in ("weight_1", "bias"))
    assert len(path.path) == len(weight) == 20 * PER_EPOCH + 1
    assert path.path == [pytest.approx([weight[step], bias[step]], rel=1e-6) for step in sorted(weight)]


class SignalTwice(SparseCallback):
    """Sends signals one after the other at a step."""

    def __init__(self, step: int, *numbers: signal.Signals) -> None:
        self.step, self.numbers = step, numbers

    def on_step(self, trainer: Trainer, step: int, *_: Any) -> bool:
        for number in self.numbers if step == self.step else ():
            signal.raise_signal(number)
        return False


@needs_fast  # only fast steps call on_step
@pytest.mark.parametrize(("second", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["130", "143"])
def test_a_second_signal_exits_at_once(
    second: signal.Signals, code: int, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = Trace()
    with pytest.raises(SystemExit) as ended:
        run(*SMALL, callbacks=[trace, SignalTwice(8, signal.SIGINT, second)], run_dir=tmp_path / "r")
    assert ended.value.code == code
    assert max(trace.steps) == 8
    assert not (tmp_path / "r/checkpoints/last.ckpt").exists()
    assert capsys.readouterr().err.count("press Ctrl-C again to quit now") == 1


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
@pytest.mark.parametrize("by_nohup", [True, False], ids=["nohup", "terminal"])
def test_a_run_under_nohup_ignores_sighup(by_nohup: bool, run: Run) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if by_nohup else signal.SIG_DFL)
    try:
        result = run(*SMALL, "trainer.max_epochs=3", callbacks=[SignalAt(8, signal.SIGHUP)])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert result.status == ("completed" if by_nohup else "interrupted")
    assert result.steps == 3 * PER_EPOCH or not by_nohup


class Fails(SparseCallback):
    def on_step(self, trainer: Trainer, step: int, *_: Any) -> bool:
        raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    ("overrides", "callback", "status"),
    [
        ([], None, "completed"),
        ([], lambda: SignalAt(8, signal.SIGINT), "interrupted"),
        (["optimizer.lr=100"], None, "diverged"),
        pytest.param([], Fails, RuntimeError, marks=needs_fast),
        pytest.param([], lambda: SignalTwice(8, signal.SIGINT, signal.SIGINT), SystemExit, marks=needs_fast),
    ],
    ids=["completed", "interrupted", "diverged", "failed", "twice"],
)
def test_signal_handlers_are_restored_after_training(
    overrides: list[str], callback: Callable[[], Callback] | None, status: Any, run: Run
) -> None:
    def mine(number: int, frame: Any) -> None:
        raise AssertionError("a signal during training reached the previous handler")

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, mine) for number in numbers}
    try:
        callbacks = [callback()] if callback else []
        if isinstance(status, str):
            assert run(*SMALL, *overrides, callbacks=callbacks).status == status
        else:
            with pytest.raises(status):
                run(*SMALL, *overrides, callbacks=callbacks)
        assert [signal.getsignal(number) for number in numbers] == [mine, mine]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
