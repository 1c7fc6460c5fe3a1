"""Tests which keys and types optimizers and schedulers accept."""

from typing import Any

import pytest
import torch
from conftest import config_of
from torch.nn import Parameter

from descent.config.hparams import flat_hparams
from descent.config.optimizers import arguments, check_spec
from descent.errors import UserError
from descent.training.build import build_optimizer

PACKAGES = ("torch.optim", "descent")

NUMBER, SWITCH, INTEGER = "a number between -1e30 and 1e30", "true or false", "an integer"
OR_NULL = f"{SWITCH} or null"
COMMON = {"weight_decay": NUMBER, "foreach": OR_NULL, "maximize": SWITCH, "differentiable": SWITCH}
ADAM = COMMON | {"lr": NUMBER, "betas": f"2 values, each {NUMBER}", "eps": NUMBER, "capturable": SWITCH}
SCHEDULER = {
    "interval": "one of epoch, step",
    "frequency": "a positive integer",
    "monitor": "a string or null (none is needed)",
}
TYPES: dict[str, dict[str, str]] = {  # torch's annotations; torch itself checks ranges when the class is built
    "SGD": COMMON
    | {"lr": NUMBER, "momentum": NUMBER, "dampening": NUMBER, "nesterov": SWITCH, "fused": OR_NULL}
    | {"full_batch_only": SWITCH},
    "Adam": ADAM | {"amsgrad": SWITCH, "fused": OR_NULL, "decoupled_weight_decay": SWITCH},
    "NAdam": ADAM | {"momentum_decay": NUMBER, "decoupled_weight_decay": SWITCH},
    "RMSprop": COMMON | {"alpha": NUMBER, "momentum": NUMBER, "centered": SWITCH, "eps": NUMBER},
    "Adagrad": COMMON | {"lr_decay": NUMBER, "initial_accumulator_value": NUMBER, "eps": NUMBER},
    "Adadelta": COMMON | {"rho": NUMBER, "eps": NUMBER},
    "ASGD": COMMON | {"lambd": NUMBER, "alpha": NUMBER, "t0": NUMBER},
    "Rprop": {"etas": f"2 values, each {NUMBER}", "step_sizes": f"2 values, each {NUMBER}"},
    "LBFGS": {"lr": NUMBER, "max_iter": INTEGER, "max_eval": f"{INTEGER} or null", "history_size": INTEGER}
    | {"tolerance_grad": NUMBER, "tolerance_change": NUMBER, "line_search_fn": "a string or null"},
    "lr_scheduler.StepLR": SCHEDULER | {"step_size": INTEGER, "gamma": NUMBER, "last_epoch": INTEGER},
    "lr_scheduler.MultiStepLR": SCHEDULER | {"milestones": f"a list, each {INTEGER}", "gamma": NUMBER},
    "lr_scheduler.CosineAnnealingLR": {"T_max": INTEGER, "eta_min": NUMBER},
    "lr_scheduler.OneCycleLR": {"max_lr": f"{NUMBER} or a list, each {NUMBER}", "total_steps": f"{INTEGER} or null"}
    | {"div_factor": NUMBER, "final_div_factor": NUMBER},
    "lr_scheduler.LinearLR": {"start_factor": NUMBER, "end_factor": NUMBER, "total_iters": INTEGER},
    "lr_scheduler.ReduceLROnPlateau": {"factor": NUMBER, "patience": INTEGER, "cooldown": INTEGER},
}


@pytest.mark.parametrize("name", TYPES)
def test_every_argument_has_the_type_that_its_class_annotates(name: str) -> None:
    group = "scheduler" if name.startswith("lr_scheduler") else "optimizer"
    whole: dict[str, Any] = {"interval": "epoch", "frequency": 1, "monitor": None} if group == "scheduler" else {}
    whole |= {"step_size": 1} if name.endswith(".StepLR") else {}
    whole |= {"milestones": [1]} if name.endswith("MultiStepLR") else {}
    for key, text in TYPES[name].items():
        value: Any = [[]] if text.startswith("a string") else "-"
        with pytest.raises(UserError) as raised:
            check_spec({"_target_": f"torch.optim.{name}", **whole, key: value}, group, PACKAGES)
        assert str(raised.value) == f"{group}.{key} must be {text}, got {value!r}"


