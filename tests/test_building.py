"""Tests that optimizers and schedulers are built with their arguments, and that schedules last as long as the run."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from descent.errors import UserError
from descent.training.build import build, build_optimizer, build_scheduler


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


def test_an_optimizer_takes_groups_of_parameters() -> None:
    slow, fast = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    made = build_optimizer(
        {"_target_": "torch.optim.Adam", "lr": 0.25}, [{"params": slow, "lr": 0.1}, {"params": fast}]
    )
    assert [(group["params"], group["lr"]) for group in made.param_groups] == [([slow], 0.1), ([fast], 0.25)]
    with pytest.raises(UserError, match=r"^optimizer\.capturable must be false on this device"):
        build_optimizer({"_target_": "torch.optim.Adam", "capturable": True}, [{"params": slow}])


def test_a_group_without_params_is_refused_with_its_keys() -> None:
    groups: Any = [{"param": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1}]
    with pytest.raises(UserError, match="a group of parameters must have params; it has param, lr"):
        build_optimizer({"_target_": "torch.optim.SGD", "lr": 0.1}, groups)


def test_no_scheduler_cannot_be_built() -> None:
    with pytest.raises(UserError, match="scheduler=none has none"):
        build_scheduler({}, torch.optim.SGD([torch.zeros(2)], lr=0.5), SimpleNamespace())  # type: ignore[arg-type]


def scheduler_of(steps: float, batches: float, name: str, accumulated: int = 1, **spec: Any) -> dict[str, Any]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.5)
    trainer: Any = SimpleNamespace(estimated_stepping_batches=steps, num_training_batches=batches, callbacks=[])
    trainer.accumulate_grad_batches, trainer.lightning_module = (
        accumulated,
        SimpleNamespace(automatic_optimization=True),
    )
    whole = {"interval": "step", "frequency": 1, "monitor": None} | spec
    return build_scheduler({"_target_": f"torch.optim.lr_scheduler.{name}", **whole}, optimizer, trainer)


@pytest.mark.parametrize(
    ("name", "arguments", "noted"),
    [
        ("OneCycleLR", {"max_lr": 0.5, "total_steps": 20}, True),
        ("OneCycleLR", {"max_lr": [0.5, 0.05], "total_steps": 20}, False),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.5}, True),
        ("LinearLR", {"total_iters": 3}, False),
    ],
)
def test_a_scheduler_that_gives_groups_of_several_rates_one_is_noted(
    name: str, arguments: dict[str, Any], noted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    layers = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    groups = [{"params": [layers[0]], "lr": 0.5}, {"params": [layers[1]], "lr": 0.05}]
    trainer: Any = SimpleNamespace(estimated_stepping_batches=20, num_training_batches=4, callbacks=[])
    trainer.accumulate_grad_batches, trainer.lightning_module = 1, SimpleNamespace(automatic_optimization=True)
    spec = {"_target_": f"torch.optim.lr_scheduler.{name}", "interval": "step", "frequency": 1, "monitor": None}
    build_scheduler(spec | arguments, torch.optim.SGD(groups, momentum=0.9), trainer)
    note = f"note: {name} gives all groups of parameters one learning rate, in place of 0.5, 0.05; a list gives each"
    assert [message.startswith(note) for message in caplog.messages] == [True] * noted


@pytest.mark.parametrize(
    ("steps", "batches", "interval", "frequency", "calls"),
    [
        (20, 4, "epoch", 1, 5),
        (21, 4, "epoch", 1, 6),  # the last epoch is cut short but counts
        (20, 4, "epoch", 2, 2),
        (24, 4, "epoch", 2, 3),
        (20, 4, "step", 1, 20),
        (20, 4, "step", 3, 5),  # one each epoch: the count restarts
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
    assert scheduler_of(20, 4, "LinearLR")["scheduler"].total_iters == 5  # torch's default
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
    for mode in ("min", "max"):  # test_config tests that the config sets it
        spec = {"interval": "epoch", "monitor": "val/r2", "mode": mode}
        assert scheduler_of(20, 4, "ReduceLROnPlateau", **spec)["scheduler"].mode == mode


def calls_of(steps: int, batches: int, accumulated: int, frequency: int, interval: str) -> int:
    """Counts Lightning's scheduler calls batch by batch: after steps whose batch, or epoch, is a multiple."""
    taken = called = epoch = 0
    while taken < steps:
        epoch += 1
        for number in range(1, batches + 1):
            if taken < steps and (number % accumulated == 0 or number == batches):
                taken += 1
                called += interval == "step" and number % frequency == 0
        called += interval == "epoch" and epoch % frequency == 0
    return called


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("accumulated", [1, 2, 3])
@pytest.mark.parametrize("frequency", [1, 2, 3, 5])
def test_calls_are_counted_with_accumulated_gradients_too(interval: str, accumulated: int, frequency: int) -> None:
    for steps in range(6, 20):
        expected = calls_of(steps, 5, accumulated, frequency, interval)
        if expected:
            uses: dict[str, Any] = {"interval": interval, "frequency": frequency, "accumulated": accumulated}
            assert scheduler_of(steps, 5, "CosineAnnealingLR", T_max=None, **uses)["scheduler"].T_max == expected


