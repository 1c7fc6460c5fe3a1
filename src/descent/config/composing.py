"""Checks the config that Hydra composed, before Hydra acts on it.

The user controls the command line, so this is not a sandbox. It keeps a run's output where it can be found, and refuses
settings that would run code, however they are spelled.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]  # OmegaConf brings it
from hydra.core.utils import JobRuntime
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from descent.errors import UserError, invalid
from descent.processes import started

PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")  # where sweepers and launchers come from
DIRECTORY = "directories on the command line, not a package, which would be imported"
BY_LIGHTNING = ("run", "output_subdir")  # keys that it sets, besides the job's name, for the processes it starts
LONGEST = 10_000  # characters; Hydra's parser takes two seconds for these, and four times as long for twice the number
DEEPEST = 50  # brackets within brackets


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuses flags and overrides that this project does not allow.

    Args:
        arguments: as Hydra's own parser reads them.

    Raises:
        UserError: names the flag or the key.
    """
    if arguments.experimental_rerun is not None:
        raise UserError("--experimental-rerun must not be given: it runs code from a pickle; resume.py resumes runs")
    if str(arguments.config_path).startswith("pkg:"):
        raise invalid("--config-path", DIRECTORY, arguments.config_path)
    for override in arguments.overrides:
        if _depth(override) > DEEPEST:
            raise invalid(override.partition("=")[0], f"nested at most {DEEPEST} deep", f"{override[:40]}...")
        if len(override) > LONGEST:
            raise invalid(
                override.partition("=")[0],
                f"at most {LONGEST:,} characters long on the command line; a YAML file in conf/ may hold more",
                f"{override[:40]}...",
            )


def _depth(text: str) -> int:
    """How deeply the brackets in an override are nested."""
    steps = ((character in "[{") - (character in "]}") for character in text)
    return max(accumulate(steps), default=0)


def check(hydra: DictConfig, conf: Path, config_name: str = "train") -> None:
    """Refuses a config whose output would go elsewhere, or whose ``hydra`` node names a class that is not a plugin's.

    Args:
        hydra: the config's ``hydra`` node.
        conf: the directory of ``train.yaml``, whose own settings are allowed.

    Raises:
        UserError: names the key.
    """
    given: Any = OmegaConf.to_container(hydra, resolve=False)
    found = started()
    launched = BY_LIGHTNING if found is not None and found.by == "Lightning" and found.rank else ()
    for key, expected in _expected(conf).items():
        if key not in launched and (different := next(_differences(f"hydra.{key}", expected, given[key]), None)):
            if config_name != "train":
                raise invalid("--config-name", "a config that has conf/train.yaml among its defaults", config_name)
            variable = re.search(r"(\w+)\}$", _expected(conf)["run"].get("dir", ""))
            moves = f", the environment variable {variable[1]} moves logs/" if variable else ""
            raise UserError(
                f"{different} must stay as conf/train.yaml sets it: output goes below logs/, name=... names it{moves}"
            )
    name = JobRuntime().get("name")
    if given["job"]["name"] != name and not launched:
        raise invalid("hydra.job.name", f"{name}, which names the log file", given["job"]["name"])
    for group in ("sweeper", "launcher"):
        for path, target in _targets(given[group], f"hydra.{group}"):
            if not str(target).startswith(PLUGINS):
                raise invalid(path, f"a class of a plugin (hydra/{group}=... chooses one)", target)


def check_resolves(config: DictConfig, overrides: Sequence[str]) -> None:
    """Refuses an override whose interpolation cannot be resolved; Hydra's error would name the output directory.

    Raises:
        UserError: names the key.
    """
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if "${" in value and not key.startswith("hydra."):
            try:
                node = OmegaConf.select(config, key)
                if OmegaConf.is_config(node):
                    OmegaConf.to_container(node, resolve=True)
            except OmegaConfBaseException as error:
                if "HydraConfig was not set" in str(error):
                    continue  # ${hydra:...}, which is known when the run starts
                raise invalid(key, f"a value that can be resolved ({str(error).splitlines()[0]})", value) from error


@cache
def main_config(conf: Path) -> dict[str, Any]:
    """The content of a project's ``train.yaml``."""
    return _read(conf / "train.yaml")


@cache
def _expected(conf: Path) -> dict[str, Any]:
    """The settings for output and for objects that Hydra makes: Hydra's defaults, overridden by ``train.yaml``."""
    expected: dict[str, Any] = {"output_subdir": ".hydra", "callbacks": {}, "run": {}, "sweep": {}}
    for key in ("job_logging", "hydra_logging"):
        expected[key] = _read(Path(str(files("hydra"))) / "conf" / "hydra" / key / "default.yaml")
    own = main_config(conf).get("hydra", {})
    return {key: _merged(value, own[key]) if key in own else value for key, value in expected.items()}


def _read(path: Path) -> dict[str, Any]:
    """Reads YAML with PyYAML's C loader if it is installed; OmegaConf would take a tenth of a short command."""
    with path.open(encoding="utf-8") as file:
        return dict(yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def _merged(defaults: Any, own: Any) -> Any:
    if not (isinstance(defaults, dict) and isinstance(own, dict)):
        return own
    return defaults | {key: _merged(defaults.get(key), value) for key, value in own.items()}


def _differences(path: str, expected: Any, given: Any) -> Iterator[str]:
    """The keys at or below ``path`` that differ."""
    if isinstance(expected, dict) and isinstance(given, dict):
        for key in [*expected, *(key for key in given if key not in expected)]:
            yield from _differences(f"{path}.{key}", expected.get(key), given.get(key))
    elif expected != given:
        yield path


def _targets(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Each ``_target_`` at or below a node, with its key."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        if key == "_target_":
            yield f"{path}._target_", value
        yield from _targets(value, f"{path}.{key}")
