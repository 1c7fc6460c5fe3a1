"""Tests parsing plain dictionaries into a config."""

import copy
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from descent.config.hparams import flat_hparams
from descent.config.identity import config_digest, flat_config
from descent.config.parse import parse
from descent.config.schema import Config, StoppingConfig, keys_of, tree_of
from descent.errors import UserError

OWN = """
from pathlib import Path
from torch.optim import Optimizer
from lightning.pytorch import Callback, LightningDataModule, LightningModule
class Model(LightningModule):
    def __init__(self, optimizer=None, scheduler=None, size: int = 1, parts=None): ...
class Data(LightningDataModule):
    def __init__(self, rows: int, table: Path | None = None): ...
class Mine(Optimizer):
    def __init__(self, params, table: Path): ...
class Watch(Callback):
    def __init__(self, table: Path, every: int = 1, name=None, inner=None): ...
"""

TREE: dict[str, Any] = {
    "seed": 3,
    "name": None,
    "packages": ["whole_of_test"],
    "data": {"_target_": "whole_of_test.Data", "rows": 5},
    "model": {"_target_": "whole_of_test.Model"},
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 1},
    "scheduler": {},
    "batch": {"size": 4, "shuffle": True},
    "clip": {"gradient_clip_val": None, "gradient_clip_algorithm": None},
    "stopping": {"max_epochs": 2, "patience": None, "min_delta": 0, "monitor": "val/loss", "diverged_above": 100}
    | dict.fromkeys(("gradient_norm", "loss_change", "max_samples", "max_gradient_evaluations", "max_seconds")),
    "trainer": {"accelerator": "cpu", "precision": "32-true", "max_epochs": 2, "log_every_n_steps": 1}
    | {"max_steps": None, "check_val_every_n_epoch": None, "profiler": None}
    | {"deterministic": False, "enable_progress_bar": True, "accumulate_grad_batches": 2, "min_epochs": None},
    "checkpoint": {"every_seconds": None, "every_steps": None},
}


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole_of_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))


def changed(**values: Any) -> dict[str, Any]:
    """Returns ``TREE`` with other values: ``data__rows=7`` sets ``data.rows``."""
    tree = copy.deepcopy(TREE)
    for key, value in values.items():
        *path, name = key.split("__")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[name] = value
    return tree


FLAT = {
    "seed": 3,
    "name": None,
    "data._target_": "whole_of_test.Data",
    "data.rows": 5,
    "model._target_": "whole_of_test.Model",
    "optimizer._target_": "torch.optim.SGD",
    "optimizer.lr": 1,
    "batch.size": 4,
    "batch.shuffle": True,
    "clip.gradient_clip_val": None,
    "clip.gradient_clip_algorithm": None,
    "stopping.max_epochs": 2,
    "stopping.patience": None,
    "stopping.min_delta": 0,
    "stopping.monitor": "val/loss",
    "stopping.gradient_norm": None,
    "stopping.loss_change": None,
    "stopping.max_samples": None,
    "stopping.max_gradient_evaluations": None,
    "stopping.max_seconds": None,
    "stopping.diverged_above": 100,
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
    "trainer.max_epochs": 2,
    "trainer.max_steps": None,
    "trainer.log_every_n_steps": 1,
    "trainer.check_val_every_n_epoch": None,
    "trainer.deterministic": False,
    "trainer.accumulate_grad_batches": 2,
}


def test_the_identity_of_a_run_has_exactly_these_keys() -> None:
    del (expected := dict(FLAT))["name"]
    assert flat_config(parse(TREE)) == expected
    del expected["trainer.max_epochs"]
    as_floats = {
        key: value if isinstance(value, bool | str | None) else float(value) for key, value in expected.items()
    }
    text = json.dumps(as_floats, sort_keys=True)
    assert config_digest(parse(TREE)) == sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    "free",
    [
        {"name": "x"},
        {"packages": ["whole_of_test", "torchvision"]},
        {"checkpoint__every_steps": 3},
        {"trainer__enable_progress_bar": False},
        {"trainer__profiler": "simple"},
        {"trainer__fast": False},
        {"logger__a": {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "x"}},
    ],
    ids=str,
)
def test_output_settings_are_not_part_of_a_runs_identity(free: dict[str, Any]) -> None:
    assert flat_config(parse(changed(**free), {"data": "mine"})) == flat_config(parse(TREE))


