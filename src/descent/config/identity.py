"""Which config a run has: kept in its checkpoints and its result, so that no run goes on with another one."""

import ast
import json
from collections.abc import Collection, Mapping
from hashlib import sha256
from typing import Any

from descent.config.hparams import OF_CLASSES, flat
from descent.config.schema import Config, without_defaults
from descent.config.source import find, signature_of
from descent.config.targets import is_default
from descent.errors import as_yaml

# What a run is called, shows and writes on its way changes nothing of what it computes and leaves.
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

    What a class gets by interpolation is that of the key where it is written.
    A key that has a default in the schema is left out where it has it: runs from before there was the key go on.
    """
    linked = {key: source for key, source in config.links.items() if source and key.startswith(OF_CLASSES)}
    own = flat(without_defaults(config), left_out=[key for key, source in linked.items() if not _is_free(source)])
    return {key: value for key, value in own if not _is_free(key)}


def _is_free(key: str) -> bool:
    return any(f"{key}.".startswith(f"{free}.") for free in FREE)


def config_digest(config: Config) -> str:
    """Of all but the length, which may grow. Equal for equal values: 1 and 1.0 are one learning rate."""
    values = {key: value for key, value in flat_config(config).items() if key != LENGTH}
    plain = json.loads(json.dumps(values), parse_int=float)
    return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def differences(before: Mapping[str, Any], now: Mapping[str, Any], allowed: Collection[str] = ()) -> str | None:
    """Each key that differs, with both values: ``optimizer.lr was 0.1 and is 0.001``; ``None``: none does.

    A key that only one of them has, with the default of its class, is none: the class may have got it since.
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
