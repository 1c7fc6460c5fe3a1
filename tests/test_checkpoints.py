"""Tests when checkpoints are written, which is best, and what a killed run leaves."""

import shutil
from pathlib import Path
from signal import SIGTERM, raise_signal
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from conftest import Listener, Run, needs_fast
from lightning.pytorch import Callback, LightningModule, Trainer
from test_resume import SignalAt, Trace, tags
from test_stepping import PER_EPOCH, SMALL, curve, rows

from descent.training.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from descent.training.checkpoints import Checkpoints
from descent.training.sparse_callback import SparseCallback
from regression.model import LinearRegression


class Written(SparseCallback):
    """Records the steps at which ``last.ckpt`` is written."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if "optimizer_states" in checkpoint:
            self.steps.append(trainer.global_step)


@pytest.mark.parametrize("callbacks", [[], [Listener()]], ids=["here", "lightning"])
@pytest.mark.parametrize(
    ("every", "batch", "epochs", "expected"),
    [
        (7, ["batch=mini", "batch.size=8"], 5, [7, 14, 21, 28, 30]),  # 6 steps an epoch
        (6, ["batch=mini", "batch.size=8"], 3, [6, 12, 18]),  # at epoch ends; the last one is the end of the run
        (9, ["batch=full", "batch.size=null"], 30, [9, 18, 27, 30]),
        ("null", ["batch=full", "batch.size=null"], 30, [30]),
    ],
    ids=["in-epochs", "at-their-ends", "one-step-epochs", "never"],
)
def test_checkpoints_are_written_after_exactly_so_many_steps_and_at_the_end(  # type: ignore[no-untyped-def]
    every, batch: list[str], epochs: int, expected: list[int], callbacks: list[Callback], run: Run
) -> None:
    written = Written()
    options = f"checkpoint.every_steps={every}", "checkpoint.every_seconds=null", f"trainer.max_epochs={epochs}"
    run(*SMALL, *batch, *options, callbacks=[written, *callbacks])
    assert written.steps == expected


@pytest.mark.parametrize("callbacks", [[], [Listener()]], ids=["here", "lightning"])
def test_an_interval_of_no_seconds_writes_at_every_safe_point(callbacks: list[Callback], run: Run) -> None:
    written = Written()
    run(*SMALL, "checkpoint.every_seconds=0", "trainer.max_epochs=2", callbacks=[written, *callbacks])
    assert written.steps == list(range(1, 13))


def test_a_resumed_run_writes_so_many_steps_after_it_went_on(run: Run, tmp_path: Path) -> None:
    options = [*SMALL, "checkpoint.every_steps=7", "checkpoint.every_seconds=null", "trainer.max_epochs=5"]
    first, second = Written(), Written()
    run(*options, callbacks=[first, SignalAt(10)], run_dir=tmp_path / "r")
    stopped = first.steps[-1]
    assert (first.steps[:1], stopped in (10, 11)) == ([7], True)
    run(*options, callbacks=[second], run_dir=tmp_path / "r", resume=True)
    assert second.steps == [stopped + 7, stopped + 14, 30]


WITHOUT = "data.val_fraction=0", "data.test_fraction=0"


def training_losses(run_dir: Path, *overrides: str) -> dict[int, float]:
    """The loss of all training rows after each step, computed with NumPy."""
    x, y, parts = rows(*overrides)
    weights = [curve(run_dir, f"parameters/{name}") for name in ("weight_1", "weight_2", "bias")]
    a = np.c_[x[parts.train], np.ones(len(parts.train))]
    return {step: float(np.mean((a @ [w[step] for w in weights] - y[parts.train]) ** 2)) for step in weights[0]}


@pytest.mark.parametrize(
    ("options", "compared"),
    [
        (["trainer.max_epochs=6", "optimizer.lr=0.2"], [8, 16, 24, 32, 40, 48]),  # 60 rows: 8 steps an epoch
        (["trainer.max_epochs=6", "trainer.check_val_every_n_epoch=4", "optimizer.lr=0.2"], [32, 48]),
        (["trainer.max_epochs=9", "trainer.max_steps=13", "optimizer.lr=0.01"], [8, 13]),
        (["trainer.max_epochs=9", "trainer.max_steps=5", "optimizer.lr=0.01"], [5]),
    ],
    ids=["each", "every-4th", "13-steps", "5-steps"],
)
def test_without_validation_the_best_has_the_lowest_training_loss_of_those_that_are_evaluated(
    options: list[str], compared: list[int], run: Run, tmp_path: Path
) -> None:
    options = [*SMALL, *WITHOUT, *options, "trainer.log_every_n_steps=1"]
    result = run(*options, run_dir=tmp_path / "r")
    losses = training_losses(tmp_path / "r", *options)
    best = min(compared, key=losses.__getitem__)
    assert result.best == {"step": best, "metric": "train/loss", "value": pytest.approx(losses[best], rel=1e-5)}
    checkpoint = read_checkpoint(tmp_path / "r/checkpoints/best.ckpt")
    found = [*checkpoint["state_dict"]["linear.weight"][0].tolist(), checkpoint["state_dict"]["linear.bias"].item()]
    tag = "parameters/{}"
    expected = [curve(tmp_path / "r", tag.format(name))[best] for name in ("weight_1", "weight_2", "bias")]
    assert checkpoint["global_step"] == best
    assert found == pytest.approx(expected, rel=1e-6)
    assert list(curve(tmp_path / "r", "train/loss")) == list(range(1, result.steps + 1))


def test_of_equal_losses_the_first_is_the_best(run: Run) -> None:
    exact = "model.init_weight=2", "model.init_bias=0"  # y = 2 x
    result = run("data=line", "batch=full", *exact, "trainer.max_epochs=4")
    assert result.best == {"step": 1, "metric": "train/loss", "value": 0.0}


class Copies(SparseCallback):
    """Copies the run directory after a step: a process killed then would leave the same."""

    def __init__(self, step: int, source: Path, target: Path) -> None:
        self.step, self.source, self.target = step, source, target

    def on_step(self, trainer: Trainer, step: int, *_: Any) -> bool:
        if step == self.step:
            shutil.copytree(self.source, self.target)
        return False


@needs_fast  # calls on_step
@pytest.mark.parametrize("step", [11, 17])  # the last checkpoint is that of step 7, or 14
def test_a_killed_run_resumes_from_its_last_checkpoint_with_whole_curves(step: int, run: Run, tmp_path: Path) -> None:
    options = [*SMALL, "checkpoint.every_steps=7", "checkpoint.every_seconds=null", "trainer.max_epochs=4"]
    options += ["trainer.log_every_n_steps=1", "scheduler=exponential", "optimizer=momentum"]
    expected = run(*options, callbacks=[Copies(step, tmp_path / "r", tmp_path / "killed")], run_dir=tmp_path / "r")
    saved = read_checkpoint(tmp_path / "killed/checkpoints/last.ckpt")
    assert saved["global_step"] == step // 7 * 7
    assert saved["epoch"] == step // 7 * 7 // PER_EPOCH
    assert list(curve(tmp_path / "killed", "train/loss")) == list(range(1, step // 7 * 7 + 1))
    found = run(*options, run_dir=tmp_path / "killed", resume=True)
    for name in ("status", "best", "metrics", "parameters", "steps", "epochs", "samples", "gradient_evaluations"):
        assert getattr(found, name) == getattr(expected, name), name
    for tag in tags(tmp_path / "r"):
        assert curve(tmp_path / "killed", tag) == curve(tmp_path / "r", tag)


class StopsAfterEpoch(Callback):
    """Requests a stop after one epoch, only once."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch + 1 == self.epoch:
            trainer.should_stop = True


