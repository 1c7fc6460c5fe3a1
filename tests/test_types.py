"""Tests each config type at both sides of its edges, and the rule of every key."""

import copy
import math
from dataclasses import FrozenInstanceError, fields
from typing import Annotated, Any, Literal

import pytest
from conftest import CONF
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from descent.config import types
from descent.config.parse import parse
from descent.config.schema import STRATEGIES, Config, TrainerConfig
from descent.errors import UserError, invalid

BELOW = math.nextafter(1e30, 0)
NO_NUMBER = ["1", None, True, [1], {}, math.nan, math.inf, -math.inf, 1e30, -1e30]

TYPES: dict[str, tuple[list[Any], list[Any]]] = {
    "Boolean": ([True, False], [0, 1, None, "true"]),
    "Text": (["a", " a "], ["", " ", "\t\n", None, 1]),
    "Number": ([0, 1, -1, 1.5, BELOW, -BELOW], NO_NUMBER),
    "Positive": ([5e-324, 1, BELOW], [*NO_NUMBER, 0, 0.0, -1]),
    "NotNegative": ([0, 0.0, 1, BELOW], [*NO_NUMBER, -1, -5e-324]),
    "AtLeastOne": ([1, 1.0, BELOW], [*NO_NUMBER, 0.999, 0, -1]),
    "BelowOne": ([0, 0.999], [*NO_NUMBER, 1, 1.0, -0.001]),
    "Fraction": ([0, 0.5, 1], [*NO_NUMBER, -0.001, 1.001]),
    "PositiveInteger": ([1, 2**31 - 1], [0, -1, 2**31, 1.0, True, None, "1"]),
    "Integer": ([0, -1, 2**40], [0.0, False, None, "1"]),
    "AnyText": (["", "a"], [None, 1]),
    "Seed": ([0, 2**32 - 1], [-1, 2**32, 0.0, False, None]),
    "Name": (
        ["a", "7", "é", "a.b_c=d-e", "x" * 100, "é" * 50],
        ["", "_a", ".a", "-a", "=a", "a b", "a/b", "a,b", "a\n", "x" * 101, "é" * 51, 7, None],
    ),
    "Rows": ([[], [[1]], [[1, 2.5], [3, 4]]], [None, 4, [1], [[]], [[1], [1, 2]], [["1"]], [[math.nan]], ([1],)]),
    "SomeRows": ([[[1]]], [[], [[1], [1, 2]], [[]]]),
    "Row": ([[1], [1, 2.5]], [[], 1, [None], [[1]], [1, "2"], [1, math.inf]]),
    "Texts": ([["a"], ["a", "b"]], [[], ["a", "a"], ["a", ""], [1], "a", None]),
}


def accepts(kind: Any, value: Any) -> bool:
    try:
        found = types.check(kind, value, "key")
    except UserError:
        return False
    return bool(found == value) and type(found) is type(value)  # 1 must not become 1.0


@pytest.mark.parametrize("name", TYPES)
def test_a_type_accepts_values_up_to_its_edges_and_none_beyond(name: str) -> None:
    accepted, refused = TYPES[name]
    kind = getattr(types, name)
    assert [value for value in accepted if not accepts(kind, value)] == []
    assert [value for value in refused if accepts(kind, value)] == []


def test_every_type_is_tested_here_or_in_another_file() -> None:
    own = {name for name, kind in vars(types).items() if hasattr(kind, "__metadata__") and not name.startswith("_")}
    assert own - {*TYPES} == {"AbsolutePath", "ExistingFile", "Keys"}  # paths: test_targets; groups of keys: below


def test_a_composed_type_accepts_and_names_its_parts() -> None:
    off = Annotated[types.Boolean | None, types.OrNull("off")]
    choice = Annotated[Literal["a", "b"] | None, types.OrNull("none")]
    messages = {}
    for name, kind, value in (("off", off, 0), ("choice", choice, "c")):
        with pytest.raises(UserError) as raised:
            types.check(kind, value, name)
        messages[name] = str(raised.value)
    assert messages == {
        "off": "off must be true or false or null (off), got 0",
        "choice": "choice must be one of a, b or null (none), got 'c'",
    }
    assert [accepts(off, value) for value in (None, True, 0)] == [True, True, False]
    assert [accepts(choice, value) for value in (None, "a", "c", 1)] == [True, True, False, False]


def test_values_in_messages_are_spelled_as_in_yaml() -> None:
    value = [None, True, False, 1.5, "a", ["b", [2]], ("c",)]
    assert (
        str(invalid("key", "a rule", value))
        == "key must be a rule, got [null, true, false, 1.5, 'a', ['b', [2]], ['c']]"
    )


