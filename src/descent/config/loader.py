"""Hydra's config loader, which checks every config that it composes."""

import argparse
from copy import deepcopy
from pathlib import Path
from typing import Any

import hydra._internal.hydra as hydra_internals  # Hydra's plugins see a config only after it has acted on it
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from descent.config.composing import DIRECTORY, check, check_arguments, check_resolves
from descent.errors import UserError, invalid
from descent.processes import is_main

TEMPLATES = 200  # kept at a time; each takes 170 kB


def install(conf: Path, arguments: argparse.Namespace) -> None:
    """Makes Hydra's command line use ``Loader``.

    Args:
        conf: the directory of the config groups; its ``train.yaml`` says where output goes.
        arguments: the command line, as Hydra's own parser reads it.

    Raises:
        UserError: the command line has a flag or an override that is not allowed.
    """
    check_arguments(arguments)
    Loader.conf, Loader.is_sweep = conf, arguments.multirun
    hydra_internals.ConfigLoaderImpl = Loader  # type: ignore[attr-defined]


class Loader(ConfigLoaderImpl):
    """Hydra's config loader, which checks every config that it composes.

    It composes the config of a single run once, and of a sweep once for all jobs that differ only in plain numbers.
    """

    conf: Path
    is_sweep: bool  # started with -m
    kept: tuple[Any, DictConfig | Exception] | None = None  # a run's arguments, and its config or error

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        # on the object too: a sweep's workers get the object, and their class lacks them
        self.conf, self.is_sweep = Loader.conf, Loader.is_sweep
        self.templates: dict[Any, DictConfig] = {}  # by config name and overrides without numbers

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"templates": {}}  # they would enlarge each job sent to a worker

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
        if run_mode == RunMode.MULTIRUN and not validate_sweep_overrides:  # only Hydra's get_mode does so
            return OmegaConf.create({"hydra": {"mode": self._mode(config_name, overrides)}})
        kept, self.kept = self.kept, None
        if kept is not None and kept[0] == (config_name, [*overrides[:-1]], run_mode):
            if isinstance(kept[1], Exception):
                raise kept[1]
            return kept[1]  # the last override is the mode, which Hydra adds
        given = config_name, overrides, run_mode, from_shell, validate_sweep_overrides
        config = self._job(*given) if self.is_sweep and run_mode == RunMode.RUN else super().load_configuration(*given)
        if config_name is not None:  # Hydra's own help texts have none
            check(config.hydra, self.conf, config_name)
            check_resolves(config, overrides)
            if not is_main():
                _write_nothing(config.hydra)
        return config

    def _job(self, config_name: str | None, overrides: list[str], *given: Any) -> DictConfig:
        """The config of a job: composed, or copied from a job that differs only in numbers."""
        parsed = OverridesParser.create().parse_overrides(overrides)
        numbers = [override for override in parsed if _sets_number(override) and _is_alone(override, parsed)]
        lines = (override.key_or_group if override in numbers else override.input_line for override in parsed)
        key = config_name, *lines
        if key not in self.templates:
            if len(self.templates) >= TEMPLATES:
                self.templates.clear()
            config = super().load_configuration(config_name, overrides, *given)
            self.templates[key] = deepcopy(config)
            return config
        config = deepcopy(self.templates[key])
        for override in numbers:
            OmegaConf.update(config, override.key_or_group, override.value())
        own = [override for override in parsed if not override.is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in own]
        names = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            own, kv_sep=names.kv_sep, item_sep=names.item_sep, exclude_keys=names.exclude_keys
        )
        return config

    def _mode(self, config_name: str | None, overrides: list[str]) -> RunMode | None:
        """The mode that the config sets; ``None``: none, or it cannot be composed, which the run then reports."""
        if self.is_sweep:
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
                    raise UserError(f"{override.key_or_group} needs a sweep: add -m")
        except Exception as error:  # Hydra hides it, and would compose again
            self.kept = key, error
            return None
        self.kept = key, config
        return mode


def _sets_number(override: Override) -> bool:
    """Whether the override sets an existing key, other than Hydra's, to a number; a group cannot be a number."""
    return (
        override.type == OverrideType.CHANGE
        and override.package is None
        and not override.is_hydra_override()
        and type(override.value()) in (int, float)
    )


def _is_alone(override: Override, others: list[Override]) -> bool:
    """Whether no other override sets the same key or replaces a node above it; their order would matter."""

    def matters(other: Override) -> bool:
        replaces = isinstance(other.value(), dict) or "${" in str(other.input_line)
        is_below = f"{override.key_or_group}.".startswith(f"{other.key_or_group}.")
        return is_below and (replaces or other.key_or_group == override.key_or_group)

    return not any(matters(other) for other in others if other is not override)


def _write_nothing(hydra: DictConfig) -> None:
    """Only the first of a run's processes writes files; the others print their errors on the console."""
    with read_write(hydra), open_dict(hydra):
        hydra.output_subdir = None
        hydra.job_logging.handlers.pop("file", None)
        hydra.job_logging.root.handlers = ["console"]
        hydra.job_logging.handlers.console.level = "ERROR"
