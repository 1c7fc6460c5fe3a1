"""Replaces ``${hydra:runtime.output_dir}`` and similar in a config; Hydra knows them only while a run starts."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from descent.config.hparams import flat
from descent.errors import UserError

if TYPE_CHECKING:
    from descent.config.schema import Config

RUN_DIR = "hydra:runtime.output_dir"
UNKNOWN = "<the run's directory>"  # in a config that was loaded without one
OF_HYDRA = re.compile(r"\$\{hydra:([\w./]+)\}")


def with_runtime(config: DictConfig, runtime: Any) -> DictConfig:
    """The config with the values of ``runtime``: ``output_dir``, ``cwd`` and ``choices``.

    Raises:
        UserError: the config uses another value of Hydra, which a resumed run would not know.
    """
    tree: Any = OmegaConf.to_container(config)
    return OmegaConf.create(_filled(tree, runtime)) if "${hydra:" in str(tree) else config


def in_run_dir(config: DictConfig, runtime: Any) -> dict[str, str]:
    """The keys whose values depend on the run's own directory, each with ``RUN_DIR``."""
    here, elsewhere = (
        flat(OmegaConf.to_container(with_runtime(config, known), resolve=True))  # type: ignore[arg-type]
        for known in (runtime, OmegaConf.merge(runtime, {"output_dir": UNKNOWN}))
    )
    return {key: RUN_DIR for (key, value), (_, other) in zip(here, elsewhere, strict=True) if value != other}


def check_run_dir(config: "Config") -> None:
    """Refuses to train with a config that has to know the run's directory and was loaded without it.

    Raises:
        UserError: says how to load it.
    """
    if UNKNOWN in str(config):
        raise UserError(f"load_config must get run_dir, because the config uses ${{{RUN_DIR}}}")


def _filled(node: Any, runtime: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _filled(value, runtime) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, runtime) for value in node]
    if not isinstance(node, str):
        return node
    if whole := OF_HYDRA.fullmatch(node):
        return _value(whole[1], runtime)
    return OF_HYDRA.sub(lambda found: str(_value(found[1], runtime)), node)


def _value(path: str, runtime: Any) -> Any:
    """A value as Hydra has it: the option of a group is ``None`` if none is chosen."""
    part, _, key = path.partition(".")
    above, _, last = key.rpartition(".")
    node = OmegaConf.select(runtime, above) if above else runtime
    if part != "runtime" or not isinstance(node, Mapping | DictConfig) or last not in node:
        raise UserError(
            f"${{hydra:{path}}} must be ${{hydra:runtime.output_dir}}, runtime.cwd or runtime.choices...;"
            " a resumed run does not know the others"
        )
    return node[last]
