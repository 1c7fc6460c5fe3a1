"""Tests combinations of keys that are refused, valid neighbours of them, and table paths."""

import copy
from pathlib import Path
from typing import Any

import pytest
from conftest import CONF, Run, split
from hydra import compose, initialize_config_dir
from lightning.pytorch import LightningModule
from omegaconf import OmegaConf
from test_train import events

from descent.config.parse import parse
from descent.errors import UserError
from descent.training.build import build
from regression.data.module import RegressionData


@pytest.fixture(scope="module")
def tree() -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", ["data=line", "scheduler=plateau"])
    found: Any = OmegaConf.to_container(composed, resolve=True)
    return {str(key): value for key, value in found.items() if key not in ("predict_at", "figures")}


FRACTIONS = "data.val_fraction + data.test_fraction must be below 1, to leave training rows, got"
BOTH = "clip.gradient_clip_val and clip.gradient_clip_algorithm must be set together (clip=norm sets both), got"
FULL = (
    "batch.size must be null (batch=full) with optimizer={}, which compares successive gradients of the same loss, got"
)


def made(tree: dict[str, Any], cwd: Path | None = None) -> Any:
    """Builds a config's model and data, checks a split of 1,000 rows, and returns the data module."""
    config = parse(tree, cwd=cwd)
    build(config.model, "model", LightningModule)
    split(config.data, 1000)
    return build(config.data, "data", RegressionData)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, None),
        ({"data.val_fraction": 0.5, "data.test_fraction": 0.499}, None),
        ({"data.val_fraction": 0.5, "data.test_fraction": 0.5}, f"{FRACTIONS} 1.0"),
        ({"data.test_fraction": 0.75, "data.val_fraction": 0.5}, f"{FRACTIONS} 1.25"),
        ({"data.targets": [1, 2, 3]}, "data.targets must be as long as data.inputs (4), got [1, 2, 3]"),
        ({"clip.gradient_clip_val": 2}, f"{BOTH} 2 and null"),
        ({"clip.gradient_clip_algorithm": "value"}, f"{BOTH} null and 'value'"),
        ({"clip.gradient_clip_val": 2, "clip.gradient_clip_algorithm": "value"}, None),
        ({"optimizer.full_batch_only": True, "batch.size": None}, None),
        ({"optimizer.full_batch_only": False, "batch.size": 4}, None),
        ({"optimizer.full_batch_only": True, "batch.size": 4}, f"{FULL.format('torch.optim.SGD')} 4"),
        ({"scheduler.monitor": None}, "scheduler.monitor must be a metric with scheduler=plateau, got null"),
        ({"scheduler.interval": "step"}, "scheduler.interval must be epoch with scheduler=plateau, got 'step'"),
        ({"model.bias": False}, None),
        (
            {"model.bias": False, "model.init_bias": 0.0},
            "model.init_bias must be null when model.bias is false, got 0.0",
        ),
        ({"model.init_bias": 0.0}, None),
        ({"optimizer": {"_target_": "torch.optim.SGD"}}, None),
        ({"scheduler": {}}, None),
        ({"scheduler": {"a": 1}}, "scheduler must be empty, or have a _target_, got {'a': 1}"),
    ],
)
def test_only_invalid_combinations_of_keys_are_refused(
    values: dict[str, Any], message: str | None, tree: dict[str, Any]
) -> None:
    changed = copy.deepcopy(tree)
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        (changed[group] if group else changed)[name] = value
    if message is None:
        made(changed)
        return
    with pytest.raises(UserError) as raised:
        made(changed)
    assert str(raised.value) == message


