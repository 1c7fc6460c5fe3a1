"""From plain nested dictionaries to a checked ``Config``: every mistake is one message, before training."""

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from descent.config.hyperparameters import check_spec
from descent.config.rules import one_of
from descent.config.schema import SOURCES, Config, DataConfig, RowsData, TableData
from descent.errors import UserError, must, show


def parse(tree: Mapping[str, Any], choices: Mapping[str, str] | None = None, cwd: Path | None = None) -> Config:
    """Checks a composed config and returns it typed.

    Args:
        tree: plain nested dictionaries, interpolations resolved.
        choices: which option each config group was given; only recorded, with the hyperparameters.
        cwd: where a relative ``data.path`` starts; ``None``: the current directory. The config has the absolute path.

    Raises:
        UserError: a key is missing or unknown, or a value breaks its rule.
    """
    chosen = dict(choices or {})
    if isinstance(tree.get("name"), int):  # name=2024 is meant as a text
        tree = {**tree, "name": str(tree["name"])}
    config = replace(_typed(Config, tree, ""), choices=chosen)
    if isinstance(config.data, TableData):
        path = (cwd or Path.cwd()) / config.data.file
        _check_table(config.data, path)
        config = replace(config, data=replace(config.data, path=str(path)))
    check_spec(config.optimizer, "optimizer", chosen.get("optimizer"))
    if "_target_" in config.scheduler:
        check_spec(config.scheduler, "scheduler", chosen.get("scheduler"))
    elif config.scheduler:
        raise must("scheduler", "empty, or have a _target_", config.scheduler)
    _check_together(config)
    return config


T = TypeVar("T")


def keys_of(schema: type) -> dict[str, Any]:
    """The keys of a dataclass that a config sets, each with its annotation: a rule, a schema, or any dict."""
    hints = get_type_hints(schema, include_extras=True)
    return {entry.name: hints[entry.name] for entry in fields(schema) if entry.default_factory is MISSING}


def _typed(schema: type[T], node: Any, path: str) -> T:
    """``node`` as an object of the dataclass ``schema``, each value checked; ``path`` ends in a dot."""
    if not isinstance(node, Mapping):
        raise must(path.rstrip("."), "a group of keys", node)
    if schema is DataConfig:
        source = node.get("source")
        if not isinstance(source, str) or source not in SOURCES:
            raise must(f"{path}source", one_of(*SOURCES).text, source)
        schema = cast(type[T], SOURCES[source])
    known = keys_of(schema)
    for name in node:
        if name not in known:
            raise unknown_key(f"{path}{name}", [f"{path}{k}" for k in known])
    values: dict[str, Any] = {}
    for name, annotation in known.items():
        where, value = f"{path}{name}", node.get(name)
        if name not in node:
            raise UserError(f"{where} is missing")
        if value == "???":
            raise UserError(f"{where} must be given: {where}=...")
        if is_dataclass(annotation):
            value = _typed(cast(type, annotation), value, f"{where}.")
        elif rules := getattr(annotation, "__metadata__", None):
            if not rules[0].accepts(value):
                raise must(where, rules[0].text, value)
        elif not isinstance(value, dict):
            raise must(where, "a group of keys", value)
        values[name] = value
    return schema(**values)


def unknown_key(where: str, known: list[str]) -> UserError:
    close = difflib.get_close_matches(where, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the keys here are {', '.join(known)}"
    return UserError(f"{where} is not a key: {hint}")


def _check_together(config: Config) -> None:
    """Rules that need more than one key."""
    data, clip, batch = config.data, config.clip, config.batch
    if data.val_fraction + data.test_fraction >= 1:
        raise must(
            "data.val_fraction + data.test_fraction",
            "below 1, to leave training rows",
            data.val_fraction + data.test_fraction,
        )
    if isinstance(data, RowsData) and len(data.inputs) != len(data.targets):
        raise must("data.targets", f"as many as data.inputs ({len(data.inputs)})", data.targets)
    if (clip.gradient_clip_val is None) != (clip.gradient_clip_algorithm is None):
        raise UserError(
            "clip.gradient_clip_val and clip.gradient_clip_algorithm must be set together (clip=norm sets both),"
            f" got {show(clip.gradient_clip_val)} and {show(clip.gradient_clip_algorithm)}"
        )
    if config.optimizer.get("full_batch_only") and batch.size is not None:
        raise must(
            "batch.size",
            f"null (batch=full) with optimizer={config.choices.get('optimizer', config.optimizer['_target_'])},"
            " which compares successive gradients of one and the same loss",
            batch.size,
        )
    every, monitor = config.trainer.check_val_every_n_epoch or 1, config.scheduler.get("monitor")
    if monitor and monitor.startswith("val/") and data.val_fraction > 0 and config.scheduler["frequency"] % every:
        raise must(
            "scheduler.frequency",
            f"a multiple of trainer.check_val_every_n_epoch ({every}) to monitor {monitor}",
            config.scheduler["frequency"],
        )
    plateau = str(config.scheduler.get("_target_", "")).endswith(".ReduceLROnPlateau")
    if plateau and (monitor is None or config.scheduler["interval"] != "epoch"):
        raise UserError("scheduler=plateau must have a scheduler.monitor and scheduler.interval=epoch")
    if data.val_fraction > 0 and every > config.trainer.max_epochs:
        raise must(
            "trainer.check_val_every_n_epoch", f"at most trainer.max_epochs ({config.trainer.max_epochs})", every
        )
    if not config.model.bias and config.model.init_bias is not None:
        raise must("model.init_bias", "null when model.bias is false", config.model.init_bias)


def _check_table(data: TableData, path: Path) -> None:
    if not path.is_file():
        raise must("data.path", "a CSV or Parquet file", data.path)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise must("data.path", "a file named .csv or .parquet", data.path)
    if data.features is not None and data.target in data.features:
        raise must("data.features", f"without the target '{data.target}'", data.features)
