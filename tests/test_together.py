"""Keys that are right alone and do not go together, and tables: what is refused, and what is right beside it."""

import copy
from pathlib import Path
from typing import Any

import pytest
from conftest import CONF
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from descent.config.parse import parse
from descent.errors import UserError


@pytest.fixture(scope="module")
def tree() -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", ["data=line", "scheduler=plateau"])
    found: Any = OmegaConf.to_container(composed, resolve=True)
    return {str(key): value for key, value in found.items()}


PLATEAU = "scheduler=plateau must have a scheduler.monitor and scheduler.interval=epoch"
FRACTIONS = "data.val_fraction + data.test_fraction must be below 1, to leave training rows, got"
EVERY = "scheduler.frequency must be a multiple of trainer.check_val_every_n_epoch"
BOTH = "clip.gradient_clip_val and clip.gradient_clip_algorithm must be set together (clip=norm sets both), got"
FULL = (
    "batch.size must be null (batch=full) with optimizer={},"
    " which compares successive gradients of one and the same loss, got"
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, None),
        ({"data.val_fraction": 0.5, "data.test_fraction": 0.499}, None),
        ({"data.val_fraction": 0.5, "data.test_fraction": 0.5}, f"{FRACTIONS} 1.0"),
        ({"data.test_fraction": 0.75, "data.val_fraction": 0.5}, f"{FRACTIONS} 1.25"),
        ({"data.targets": [1, 2, 3]}, "data.targets must be as many as data.inputs (4), got [1, 2, 3]"),
        ({"clip.gradient_clip_val": 2}, f"{BOTH} 2 and null"),
        ({"clip.gradient_clip_algorithm": "value"}, f"{BOTH} null and 'value'"),
        ({"clip.gradient_clip_val": 2, "clip.gradient_clip_algorithm": "value"}, None),
        ({"optimizer.full_batch_only": True, "batch.size": None}, None),
        ({"optimizer.full_batch_only": False, "batch.size": 4}, None),
        ({"optimizer.full_batch_only": True, "batch.size": 4}, f"{FULL.format('torch.optim.SGD')} 4"),
        ({"scheduler.frequency": 3, "data.val_fraction": 0.5, "trainer.check_val_every_n_epoch": 3}, None),
        ({"scheduler.frequency": 6, "data.val_fraction": 0.5, "trainer.check_val_every_n_epoch": 3}, None),
        ({"scheduler.frequency": 3, "data.val_fraction": 0.5}, None),
        (
            {"scheduler.frequency": 4, "data.val_fraction": 0.5, "trainer.check_val_every_n_epoch": 3},
            f"{EVERY} (3) to monitor val/loss, got 4",
        ),
        (
            {"scheduler.monitor": "val/r2", "data.val_fraction": 0.5, "trainer.check_val_every_n_epoch": 3},
            f"{EVERY} (3) to monitor val/r2, got 1",
        ),
        ({"scheduler.frequency": 4, "trainer.check_val_every_n_epoch": 3}, None),  # no validation: the training loss
        (
            {"scheduler.monitor": "train/loss", "data.val_fraction": 0.5, "trainer.check_val_every_n_epoch": 3},
            None,
        ),
        ({"scheduler.monitor": None}, PLATEAU),
        ({"scheduler.interval": "step"}, PLATEAU),
        ({"data.val_fraction": 0.5, "trainer.check_val_every_n_epoch": 20, "scheduler.frequency": 20}, None),
        (
            {"data.val_fraction": 0.5, "trainer.check_val_every_n_epoch": 21, "scheduler.frequency": 21},
            "trainer.check_val_every_n_epoch must be at most trainer.max_epochs (20), got 21",
        ),
        ({"trainer.check_val_every_n_epoch": 21}, None),
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
def test_what_does_not_go_together_is_refused_and_what_does_is_taken(
    values: dict[str, Any], message: str | None, tree: dict[str, Any]
) -> None:
    changed = copy.deepcopy(tree)
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        (changed[group] if group else changed)[name] = value
    if message is None:
        parse(changed)
        return
    with pytest.raises(UserError) as raised:
        parse(changed)
    assert str(raised.value) == message


def test_messages_name_the_option_that_was_chosen(tree: dict[str, Any]) -> None:
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
        ({"path": "none.csv"}, "data.path must be a CSV or Parquet file, got 'none.csv'"),
        ({"path": "folder.csv"}, "data.path must be a CSV or Parquet file, got 'folder.csv'"),
        ({"path": "rows.txt"}, "data.path must be a file named .csv or .parquet, got 'rows.txt'"),
        ({"features": ["x", "y"]}, "data.features must be without the target 'y', got ['x', 'y']"),
        ({"features": ["x"]}, None),
    ],
)
def test_a_table_is_looked_for_from_the_directory_of_the_run(
    values: dict[str, Any], message: str | None, tree: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("rows.csv", "ROWS.PARQUET", "rows.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.csv").mkdir()
    common = {k: v for k, v in tree["data"].items() if k not in ("inputs", "targets")}
    data = {**common, "source": "table", "path": "rows.csv", "target": "y", "features": None} | values
    if message is None:
        found: Any = parse({**tree, "data": data}, cwd=tmp_path).data
        assert (found.path, found.target, found.features) == (str(tmp_path / data["path"]), "y", data["features"])
        return
    with pytest.raises(UserError) as raised:
        parse({**tree, "data": data}, cwd=tmp_path)
    assert str(raised.value) == message


def test_a_relative_path_begins_where_python_was_started(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").touch()
    monkeypatch.chdir(tmp_path)
    common = {k: v for k, v in tree["data"].items() if k not in ("inputs", "targets")}
    data = {**common, "source": "table", "path": "./rows.csv", "target": "y", "features": None}
    assert parse({**tree, "data": data}).data.path == str(tmp_path / "rows.csv")  # type: ignore[attr-defined]
