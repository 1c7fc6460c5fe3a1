"""Replaces ``${hydra:runtime.output_dir}`` and similar in a config; Hydra knows them only while a run starts."""

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from descent.config.hparams import flat
from descent.errors import UserError

RUN_DIR = "hydra:runtime.output_dir"
OF_HYDRA = re.compile(r"\$\{hydra:([\w./]+)\}")


def with_runtime(config: DictConfig, runtime: Any) -> DictConfig:
    """The config with the values of ``runtime``: ``output_dir``, ``cwd`` and ``choices``.

    Raises:
        UserError: the config uses another value of Hydra, which a resumed run would not know.
    """
    tree: Any = OmegaConf.to_container(config)
    return OmegaConf.create(_filled(tree, runtime)) if "${hydra:" in str(tree) else config


def in_run_dir(tree: Mapping[str, Any], runtime: Any) -> dict[str, str]:
    """The keys of a resolved config whose values are paths in the run's own directory, each with ``RUN_DIR``."""
    if "output_dir" not in runtime or OmegaConf.is_missing(runtime, "output_dir"):
        return {}
    directory = str(runtime.output_dir)
    return {key: RUN_DIR for key, value in flat(tree) if isinstance(value, str) and value.startswith(directory)}


def _filled(node: Any, runtime: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _filled(value, runtime) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, runtime) for value in node]
    return OF_HYDRA.sub(lambda found: _value(found[1], runtime), node) if isinstance(node, str) else node


def _value(path: str, runtime: Any) -> str:
    part, _, key = path.partition(".")
    value = OmegaConf.select(runtime, key) if part == "runtime" and not OmegaConf.is_missing(runtime, key) else None
    if value is None:
        raise UserError(f"${{hydra:{path}}} must be ${{hydra:runtime.output_dir}}, runtime.cwd or runtime.choices....")
    return str(value)
