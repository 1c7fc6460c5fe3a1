"""Optimizers and schedulers of a config: which keys a class takes, in which range."""

from typing import Any

import pytest
from conftest import config_of

from descent.config.hparams import flat_hparams
from descent.config.hyperparameters import arguments, check_spec
from descent.errors import UserError

OVER_0, FROM_0, SWITCH = "a number greater than 0 and below 1e30", "a number from 0 up to 1e30", "true or false"
BELOW_1, INTEGER, COUNT = "a number from 0 up to, not including, 1", "a positive integer", "an integer, 0 or more"
TORCH_DECIDES = f"{SWITCH} or null (torch decides)"
RUN = f"{INTEGER} or null (the run)"
NO_GRADIENT = "false: no gradient flows through the steps"
COMMON = {"weight_decay": FROM_0, "foreach": TORCH_DECIDES, "maximize": SWITCH, "differentiable": NO_GRADIENT}
ADAM = COMMON | {"lr": OVER_0, "betas": f"two values, each {BELOW_1}", "eps": FROM_0, "capturable": SWITCH}
SCHEDULER = {
    "interval": "one of epoch, step",
    "frequency": INTEGER,
    "monitor": "one of train/loss, val/loss, val/mae, val/r2 or null (none is needed)",
}
RANGES: dict[str, dict[str, str]] = {
    "SGD": COMMON
    | {"lr": OVER_0, "momentum": FROM_0, "dampening": "a number below 1e30 in size", "nesterov": SWITCH}
    | {"fused": TORCH_DECIDES, "full_batch_only": SWITCH},
    "Adam": ADAM | {"amsgrad": SWITCH, "fused": TORCH_DECIDES, "decoupled_weight_decay": SWITCH},
    "NAdam": ADAM | {"momentum_decay": FROM_0, "decoupled_weight_decay": SWITCH},
    "RMSprop": COMMON | {"alpha": BELOW_1, "momentum": FROM_0, "centered": SWITCH, "eps": FROM_0},
    "Adagrad": COMMON | {"lr_decay": FROM_0, "initial_accumulator_value": FROM_0, "eps": FROM_0},
    "Adadelta": COMMON | {"rho": BELOW_1, "eps": FROM_0},
    "ASGD": COMMON | {"lambd": FROM_0, "alpha": BELOW_1, "t0": FROM_0},
    "Rprop": {"etas": f"two values, each {OVER_0}", "step_sizes": "two rising positive numbers"},
    "LBFGS": {
        "lr": OVER_0,
        "max_iter": INTEGER,
        "max_eval": f"{INTEGER} or null (5/4 of max_iter)",
        "history_size": INTEGER,
        "tolerance_grad": FROM_0,
        "tolerance_change": FROM_0,
        "line_search_fn": "one of strong_wolfe or null (a fixed step)",
    },
    "lr_scheduler.StepLR": SCHEDULER
    | {"step_size": INTEGER, "gamma": OVER_0, "last_epoch": "-1: resuming a run sets it"},
    "lr_scheduler.MultiStepLR": SCHEDULER | {"milestones": "a rising list of positive integers", "gamma": OVER_0},
    "lr_scheduler.CosineAnnealingLR": {"T_max": RUN, "eta_min": FROM_0},
    "lr_scheduler.OneCycleLR": {"max_lr": OVER_0, "total_steps": RUN, "div_factor": OVER_0, "final_div_factor": OVER_0},
    "lr_scheduler.LinearLR": {"start_factor": OVER_0, "end_factor": FROM_0, "total_iters": RUN},
    "lr_scheduler.ReduceLROnPlateau": {"factor": BELOW_1, "patience": COUNT, "cooldown": COUNT},
}


@pytest.mark.parametrize("name", RANGES)
def test_every_argument_that_classes_share_has_its_range(name: str) -> None:
    group = "scheduler" if name.startswith("lr_scheduler") else "optimizer"
    for key, text in RANGES[name].items():
        with pytest.raises(UserError) as raised:
            check_spec({"_target_": f"torch.optim.{name}", key: "-"}, group)
        assert str(raised.value) == f"{group}.{key} must be {text}, got '-'"


@pytest.mark.parametrize(
    ("name", "key", "accepted", "refused"),
    [
        ("Rprop", "step_sizes", [[1e-6, 50]], [[1, 1], [2, 1], [0, 1], [1], 1]),
        ("lr_scheduler.MultiStepLR", "milestones", [[1], [1, 2, 9]], [[], [2, 1], [0, 1], [1.0], 3]),
        ("SGD", "differentiable", [False], [True, None, 0]),
        ("SGD", "foreach", [None, True, False], [0, "-"]),
        ("LBFGS", "line_search_fn", [None, "strong_wolfe"], ["wolfe"]),
        ("lr_scheduler.StepLR", "last_epoch", [-1], [0, 1, None]),
        ("lr_scheduler.StepLR", "interval", ["epoch", "step"], [None, "day"]),
    ],
)
def test_a_range_has_its_edges(name: str, key: str, accepted: list[Any], refused: list[Any]) -> None:
    scheduler = name.startswith("lr_scheduler")
    whole: dict[str, Any] = {"step_size": 1} if name.endswith(".StepLR") else {}
    whole |= {"milestones": [1]} if name.endswith("MultiStepLR") else {}
    whole |= {"interval": "epoch", "frequency": 1, "monitor": None} if scheduler else {}
    for values, accepts in ((accepted, True), (refused, False)):
        for value in values:
            spec = {"_target_": f"torch.optim.{name}", **whole, key: value}
            if accepts:
                check_spec(spec, "scheduler" if scheduler else "optimizer")
            else:
                with pytest.raises(UserError, match=rf"\.{key} must be "):
                    check_spec(spec, "scheduler" if scheduler else "optimizer")