INTEGER, SWITCH, NUMBER = "a positive integer", "true or false", "a number between -1e30 and 1e30"
OVER_0, FROM_0 = "a number greater than 0 and below 1e30", "a number from 0 up to 1e30"
BELOW_1 = "a number from 0 up to, not including, 1"
SEED = "an integer from 0 to 4294967295"
ROWS = "a list of rows, each a list of numbers, all of one length"
SOME_ROWS = "a list of at least one row, each a list of numbers, all of one length"
TORCHS = " or null (torch's default initialisation)"
EVERY_KEY = {
    "seed": SEED,
    "name": "letters, digits, '.', '_', '=' and '-', beginning with a letter or digit, at most 100 bytes"
    " or null (named after the overrides)",
    "packages": "a list of one or more different strings, such as [a,b]",
    "monitor": "a group of keys",
    "monitor.metric": "a string",
    "monitor.mode": "one of min, max",
    "data": "a group of keys",
    "model": "a group of keys",
    "optimizer": "a group of keys",
    "scheduler": "a group of keys",
    "batch": "a group of keys",
    "data.val_fraction": BELOW_1,
    "data.test_fraction": BELOW_1,
    "data.standardize": SWITCH,
    "data.seed": SEED,
    "data.max_rows": f"{INTEGER} or null (all of them)",
    "data.num_samples": INTEGER,
    "data.num_features": INTEGER,
    "data.noise_std": FROM_0,
    "data.condition_number": "a number from 1 up to 1e30",
    "data.outlier_fraction": "a number from 0 to 1",
    "model.bias": SWITCH,
    "model.loss": "one of mse, mae, huber",
    "model.init_weight": NUMBER + TORCHS,
    "model.init_bias": NUMBER + TORCHS,
    "batch.size": f"{INTEGER} or null (the whole training set)",
    "batch.shuffle": SWITCH,
    "callbacks": "a group of keys",
    "logger": "a group of keys",
    "data.batch_size": f"{INTEGER} or null (the whole training set)",
    "data.shuffle": SWITCH,
    "data.bias": SWITCH,
    "clip.gradient_clip_val": f"{OVER_0} or null (no clipping)",
    "clip.gradient_clip_algorithm": "one of norm, value or null (no clipping)",
    "stopping.max_epochs": INTEGER,
    "stopping.patience": f"{INTEGER} or null (off)",
    "stopping.min_delta": FROM_0,
    "stopping.monitor": "a string",
    "stopping.mode": "one of min, max",
    "stopping.gradient_norm": f"{OVER_0} or null (off)",
    "stopping.loss_change": f"{OVER_0} or null (off)",
    "stopping.max_samples": f"{INTEGER} or null (no limit)",
    "stopping.max_gradient_evaluations": f"{INTEGER} or null (no limit)",
    "stopping.max_seconds": f"{OVER_0} or null (no limit)",
    "stopping.diverged_above": OVER_0,
    "trainer.accelerator": "one of auto, cpu, gpu, cuda, mps",
    "trainer.max_epochs": INTEGER,
    "trainer.max_steps": f"{INTEGER} or null (no limit)",
    "trainer.log_every_n_steps": INTEGER,
    "trainer.check_val_every_n_epoch": f"{INTEGER} or null (automatic)",
    "trainer.deterministic": "true, false or warn",
    "trainer.fast_dev_run": f"{SWITCH}, or a number of batches",
    "trainer.profiler": "one of simple, advanced or null (off)",
    "trainer.num_threads": f"{INTEGER} or null (automatic)",
    "trainer.devices": f"{INTEGER} or auto",
    "trainer.num_nodes": INTEGER,
    "trainer.strategy": STRATEGIES,
    "trainer.enable_progress_bar": SWITCH,
    "checkpoint.every_seconds": f"{FROM_0} or null (no such interval)",
    "checkpoint.every_steps": f"{INTEGER} or null (no such interval)",
}
OF_SOURCES = {
    "line": {
        "inputs": SOME_ROWS,
        "targets": "a list of numbers, at least one",
    },
    "table": {
        "path": "a path",
        "target": "a string",
        "features": "a list of one or more different strings, such as [a,b] or null"
        " (every numeric column but the target)",
    },
}


@pytest.fixture(scope="module")
def trees() -> dict[str, dict[str, Any]]:
    found: dict[str, Any] = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for data in ("synthetic", *OF_SOURCES):
            tree: Any = OmegaConf.to_container(compose("train", [f"data={data}"]), resolve=True)
            found[data] = {key: value for key, value in tree.items() if key not in ("predict_at", "figures")}
    return found


def message_for(tree: dict[str, Any], key: str, value: Any) -> str:
    changed = copy.deepcopy(tree)
    *path, name = key.split(".")
    node = changed
    for part in path:
        node = node[part]
    assert name in node
    node[name] = value
    with pytest.raises(UserError) as raised:
        parse(changed)
    return str(raised.value)


