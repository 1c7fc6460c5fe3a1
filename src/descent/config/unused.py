"""Keys that were given on the command line and go nowhere."""

import re
from collections.abc import Collection, Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from descent.config.schema import Config, keys_of

HANDED_ON = ("optimizer", "scheduler", "batch")  # to model and data, by interpolation; the machinery reads the others
TAKEN = re.compile(r"\$\{(?:oc\.select:)?\.*(\w[\w.]*)")  # of ${a.b}, ${..a.b}, ${oc.select:a.b,1} and ${a.b[0]}: a.b


def unused_keys(cfg: DictConfig, groups: Collection[str], overrides: Sequence[str]) -> list[str]:
    """Keys among the overrides of a command line that no interpolation takes, and the machinery does not read.

    Args:
        cfg: the composed config, its interpolations not resolved.
        groups: the config groups.
    """
    taken = TAKEN.findall(OmegaConf.to_yaml(cfg))
    return [key for key in _handed_on(groups, overrides) if not any(_overlap(key, other) for other in taken)]


def _handed_on(groups: Collection[str], overrides: Sequence[str]) -> Iterator[str]:
    """The keys that were given and that only an interpolation makes something of: of the project, or ``HANDED_ON``."""
    machinery = {*keys_of(Config)} - {*HANDED_ON}
    for override in OverridesParser.create().parse_overrides([*overrides]):
        key = override.key_or_group
        if key not in groups and not override.is_delete() and key.partition(".")[0] not in {*machinery, "hydra"}:
            yield key


def _overlap(key: str, other: str) -> bool:
    """Whether one is the other, or within it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