@pytest.mark.parametrize("step", [2 * PER_EPOCH, 4 * PER_EPOCH + 1], ids=["as-it-stops", "later"])
def test_a_run_that_a_rule_has_stopped_before_its_min_epochs_ends_at_them_once_resumed(
    step: int, run: Run, tmp_path: Path
) -> None:
    options = [*SMALL, "+trainer.min_epochs=6", "trainer.max_epochs=9", "optimizer.lr=0.05"]
    whole, resumed = Trace(), Trace()
    expected = run(*options, callbacks=[StopsAfterEpoch(2), whole], run_dir=tmp_path / "whole")
    signal = SignalAt(step, where="on_before_backward")
    first = run(*options, callbacks=[StopsAfterEpoch(2), resumed, signal], run_dir=tmp_path / "r")
    assert (expected.epochs, first.status, first.steps) == (6, "interrupted", step + 1)  # at the end of the step
    found = run(*options, callbacks=[StopsAfterEpoch(2), resumed], run_dir=tmp_path / "r", resume=True)
    assert (found.epochs, found.metrics, found.best) == (6, expected.metrics, expected.best)
    assert resumed.steps == whole.steps
    assert list(curve(tmp_path / "r", "val/loss")) == list(curve(tmp_path / "whole", "val/loss"))


