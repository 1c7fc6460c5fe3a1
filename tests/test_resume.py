"""A run that is interrupted at any step and resumed equals one that was not, bit for bit in double precision."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, options
from lightning.pytorch import Callback, LightningModule, Trainer
from test_conf import needs_full_batch
from test_train import events

from descent.model import LinearRegression

SMALL = ("trainer=float64", "data.num_samples=50", "data.noise_std=0.5", "trainer.max_epochs=4", "batch.size=8")
STEPS = {"mini": 20, "single": 160, "full": 4}


class Trace(Callback):
    """Every batch's targets, and the weights after it."""

    def __init__(self) -> None:
        self.steps: dict[int, Any] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, LinearRegression)
        self.steps[trainer.global_step] = (batch[1].tolist(), outputs["loss"].item(), pl_module.own_units())


class SignalAt(Callback):
    """Sends this process a signal in the middle of a step, or of the validation or epoch that ends with it."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGTERM, where: str = "on_before_backward") -> None:
        self.step, self.number, self.sent = step, number, False
        setattr(self, where, self._send)

    def _send(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and not self.sent:
            self.sent = True
            os.kill(os.getpid(), self.number)


def assert_resumes_exactly(run: Run, tmp_path: Path, interrupted: list[SignalAt], *overrides: str) -> None:
    whole, resumed = Trace(), Trace()
    expected = run(*overrides, callbacks=[whole], run_dir=tmp_path / "whole")
    run_dir = tmp_path / "resumed"
    for number, callback in enumerate([*interrupted, SignalAt(-1)]):  # at last without a signal
        found = run(*overrides, callbacks=[resumed, callback], run_dir=run_dir, resume=number > 0)
        assert found.status == ("interrupted" if callback.sent else "completed")
        if found.status == "completed":  # a stopping rule may end a run before the last signal
            break
    assert resumed.steps == whole.steps
    for name in ("status", "stopped", "metrics", "parameters", "steps", "epochs", "samples", "gradient_evaluations"):
        assert getattr(found, name) == getattr(expected, name), name
    points, whole_points = (
        {tag: sorted((p.step, p.value) for p in events(d).Scalars(tag)) for tag in events(d).Tags()["scalars"]}
        for d in (run_dir, tmp_path / "whole")
    )
    assert points == whole_points
    for name in ("best", "last"):
        a, b = (
            LinearRegression.load_from_checkpoint(d / f"checkpoints/{name}.ckpt", weights_only=True).own_units()
            for d in (run_dir, tmp_path / "whole")
        )
        assert a == b


@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_every_optimizer_resumes_exactly(optimizer: str, run: Run, tmp_path: Path) -> None:
    full = needs_full_batch(optimizer)
    batch = ["batch=full", "batch.size=null"] if full else []
    step = 2 if full else 7
    assert_resumes_exactly(run, tmp_path, [SignalAt(step)], *SMALL, f"optimizer={optimizer}", *batch)


@pytest.mark.parametrize("step", [4, 6])  # the last of an epoch, and one in its middle; `make soak` has more
@pytest.mark.parametrize("scheduler", options("scheduler"))
def test_every_scheduler_resumes_exactly(scheduler: str, step: int, run: Run, tmp_path: Path) -> None:
    extra = {"plateau": ["scheduler.patience=0", "optimizer.lr=0.3"], "step": ["scheduler.step_size=1"]}
    overrides = [*SMALL, "clip=norm", "optimizer=momentum", f"scheduler={scheduler}", *extra.get(scheduler, [])]
    assert_resumes_exactly(run, tmp_path, [SignalAt(step)], *overrides)


@pytest.mark.parametrize(
    "where", ["on_validation_start", "on_validation_end", "on_train_epoch_end", "on_train_end", "on_test_start"]
)
@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=adam"],
        ["scheduler=plateau", "scheduler.patience=0"],
        ["stopping=patience", "stopping.patience=1", "optimizer.lr=0.3"],
    ],
    ids=lambda o: o[0],
)
def test_signals_outside_of_a_step_resume_exactly(where: str, overrides: list[str], run: Run, tmp_path: Path) -> None:
    step = 20 if where in ("on_train_end", "on_test_start") else 10
    assert_resumes_exactly(run, tmp_path, [SignalAt(step, where=where)], *SMALL, *overrides)


@pytest.mark.parametrize("step", [4, 6, 11])
@pytest.mark.parametrize("scheduler", ["none", "plateau", "cosine"])
def test_a_run_with_max_steps_resumes_exactly(scheduler: str, step: int, run: Run, tmp_path: Path) -> None:
    assert_resumes_exactly(run, tmp_path, [SignalAt(step)], *SMALL, f"scheduler={scheduler}", "trainer.max_steps=12")