ALLOWED = "a class in torch.optim or descent"
STEP = {"_target_": "torch.optim.lr_scheduler.StepLR", "interval": "epoch", "frequency": 1, "monitor": None}


@pytest.mark.parametrize(
    ("spec", "group", "choice", "message"),
    [
        ({}, "optimizer", None, f"optimizer._target_ must be {ALLOWED}, got null"),
        *(
            ({"_target_": name}, "scheduler", None, f"scheduler._target_ must be {ALLOWED}, got {name!r}")
            for name in (
                "torch.optim",
                "torchxoptim.SGD",
                "torch.optim.",
                "torch.optimum.S",
                "a.torch.optim.S",
                "os.system",
            )
        ),
        *(
            ({"_target_": name}, "optimizer", "mine", f"optimizer._target_ must be a class that exists, got {name!r}")
            for name in ("torch.optim.Nope", "descent.nope.Nope")
        ),
        (STEP, "scheduler", "step", "scheduler.step_size is missing: scheduler=step needs it"),
        (STEP, "scheduler", None, "scheduler.step_size is missing: scheduler=torch.optim.lr_scheduler.StepLR needs it"),
        (
            {**STEP, "step_size": 1, "gama": 1},
            "scheduler",
            "step",
            "scheduler.gama is not a key: scheduler=step takes step_size, gamma, last_epoch",
        ),
        (
            {**STEP, "full_batch_only": True},
            "scheduler",
            "step",
            "scheduler.full_batch_only is not a key: scheduler=step takes step_size, gamma, last_epoch",
        ),
        *(
            (
                {k: v for k, v in {**STEP, "step_size": 1}.items() if k != key},
                "scheduler",
                "step",
                f"scheduler.{key} is missing: scheduler=step needs it",
            )
            for key in ("interval", "frequency", "monitor")
        ),
        (
            {"_target_": "torch.optim.LBFGS", "interval": "step"},
            "optimizer",
            "lbfgs",
            "optimizer.interval is not a key: optimizer=lbfgs takes lr, max_iter, max_eval, tolerance_grad,"
            " tolerance_change, history_size, line_search_fn",
        ),
    ],
)
def test_a_spec_that_cannot_be_is_refused_by_its_key(spec: Any, group: str, choice: str | None, message: str) -> None:
    with pytest.raises(UserError) as raised:
        check_spec(spec, group, choice)
    assert str(raised.value) == message


def test_keys_of_this_project_are_not_handed_to_the_class() -> None:
    assert arguments({**STEP, "step_size": 3}, "scheduler") == {"step_size": 3}
    assert arguments({"_target_": "a.B", "full_batch_only": True, "interval": 1}, "optimizer") == {"interval": 1}


def test_hyperparameters_are_one_flat_table() -> None:
    assert flat_hparams(config_of("data=line", "optimizer=momentum", "clip=norm", "debug=profiler", "seed=3")) == {
        "seed": 3,
        "data": "line",
        "data.source": "rows",
        "data.val_fraction": 0.0,
        "data.test_fraction": 0.0,
        "data.standardize": False,
        "data.seed": 0,
        "data.max_rows": None,
        "data.inputs": [[1], [2], [3], [4]],
        "data.targets": [2, 4, 6, 8],
        "model": "linear",
        "model.bias": True,
        "model.init_weight": None,
        "model.init_bias": None,
        "optimizer": "momentum",
        "optimizer._target_": "torch.optim.SGD",
        "optimizer.lr": 0.01,
        "optimizer.momentum": 0.9,
        "scheduler": "none",
        "batch": "mini",
        "batch.size": 32,
        "batch.shuffle": True,
        "clip": "norm",
        "clip.gradient_clip_val": 1.0,
        "clip.gradient_clip_algorithm": "norm",
        "stopping": "none",
        "stopping.max_epochs": 20,
        "stopping.patience": None,
        "stopping.min_delta": 0.0,
        "stopping.monitor": "val/loss",
        "stopping.gradient_norm": None,
        "stopping.loss_change": None,
        "stopping.max_samples": None,
        "stopping.max_gradient_evaluations": None,
        "stopping.max_seconds": None,
        "stopping.diverged_above": 1e4,
        "trainer": "default",
        "trainer.accelerator": "auto",
        "trainer.precision": "32-true",
        "trainer.max_epochs": 20,
        "trainer.max_steps": None,
        "trainer.log_every_n_steps": 50,
        "trainer.check_val_every_n_epoch": None,
        "trainer.deterministic": False,
        "trainer.fast_dev_run": False,
        "trainer.profiler": "simple",
        "trainer.enable_progress_bar": True,
        "debug": "profiler",
    }