class LogsSteps(Callback):
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        pl_module.log("steps", float(trainer.global_step), on_step=True, on_epoch=False)


@needs_fast  # keeps an epoch's sums
def test_what_is_logged_of_a_step_is_there_where_the_run_was_interrupted_in_it(run: Run, tmp_path: Path) -> None:
    options = [*SMALL, "trainer.max_epochs=2", "trainer.log_every_n_steps=2"]
    for step in (7, 8):  # every second step has a point
        signal = SignalAt(step - 1, where="on_before_backward")
        run_dir = tmp_path / str(step)
        assert run(*options, callbacks=[LogsSteps(), signal], run_dir=run_dir).steps == step
        run(*options, callbacks=[LogsSteps()], run_dir=run_dir, resume=True)
        assert curve(run_dir, "steps") == {step: step for step in (2, 4, 6, 8, 10, 12)}


@needs_fast  # keeps an epoch's sums
def test_what_is_logged_of_a_step_is_there_where_the_signal_came_as_its_checkpoint_was_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*SMALL, "trainer.max_epochs=2", "trainer.log_every_n_steps=1", "checkpoint.every_steps=4"]
    written = AtomicCheckpointIO.save_checkpoint

    def save(self: AtomicCheckpointIO, checkpoint: Any, path: Any, **options: Any) -> None:
        written(self, checkpoint, path, **options)
        if path.name == "last.ckpt" and checkpoint["global_step"] == 4:
            raise_signal(SIGTERM)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save)
    first = run(*options, callbacks=[LogsSteps()], run_dir=tmp_path)
    assert (first.status, first.steps) == ("interrupted", 4)
    run(*options, callbacks=[LogsSteps()], run_dir=tmp_path, resume=True)
    assert curve(tmp_path, "steps") == {step: step for step in range(1, 13)}


@needs_fast  # logs what Lightning logs after the last hook
@pytest.mark.parametrize("fast", ["true", "false"])
def test_what_is_logged_of_a_step_is_there_where_the_process_was_killed_after_its_checkpoint(
    fast: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*SMALL, "trainer.max_epochs=2", "trainer.log_every_n_steps=1", f"trainer.fast={fast}"]
    options += ["checkpoint.every_steps=4", "checkpoint.every_seconds=null", "logger=tensorboard_and_csv"]
    written = AtomicCheckpointIO.save_checkpoint

    def save(self: AtomicCheckpointIO, checkpoint: Any, path: Any, **options: Any) -> None:
        written(self, checkpoint, path, **options)
        if path.name == "last.ckpt" and checkpoint["global_step"] == 4 and path.is_relative_to(tmp_path / "whole"):
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")  # what is on disk now

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save)
    run(*options, callbacks=[LogsSteps()], run_dir=tmp_path / "whole")
    run(*options, callbacks=[LogsSteps()], run_dir=tmp_path / "killed", resume=True)
    for run_dir in (tmp_path / "whole", tmp_path / "killed"):
        assert curve(run_dir, "steps") == {step: step for step in range(1, 13)}
        tables = [pl.read_csv(path, infer_schema_length=None) for path in sorted(run_dir.rglob("metrics.csv"))]
        steps = pl.concat([table["steps"].drop_nulls() for table in tables])
        assert steps.to_list() == [*range(1, 13)]  # each step once