def test_a_class_that_uses_an_output_setting_makes_it_part_of_the_identity() -> None:
    watch = {"_target_": "whole_of_test.Watch", "table": "/x", "every": 2, "name": "a"}
    tree = changed(callbacks__watch=watch, checkpoint__every_steps=2, name="a", data__rows=4)
    links = {
        **{"callbacks.watch.every": "batch.size", "callbacks.watch.name": "name", "data.rows": "batch.size"},
        **{"callbacks.watch.table": "", "trainer.max_epochs": "stopping.max_epochs"},
    }
    expected = FLAT | {"callbacks.watch._target_": "whole_of_test.Watch"}
    expected |= {"callbacks.watch.table": "/x", "callbacks.watch.name": "a"}
    for key in ("name", "data.rows"):
        del expected[key]
    assert flat_config(parse(tree, links=links)) == expected


def test_hyperparameters_are_these_in_this_order() -> None:
    links = {"model.optimizer": "optimizer", "data.rows": "batch.size", "callbacks.watch.inner": "scheduler"}
    step = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1}
    tree = changed(model__optimizer={}, callbacks__watch={"_target_": "whole_of_test.Watch", "table": "/x"})
    tree["scheduler"] = step
    tree["callbacks"]["watch"]["inner"] = step
    choices = {"optimizer": "sgd", "scheduler": "step", "debug": "overfit", "experiment": "a", "other": "b"}
    found = flat_hparams(parse(tree, choices, links=links))
    expected = {key: value for key, value in FLAT.items() if key not in ("name", "data.rows")}
    expected |= {
        "optimizer": "sgd",
        "experiment": "a",
        "debug": "overfit",
    }  # no scheduler: only a callback uses it, not the model
    expected |= {"stopping.mode": None, "trainer.fast_dev_run": False, "trainer.profiler": None}
    expected |= {"trainer.enable_progress_bar": True, "trainer.fast": True, "trainer.num_threads": None}
    expected |= {"callbacks.watch._target_": "whole_of_test.Watch", "callbacks.watch.table": "/x"}
    assert found == expected
    keys = [*found]
    assert keys[:5] == ["seed", "data._target_", "model._target_", "optimizer", "optimizer._target_"]
    assert keys[-2:] == ["experiment", "debug"]


