"""Tests a run's effects on random states, other callbacks, the caller's logging and warnings."""

import logging
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Listener, Run, config_of
from lightning.pytorch.callbacks import ModelCheckpoint
from test_resume import SMALL, SignalAt, assert_resumes_exactly
from test_train import events
from torch import Tensor
from torch.nn.functional import dropout, mse_loss

from descent.batches.in_memory import Batch, InMemoryBatches
from descent.run.train import train
from descent.training.checkpoint_io import read_checkpoint
from descent.training.random_state import random_state, set_random_state
from regression import plots
from regression.data.module import RegressionData
from regression.model import LinearRegression


def draw() -> list[float]:
    """Draws from every generator."""
    return [torch.rand(1).item(), torch.randn(1).item(), np.random.rand(), np.random.randn(), random.gauss(0, 1)]


def test_every_generator_resumes_from_its_saved_state(tmp_path: Path) -> None:
    draw()
    torch.save(random_state(), tmp_path / "state")
    expected = [draw() for _ in range(3)]
    set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert [draw() for _ in range(3)] == expected


def with_dropout(self: LinearRegression, batch: Batch, batch_idx: int) -> Tensor:
    x, y = batch
    return mse_loss(self(dropout(x, 0.5)), y) + 0.1 * sum(draw()) * self.linear.weight.sum()


class Noisy(InMemoryBatches):
    """Batches with random noise."""

    def __iter__(self) -> Iterator[Batch]:
        for x, y in super().__iter__():
            yield x + torch.randn_like(x) + sum(draw()), y


def noisy(self: RegressionData) -> Noisy:
    return Noisy(*self.batches(self.train, None).tensors, size=self.batch_size, shuffle=self.shuffle)


@pytest.mark.parametrize("through_lightning", [False, True])
@pytest.mark.parametrize("steps", [(8,), (3, 12)], ids=str)  # an epoch has 5 steps
def test_a_module_with_dropout_resumes_exactly(
    steps: tuple[int, ...], through_lightning: bool, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinearRegression, "training_step", with_dropout)
    where = "on_before_backward" if through_lightning else "on_step"
    assert_resumes_exactly(run, tmp_path, [SignalAt(step, where=where) for step in steps], *SMALL, "optimizer.lr=0.01")


@pytest.mark.parametrize("step", [8, 10])
def test_a_loader_that_draws_random_numbers_resumes_exactly(
    step: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RegressionData, "train_dataloader", noisy)
    where = "on_train_epoch_end" if step == 10 else "on_before_backward"
    assert_resumes_exactly(run, tmp_path, [SignalAt(step, where=where)], *SMALL, "optimizer.lr=0.01")


def test_a_users_model_checkpoint_does_not_change_the_best_checkpoint(run: Run, tmp_path: Path) -> None:
    own = ModelCheckpoint(tmp_path / "own", monitor="val/mae", save_top_k=1)
    result = run(*SMALL, callbacks=[own])
    losses = {point.step: point.value for point in events(tmp_path / "0").Scalars("val/loss")}
    best = min(losses, key=losses.__getitem__)
    assert result.best is not None
    assert (result.best["step"], result.best["metric"]) == (best, "val/loss")
    assert result.best["value"] == pytest.approx(losses[best], rel=1e-6)
    assert read_checkpoint(tmp_path / "0/checkpoints/best.ckpt")["global_step"] == best
    assert list((tmp_path / "own").glob("*.ckpt"))


@pytest.mark.parametrize("through_lightning", [False, True])
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_step_without_a_loss_may_be_logged(
    through_lightning: bool, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = LinearRegression.training_step

    def now_and_then(self: LinearRegression, batch: Batch, batch_idx: int) -> Any:
        return None if batch_idx == 4 else step(self, batch, batch_idx)  # the last of each epoch, which is logged

    monkeypatch.setattr(LinearRegression, "training_step", now_and_then)
    callbacks = [Listener()] if through_lightning else []
    result = run(*SMALL, "trainer.log_every_n_steps=2", "stopping.max_samples=10000", callbacks=callbacks)
    assert (result.status, result.samples) == ("completed", 160)
    steps = [point.step for point in events(tmp_path / "0").Scalars("train/loss")]
    assert 4 in steps and not {5, 10, 15, 20} & set(steps)


@pytest.mark.parametrize("error", [AttributeError("x"), RuntimeError("x"), ImportError("x"), KeyError("x")], ids=repr)
def test_a_figure_that_fails_does_not_fail_the_run(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any) -> None:
        raise error

    monkeypatch.setattr(plots, "predicted_against_actual", broken)
    result = train(config_of("trainer.enable_progress_bar=false", *SMALL), tmp_path / "run")
    assert result.status == "completed"
    assert f"note: Figures failed: {error}\n" in caplog.text


def test_the_callers_logging_and_warnings_are_restored(run: Run) -> None:
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    handler = logging.NullHandler()
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.ERROR)
        logger.propagate = False

    def state() -> list[Any]:
        root = logging.getLogger()
        every = [(log.handlers[:], log.level, log.propagate, log.disabled) for log in [root, *loggers]]
        return [*every, warnings.filters[:], warnings.showwarning]

    try:
        before = state()
        run(*SMALL)
        assert state() == before
        with pytest.raises(ValueError, match="mine"):
            run(*SMALL, callbacks=[Raises()])
        assert state() == before
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
            logger.propagate = True


class Raises(Listener):
    def on_train_batch_start(self, *args: Any) -> None:
        raise ValueError("mine")


def test_with_slurm_installed_there_is_no_warning(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/srun"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert run(*SMALL).status == "completed"
    assert not [warning for warning in caught if "srun" in str(warning.message)]
