"""Flattens a config into hyperparameters, for TensorBoard's HParams, ``result.json`` and comparisons."""

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from descent.config.schema import Config

GROUPS = ("data", "model", "optimizer", "scheduler", "batch", "clip", "stopping", "trainer", "callbacks", "logger")
# Left out, so that results of one process keep the hyperparameters that they had before these keys existed.
ONE_PROCESS = {"trainer.devices": 1, "trainer.num_nodes": 1, "trainer.strategy": "auto"}
OF_CLASSES = ("data", "model", "callbacks", "logger")  # of these, keys with another key's value are left out


def flat_hparams(config: "Config") -> dict[str, Any]:
    """The hyperparameters, such as ``{"seed": 0, "optimizer": "adam", "optimizer.lr": 0.01, ...}``.

    The name of a group holds the option that was chosen for it, also of a nested one, such as ``model/encoder``.
    """
    from descent.config.schema import tree_of  # imports pydantic

    found: dict[str, Any] = {"seed": config.seed}
    tree = tree_of(config)
    unused = unused_groups(config)
    linked = [key for key, source in config.links.items() if source and not _is_of_own_key(key, source, config)]
    for group in GROUPS:
        if group in unused:
            continue
        if group in config.choices:
            found[group] = config.choices[group]
        found |= {nested: option for nested, option in config.choices.items() if nested.startswith(f"{group}/")}
        left_out = linked if group in OF_CLASSES else ()
        found |= flat({group: tree[group]}, left_out=left_out)
    for group in ("experiment", "debug"):
        if group in config.choices:
            found[group] = config.choices[group]
    return {key: value for key, value in found.items() if key not in ONE_PROCESS or value != ONE_PROCESS[key]}


def _is_of_own_key(key: str, source: str, config: "Config") -> bool:
    """Whether model or data get it from a key that the project added to ``train.yaml``, which is not a group."""
    return source.partition(".")[0] in config.extra and key.startswith(("data.", "model."))


def flat(node: Mapping[str, Any], path: str = "", left_out: Collection[str] = ()) -> Iterator[tuple[str, Any]]:
    """The values of nested dictionaries, each with its dotted key."""
    for name, value in node.items():
        key = f"{path}{name}"
        if key in left_out:
            continue
        if isinstance(value, Mapping):
            yield from flat(value, f"{key}.", left_out)
        else:
            yield key, value


def unused_groups(config: "Config") -> list[str]:
    """Groups that neither model nor data take a value from, so that they have no effect."""
    used = {source.partition(".")[0] for key, source in config.links.items() if key.startswith(("data.", "model."))}
    return [group for group in ("optimizer", "scheduler", "batch") if getattr(config, group) and group not in used]


def notes_on_unused(config: "Config") -> Iterator[str]:
    """Notes on config keys that have no effect, and on how to use them."""
    if unused := unused_groups(config):
        named = " and ".join(unused)
        yield f"model and data do not use {named}: interpolation in their YAML files can pass the values on"
    for key in config.unused:
        if key.partition(".")[0] in unused:
            continue
        yield (
            f"{key} has no effect: no interpolation in the config uses it (${{{key}}} in the YAML file"
            " of the model, the data or a callback would)"
        )
