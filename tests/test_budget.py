"""Tests budgets of samples, gradient evaluations and seconds."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Run
from loaders import SizedStream
from test_resume import SignalAt, assert_resumes_exactly
from test_train import events
from torch.utils.data import DataLoader, TensorDataset

from descent.batches.exact import exact
from descent.batches.in_memory import InMemoryBatches
from descent.training.budget import Budget, SampleCounter, batch_size

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


@pytest.mark.parametrize("limit", ["stopping.max_samples=1000", "stopping.max_gradient_evaluations=31"])
@pytest.mark.parametrize("more", ["trainer.accumulate_grad_batches=1", "trainer.accumulate_grad_batches=2"])
def test_a_schedule_is_as_long_as_the_budget(limit: str, more: str, run: Run, tmp_path: Path) -> None:
    run(*SMALL, "batch=mini", "scheduler=cosine", limit, "scheduler.interval=step", more)
    rates = [point.value for point in events(tmp_path / "0").Scalars("lr")]
    assert rates[0] == pytest.approx(0.05)
    assert rates[-1] == pytest.approx(0.0, abs=1e-6)


def rows_of_steps(per_epoch: int, steps: int) -> list[int]:
    """The rows of each step, for ten rows in batches of four and ``per_epoch`` batches an epoch."""
    return [[4, 4, 2][step % per_epoch] for step in range(steps)]


@pytest.mark.parametrize("samples", range(1, 31))
def test_a_budget_is_as_many_steps_as_spend_it(samples: int) -> None:
    x = torch.zeros(10, 1)
    batches = InMemoryBatches(x, x, size=4)
    steps = next(steps for steps in range(1, 99) if sum(rows_of_steps(3, steps)) >= samples)
    assert Budget(samples, None, None).most_batches(batches, math.inf) == steps
    assert Budget(samples, 5, None).most_batches(batches, math.inf) == min(steps, 5)
    limited = next(steps for steps in range(1, 99) if 4 * steps >= samples)  # two of the three batches of an epoch
    assert Budget(samples, None, None).most_batches(batches, 2) == limited
    loader = DataLoader(TensorDataset(x), 4)
    assert Budget(samples, None, 9.0).most_batches(loader, math.inf) == Budget(samples, None, 9.0).most_batches(
        exact(loader, 1)[0], math.inf
    )
    assert Budget(samples, None, 9.0).most_batches(loader, math.inf) == steps
    assert (
        Budget(samples, None, None).most_batches(DataLoader(TensorDataset(x), 4, drop_last=True), math.inf) == limited
    )
    assert (
        Budget(None, 5, 9.0).most_batches(batches, math.inf) == Budget(None, 5, None).most_batches([x], math.inf) == 5
    )


@pytest.mark.parametrize(
    "batches",
    [[1], DataLoader(TensorDataset(torch.ones(4)), batch_sampler=[[0], [1, 2]]), DataLoader(SizedStream(), 4)],
)
def test_how_many_steps_spend_a_budget_of_samples_may_not_be_known(batches: Any) -> None:
    assert Budget(10, 5, None).most_batches(batches, math.inf) is None
    assert Budget(None, None, 9.0).most_batches(batches, math.inf) == sys.maxsize


@pytest.mark.parametrize("per_epoch", [1, 2, 3])
def test_the_samples_of_batches_in_memory_are_those_of_the_steps_that_were_taken(per_epoch: int) -> None:
    x = torch.zeros(10, 1)
    for steps in range(1, 12):
        epoch_loop = SimpleNamespace(total_batch_idx=steps - 1)
        trainer: Any = SimpleNamespace(train_dataloader=InMemoryBatches(x, x, size=4), num_training_batches=per_epoch)
        trainer.fit_loop = SimpleNamespace(epoch_loop=epoch_loop)
        assert SampleCounter().total(trainer) == sum(rows_of_steps(per_epoch, steps))


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        ((torch.zeros(3, 2), torch.zeros(4)), 3),
        ([torch.zeros(3, 2)], 3),
        (torch.zeros(5, 2), 5),
        ({"a": torch.zeros(6, 2)}, 6),
        ([torch.tensor(1.0), torch.zeros(7)], 1),  # Lightning counts a single number as a row
        ([{"a": torch.zeros(8)}], 8),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")
def test_a_batch_has_as_many_rows_as_its_first_tensor(batch: Any, rows: int) -> None:
    assert batch_size(batch) == rows