def test_a_parsed_config_has_all_keys_with_defaults() -> None:
    config = parse(changed(classes=[1], seed=4), own=["classes", "seed"])
    filled = {"monitor": {"metric": "val/loss", "mode": "min"}, "callbacks": {}, "logger": {}, "classes": [1]}
    packages = ["torch", "lightning", "torchmetrics", "descent", "whole_of_test"]
    expected = changed(seed=4, packages=packages, stopping__mode=None) | filled | {"choices": {}, "links": {}}
    expected["trainer"] |= {"fast": True, "fast_dev_run": False, "num_threads": None}
    expected["trainer"] |= {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    del expected["trainer"]["min_epochs"]  # it has Lightning's own default
    assert tree_of(config) == expected
    assert config.extra == {"classes": [1]}


def test_keys_of_tells_required_keys_from_those_with_a_default() -> None:
    needed = ["seed", "name", *("data", "model", "optimizer", "scheduler", "batch", "clip", "stopping", "trainer")]
    needed += ["checkpoint"]
    assert keys_of(Config, needed=True) == needed
    assert [key for key in keys_of(Config) if key not in needed] == ["packages", "monitor", "callbacks", "logger"]
    assert [key for key in keys_of(StoppingConfig) if key not in keys_of(StoppingConfig, needed=True)] == ["mode"]


@pytest.mark.parametrize(
    ("values", "links", "message"),
    [
        ({"data__rows": 0.5}, {"data.rows": "rows"}, "rows must be an integer, got 0.5"),
        ({"data__rows": 0.5}, {"data.rows": "", "seed": "other"}, "data.rows must be an integer, got 0.5"),
        ({"data__row": 1}, {"data.row": "rows"}, "data.row is not a key: data=mine takes rows, table; did you mean"),
        (
            {"callbacks___target_": "mine.A"},
            {},
            "callbacks must have a name above each _target_: mine: {_target_: mine.A}",
        ),
        ({"data__rows": 0.5}, {"rows": "other"}, "data.rows must be an integer, got 0.5"),
        *(({group: 7}, {}, f"{group} must be a group of keys, got 7") for group in ("clip", "stopping", "trainer")),
        ({"checkpoint": [1]}, {}, "checkpoint must be a group of keys, got [1]"),
        ({"optimizer__lr": "???"}, {}, "optimizer.lr must be given: optimizer.lr=..."),
        ({"seed": "???"}, {}, "seed must be given: seed=..."),
        ({"callbacks__a": {"b": {"c": "???"}}}, {}, "callbacks.a.b.c must be given: callbacks.a.b.c=..."),
        ({"logger__a": [1]}, {}, "logger.a must be a _target_ and its arguments, got [1]"),
        ({"logger__a": {"save_dir": None}}, {}, "logger.a._target_ is missing: it names the class, in torch, "),
        (
            {"data__row": 1},
            {},
            "data.row is not a key: data=mine takes rows, table; did you mean data.rows?",
        ),
        ({"model__sise": 1}, {}, "model.sise is not a key: model=own takes optimizer, scheduler, size, parts; did "),
        ({"name": ""}, {}, "name must be letters, digits, '.', "),
    ],
    ids=str,
)
def test_an_error_names_the_key_where_the_value_is_written(
    values: dict[str, Any], links: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError) as raised:
        parse(changed(**values), {"data": "mine", "model": "own"}, links=links)
    assert str(raised.value).startswith(message)


def test_relative_paths_of_every_class_start_at_the_given_directory(tmp_path: Path) -> None:
    csv = {"_target_": "lightning.pytorch.loggers.CSVLogger"}
    tree = changed(
        **{"data__table": "a.csv", "callbacks__w": {"_target_": "whole_of_test.Watch", "table": "b.csv"}},
        **{"logger__own": {**csv, "save_dir": None}, "logger__there": {**csv, "save_dir": "c", "name": None}},
    )
    config = parse(tree, cwd=tmp_path)
    assert config.data["table"] == str(tmp_path / "a.csv")
    assert config.callbacks == {"w": {"_target_": "whole_of_test.Watch", "table": str(tmp_path / "b.csv")}}
    assert config.logger["own"] == {**csv, "save_dir": None}  # gets the run directory
    assert config.logger["there"]["name"] is None


def test_linked_keys_get_the_completed_scheduler() -> None:
    plateau = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "patience": 3}
    tree = changed(model__scheduler=plateau, model__parts={"a": {"b": plateau, "c": 1}}, data__rows=4)
    tree["scheduler"] = plateau
    tree["monitor"] = {"metric": "val/acc", "mode": "max"}
    links = {"model.scheduler": "scheduler", "model.parts.a.b": "scheduler", "data.rows": "batch.size"}
    config = parse(tree, links=links)
    filled = plateau | {"interval": "epoch", "frequency": 1, "monitor": "val/acc", "mode": "max"}
    assert config.scheduler == config.model["scheduler"] == filled
    assert config.model["parts"] == {"a": {"b": filled, "c": 1}}
    assert config.data["rows"] == 4
    alone = parse(tree)
    assert alone.model["scheduler"] == plateau and alone.scheduler == filled


@pytest.mark.parametrize(
    ("patience", "given", "links", "mode"),
    [
        (None, "max", {"stopping.mode": "monitor.mode"}, "max"),  # without patience the mode is unused
        (2, "max", {"stopping.mode": "monitor.mode"}, "min"),
        (2, "max", {}, "max"),
        (2, None, {}, "min"),
    ],
)
def test_a_given_stopping_mode_is_used_unless_it_is_linked(
    patience: Any, given: Any, links: dict[str, str], mode: str
) -> None:
    tree = changed(stopping__patience=patience, stopping__mode=given, stopping__monitor="train/loss")
    assert parse(tree, links=links).stopping.mode == mode


def test_linked_keys_get_the_optimizer_with_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = {"_target_": "whole_of_test.Mine", "table": "a.csv"}
    tree = changed(model__optimizer=mine) | {"optimizer": mine}
    config = parse(tree, links={"model.optimizer": "optimizer"})
    assert config.model["optimizer"] == config.optimizer == mine | {"table": str(tmp_path / "a.csv")}
