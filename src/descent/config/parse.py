"""Turns plain nested dictionaries into a checked ``Config``. Every mistake is one message, before training."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import ValidationError

from descent.config.hparams import OF_CLASSES
from descent.config.optimizers import check_spec
from descent.config.schema import PACKAGES, Config, TrainerConfig, keys_of
from descent.config.targets import check_target, derives_from
from descent.config.trainer import checked_arguments
from descent.errors import UserError, as_yaml, invalid, unknown_key, validation_error


def parse(
    tree: Mapping[str, Any],
    choices: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    own: Collection[str] = (),
    links: Mapping[str, str] | None = None,
) -> Config:
    """Checks a composed config and returns it as typed objects.

    Args:
        tree: plain nested dictionaries, interpolations resolved.
        choices: the option chosen for each config group, for hyperparameters and messages.
        cwd: where relative paths start; ``None``: the current directory. The ``Config`` holds absolute paths.
        own: the project's keys that the schema does not know; they are kept in ``extra``.
        links: keys with an interpolated value, each with the key that the value comes from.

    Raises:
        UserError: a key is missing or unknown, or a value breaks its rule.
    """
    links = dict(links or {})
    try:
        config = _checked(tree, dict(choices or {}), cwd, own, links)
    except UserError as error:
        key, _, rest = str(error).partition(" ")
        # name the key where the value is written, unless the key itself is wrong
        if (source := links.get(key)) and not rest.startswith("is not a key"):
            raise UserError(f"{source} {rest}") from error
        raise
    config = _filled(config)
    _check_together(config)
    _pass_on(config)
    return config


def _checked(
    tree: Mapping[str, Any], choices: dict[str, str], cwd: Path | None, own: Collection[str], links: dict[str, str]
) -> Config:
    """Checks each key separately."""
    _check_given(tree)
    if isinstance(tree.get("name"), int):  # name=2024 is meant as a text
        tree = {**tree, "name": str(tree["name"])}
    if isinstance(tree.get("trainer"), Mapping):
        listed = keys_of(TrainerConfig)
        trainer: dict[str, Any] = {"arguments": {}}
        for name, value in tree["trainer"].items():
            (trainer if name in listed else trainer["arguments"])[name] = value
        tree = {**tree, "trainer": trainer}
    extra = {name: value for name, value in tree.items() if name in own and name not in keys_of(Config)}
    tree = {name: value for name, value in tree.items() if name not in extra}
    typed = {
        name: _typed(kind, tree[name], name)
        for name, kind in get_type_hints(Config).items()
        if isinstance(kind, type) and is_dataclass(kind) and name in tree
    }
    config = _typed(Config, {**tree, **typed}, further=[*extra])
    packages = [*dict.fromkeys([*PACKAGES, *config.packages])]
    config = replace(config, packages=packages, choices=choices, extra=extra, links=links)
    config = replace(config, **_checked_classes(config, cwd))
    return replace(config, trainer=replace(config.trainer, arguments=checked_arguments(config.trainer)))


def _check_given(node: Mapping[str, Any], path: str = "") -> None:
    for name, value in node.items():
        if isinstance(value, Mapping):
            _check_given(value, f"{path}{name}.")
        elif value == "???":
            raise UserError(f"{path}{name} must be given: {path}{name}=...")


PLATEAU = "torch.optim.lr_scheduler.ReduceLROnPlateau"

T = TypeVar("T")


def _typed(schema: type[T], node: Any, path: str = "", further: Sequence[str] = ()) -> T:
    """``node`` as an object of the schema, each value checked; messages list ``further`` keys besides the schema's."""
    if not isinstance(node, Mapping):
        raise invalid(path, "a group of keys", node)
    known = keys_of(schema) if schema is not TrainerConfig else [*node]
    for name in node:
        if name not in known:
            error = unknown_key(f"{path}.{name}" if path else str(name), [*known, *further])
            raise error if path else UserError(f"{error}; a key of your own needs a value in conf/train.yaml")
    try:
        return schema(**node)
    except ValidationError as error:
        raise validation_error(error, path) from error


