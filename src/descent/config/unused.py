"""Finds keys that were given on the command line and have no effect."""

from collections.abc import Collection, Iterator, Sequence
from functools import reduce
from itertools import accumulate
from operator import getitem
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from descent.config.schema import Config, keys_of

PASSED_ON = ("optimizer", "scheduler", "batch")  # to model and data by interpolation; the machinery reads the others


def unused_keys(cfg: DictConfig, groups: Collection[str], overrides: Sequence[str]) -> list[str]:
    """The overridden keys that no interpolation uses and that the machinery does not read.

    Args:
        cfg: the composed config, with its interpolations unresolved.
        groups: the config groups.
    """
    return [key for key in _passed_on(groups, overrides) if not _is_taken(cfg, key)]


def _passed_on(groups: Collection[str], overrides: Sequence[str]) -> Iterator[str]:
    """The overridden keys that only an interpolation can use: the project's own, and those in ``PASSED_ON``."""
    machinery = {*keys_of(Config)} - {*PASSED_ON}
    for override in OverridesParser.create().parse_overrides([*overrides]):
        key = override.key_or_group
        if key not in groups and not override.is_delete() and key.partition(".")[0] not in {*machinery, "hydra"}:
            yield key


def _is_taken(cfg: DictConfig, key: str) -> bool:
    """Whether another value of the key changes anything else in the config, or makes it impossible to resolve."""
    changed: Any = OmegaConf.to_container(cfg)
    text = str(changed)
    if any(f"${{{node}}}" in text for node in accumulate(key.split("."), "{}.{}".format)):
        return True  # nearly always the case, and ten times as fast
    *above, name = key.split(".")
    try:
        node = reduce(getitem, above, changed)
        node[name] = _other(node[name])
    except (KeyError, TypeError):
        return True  # another override deleted it
    trees: list[Any] = []
    for tree in (cfg, OmegaConf.create(changed)):
        try:
            trees.append(OmegaConf.to_container(tree, resolve=True))
        except OmegaConfBaseException:
            return True
        reduce(getitem, above, trees[-1]).pop(name)
    return bool(trees[0] != trees[1])


def _other(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _other(part) for key, part in value.items()}
    return [*map(_other, value)] if isinstance(value, list) and value else "another value"
