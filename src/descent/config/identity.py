"""Compares configs, so that a run is only resumed with the config that it began with."""

import ast
import json
from collections.abc import Collection, Mapping
from hashlib import sha256
from typing import Any

from descent.config.hparams import OF_CLASSES, flat
from descent.config.runtime import RUN_DIR
from descent.config.schema import Config, without_defaults
from descent.config.source import find, signature_of
from descent.config.targets import is_default
from descent.errors import as_yaml

# Keys that do not change what a run computes.
FREE = (
    "name",
    "choices",
    "links",
    "packages",
    "logger",
    "checkpoint",
    "trainer.enable_progress_bar",
    "trainer.profiler",
    "trainer.fast",
)
LENGTH = "trainer.max_epochs"


def flat_config(config: Config) -> dict[str, Any]:
    """Every key that a run depends on, ``{"seed": 0, "optimizer.lr": 0.1, ...}``; plain values.

    An interpolated value appears only under the key that it comes from, and paths in the run's directory do not.
    A key is left out if its value is the schema's default, so that runs from before the key existed still resume.
    """
    linked = {key: source for key, source in config.links.items() if source and key.startswith(OF_CLASSES)}
    left_out = [key for key, source in linked.items() if not _is_free(source)]
    left_out += [key for key, source in config.links.items() if source == RUN_DIR]
    own = flat(without_defaults(config), left_out=left_out)
    return {key: value for key, value in own if not _is_free(key)}


def _is_free(key: str) -> bool:
    return any(f"{key}.".startswith(f"{free}.") for free in FREE)


def config_digest(config: Config) -> str:
    """The digest of all keys but the length, which may grow. Equal values have equal digests: 1 is 1.0."""
    values = {key: value for key, value in flat_config(config).items() if key != LENGTH}
    plain = json.loads(json.dumps(values), parse_int=float)
    return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def differences(before: Mapping[str, Any], now: Mapping[str, Any], allowed: Collection[str] = ()) -> str | None:
    """Each key that differs, with both values: ``optimizer.lr was 0.1 and is 0.001``; ``None``: none does.

    A key that only one config has, with the default of its class, does not differ: the class may be newer.
    """
    keys = [key for key in {**before, **now} if key not in allowed and not _is_same(before, now, key)]
    found = [f"{key} was {_value(before, key)} and is {_value(now, key)}" for key in keys]
    return ", ".join(found) or None


def _is_same(before: Mapping[str, Any], now: Mapping[str, Any], key: str) -> bool:
    if key in before and key in now:
        return bool(before[key] == now[key])
    values = now if key in now else before
    node, _, name = key.rpartition(".")
    try:
        found = find(str(values.get(f"{node}._target_")))
    except LookupError:
        return False
    signature = signature_of(found) if found and isinstance(found.node, ast.ClassDef) else None
    return bool(signature and name in signature.arguments and is_default(values[key], signature.arguments[name]))


def _value(values: Mapping[str, Any], key: str) -> str:
    return as_yaml(values[key]) if key in values else "not set"
