"""Hydra's and OmegaConf's messages, which take several lines, as one that names the key."""

import difflib
import re
from dataclasses import is_dataclass
from typing import Any

from descent.config.hyperparameters import RANGES
from descent.config.parse import keys_of
from descent.config.schema import SOURCES, Config
from descent.errors import UserError


def one_line(error: BaseException) -> str:
    """What to tell the user of any error: the cause's own words where the project raised it."""
    cause: BaseException | None = error
    while cause and not isinstance(cause, UserError):  # Hydra wraps what its resolvers raise
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return _joined(str(cause))  # a column's name may have a line feed
    text = _joined(str(error))
    if found := re.search(r"Could not find '(.+?)' Available options in '(.+?)': (.+?) Config search", text):
        option, group, options = found.groups()
        return f"{group} must be one of {', '.join(options.split())}, got {option.removeprefix(f'{group}/')!r}"
    if found := re.search(r"Could not find '([^']+)/([^']+)'", text):
        return f"{found[1]} has no option {found[2]!r}: --help lists the groups and their options"
    if found := re.search(r"Could not override '(.+?)'\.", text):
        return unknown(found[1])
    if "Config group override must be" in text:
        return "an option of a config group must be a name: --help lists the groups and their options"
    if "LexerNoViableAltException" in text or "mismatched input" in text:
        return f"{text.split(' See ')[0]}: a value with spaces or special characters needs quotes, key='\"value\"'"
    if type(error).__module__.startswith(("hydra.", "omegaconf.")):
        return text.removesuffix(" object_type=dict")
    return f"{type(error).__name__}: {text}"


def _joined(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text).strip()


def unknown(key: str) -> str:
    """What to say of a key that the config does not have."""
    group = key.split(".", maxsplit=1)[0]
    if group in ("optimizer", "scheduler") and "." in key:
        close = difflib.get_close_matches(key, [f"{group}.{name}" for name in RANGES], n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{key} is not set in this config: {hint}+{key}=... would pass it to the class"
    if key in known_keys():
        return f"{key} is not a key of the {group} option chosen here: --cfg job prints those that are"
    close = difflib.get_close_matches(key, known_keys(), n=1)
    return f"{key} is not a key" + (f": did you mean {close[0]}?" if close else ": --cfg job prints all keys")


def known_keys() -> list[str]:
    """Every key of the schema, of the groups and of all sources of data."""
    groups = keys_of(Config)
    keys = [*groups, "experiment", "debug"]
    schemas: list[tuple[str, Any]] = [("data", source) for source in SOURCES.values()]
    schemas += [(name, schema) for name, schema in groups.items() if is_dataclass(schema)]
    return keys + [f"{group}.{name}" for group, schema in schemas for name in keys_of(schema)]
