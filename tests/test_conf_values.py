"""Tests the values of the options in ``conf/`` that users rely on. New options need no line here."""

import importlib.util
import math
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CONF, config_of, needs_sweep, options
from test_conf import NEEDED, needs_full_batch

from descent.config.hparams import flat_hparams
from descent.config.schema import Config, tree_of
from descent.run.cli import load_config

# The keys of options that have several, and the common values that the other options of a group keep.
COMMON = {
    "data": {"val_fraction": 0.0, "test_fraction": 0.0, "standardize": False, "seed": 0, "max_rows": None}
    | {"batch_size": 32, "shuffle": True, "bias": True},  # interpolated from other keys
    "model": {"loss": "mse", "bias": True, "scheduler": {}, "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.05}},
    "optimizer": {},
    "scheduler": {"frequency": 1, "monitor": None, "interval": "epoch"},
    "batch": {},
    "clip": {},
    "stopping": {"max_epochs": 20, "min_delta": 0.0, "monitor": "val/loss", "mode": "min", "diverged_above": 1e4}
    | dict.fromkeys(("patience", "gradient_norm", "loss_change"))
    | dict.fromkeys(("max_samples", "max_gradient_evaluations", "max_seconds")),
    "trainer": {"accelerator": "auto", "precision": "32-true", "max_epochs": 20, "log_every_n_steps": 50}
    | {"max_steps": None, "check_val_every_n_epoch": None, "profiler": None}
    | {"deterministic": False, "fast_dev_run": False, "enable_progress_bar": True}
    | {"fast": True, "num_threads": None, "arguments": {}}
    | {"devices": 1, "num_nodes": 1, "strategy": "auto"},
}
LISTED = "regression.data.sources.ListedData"
SPLIT = {"val_fraction": 0.1, "test_fraction": 0.1}
VALUES: dict[str, dict[str, dict[str, Any]]] = {
    "data": {
        "synthetic": {
            "_target_": "regression.data.sources.SyntheticData",
            "num_samples": 1000,
            "num_features": 5,
            "noise_std": 0.5,
        }
        | {"condition_number": 10.0, "outlier_fraction": 0.0, **SPLIT},
        "diabetes": {"_target_": "regression.data.sources.DiabetesData", "standardize": True, **SPLIT},
        "line": {"_target_": LISTED, "inputs": [[1], [2], [3], [4]], "targets": [2, 4, 6, 8]},
        "study_hours": {"_target_": LISTED, "inputs": [[1], [2], [3]], "targets": [2, 4, 6]},
        "two_features": {"_target_": LISTED, "inputs": [[1, 2], [3, 4]], "targets": [3, 7]},
    },
    "model": {
        "linear": {"_target_": "regression.model.LinearRegression", "init_weight": None, "init_bias": None},
        "polynomial": {"_target_": "regression.model.Polynomial", "degree": 2, "init_weight": None, "init_bias": None},
        "mlp": {"_target_": "regression.model.MLP", "hidden": 32, "activation": "ReLU"},
    },
    "optimizer": {
        "sgd": {"_target_": "torch.optim.SGD", "lr": 0.05},
        "momentum": {"_target_": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9},
        "nesterov": {"_target_": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9, "nesterov": True},
        "adagrad": {"_target_": "torch.optim.Adagrad", "lr": 0.2},
        "adadelta": {"_target_": "torch.optim.Adadelta", "lr": 2.0},
        "rmsprop": {"_target_": "torch.optim.RMSprop", "lr": 0.01},
        "adam": {"_target_": "torch.optim.Adam", "lr": 0.02},
        "adamax": {"_target_": "torch.optim.Adamax", "lr": 0.03},
        "adamw": {"_target_": "torch.optim.AdamW", "lr": 0.02, "weight_decay": 0.01},
        "nadam": {"_target_": "torch.optim.NAdam", "lr": 0.02},
        "radam": {"_target_": "torch.optim.RAdam", "lr": 0.02},
        "asgd": {"_target_": "torch.optim.ASGD", "lr": 0.05},
        "rprop": {"_target_": "torch.optim.Rprop", "lr": 0.03, "full_batch_only": True},
        "lbfgs": {"_target_": "torch.optim.LBFGS", "lr": 1.0, "line_search_fn": "strong_wolfe"}
        | {"full_batch_only": True},
    },
    "scheduler": {
        "step": {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 5, "gamma": 0.5},
        "multistep": {"_target_": "torch.optim.lr_scheduler.MultiStepLR", "milestones": [10, 15], "gamma": 0.1},
        "exponential": {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.9},
        "cosine": {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": None, "interval": "step"},
        "linear_warmup": {
            "_target_": "torch.optim.lr_scheduler.LinearLR",
            "start_factor": 0.1,
            "total_iters": 10,
            "interval": "step",
        },
        "one_cycle": {
            "_target_": "torch.optim.lr_scheduler.OneCycleLR",
            "max_lr": 0.05,
            "total_steps": None,
            "cycle_momentum": False,
        }
        | {"interval": "step"},
        "plateau": {
            "_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
            "factor": 0.5,
            "patience": 2,
            "monitor": "val/loss",
            "mode": "min",
        },
    },
    "batch": {
        "full": {"size": None, "shuffle": False},
        "mini": {"size": 32, "shuffle": True},
        "single": {"size": 1, "shuffle": True},
        "stochastic": {"size": 1, "shuffle": True},
    },
    "clip": {
        "none": {"gradient_clip_val": None, "gradient_clip_algorithm": None},
        "norm": {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "norm"},
        "value": {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"},
    },
    "stopping": {
        "none": {},
        "patience": {"max_epochs": 1000, "patience": 5},
        "converged": {"max_epochs": 10000, "gradient_norm": 1e-4, "loss_change": 1e-6},
    },
    "trainer": {
        "default": {},
        "float64": {"precision": "64-true", "accelerator": "cpu"},
        "gpu": {"accelerator": "cuda"},
        "mps": {"accelerator": "mps"},
        "mixed": {"accelerator": "cuda", "precision": "16-mixed"},
        "bf16": {"precision": "bf16-mixed"},
        "ddp": {"accelerator": "cuda", "devices": "auto", "strategy": "ddp"},
        "ddp_cpu": {"accelerator": "cpu", "devices": 2, "strategy": "ddp"},
    },
}


def test_what_belongs_to_no_group_has_its_default() -> None:
    config = tree_of(config_of())
    keys = ("seed", "name", "predict_at", "figures", "scheduler", "checkpoint", "monitor", "packages")
    assert {key: config[key] for key in keys} == {
        "seed": 0,
        "name": None,
        "predict_at": [],
        "figures": True,
        "scheduler": {},
        "checkpoint": {"every_seconds": 5.0, "every_steps": None},
        "monitor": {"metric": "val/loss", "mode": "min"},
        "packages": ["torch", "lightning", "torchmetrics", "descent", "regression"],
    }


FULL = {"batch": "full", "batch.size": None, "batch.shuffle": False}
FLOAT64 = {"trainer": "float64", "trainer.precision": "64-true", "trainer.accelerator": "cpu"}
FROM_0 = {"model.bias": False, "model.init_weight": 0.0}
QUIET = {"trainer.enable_progress_bar": False}
NO_SPLIT = {"data.val_fraction": 0.0, "data.test_fraction": 0.0}
TEN = {"data.num_features": 10, "data.noise_std": 0.1}


def epochs(number: int) -> dict[str, int]:
    return {"trainer.max_epochs": number}


def at_most(samples: int, log_every: int) -> dict[str, Any]:
    keys = {"stopping.max_samples": samples, "stopping.max_epochs": 1000, "trainer.max_epochs": 1000}
    return {**keys, "trainer.log_every_n_steps": log_every, **QUIET}


# What each sets, besides the keys of the data and the scheduler that it chooses.
SETS: dict[str, dict[str, Any]] = {
    "experiment=line_numpy": FULL | FLOAT64 | FROM_0 | {"data": "line", "optimizer.lr": 0.01},
    "experiment=line_linear": FULL | FLOAT64 | {"data": "line", "optimizer.lr": 0.01} | epochs(1000),
    "experiment=study_hours": FULL
    | FLOAT64
    | {"data": "study_hours", "model.bias": False, "model.init_weight": 1.0, "optimizer.lr": 0.01}
    | epochs(100),
    "experiment=study_hours_stochastic": FLOAT64
    | {"data": "study_hours", "model.bias": False, "model.init_weight": 1.0, "optimizer.lr": 0.01}
    | {"batch": "stochastic", "batch.size": 1, "batch.shuffle": False}
    | epochs(100),
    "experiment=two_features": FULL | FLOAT64 | {"data": "two_features", "optimizer.lr": 0.01} | epochs(1000),
    "experiment=exploding": FULL
    | FLOAT64
    | FROM_0
    | {"data": "line", "optimizer.lr": 1.0, "scheduler": "exponential", "scheduler.gamma": 0.95}
    | epochs(100),
    "experiment=ten_features": FULL
    | FLOAT64
    | TEN
    | NO_SPLIT
    | {"data.num_samples": 100, "data.condition_number": 1.0, "optimizer.lr": 0.1}
    | epochs(100),
    "experiment=paths": FULL
    | NO_SPLIT
    | QUIET
    | {"data.num_features": 2, "model.bias": False, "model.init_weight": -1.0, "optimizer.lr": 0.1}
    | {"trainer.log_every_n_steps": 1}
    | epochs(100),
    "experiment=search": TEN
    | QUIET
    | {"data.condition_number": 100.0, "optimizer": "momentum", "optimizer.lr": 0.01, "optimizer.momentum": 0.9},
    "experiment=compare_optimizers": TEN | {"data.condition_number": 100.0} | at_most(8000, 5),
    "experiment=batch_sizes": TEN | at_most(8000, 10),
    "experiment=clipping": {"data.num_features": 10, "data.outlier_fraction": 0.05} | at_most(16000, 5),
    "debug=fast_dev_run": {"trainer.fast_dev_run": True},
    "debug=profiler": {"trainer.profiler": "simple"},
    "debug=overfit": {"batch.size": 2, "batch.shuffle": False, "callbacks": "none"}
    | {"callbacks.overfit._target_": "descent.training.overfit.Overfit"}
    | {"stopping": "patience", "stopping.patience": 50, "stopping.monitor": "train/loss", "trainer.overfit_batches": 1}
    | {"stopping.max_epochs": 1000, "trainer.max_epochs": 1000},
}
PREDICT_AT = {"line_numpy": [[5]], "line_linear": [[5]], "exploding": [[5]], "two_features": [[5, 6]]} | {
    "study_hours": [[4]],
    "study_hours_stochastic": [[4]],
}
SWEEPS = ("paths", "search", "compare_optimizers", "batch_sizes", "clipping")


@pytest.fixture(scope="module")
def defaults() -> dict[str, Any]:
    return flat_hparams(config_of())


GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "launcher")


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in GROUPS for option in options(group)])
def test_every_option_composes_into_a_valid_config_with_the_values_it_had(
    group: str, option: str, defaults: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("x,y\n1,2\n")
    full = ["batch=full"] if group == "optimizer" and needs_full_batch(option) else []
    config = config_of(f"{group}={option}", *NEEDED.get(option, ()), *full)
    assert config.choices[group] == option
    if option in VALUES.get(group, {}):
        assert asdict(config)[group] == COMMON[group] | VALUES[group][option]
        assert config.trainer.max_epochs == config.stopping.max_epochs
    if f"{group}={option}" in SETS:
        check_experiment(f"{group}={option}", config, defaults)


@needs_sweep
@pytest.mark.parametrize("option", options("launcher") or [None])  # empty without sweep/
def test_a_launcher_changes_nothing_of_a_run(option: str) -> None:
    plugin = option.partition("_")[0]
    if plugin != "serial" and importlib.util.find_spec(f"hydra_plugins.hydra_{plugin}_launcher") is None:
        pytest.skip(f"needs hydra-{plugin}-launcher")
    assert config_of(f"launcher={option}") == config_of()


def check_experiment(choice: str, config: Config, defaults: dict[str, Any]) -> None:
    """Checks that an experiment sets exactly what ``SETS`` says."""
    group, _, option = choice.partition("=")
    found = {key: value for key, value in flat_hparams(config).items() if defaults.get(key, "none") != value}
    for chosen in ("data", "scheduler"):
        if chosen in found:  # its keys are tested above
            found = {k: v for k, v in found.items() if not k.startswith(f"{chosen}.") or k in SETS[choice]}
    assert found == SETS[choice] | {group: option}
    assert config.extra == {
        "predict_at": PREDICT_AT.get(option, []),
        "figures": True,
    }
    assert config.name == (option if option in SWEEPS else None)


@pytest.mark.parametrize("option", options("experiment"))
def test_an_experiment_keeps_its_data_model_and_optimizer_where_a_project_has_other_defaults(
    option: str, tmp_path: Path
) -> None:
    shutil.copytree(CONF, tmp_path / "conf")
    main, others = (CONF / "train.yaml").read_text(), {"data": "diabetes", "model": "other", "optimizer": "adam"}
    for group, other in others.items():
        main = re.sub(rf"(?m)^  - {group}: \w+$", f"  - {group}: {other}", main)
    (tmp_path / "conf/train.yaml").write_text(main)
    (tmp_path / "conf/model/other.yaml").write_text((CONF / "model/linear.yaml").read_text())
    given = f"experiment={option}", *(["optimizer=sgd"] if option in ("paths", "compare_optimizers") else [])  # swept
    found, expected = load_config(tmp_path / "conf", given), config_of(*given)
    assert {group: found.choices[group] for group in others} == {group: expected.choices[group] for group in others}
    assert flat_hparams(found) == flat_hparams(expected)


RATES = "0.001,0.00316,0.01,0.0316,0.1,0.316"


@needs_sweep  # its experiments are deleted with it
@pytest.mark.parametrize(
    ("option", "sweeper", "runs"),
    [
        ("paths", {"params": {"optimizer": "sgd,momentum,nesterov,adagrad,rmsprop,adam"}}, 6),
        (
            "search",
            {
                "space": {
                    "optimizer.lr": {"low": 1e-4, "high": 1.0, "log": True},
                    "optimizer.momentum": {"low": 0.0, "high": 0.99},
                },
                **{"n_trials": 20, "choose_by": "val/loss", "seed": 0},
            },
            20,
        ),
        (
            "compare_optimizers",
            {
                "params": {
                    "optimizer": "sgd,momentum,nesterov,adagrad,rmsprop,adam,adamw,nadam",
                    "optimizer.lr": "0.00316,0.01,0.0316,0.1,0.316,1.0",
                    "seed": "0,1",
                },
                **{"for_each": "optimizer", "choose_by": "val/loss", "then": {"seed": "2,3,4,5,6"}},
            },
            136,
        ),
        (
            "batch_sizes",
            {
                "params": {"batch.size": "1,4,16,64,256,null", "optimizer.lr": RATES, "seed": "0,1"},
                **{"for_each": "batch.size", "choose_by": "val/loss", "then": {"seed": "2,3,4"}},
            },
            90,
        ),
        (
            "clipping",
            {
                "params": {"clip": "none,norm,value", "optimizer.lr": RATES, "seed": "0,1"},
                **{"for_each": "clip", "choose_by": "val/loss", "then": {"seed": "2,3,4,5,6"}},
            },
            51,
        ),
    ],
)
def test_a_sweep_of_an_experiment_has_the_runs_that_its_comment_says(
    option: str, sweeper: dict[str, Any], runs: int
) -> None:
    text = (CONF / "experiment" / f"{option}.yaml").read_text(encoding="utf-8")
    found = yaml.safe_load(text)["hydra"]
    assert found == {"mode": "MULTIRUN", "sweeper": sweeper}
    params = sweeper.get("params", {})
    count = math.prod(len(values.split(",")) for values in params.values()) if params else sweeper["n_trials"]
    for values in sweeper.get("then", {}).values():
        count += len(params[sweeper["for_each"]].split(",")) * len(values.split(","))
    assert count == runs
    assert f" {runs} runs" in text or f" {runs} trials" in text