@pytest.mark.parametrize(
    ("name", "key", "accepted", "refused"),
    [
        ("Rprop", "step_sizes", [[1e-6, 50]], [[1], 1, [1, 2, 3], [1, "2"]]),
        ("lr_scheduler.MultiStepLR", "milestones", [[1], [1, 2, 9]], [[1.5], 3, ["1"]]),
        ("SGD", "differentiable", [False, True], [None, 0]),
        ("SGD", "foreach", [None, True, False], [0, "-"]),
        ("LBFGS", "line_search_fn", [None, "strong_wolfe"], [1, True]),
        ("lr_scheduler.StepLR", "last_epoch", [-1], [None, 0.5]),
        ("lr_scheduler.StepLR", "interval", ["epoch", "step"], [None, "day"]),
        ("lr_scheduler.CosineAnnealingLR", "T_max", [5, None], [0.5, "5"]),  # null: the length of the run
    ],
)
def test_each_type_accepts_and_refuses_these_values(
    name: str, key: str, accepted: list[Any], refused: list[Any]
) -> None:
    group = "scheduler" if name.startswith("lr_scheduler") else "optimizer"
    whole: dict[str, Any] = {"step_size": 1} if name.endswith(".StepLR") else {}
    whole |= {"milestones": [1]} if name.endswith("MultiStepLR") else {}
    whole |= {"interval": "epoch", "frequency": 1, "monitor": None} if group == "scheduler" else {}
    for value in accepted:
        assert check_spec({"_target_": f"torch.optim.{name}", **whole, key: value}, group, PACKAGES)[key] == value
    for value in refused:
        with pytest.raises(UserError, match=rf"\.{key} must be "):
            check_spec({"_target_": f"torch.optim.{name}", **whole, key: value}, group, PACKAGES)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("SGD", {"lr": -1.0}),
        ("SGD", {"lr": 0.1, "momentum": -1.0}),
        ("SGD", {"lr": 0.1, "weight_decay": -1.0}),
        ("Adam", {"betas": (0.9, 1.0)}),
        ("Adam", {"eps": -1.0}),
        ("RMSprop", {"alpha": -1.0}),
        ("Adagrad", {"lr_decay": -1.0}),
        ("Adadelta", {"rho": 1.5}),
        ("Rprop", {"etas": [1.5, 1.2]}),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_classs_message(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"^optimizer: torch\.optim\.{name} refuses .*: Invalid "):
        build_optimizer({"_target_": f"torch.optim.{name}", **arguments}, [Parameter(torch.zeros(2))])


ALLOWED = "a class in torch.optim, descent (the key packages lists them)"
STEP = {"_target_": "torch.optim.lr_scheduler.StepLR", "interval": "epoch", "frequency": 1, "monitor": None}


@pytest.mark.parametrize(
    ("spec", "group", "choice", "message"),
    [
        ({}, "optimizer", None, "optimizer._target_ is missing: it names the class, in torch.optim, descent"),
        *(
            ({"_target_": name}, "scheduler", None, f"scheduler._target_ must be {ALLOWED}, got {name!r}")
            for name in (
                "torchxoptim.SGD",
                "torch.optim.",
                "torch.optimum.S",
                "a.torch.optim.S",
                "os.system",
            )
        ),
        *(
            (
                {"_target_": name},
                "optimizer",
                "mine",
                f"optimizer._target_ must be a class that exists, got {name!r}: {why}",
            )
            for name, why in (
                ("torch.optim.Nope", "torch.optim has no Nope"),
                ("descent.nope.Nope", "there is no module descent.nope"),
                ("torch.optim", "torch.optim has no definition"),
            )
        ),
        (STEP, "scheduler", "step", "scheduler.step_size is missing: scheduler=step needs it"),
        (STEP, "scheduler", None, "scheduler.step_size is missing: torch.optim.lr_scheduler.StepLR needs it"),
        (
            {**STEP, "step_size": 1, "gama": 1},
            "scheduler",
            "step",
            "scheduler.gama is not a key: scheduler=step takes step_size, gamma, last_epoch;"
            " did you mean scheduler.gamma?",
        ),
        (
            {**STEP, "full_batch_only": True},
            "scheduler",
            "step",
            "scheduler.full_batch_only is not a key: scheduler=step takes step_size, gamma, last_epoch",
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
def test_an_invalid_spec_is_refused_with_its_key(spec: Any, group: str, choice: str | None, message: str) -> None:
    with pytest.raises(UserError) as raised:
        check_spec(spec, group, PACKAGES, choice)
    assert str(raised.value) == message


def test_the_projects_own_keys_are_not_passed_to_the_class() -> None:
    assert arguments({**STEP, "step_size": 3}, "scheduler") == {"step_size": 3}
    assert arguments({"_target_": "a.B", "full_batch_only": True, "interval": 1}, "optimizer") == {"interval": 1}


CALLBACKS = {
    "divergence": "stable_rate.StableRate",
    "parameters": "parameters.Parameters",
    "optimum": "to_optimum.ToOptimum",
    "predictions": "predictions.Predictions",
    "figures": "figures.Figures",
}


def test_hyperparameters_are_one_flat_table() -> None:
    assert flat_hparams(config_of("data=line", "optimizer=momentum", "clip=norm", "debug=profiler", "seed=3")) == {
        "seed": 3,
        "data": "line",
        "data._target_": "regression.data.sources.ListedData",
        "data.val_fraction": 0.0,
        "data.test_fraction": 0.0,
        "data.standardize": False,
        "data.seed": 0,
        "data.max_rows": None,
        "data.inputs": [[1], [2], [3], [4]],
        "data.targets": [2, 4, 6, 8],
        "model": "linear",
        "model._target_": "regression.model.LinearRegression",
        "model.loss": "mse",
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
        "stopping.mode": "min",
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
        "trainer.fast": True,
        "trainer.num_threads": None,
        "callbacks": "regression",
        **{f"callbacks.{name}._target_": f"regression.callbacks.{where}" for name, where in CALLBACKS.items()},
        "logger": "tensorboard",
        "logger.tensorboard._target_": "descent.training.logger.RunLogger",
        "logger.tensorboard.save_dir": None,
        "debug": "profiler",
    }
