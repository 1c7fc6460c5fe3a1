"""Budgets of samples, gradient evaluations and seconds."""

from pathlib import Path

import pytest
from conftest import Run
from test_resume import SignalAt, assert_resumes_exactly
from test_train import events

SMALL = ("data.num_samples=100", "trainer.max_epochs=1000", "figures=false")


@pytest.mark.parametrize("batch", ["full", "mini", "single"])
def test_a_budget_of_samples_ends_training_at_the_step_that_spends_it(batch: str, run: Run) -> None:
    size = {"full": 80, "mini": 32, "single": 1}[batch]
    result = run(*SMALL, f"batch={batch}", "stopping.max_samples=1000")
    assert result.status == "completed"
    assert result.stopped == "its budget of 1,000 samples is spent"
    assert 1000 <= result.samples < 1000 + size


def test_a_budget_of_gradients_counts_those_within_a_step(run: Run) -> None:
    result = run(*SMALL, "batch=full", "optimizer=lbfgs", "stopping.max_gradient_evaluations=12")
    assert result.steps < result.gradient_evaluations
    assert result.gradient_evaluations >= 12
    assert result.stopped == "its budget of 12 gradient evaluations is spent"


def test_a_resumed_run_has_what_is_left_of_its_budget(run: Run, tmp_path: Path) -> None:
    budget = "stopping.max_samples=1000"
    assert_resumes_exactly(run, tmp_path, [SignalAt(7), SignalAt(20)], *SMALL, budget, "trainer=float64")


def test_a_schedule_is_as_long_as_the_budget(run: Run, tmp_path: Path) -> None:
    run(*SMALL, "batch=mini", "scheduler=cosine", "stopping.max_samples=1000", "scheduler.interval=step")
    rates = [point.value for point in events(tmp_path / "0").Scalars("lr")]
    assert rates[0] == pytest.approx(0.05)
    assert rates[-1] == pytest.approx(0.0, abs=1e-6)
