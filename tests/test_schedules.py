"""Compares learning rates with their closed forms, and tests stopping rules."""

import math
from pathlib import Path

import pytest
from conftest import Run
from test_train import events

STEPS = 40  # 10 epochs of 4 batches
SMALL = ("data.num_samples=160", "trainer.max_epochs=10", "trainer.log_every_n_steps=1", "optimizer.lr=0.04")


def rates(run: Run, directory: Path, *overrides: str) -> list[float]:
    run(*SMALL, *overrides)
    return [point.value for point in events(directory / "0").Scalars("lr")][:STEPS]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["scheduler=none"], lambda k: 0.04),
        (["scheduler=step", "scheduler.step_size=2"], lambda k: 0.04 * 0.5 ** (k // 4 // 2)),
        (["scheduler=multistep", "scheduler.milestones=[3,6]"], lambda k: 0.04 * 0.1 ** ((k >= 12) + (k >= 24))),
        (["scheduler=exponential"], lambda k: 0.04 * 0.9 ** (k // 4)),
        (["scheduler=cosine"], lambda k: 0.02 * (1 + math.cos(math.pi * k / STEPS))),
        (
            ["scheduler=warmup_cosine"],
            lambda k: 0.04 * (0.1 + 0.09 * k) if k < 10 else 0.02 * (1 + math.cos(math.pi * (k - 10) / (STEPS - 10))),
        ),
        (["scheduler=linear_warmup"], lambda k: 0.04 * (0.1 + 0.9 * min(k / 10, 1))),
        (
            [
                "scheduler=linear_warmup",
                "scheduler.start_factor=1",
                "+scheduler.end_factor=0",
                "scheduler.total_iters=20",
            ],
            lambda k: 0.04 * max(1 - k / 20, 0),
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_learning_rate_follows_its_closed_form(overrides, expected, run: Run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert rates(run, tmp_path, *overrides) == pytest.approx([expected(k) for k in range(STEPS)], rel=1e-5, abs=1e-9)


def test_one_cycle_rises_to_the_learning_rate_and_falls_below_its_start(run: Run, tmp_path: Path) -> None:
    found = rates(run, tmp_path, "scheduler=one_cycle")
    assert max(found) == pytest.approx(0.04, rel=1e-3)
    assert found[-1] < found[0] < max(found)


def test_plateau_halves_the_rate_when_validation_no_longer_improves(run: Run, tmp_path: Path) -> None:
    found = rates(
        run, tmp_path, "scheduler=plateau", "scheduler.patience=1", "trainer.max_epochs=40", "optimizer.lr=0.3"
    )
    every = [point.value for point in events(tmp_path / "0").Scalars("lr")]
    assert found[0] == pytest.approx(0.3)
    assert min(every) <= 0.15 + 1e-6
    assert all(math.log2(0.3 / rate) == pytest.approx(round(math.log2(0.3 / rate)), abs=1e-4) for rate in every)


def test_cosine_by_epoch_ends_with_the_run(run: Run, tmp_path: Path) -> None:
    found = rates(run, tmp_path, "scheduler=cosine", "scheduler.interval=epoch")
    assert found == pytest.approx([0.02 * (1 + math.cos(math.pi * (k // 4) / 10)) for k in range(STEPS)], rel=1e-5)


def test_cosine_by_epoch_counts_a_last_epoch_that_max_steps_cuts_short(run: Run, tmp_path: Path) -> None:
    run(
        *SMALL, "scheduler=cosine", "scheduler.interval=epoch", "trainer.max_steps=10"
    )  # two epochs of 4 steps, then 2 steps
    found = [point.value for point in events(tmp_path / "0").Scalars("lr")][:10]
    assert found == pytest.approx([0.02 * (1 + math.cos(math.pi * (k // 4) / 3)) for k in range(10)], rel=1e-5)


def test_training_stops_when_the_full_gradient_vanishes(run: Run) -> None:
    result = run("data=line", "batch=full", "stopping=converged", "stopping.loss_change=null", "trainer=float64")
    assert result.stopped is not None and result.stopped.startswith("gradient norm")
    assert result.parameters is not None and result.optimum is not None
    assert result.epochs < 10000
    weight, bias = result.parameters["weight"][0], result.parameters["bias"]
    residuals = {x: weight * x + bias - 2 * x for x in (1, 2, 3, 4)}
    gradient = (sum(2 * r * x for x, r in residuals.items()) / 4, sum(2 * r for r in residuals.values()) / 4)
    assert math.hypot(*gradient) < 1e-4


def test_training_stops_when_the_loss_settles(run: Run) -> None:
    result = run("batch=full", "stopping=converged", "stopping.gradient_norm=null")
    assert result.stopped is not None and result.stopped.startswith("relative change of the training loss")
    assert result.optimum is not None
    assert result.metrics["train/loss"] == pytest.approx(result.optimum["loss"], rel=1e-3)


def test_converged_trains_longer_than_a_fixed_number_of_epochs(run: Run) -> None:
    assert run("batch=full", "stopping=converged").epochs > run("batch=full").epochs == 20


def test_patience_stops_after_that_many_validations_without_improvement(run: Run, tmp_path: Path) -> None:
    result = run("stopping=patience", "stopping.patience=4")
    losses = [point.value for point in events(tmp_path / "0").Scalars("val/loss")]
    assert len(losses) == result.epochs
    assert losses.index(min(losses)) == len(losses) - 1 - 4
