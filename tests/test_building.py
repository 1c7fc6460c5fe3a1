"""Optimizers and schedulers as their classes make them, and schedules as long as the run."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from descent.errors import UserError
from descent.training.build import build_optimizer, build_scheduler


def test_an_optimizer_is_made_of_its_arguments_or_torchs_words_are_passed_on() -> None:
    weights = [torch.nn.Parameter(torch.zeros(2))]
    made = build_optimizer(
        {"_target_": "torch.optim.SGD", "lr": 0.25, "momentum": 0.5, "full_batch_only": True}, weights
    )
    assert type(made) is torch.optim.SGD
    assert made.param_groups[0]["params"] == weights
    assert (made.defaults["lr"], made.defaults["momentum"]) == (0.25, 0.5)
    with pytest.raises(UserError) as raised:
        build_optimizer({"_target_": "torch.optim.SGD", "lr": 0.25, "nesterov": True}, weights)
    assert str(raised.value) == (
        "optimizer: torch.optim.SGD refuses {'lr': 0.25, 'nesterov': True}:"
        " Nesterov momentum requires a momentum and zero dampening"
    )
    with pytest.raises(UserError, match=r"^optimizer: torch\.optim\.SGD refuses {'lrr': 1}: .*unexpected keyword"):
        build_optimizer({"_target_": "torch.optim.SGD", "lrr": 1}, weights)


def scheduler_of(steps: int, batches: int, name: str, **spec: Any) -> dict[str, Any]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.5)
    trainer: Any = SimpleNamespace(estimated_stepping_batches=steps, num_training_batches=batches, callbacks=[])
    trainer.accumulate_grad_batches = 1
    whole = {"interval": "step", "frequency": 1, "monitor": None} | spec
    return build_scheduler({"_target_": f"torch.optim.lr_scheduler.{name}", **whole}, optimizer, trainer)


@pytest.mark.parametrize(
    ("steps", "batches", "interval", "frequency", "calls"),
    [
        (20, 4, "epoch", 1, 5),
        (21, 4, "epoch", 1, 6),  # the last epoch is cut short, and counts
        (20, 4, "epoch", 2, 2),
        (24, 4, "epoch", 2, 3),
        (20, 4, "step", 1, 20),
        (20, 4, "step", 3, 5),  # each epoch has one, and begins to count anew
        (23, 4, "step", 3, 6),
        (22, 4, "step", 3, 5),
        (20, 4, "step", 4, 5),
    ],
)
def test_a_schedule_as_long_as_the_run_has_as_many_calls_as_lightning_makes(
    steps: int, batches: int, interval: str, frequency: int, calls: int
) -> None:
    made = scheduler_of(steps, batches, "CosineAnnealingLR", T_max=None, interval=interval, frequency=frequency)
    assert made["scheduler"].T_max == calls
    assert [made[key] for key in ("interval", "frequency", "monitor")] == [interval, frequency, None]
    assert set(made) == {"scheduler", "interval", "frequency", "monitor"}


def test_a_scheduler_keeps_what_it_is_given() -> None:
    assert scheduler_of(20, 4, "CosineAnnealingLR", T_max=7)["scheduler"].T_max == 7
    assert scheduler_of(20, 4, "LinearLR", total_iters=None)["scheduler"].total_iters == 20
    assert scheduler_of(20, 4, "LinearLR")["scheduler"].total_iters == 5  # torch's own default
    one_cycle = {"max_lr": 0.5, "cycle_momentum": False}
    assert scheduler_of(20, 4, "OneCycleLR", total_steps=20, **one_cycle)["scheduler"].total_steps == 20
    with pytest.raises(UserError) as raised:
        scheduler_of(20, 4, "OneCycleLR", total_steps=19, **one_cycle)
    assert str(raised.value) == "scheduler.total_steps must be at least 20, the length of the run, got 19"
    with pytest.raises(UserError) as raised:
        scheduler_of(20, 4, "StepLR", step_size=1, frequency=5)
    assert (
        str(raised.value) == "scheduler.frequency must be at most 4, the steps of an epoch, with interval=step, got 5"
    )


def test_plateau_waits_for_better_values_in_the_mode_that_its_spec_has() -> None:
    for mode in ("min", "max"):  # the config fills in the monitor's: test_config
        spec = {"interval": "epoch", "monitor": "val/r2", "mode": mode}
        assert scheduler_of(20, 4, "ReduceLROnPlateau", **spec)["scheduler"].mode == mode
