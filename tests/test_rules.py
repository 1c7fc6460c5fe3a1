"""What a config value may be: each rule at both sides of each of its edges, and every key's rule in its own words."""

import copy
import math
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from conftest import CONF
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from descent.config import rules
from descent.config.parse import parse
from descent.config.schema import Config
from descent.errors import UserError, must

BELOW = math.nextafter(1e30, 0)
NO_NUMBER = ["1", None, True, [1], {}, math.nan, math.inf, -math.inf, 1e30, -1e30]

RULES: dict[str, tuple[list[Any], list[Any]]] = {
    "BOOLEAN": ([True, False], [0, 1, None, "true"]),
    "TEXT": (["a", " a "], ["", " ", "\t\n", None, 1]),
    "NUMBER": ([0, 1, -1, 1.5, BELOW, -BELOW], NO_NUMBER),
    "POSITIVE": ([5e-324, 1, BELOW], [*NO_NUMBER, 0, 0.0, -1]),
    "NOT_NEGATIVE": ([0, 0.0, 1, BELOW], [*NO_NUMBER, -1, -5e-324]),
    "AT_LEAST_ONE": ([1, 1.0, BELOW], [*NO_NUMBER, 0.999, 0, -1]),
    "BELOW_ONE": ([0, 0.999], [*NO_NUMBER, 1, 1.0, -0.001]),
    "FRACTION": ([0, 0.5, 1], [*NO_NUMBER, -0.001, 1.001]),
    "POSITIVE_INTEGER": ([1, 2**31 - 1], [0, -1, 2**31, 1.0, True, None, "1"]),
    "INTEGER_FROM_0": ([0, 2**31 - 1], [-1, 2**31, 0.0, False, None]),
    "SEED": ([0, 2**32 - 1], [-1, 2**32, 0.0, False, None]),
    "NAME": (
        ["a", "7", "é", "a.b_c=d-e", "x" * 100, "é" * 50],
        ["", "_a", ".a", "-a", "=a", "a b", "a/b", "a,b", "a\n", "x" * 101, "é" * 51, 7, None],
    ),
    "ROWS": ([[], [[1]], [[1, 2.5], [3, 4]]], [None, 4, [1], [[]], [[1], [1, 2]], [["1"]], [[math.nan]], ([1],)]),
    "SOME_ROWS": ([[[1]]], [[], [[1], [1, 2]], [[]]]),
    "SOME_NUMBERS": ([[1], [1, 2.5]], [[], 1, [None], [[1]], [1, "2"], [1, math.inf]]),
    "TEXTS": ([["a"], ["a", "b"]], [[], ["a", "a"], ["a", ""], [1], "a", None]),
    "MONITOR": (["train/loss", "val/loss", "val/mae", "val/r2"], ["loss", "test/loss", "", None]),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_takes_all_values_up_to_its_edges_and_none_beyond(name: str) -> None:
    accepted, refused = RULES[name]
    rule = getattr(rules, name)
    assert [value for value in accepted if not rule.accepts(value)] == []
    assert [value for value in refused if rule.accepts(value)] == []


def test_rules_made_of_others_take_what_they_say() -> None:
    one, two, off = rules.one_of("a", 1), rules.pair(rules.BELOW_ONE), rules.or_null(rules.BOOLEAN, "off")
    assert [rule.text for rule in (one, two, off)] == [
        "one of a, 1",
        "two values, each a number from 0 up to, not including, 1",
        "true or false or null (off)",
    ]
    assert [one.accepts(value) for value in ("a", 1, True, 1.0, "b", None)] == [True, True, *[False] * 4]
    pairs: list[Any] = [[0, 0.5], [0.5], [0, 0, 0], [0, 1], [1, 0], (0, 0), None]
    assert [two.accepts(value) for value in pairs] == [True, *[False] * 6]
    assert [off.accepts(value) for value in (None, True, 0)] == [True, True, False]


def test_only_r2_is_better_when_it_is_larger() -> None:
    found = {name: rules.better(name) for name in RULES["MONITOR"][0]}
    assert found == {"train/loss": "min", "val/loss": "min", "val/mae": "min", "val/r2": "max"}


def test_a_value_in_a_message_is_spelled_as_in_a_config_file() -> None:
    value = [None, True, False, 1.5, "a", ["b", [2]], ("c",)]
    assert (
        str(must("key", "a rule", value)) == "key must be a rule, got [null, true, false, 1.5, 'a', ['b', [2]], ['c']]"
    )


INTEGER, SWITCH, NUMBER = "a positive integer", "true or false", "a number below 1e30 in size"
OVER_0, FROM_0 = "a number greater than 0 and below 1e30", "a number from 0 up to 1e30"
BELOW_1 = "a number from 0 up to, not including, 1"
SEED = "an integer from 0 to 4294967295"
ROWS = "a list of rows, each a list of numbers, all of one length"
METRIC = "one of train/loss, val/loss, val/mae, val/r2"
TORCHS = " or null (torch's default initialisation)"
EVERY_KEY = {
    "seed": SEED,
    "name": "letters, digits, '.', '_', '=' and '-', beginning with a letter or digit, at most 100"
    " or null (named after the overrides)",
    "predict_at": ROWS,
    "figures": SWITCH,
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
    "data.source": "one of synthetic, rows, diabetes, table",
    "data.num_samples": INTEGER,
    "data.num_features": INTEGER,
    "data.noise_std": FROM_0,
    "data.condition_number": "a number from 1 up to 1e30",
    "data.outlier_fraction": "a number from 0 to 1",
    "model.bias": SWITCH,
    "model.init_weight": NUMBER + TORCHS,
    "model.init_bias": NUMBER + TORCHS,
    "batch.size": f"{INTEGER} or null (the whole training set)",
    "batch.shuffle": SWITCH,
    "clip.gradient_clip_val": f"{OVER_0} or null (no clipping)",
    "clip.gradient_clip_algorithm": "one of norm, value or null (no clipping)",
    "stopping.max_epochs": INTEGER,
    "stopping.patience": f"{INTEGER} or null (off)",
    "stopping.min_delta": FROM_0,
    "stopping.monitor": METRIC,
    "stopping.gradient_norm": f"{OVER_0} or null (off)",
    "stopping.loss_change": f"{OVER_0} or null (off)",
    "stopping.max_samples": f"{INTEGER} or null (no limit)",
    "stopping.max_gradient_evaluations": f"{INTEGER} or null (no limit)",
    "stopping.max_seconds": f"{OVER_0} or null (no limit)",
    "stopping.diverged_above": OVER_0,
    "trainer.accelerator": "one of auto, cpu, gpu, cuda, mps",
    "trainer.precision": "one of 32-true, 64-true, 16-mixed, bf16-mixed",
    "trainer.max_epochs": INTEGER,
    "trainer.max_steps": f"{INTEGER} or null (no limit)",
    "trainer.log_every_n_steps": INTEGER,
    "trainer.check_val_every_n_epoch": f"{INTEGER} or null (as often as is worth it)",
    "trainer.deterministic": SWITCH,
    "trainer.fast_dev_run": SWITCH,
    "trainer.profiler": "one of simple, advanced or null (off)",
    "trainer.enable_progress_bar": SWITCH,
    "checkpoint.every_seconds": f"{FROM_0} or null (no such interval)",
    "checkpoint.every_steps": f"{INTEGER} or null (no such interval)",
}
OF_SOURCES = {
    "line": {"inputs": f"{ROWS}, at least one", "targets": "a list of numbers, at least one"},
    "table": {
        "path": "a text",
        "target": "a text",
        "features": "a list of different texts, at least one or null (every numeric column but the target)",
    },
}


@pytest.fixture(scope="module")
def trees() -> dict[str, dict[str, Any]]:
    found: dict[str, Any] = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for data in ("synthetic", *OF_SOURCES):
            found[data] = OmegaConf.to_container(compose("train", [f"data={data}"]), resolve=True)
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


def test_every_key_has_its_rule_and_is_needed(trees: dict[str, dict[str, Any]]) -> None:
    tree = trees["synthetic"]
    found = {key: message_for(tree, key, "-") for key in EVERY_KEY if key != "name"}
    found["name"] = message_for(tree, "name", "-")
    assert found == {key: f"{key} must be {text}, got '-'" for key, text in EVERY_KEY.items()}
    groups = {"data", "model", "batch", "clip", "stopping", "trainer", "checkpoint"}
    keys = {*tree, *(f"{group}.{name}" for group in groups for name in tree[group])}
    assert keys == {*EVERY_KEY, "clip", "stopping", "trainer", "checkpoint"}
    for key in sorted(keys - {"data.source"}):
        lacking = copy.deepcopy(tree)
        group, _, name = key.rpartition(".")
        del (lacking[group] if group else lacking)[name]
        with pytest.raises(UserError) as raised:
            parse(lacking)
        assert str(raised.value) == f"{key} is missing"


@pytest.mark.parametrize("data", OF_SOURCES)
def test_every_key_of_a_source_has_its_rule(data: str, trees: dict[str, dict[str, Any]]) -> None:
    tree = copy.deepcopy(trees[data])
    tree["data"] |= {"path": "x.csv", "target": "y"} if data == "table" else {}
    found = {key: message_for(tree, f"data.{key}", 7) for key in OF_SOURCES[data]}
    assert found == {key: f"data.{key} must be {text}, got 7" for key, text in OF_SOURCES[data].items()}


def test_what_is_not_given_is_asked_for_by_its_key(trees: dict[str, dict[str, Any]]) -> None:
    assert message_for(trees["table"], "data.target", "y") == "data.path must be given: data.path=..."
    assert message_for(trees["table"], "data.path", "x.csv") == "data.target must be given: data.target=..."


def test_a_config_of_plain_dictionaries_has_no_choices(trees: dict[str, dict[str, Any]]) -> None:
    parsed: Config = parse(trees["line"])
    assert parsed.choices == {}
    assert parsed == parse(trees["line"], {}) != parse(trees["line"], {"data": "line"})


def test_a_source_of_another_kind_than_text_is_refused(trees: dict[str, dict[str, Any]]) -> None:
    for value, shown in ((None, "null"), ([1], "[1]"), ({}, "{}")):
        assert message_for(trees["line"], "data.source", value) == (
            f"data.source must be one of synthetic, rows, diabetes, table, got {shown}"
        )


def test_a_key_that_is_like_no_other_lists_those_there_are(trees: dict[str, dict[str, Any]]) -> None:
    tree = copy.deepcopy(trees["line"])
    tree["clip"]["zzz"] = 1
    with pytest.raises(UserError) as raised:
        parse(tree)
    assert str(raised.value) == (
        "clip.zzz is not a key: the keys here are clip.gradient_clip_val, clip.gradient_clip_algorithm"
    )


def test_a_config_stays_as_it_was_checked(trees: dict[str, dict[str, Any]]) -> None:
    config = parse(trees["line"])
    for part in (config, config.data, config.model, config.batch, config.clip, config.stopping, config.trainer):
        with pytest.raises(FrozenInstanceError):
            setattr(part, fields(part)[0].name, None)
    with pytest.raises(FrozenInstanceError):
        config.checkpoint.every_steps = 1  # type: ignore[misc]