def _checked_classes(config: Config, cwd: Path | None) -> dict[str, Any]:
    """The groups that name a class, or several, with checked arguments."""
    if config.scheduler and "_target_" not in config.scheduler:
        raise invalid("scheduler", "empty, or have a _target_", config.scheduler)
    checked: dict[str, Any] = {}
    for group in ("optimizer", "scheduler") if config.scheduler else ("optimizer",):
        checked[group] = check_spec(getattr(config, group), group, config.packages, config.choices.get(group))
    for group in ("data", "model"):  # after the optimizer, which a model may interpolate
        choice = config.choices.get(group)
        checked[group] = check_target(getattr(config, group), group, config.packages, choice=choice, cwd=cwd)
    for group in ("callbacks", "logger"):
        checked[group] = {
            name: _named(spec, f"{group}.{name}", config, cwd) for name, spec in getattr(config, group).items()
        }
    return checked


def _named(spec: Any, path: str, config: Config, cwd: Path | None) -> dict[str, Any]:
    group, _, name = path.partition(".")
    if name == "_target_":
        raise UserError(f"{group} must have a name above each _target_: mine: {{_target_: {spec}}}")
    if not isinstance(spec, Mapping):
        raise invalid(path, "a _target_ and its arguments", spec)
    to_fill = {"save_dir": None} if spec.get("save_dir", "") is None else {}  # a logger gets the run's directory
    return {**check_target({**spec, **dict.fromkeys(to_fill, ".")}, path, config.packages, cwd=cwd), **to_fill}


def _filled(config: Config) -> Config:
    """The config with the keys that a scheduler's file may leave out, and with a mode for each monitored metric.

    Raises:
        UserError: the mode of a metric is neither given nor that of ``monitor``.
    """

    def mode(group: str, metric: str, given: Any) -> Any:
        key = f"{group}.mode"
        return config.monitor.mode_of(metric, None if config.links.get(key) == "monitor.mode" else given, key)

    stopping, scheduler = config.stopping, config.scheduler
    if stopping.patience is not None:
        stopping = replace(stopping, mode=mode("stopping", stopping.monitor, stopping.mode))
    if scheduler:
        is_plateau = derives_from(scheduler["_target_"], PLATEAU)
        metric = config.monitor.metric if is_plateau else None
        scheduler = scheduler | {"interval": "epoch", "frequency": 1, "monitor": metric} | scheduler
        if is_plateau:
            if not scheduler["monitor"]:
                raise invalid("scheduler.monitor", "a metric with scheduler=plateau", scheduler["monitor"])
            if scheduler["interval"] != "epoch":
                raise invalid("scheduler.interval", "epoch with scheduler=plateau", scheduler["interval"])
            scheduler["mode"] = mode("scheduler", scheduler["monitor"], scheduler.get("mode"))
    return replace(config, stopping=stopping, scheduler=scheduler)


def _pass_on(config: Config) -> None:
    """Passes the optimizer and the scheduler, as filled in here, to the classes that interpolate them."""
    for key, source in config.links.items():
        group, *path = key.split(".")
        if group in OF_CLASSES and source in ("optimizer", "scheduler"):
            node = getattr(config, group)
            for name in path[:-1]:
                node = node[name]
            node[path[-1]] = getattr(config, source)


def _check_together(config: Config) -> None:
    """Checks the rules about more than one key."""
    clip, batch = config.clip, config.batch
    if (clip.gradient_clip_val is None) != (clip.gradient_clip_algorithm is None):
        raise UserError(
            "clip.gradient_clip_val and clip.gradient_clip_algorithm must be set together (clip=norm sets both),"
            f" got {as_yaml(clip.gradient_clip_val)} and {as_yaml(clip.gradient_clip_algorithm)}"
        )
    if config.optimizer.get("full_batch_only") and batch.size is not None:
        raise invalid(
            "batch.size",
            f"null (batch=full) with optimizer={config.choices.get('optimizer', config.optimizer['_target_'])},"
            " which compares successive gradients of the same loss",
            batch.size,
        )