def test_a_run_without_a_length_needs_one_for_its_schedule() -> None:
    assert scheduler_of(20, math.inf, "CosineAnnealingLR", T_max=None)["scheduler"].T_max == 20
    for steps, batches, interval, frequency in (
        *((math.inf, 4, "step", 1), (-1, math.inf, "epoch", 1)),
        *((20, math.inf, "epoch", 1), (20, math.inf, "step", 2)),
    ):
        uses: dict[str, Any] = {"interval": interval, "frequency": frequency}
        with pytest.raises(UserError) as raised:
            scheduler_of(steps, batches, "CosineAnnealingLR", T_max=None, **uses)
        assert str(raised.value) == f"scheduler.T_max must be given: the number of {interval}s in the run is not known"
        assert scheduler_of(steps, batches, "CosineAnnealingLR", T_max=3, **uses)["scheduler"].T_max == 3
        one_cycle = {"total_steps": 7, "max_lr": 0.5, "cycle_momentum": False}
        assert scheduler_of(steps, batches, "OneCycleLR", **one_cycle, **uses)["scheduler"].total_steps == 7
        given = [*parts("LinearLR"), *parts("CosineAnnealingLR", T_max=9)]
        in_turn = scheduler_of(steps, batches, "SequentialLR", schedulers=given, milestones=[3], **uses)["scheduler"]
        assert in_turn._schedulers[1].T_max == 9


def parts(*names: str, **given: Any) -> list[dict[str, Any]]:
    return [{"_target_": f"torch.optim.lr_scheduler.{name}", **given} for name in names]


def test_of_schedulers_one_after_another_each_is_as_long_as_its_part() -> None:
    given = [*parts("LinearLR", total_iters=None), *parts("StepLR", step_size=2), *parts("PolynomialLR", total_iters=6)]
    given += parts("CosineAnnealingLR", T_max=None)
    made = scheduler_of(20, 4, "SequentialLR", schedulers=given, milestones=[3, 7, 13])["scheduler"]
    first, second, third, last = made._schedulers
    assert (first.total_iters, second.step_size, third.total_iters, last.T_max) == (3, 2, 6, 7)
    for milestones in ([3, 7], [3, 7, 13, 14], [7, 3, 13], [3, 7, 20], [0, 7, 13], [3, 3, 13]):
        with pytest.raises(UserError) as raised:
            scheduler_of(20, 4, "SequentialLR", schedulers=given, milestones=milestones)
        assert str(raised.value) == (
            "scheduler.milestones must be one fewer than scheduler.schedulers, increasing, above 0 and below 20, the"
            f" length of the run, got {milestones}"
        )


def test_a_part_that_its_class_refuses_is_named() -> None:
    for part, message in (
        (parts("StepLR"), r"^scheduler\.schedulers: torch\.optim\.lr_scheduler\.StepLR refuses {}: .*'step_size'"),
        (parts("Nothing"), r"^scheduler\.schedulers\._target_ must be a class that can be imported, got 'torch\.opt"),
    ):
        with pytest.raises(UserError, match=message):
            scheduler_of(20, 4, "SequentialLR", schedulers=part, milestones=[])


class Refusing(Callback):
    def __init__(self, error: Exception) -> None:
        raise error


def test_an_object_is_made_of_its_arguments_or_its_refusal_names_the_key() -> None:
    stop: Any = build(
        {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "a"}, "callbacks.x", Callback
    )
    assert stop.monitor == "a"
    refusing = f"{Refusing.__module__}.Refusing"
    with pytest.raises(UserError) as raised:
        build({"_target_": refusing, "error": ValueError("no")}, "callbacks.x", Callback)
    assert str(raised.value) == f"callbacks.x: {refusing} refuses its arguments: ValueError: no"
    name = NameError("name 'buildd' is not defined")  # not of the arguments
    with pytest.raises(NameError, match="buildd"):
        build({"_target_": refusing, "error": name}, "callbacks.x", Callback)
    own = UserError("my own words")
    with pytest.raises(UserError) as raised:
        build({"_target_": refusing, "error": own}, "callbacks.x", Callback)
    assert raised.value is own
    with pytest.raises(UserError) as raised:
        build({"_target_": "torch.optim.SGD"}, "callbacks.x", Callback)
    assert str(raised.value) == (
        "callbacks.x._target_ must be a class derived from lightning.pytorch.callbacks.callback.Callback,"
        " got 'torch.optim.SGD'"
    )


def test_the_keys_of_hydras_instantiate_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        build_optimizer({"_target_": "torch.optim.SGD", "_partial_": True}, [torch.nn.Parameter(torch.zeros(1))])
    assert str(caught.value) == "optimizer._partial_ must be left out: it is for Hydra's instantiate, which is not used"


def test_a_scheduler_of_a_models_own_file_has_the_defaults_of_lightning() -> None:
    trainer: Any = SimpleNamespace(
        max_steps=-1, max_epochs=4, num_training_batches=5, accumulate_grad_batches=1, callbacks=[],
        lightning_module=SimpleNamespace(automatic_optimization=True), estimated_stepping_batches=20,
    )  # fmt: skip
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    step: dict[str, Any] = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 2}
    built = build_scheduler(step, optimizer, trainer)
    assert built == {"scheduler": built["scheduler"], "interval": "epoch", "frequency": 1, "monitor": None}
    plateau: dict[str, Any] = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "factor": 0.5}
    assert build_scheduler(plateau | {"monitor": "val/loss"}, optimizer, trainer)["monitor"] == "val/loss"
    with pytest.raises(UserError, match="a ReduceLROnPlateau must have a key monitor, "):
        build_scheduler(plateau, optimizer, trainer)