def test_a_signal_that_comes_as_a_safe_point_has_been_passed_waits_for_the_next(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_due = Checkpoints._is_due

    def late(self: Checkpoints, step: int) -> bool:
        due = is_due(self, step)
        if step == 3 and self.signals.number is None:
            raise_signal(SIGTERM)
        return due

    monkeypatch.setattr(Checkpoints, "_is_due", late)
    result = run(*SMALL, callbacks=[LogsSteps()], run_dir=tmp_path)
    saved = read_checkpoint(tmp_path / "checkpoints/last.ckpt")["global_step"]
    assert result.status == "interrupted" and result.steps == saved


def test_every_logger_counts_the_step_whose_weights_were_validated(run: Run, tmp_path: Path) -> None:
    logger = "+logger={csv: {_target_: lightning.pytorch.loggers.CSVLogger, save_dir: null, name: csv, version: ''}}"
    run(*SMALL, "trainer.max_epochs=2", logger, "trainer.log_every_n_steps=1", run_dir=tmp_path)
    rows = pl.read_csv(tmp_path / "csv/metrics.csv")
    for name, steps in (("val/loss", [6, 12]), ("train/loss", list(range(1, 13)))):
        assert rows.filter(pl.col(name).is_not_null())["step"].to_list() == steps


@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric:RuntimeWarning")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["plateau"], True),
        (["+trainer.val_check_interval=1"], True),
        (["+trainer.val_check_interval=2"], False),
        (["batch=full", "batch.size=null"], False),
        ([], False),
    ],
    ids=str,
)
def test_a_run_that_has_no_safe_point_within_an_epoch_says_so(
    options: list[str], said: bool, run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watching(module: LightningModule) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        scheduler: Any = {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler | {"monitor": "val/loss", "strict": False}}

    if options == ["plateau"]:
        monkeypatch.setattr(LinearRegression, "configure_optimizers", watching)
        options = []
    written = Written()
    options = [*options, "checkpoint.every_seconds=0", "trainer.max_epochs=2"]
    run(*SMALL, *options, callbacks=[written])
    note = "note: this run can be interrupted only at the end of an epoch, because it validates, or a scheduler"
    assert any(message.startswith(note) for message in caplog.messages) == said
    assert (written.steps == [6, 12]) == said


def test_what_the_module_adds_to_the_best_checkpoint_is_of_its_weights(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def adds(self: LinearRegression, checkpoint: dict[str, Any]) -> None:
        checkpoint["own"] = self.linear.bias.item()

    monkeypatch.setattr(LinearRegression, "on_save_checkpoint", adds)
    # each step makes the loss worse
    worse = ("batch=full", "batch.size=null", "optimizer.lr=1.5", "stopping.diverged_above=1e20")
    run(*SMALL, *worse, "trainer.max_epochs=3", run_dir=tmp_path / "r")
    best, last = (read_checkpoint(tmp_path / f"r/checkpoints/{name}.ckpt") for name in ("best", "last"))
    assert (best["epoch"], best["global_step"], last["global_step"]) == (0, 1, 3)
    assert best["own"] == best["state_dict"]["linear.bias"].item() != last["own"]
    assert last["own"] == last["state_dict"]["linear.bias"].item()
    assert "optimizer_states" in last and "optimizer_states" not in best
