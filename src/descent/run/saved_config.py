"""Reads the config that Hydra saved in a run's directory."""

from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from descent.config.runtime import with_runtime
from descent.config.schema import Config
from descent.errors import UserError
from descent.run import cli
from descent.run.result import check_directory


def saved_config(run_dir: Path) -> Config:
    """Returns the config of a run, typed and checked.

    Raises:
        UserError: a file in ``.hydra`` is missing or invalid; names the file and the key.
    """
    saved, runtime = read(run_dir)
    try:
        return cli.to_config(saved, runtime, saved=True)
    except UserError as error:
        raise UserError(f"{run_dir / '.hydra' / 'config.yaml'}: {error}") from error


def read(run_dir: Path) -> tuple[DictConfig, DictConfig]:
    """Returns the config of a run as Hydra saved it, and its ``hydra.runtime``.

    Raises:
        UserError: a file is missing, or is not YAML with keys.
    """
    saved, hydra = _load(run_dir, "config.yaml"), _load(run_dir, "hydra.yaml")
    runtime = OmegaConf.select(hydra, "hydra.runtime")
    for key, kind in (("choices", DictConfig), ("cwd", str)):
        if not isinstance(runtime, DictConfig) or not isinstance(runtime.get(key), kind):
            raise UserError(
                f"{run_dir / '.hydra' / 'hydra.yaml'} must be what Hydra wrote; it has no hydra.runtime.{key}"
            )
    before = runtime.get("output_dir")
    if before is None or Path(before).resolve() != run_dir.resolve():  # the directory has been moved
        runtime = OmegaConf.merge(runtime, {"output_dir": str(run_dir.absolute())})
    try:
        OmegaConf.to_container(with_runtime(saved, runtime), resolve=True)
    except OmegaConfBaseException as error:
        raise _unreadable(run_dir / ".hydra" / "config.yaml", error) from error
    return saved, cast(DictConfig, runtime)


def _load(run_dir: Path, name: str) -> DictConfig:
    check_directory(run_dir)
    path = run_dir / ".hydra" / name
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError:
        raise UserError(
            f"RUN_DIR must be the directory of a run, got {run_dir}: it has no .hydra/{name}, which train.py and"
            " load_config(conf, overrides, run_dir) write"
        ) from None
    except Exception as error:  # from YAML, OmegaConf or the disk
        raise _unreadable(path, error) from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{path} must be what Hydra wrote, keys with values")
    return loaded


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} must be what Hydra wrote; it cannot be read: {' '.join(str(error).split())}")
