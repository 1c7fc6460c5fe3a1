"""Hydra's composed config, judged before Hydra acts on anything in it.

The command line belongs to the user, so this is no sandbox. It keeps a run's output where it can be found, and refuses
what would run code, however it is spelled.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import Any

import hydra._internal.hydra as hydra_internals  # Hydra's plugins see a config only after it has acted on it
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobRuntime
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from descent.errors import UserError, invalid
from descent.processes import is_main, started

PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")  # where sweepers and launchers come from
DIRECTORY = "directories on the command line: a package would be imported"
BY_LIGHTNING = ("run", "output_subdir")  # what it sets, with the job's name, for the processes that it starts
LONGEST = 10_000  # characters; Hydra's parser takes two seconds for these, and four times as long for twice as many
DEEPEST = 50  # brackets within brackets


def install(conf: Path, arguments: argparse.Namespace) -> None:
    """Makes Hydra's command line use ``Loader``.

    Args:
        conf: the directory of the config groups; its ``train.yaml`` says where output goes.
        arguments: the command line, as Hydra's own parser reads it.

    Raises:
        UserError: the command line asks for what is never done.
    """
    if arguments.experimental_rerun is not None:
        raise UserError(
            "--experimental-rerun must not be given: it runs what is in a pickle; resume.py goes on with runs"
        )
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
    Loader.conf, Loader.is_sweep = conf, arguments.multirun
    hydra_internals.ConfigLoaderImpl = Loader  # type: ignore[attr-defined]


def _depth(text: str) -> int:
    """Of the brackets in an override."""
    steps = ((character in "[{") - (character in "]}") for character in text)
    return max(accumulate(steps), default=0)


class Loader(ConfigLoaderImpl):
    """Hydra's loader, with a check of every config that it composes. Composes the config of a single run only once."""

    conf: Path
    is_sweep: bool  # by -m
    kept: tuple[Any, DictConfig | Exception] | None = None  # what a run is to be composed from, and what came of it

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.conf = Loader.conf  # of this one as well: a sweep's workers get it, and their class has none

    def _process_config_searchpath(self, config_name: str | None, parsed_overrides: list[Any], repo: Any) -> None:
        for override in parsed_overrides:
            if override.get_key_element() == "hydra.searchpath" and "pkg:" in str(override.value()):
                raise invalid("hydra.searchpath", DIRECTORY, override.value())
        super()._process_config_searchpath(config_name, parsed_overrides, repo)

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        if run_mode == RunMode.MULTIRUN and not validate_sweep_overrides:  # Hydra's get_mode alone asks for that
            return OmegaConf.create({"hydra": {"mode": self._mode(config_name, overrides)}})
        kept, self.kept = self.kept, None
        if kept is not None and kept[0] == (config_name, [*overrides[:-1]], run_mode):
            if isinstance(kept[1], Exception):
                raise kept[1]
            return kept[1]  # the last override is the mode, which Hydra adds
        config = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        if config_name is not None:  # a help text of Hydra's own has none
            check(config.hydra, self.conf, config_name)
            check_resolves(config, overrides)
            if not is_main():
                _write_nothing(config.hydra)
        return config

    def _mode(self, config_name: str | None, overrides: list[str]) -> RunMode | None:
        """The mode that the config asks for; ``None``: none, or it cannot be composed, which the run will say."""
        if Loader.is_sweep:
            return None
        key = config_name, [*overrides], RunMode.RUN
        try:
            config = self.load_configuration(config_name, overrides, RunMode.RUN, validate_sweep_overrides=False)
            mode: RunMode | None = config.hydra.mode
            if mode == RunMode.MULTIRUN:
                return mode
            parsed = OverridesParser.create().parse_overrides(overrides)
            self.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=True)
            for override in parsed:
                if override.key_or_group.startswith("hydra.sweeper."):
                    raise UserError(f"{override.key_or_group} needs a sweep: -m")
        except Exception as error:  # Hydra hides it, and would compose once more
            self.kept = key, error
            return None
        self.kept = key, config
        return mode


def check(hydra: DictConfig, conf: Path, config_name: str = "train") -> None:
    """Refuses a config whose output would go elsewhere, or whose ``hydra`` node names code of somebody else's.

    Args:
        hydra: the node of that name.
        conf: the directory of ``train.yaml``, whose own settings are allowed.

    Raises:
        UserError: with the key.
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


def _write_nothing(hydra: DictConfig) -> None:
    """Of several processes of a run the first writes its files; what goes wrong in another is on the console."""
    with read_write(hydra), open_dict(hydra):
        hydra.output_subdir = None
        hydra.job_logging.handlers.pop("file", None)
        hydra.job_logging.root.handlers = ["console"]
        hydra.job_logging.handlers.console.level = "ERROR"


def check_resolves(config: DictConfig, overrides: Sequence[str]) -> None:
    """Refuses an interpolation on the command line that leads nowhere; Hydra would blame the directory named after it.

    Raises:
        UserError: with the key.
    """
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if "${" in value and not key.startswith("hydra."):
            try:
                node = OmegaConf.select(config, key)
                if OmegaConf.is_config(node):
                    OmegaConf.to_container(node, resolve=True)
            except OmegaConfBaseException as error:
                raise invalid(key, f"a value that can be resolved ({str(error).splitlines()[0]})", value) from error


@cache
def main_config(conf: Path) -> dict[str, Any]:
    """What stands in a project's ``train.yaml``; reading it takes a tenth of a short command."""
    result: Any = OmegaConf.to_container(OmegaConf.load(conf / "train.yaml"), resolve=False)
    return dict(result)


@cache
def _expected(conf: Path) -> dict[str, Any]:
    """What decides where output goes, and what Hydra makes objects of: Hydra's defaults below ``train.yaml``."""
    expected: dict[str, Any] = {"output_subdir": ".hydra", "callbacks": {}, "run": {}, "sweep": {}}
    for key in ("job_logging", "hydra_logging"):
        default = files("hydra") / "conf" / "hydra" / key / "default.yaml"
        expected[key] = OmegaConf.to_container(OmegaConf.create(default.read_text("utf-8")), resolve=False)
    own = main_config(conf).get("hydra", {})
    merged = OmegaConf.merge(expected, {key: own[key] for key in expected if key in own})
    result: Any = OmegaConf.to_container(merged, resolve=False)
    return dict(result)


def _differences(path: str, expected: Any, given: Any) -> Iterator[str]:
    """The keys below ``path`` that differ."""
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
