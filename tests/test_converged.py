"""Tests stopping=converged against gradient descent by hand on four rows of y = 2 x."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from test_resume import SignalAt, assert_resumes_exactly

from regression.model import LinearRegression

LINE = (
    *("data=line", "batch=full", "trainer=float64", "optimizer.lr=0.1", "trainer.max_epochs=1000"),
    *("model.init_weight=0", "model.init_bias=0"),
)


def by_hand(steps: int) -> tuple[list[float], list[float]]:
    """The loss and the gradient norm after each step."""
    a, y = np.c_[[1.0, 2, 3, 4], np.ones(4)], np.array([2.0, 4, 6, 8])
    p, losses, norms = np.zeros(2), [], []
    for _ in range(steps):
        p = p - 0.1 * 2 * a.T @ (a @ p - y) / 4
        losses.append(float(np.mean((a @ p - y) ** 2)))
        norms.append(float(np.linalg.norm(2 * a.T @ (a @ p - y) / 4)))
    return losses, norms


@pytest.mark.parametrize("other", [[], ["stopping.loss_change=1e-12"]], ids=["alone", "with-change"])
def test_training_stops_at_the_first_epoch_whose_gradient_is_small(other: list[str], run: Run) -> None:
    _, norms = by_hand(200)
    (first, *_) = (epoch for epoch, norm in enumerate(norms, 1) if norm < 0.05)
    result = run(*LINE, "stopping.gradient_norm=0.05", *other)
    assert (result.status, result.epochs) == ("completed", first)
    assert 10 < first < 200
    assert result.stopped == f"gradient norm {norms[first - 1]:.3g} below 0.05"


def test_training_stops_at_the_third_small_change_in_succession(run: Run) -> None:
    losses, _ = by_hand(300)
    changes = [abs(after - before) / before for before, after in pairwise(losses)]
    small = [change < 0.0592 for change in changes]
    (last, *_) = (epoch for epoch in range(4, 301) if all(small[epoch - 4 : epoch - 1]))
    result = run(*LINE, "stopping.loss_change=0.0592")
    assert result.epochs == last > 4
    assert result.stopped == f"relative change of the training loss {changes[last - 2]:.3g} below 0.0592"


@pytest.mark.parametrize(
    ("end", "why"),
    [("stopping.max_samples=20", "its budget of 20 samples is spent"), ("trainer.max_steps=5", None)],
)
def test_another_rule_can_stop_at_the_end_of_an_epoch(end: str, why: str | None, run: Run) -> None:
    result = run(*LINE, "stopping.gradient_norm=1e-9", "stopping.loss_change=1e-9", end)
    assert (result.status, result.steps, result.stopped) == ("completed", 5, why)


@pytest.mark.parametrize("where", ["on_train_end", "on_test_start"])
@pytest.mark.parametrize("rule", ["gradient_norm=0.3", "loss_change=0.3", "max_samples=200"])
def test_a_run_that_a_rule_has_ended_is_not_trained_on(rule: str, where: str, run: Run, tmp_path: Path) -> None:
    options = "trainer=float64", "data.num_samples=50", "batch.size=8", f"stopping.{rule}"
    ended = run(*options)
    assert ended.stopped is not None and ended.epochs < 20
    interruption = SignalAt(ended.steps, where=where)
    assert_resumes_exactly(run, tmp_path, [interruption], *options)
    assert interruption.sent


def test_parameters_that_are_frozen_or_not_used_have_no_gradient(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    configure, step = LinearRegression.configure_model, LinearRegression.training_step

    def with_others(self: Any) -> None:
        configure(self)
        self.frozen = torch.nn.Parameter(torch.tensor(1.0), requires_grad=False)
        self.unused = torch.nn.Parameter(torch.tensor(1.0))

    def scaled(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = step(self, batch, batch_idx) * self.frozen
        return loss

    monkeypatch.setattr(LinearRegression, "configure_model", with_others)
    monkeypatch.setattr(LinearRegression, "training_step", scaled)
    _, norms = by_hand(200)
    result = run(*LINE, "stopping.gradient_norm=1")
    assert result.epochs == next(epoch for epoch, norm in enumerate(norms, 1) if norm < 1)
