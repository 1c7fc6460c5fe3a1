"""Tests that a run that is interrupted at any step resumes bit for bit."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, options
from lightning.pytorch import LightningModule, Trainer
from test_conf import needs_full_batch
from test_train import events
from torch import Tensor

from descent.batches.in_memory import Batch
from descent.training.checkpoint_io import read_checkpoint
from descent.training.sparse_callback import SparseCallback

DATA = ("data.num_samples=50", "data.noise_std=0.5", "trainer.max_epochs=4", "batch.size=8")
SMALL = ("trainer=float64", *DATA)
STEPS = {"mini": 20, "single": 160, "full": 4}


class Trace(SparseCallback):
    """Records each batch's targets, its loss and the weights after it, in fast steps and in Lightning's loop."""

    def __init__(self) -> None:
        self.steps: dict[int, Any] = {}

    def on_step(self, trainer: Trainer, step: int, batch: Batch, loss: Tensor) -> bool:
        weights = [weight.tolist() for weight in trainer.lightning_module.parameters()]
        self.steps[step] = (batch[1].tolist(), loss.item(), weights)
        return False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.on_step(trainer, trainer.global_step, batch, outputs["loss"])


class SignalAt(SparseCallback):
    """Sends this process a signal after a step, within it, or in the validation or epoch end that follows.

    ``on_step`` runs within a call of several fast steps; ``on_before_backward`` forces Lightning's loop.
    """

    def __init__(self, step: int, number: signal.Signals = signal.SIGTERM, where: str = "on_step") -> None:
        self.step, self.number, self.sent = step, number, False
        self.where = where
        if where != "on_step":
            setattr(self, where, lambda trainer, *args: self._send(trainer.global_step))

    def state_dict(self) -> dict[str, Any]:
        return {}  # not part of the run's state

    def on_step(self, trainer: Trainer, step: int, batch: Batch, loss: Tensor) -> bool:
        if self.where == "on_step":
            self._send(step)
        return False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.on_step(trainer, trainer.global_step, batch, outputs["loss"])  # in Lightning's loop

    def _send(self, step: int) -> None:
        if step == self.step and not self.sent:
            self.sent = True
            signal.raise_signal(self.number)


def tags(run_dir: Path) -> list[str]:
    return [tag for tag in events(run_dir).Tags()["scalars"] if tag != "train/seconds"]


def assert_resumes_exactly(run: Run, tmp_path: Path, interrupted: list[SignalAt], *overrides: str) -> None:
    whole, resumed = Trace(), Trace()
    expected = run(*overrides, callbacks=[whole], run_dir=tmp_path / "whole")
    run_dir = tmp_path / "resumed"
    for number, callback in enumerate([*interrupted, SignalAt(-1)]):  # the last run gets no signal
        found = run(*overrides, callbacks=[resumed, callback], run_dir=run_dir, resume=number > 0)
        assert found.status == ("interrupted" if callback.sent else "completed")
        if found.status == "completed":  # a stopping rule may end a run before the last signal
            break
    assert resumed.steps == whole.steps
    for name in ("status", "stopped", "metrics", "parameters", "steps", "epochs", "samples", "gradient_evaluations"):
        assert getattr(found, name) == getattr(expected, name), name
    points, whole_points = (
        {tag: sorted((p.step, p.value) for p in events(d).Scalars(tag)) for tag in tags(d)}
        for d in (run_dir, tmp_path / "whole")
    )
    assert points == whole_points
    for name in ("best", "last"):
        a, b = (read_checkpoint(d / f"checkpoints/{name}.ckpt")["state_dict"] for d in (run_dir, tmp_path / "whole"))
        assert a.keys() == b.keys() and all(torch.equal(weight, b[key]) for key, weight in a.items())


@pytest.mark.parametrize("trainer", ["default", "float64"])
@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_every_optimizer_resumes_exactly(optimizer: str, trainer: str, run: Run, tmp_path: Path) -> None:
    full = needs_full_batch(optimizer)
    batch = ["batch=full", "batch.size=null"] if full else []
    step = 2 if full else 7
    assert_resumes_exactly(
        run, tmp_path, [SignalAt(step)], f"trainer={trainer}", *DATA, f"optimizer={optimizer}", *batch
    )


@pytest.mark.parametrize("model", options("model"))
def test_every_model_resumes_exactly(model: str, run: Run, tmp_path: Path) -> None:
    overrides = f"model={model}", "model.loss=huber", "optimizer=adam", "data.standardize=true"
    assert_resumes_exactly(run, tmp_path, [SignalAt(6), SignalAt(10)], *SMALL, *overrides)


@pytest.mark.parametrize("scheduler", options("scheduler"))
def test_every_scheduler_resumes_exactly(scheduler: str, run: Run, tmp_path: Path) -> None:
    extra = {"plateau": ["scheduler.patience=0", "optimizer.lr=0.3"], "step": ["scheduler.step_size=1"]}
    overrides = [*SMALL, "clip=norm", "optimizer=momentum", f"scheduler={scheduler}", *extra.get(scheduler, [])]
    # in the middle of an epoch and at its end; `make soak` tests more
    assert_resumes_exactly(run, tmp_path, [SignalAt(6), SignalAt(8)], *overrides)


def test_patience_on_the_training_loss_resumes_its_count(run: Run, tmp_path: Path) -> None:
    overrides = [*SMALL, "data.val_fraction=0", "stopping=patience", "stopping.patience=3", "optimizer.lr=0.5"]
    stopped = run(*overrides, "trainer.max_epochs=30")
    assert stopped.epochs < 30
    interruptions = [SignalAt(stopped.steps - back) for back in (9, 3)]  # while patience counts
    assert_resumes_exactly(run, tmp_path, interruptions, *overrides, "trainer.max_epochs=30")


@pytest.mark.parametrize(
    "where", ["on_validation_start", "on_validation_end", "on_train_epoch_end", "on_train_end", "on_test_start"]
)
def test_signals_outside_of_a_step_resume_exactly(where: str, run: Run, tmp_path: Path) -> None:
    plateau = ["scheduler=plateau", "scheduler.patience=0"]
    patience = ["stopping=patience", "stopping.patience=1", "trainer.max_epochs=4"]
    overrides = ["optimizer=adam", *plateau, *patience, "optimizer.lr=0.3"]
    last = where in ("on_train_end", "on_test_start")
    interruption = SignalAt(run(*SMALL, *overrides).steps if last else 10, where=where)
    assert_resumes_exactly(run, tmp_path, [interruption], *SMALL, *overrides)
    assert interruption.sent


@pytest.mark.parametrize("scheduler", ["none", "plateau", "cosine"])
def test_a_run_with_max_steps_resumes_exactly(scheduler: str, run: Run, tmp_path: Path) -> None:
    assert_resumes_exactly(
        run, tmp_path, [SignalAt(4), SignalAt(11)], *SMALL, f"scheduler={scheduler}", "trainer.max_steps=12"
    )


@pytest.mark.parametrize("optimizer", ["adam", "nadam"])
def test_steps_in_lightnings_loop_resume_exactly(optimizer: str, run: Run, tmp_path: Path) -> None:
    signals = [SignalAt(3, where="on_before_backward"), SignalAt(11), SignalAt(15, where="on_before_backward")]
    assert_resumes_exactly(run, tmp_path, signals, *SMALL, f"optimizer={optimizer}", "scheduler=exponential")


@pytest.mark.parametrize(("optimizer", "steps"), [("adam", (21, 22, 57)), ("lbfgs", (60,))])
def test_a_signal_among_epochs_of_one_step_resumes_exactly(
    optimizer: str, steps: tuple[int, ...], run: Run, tmp_path: Path
) -> None:
    full = ("batch=full", "batch.size=null", "trainer.max_epochs=70", f"optimizer={optimizer}")
    assert_resumes_exactly(run, tmp_path, [SignalAt(step) for step in steps], *SMALL, *full)
    stopped = run(*SMALL, *full, callbacks=[SignalAt(steps[0])])
    assert stopped.status == "interrupted"
    assert steps[0] <= stopped.steps <= steps[0] + 2
    assert read_checkpoint(tmp_path / "0/checkpoints/last.ckpt")["global_step"] == stopped.steps


@pytest.mark.parametrize("batch", ["full", "mini"])
def test_checkpoints_are_written_during_epochs_without_hooks(batch: str, run: Run, tmp_path: Path) -> None:
    written: list[int] = []

    class Written(SparseCallback):
        def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
            if "optimizer_states" in checkpoint:
                written.append(trainer.global_step)

    size = [] if batch == "mini" else ["batch=full", "batch.size=null"]
    epochs = f"trainer.max_epochs={40 if batch == 'mini' else 200}"
    intervals = "checkpoint.every_steps=30", "checkpoint.every_seconds=null"
    run(*SMALL, *size, epochs, *intervals, callbacks=[Written()])
    assert written == pytest.approx([30, 60, 90, 120, 150, 180, 200], abs=7)


def test_a_signal_during_epochs_without_hooks_resumes_exactly(run: Run, tmp_path: Path) -> None:
    assert_resumes_exactly(
        run, tmp_path, [SignalAt(101), SignalAt(123)], *SMALL, "trainer.max_epochs=40", "optimizer=momentum"
    )


def test_a_resumed_run_keeps_the_earlier_best_step(run: Run, tmp_path: Path) -> None:
    # the learning rate is so large that each step increases the loss: the first validation is the best
    worse = ("batch=full", "batch.size=null", "optimizer.lr=1.5", "stopping.diverged_above=1e20")
    whole = run(*SMALL, *worse, run_dir=tmp_path / "whole")
    assert run(*SMALL, *worse, callbacks=[SignalAt(2)], run_dir=tmp_path / "r").status == "interrupted"
    resumed = run(*SMALL, *worse, run_dir=tmp_path / "r", resume=True)
    assert resumed.steps == 4
    assert whole.best is not None and whole.best["step"] == 1
    assert resumed.best == whole.best