VALIDATED = ("data.val_fraction=0.5", "data.num_samples=40", "scheduler=plateau", "trainer.max_epochs=6")
EVERY_5TH = ("trainer.check_val_every_n_epoch=5",)
EVERY = "scheduler.frequency must be a multiple of trainer.check_val_every_n_epoch"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scheduler.frequency=3", "trainer.check_val_every_n_epoch=3"], None),
        (["scheduler.frequency=6", "trainer.check_val_every_n_epoch=3"], None),
        (["scheduler.frequency=3"], None),
        (
            ["scheduler.frequency=4", "trainer.check_val_every_n_epoch=3"],
            f"{EVERY} (3) to monitor val/loss, got 4",
        ),
        (
            ["scheduler.monitor=val/r2", "scheduler.mode=max", "trainer.check_val_every_n_epoch=3"],
            f"{EVERY} (3) to monitor val/r2, got 1",
        ),
        (["scheduler.frequency=4", "trainer.check_val_every_n_epoch=3", "data.val_fraction=0"], None),
        (["scheduler.monitor=train/loss", "trainer.check_val_every_n_epoch=3"], None),
        (["scheduler.frequency=7", "trainer.check_val_every_n_epoch=7"], None),  # the last epoch is validated anyway
    ],
)
def test_a_plateau_schedule_must_match_the_validation_interval(
    overrides: list[str], message: str | None, run: Run
) -> None:
    if message is None:
        assert run(*VALIDATED, *overrides).status == "completed"
        return
    with pytest.raises(UserError) as raised:
        run(*VALIDATED, *overrides)
    assert str(raised.value) == message


def test_with_an_interval_longer_than_the_run_the_last_epoch_is_validated(run: Run, tmp_path: Path) -> None:
    result = run("data.val_fraction=0.5", "data.num_samples=40", "trainer.max_epochs=3", *EVERY_5TH)
    assert [point.step for point in events(tmp_path / "0").Scalars("val/loss")] == [result.steps]


def test_messages_name_the_chosen_option(tree: dict[str, Any]) -> None:
    changed = copy.deepcopy(tree)
    changed["optimizer"]["full_batch_only"] = True
    with pytest.raises(UserError) as raised:
        parse(changed, {"optimizer": "mine"})
    assert str(raised.value) == f"{FULL.format('mine')} 32"
    for group, known in (("optimizer", "takes lr, momentum,"), ("scheduler", "takes mode, factor,")):
        changed = copy.deepcopy(tree)
        changed[group]["Wrong"] = 1
        with pytest.raises(UserError, match=rf"^{group}\.Wrong is not a key: {group}=of {known}"):
            parse(changed, {group: f"of {group}"[:2]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, None),
        ({"path": "ROWS.PARQUET"}, None),
        ({"path": "none.csv"}, "data.path must be an existing CSV or Parquet file, got 'DIR/none.csv'"),
        ({"path": "folder.csv"}, "data.path must be an existing CSV or Parquet file, got 'DIR/folder.csv'"),
        ({"path": "rows.txt"}, "data.path must be a file named .csv or .parquet, got 'DIR/rows.txt'"),
        ({"features": ["x", "y"]}, "data.features must be without the target 'y', got ['x', 'y']"),
        ({"features": ["x"]}, None),
    ],
)
def test_a_tables_path_is_relative_to_the_given_directory(
    values: dict[str, Any], message: str | None, tree: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("rows.csv", "ROWS.PARQUET", "rows.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.csv").mkdir()
    data = table(tree["data"], **values)
    if message is None:
        found = made({**tree, "data": data}, tmp_path)
        assert (found.path, found.target, found.features) == (tmp_path / data["path"], "y", data["features"])
        return
    with pytest.raises(UserError) as raised:
        made({**tree, "data": data}, tmp_path)
    assert str(raised.value) == message.replace("DIR", str(tmp_path))


def table(listed: dict[str, Any], **values: Any) -> dict[str, Any]:
    common = {key: value for key, value in listed.items() if key not in ("inputs", "targets")}
    own = {"_target_": "regression.data.sources.TableData", "path": "rows.csv", "target": "y", "features": None}
    return common | own | values


def test_a_relative_path_starts_at_the_working_directory(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").touch()
    monkeypatch.chdir(tmp_path)
    data = table(tree["data"], path="./rows.csv")
    assert parse({**tree, "data": data}).data["path"] == str(tmp_path / "rows.csv")
    assert made({**tree, "data": data}).path == tmp_path / "rows.csv"