WITH_DEFAULT = {"packages", "monitor", "monitor.metric", "monitor.mode", "stopping.mode", "callbacks", "logger"}
WITH_DEFAULT |= {"trainer.fast_dev_run", "trainer.num_threads"}
WITH_DEFAULT |= {"trainer.devices", "trainer.num_nodes", "trainer.strategy"}
OF_CLASSES = {  # keys with a default in their class, and keys that other files test
    "data": {"_target_", "max_rows", "batch_size", "shuffle", "bias"},
    "model": {"_target_", "loss", "bias", "init_weight", "init_bias", "optimizer", "scheduler"},
}


def test_every_key_has_its_rule_and_is_required(trees: dict[str, dict[str, Any]]) -> None:
    tree = trees["synthetic"]
    wrong: dict[str, Any] = {key: 7 if text == "a string" else "-" for key, text in EVERY_KEY.items()}
    found = {key: message_for(tree, key, value) for key, value in wrong.items()}
    assert found == {key: f"{key} must be {text}, got {wrong[key]!r}" for key, text in EVERY_KEY.items()}
    groups = {"batch", "clip", "stopping", "checkpoint", "monitor", *OF_CLASSES}
    keys = {*tree, *(f"{group}.{name}" for group in groups for name in tree[group])}
    keys |= {f"trainer.{entry.name}" for entry in fields(TrainerConfig)} - {"trainer.arguments", "trainer.fast"}
    elsewhere = {"data._target_", "model._target_", "model.optimizer", "model.scheduler", "trainer.precision"}
    assert keys - elsewhere == {*EVERY_KEY, "clip", "stopping", "trainer", "checkpoint"}
    optional = {f"{group}.{name}" for group, names in OF_CLASSES.items() for name in names}
    for key in sorted(keys - WITH_DEFAULT - optional):
        lacking = copy.deepcopy(tree)
        group, _, name = key.rpartition(".")
        del (lacking[group] if group else lacking)[name]
        with pytest.raises(UserError) as raised:
            parse(lacking)
        who = f": {tree[group]['_target_']} needs it" if group in OF_CLASSES else ""
        assert str(raised.value) == f"{key} is missing{who}"


@pytest.mark.parametrize("data", OF_SOURCES)
def test_every_key_of_a_source_has_its_rule(data: str, trees: dict[str, dict[str, Any]]) -> None:
    tree = copy.deepcopy(trees[data])
    tree["data"] |= {"path": "x.csv", "target": "y"} if data == "table" else {}
    found = {key: message_for(tree, f"data.{key}", 7) for key in OF_SOURCES[data]}
    assert found == {key: f"data.{key} must be {text}, got 7" for key, text in OF_SOURCES[data].items()}


def test_a_missing_value_is_asked_for_by_its_key(trees: dict[str, dict[str, Any]]) -> None:
    assert message_for(trees["table"], "data.target", "y") == "data.path must be given: data.path=..."
    assert message_for(trees["table"], "data.path", "x.csv") == "data.target must be given: data.target=..."


def test_a_config_of_plain_dictionaries_has_no_choices(trees: dict[str, dict[str, Any]]) -> None:
    parsed: Config = parse(trees["line"])
    assert parsed.choices == {}
    assert parsed == parse(trees["line"], {}) != parse(trees["line"], {"data": "line"})


def test_an_invalid_data_target_is_refused(trees: dict[str, dict[str, Any]]) -> None:
    for value, shown in ((3, "3"), ([1], "[1]"), ({}, "{}"), ("web", "'web'")):
        assert message_for(trees["line"], "data._target_", value) == (
            "data._target_ must be a class in torch, lightning, torchmetrics, descent, regression"
            f" (the key packages lists them), got {shown}"
        )


def test_an_unknown_key_without_a_similar_one_lists_the_known_keys(trees: dict[str, dict[str, Any]]) -> None:
    tree = copy.deepcopy(trees["line"])
    tree["clip"]["zzz"] = 1
    with pytest.raises(UserError) as raised:
        parse(tree)
    assert str(raised.value) == (
        "clip.zzz is not a key: the keys here are clip.gradient_clip_val, clip.gradient_clip_algorithm"
    )


def test_a_config_is_immutable(trees: dict[str, dict[str, Any]]) -> None:
    config = parse(trees["line"])
    for part in (config, config.batch, config.clip, config.stopping, config.trainer, config.monitor):
        with pytest.raises(FrozenInstanceError):
            setattr(part, fields(part)[0].name, None)
    with pytest.raises(FrozenInstanceError):
        config.checkpoint.every_steps = 1  # type: ignore[misc]
