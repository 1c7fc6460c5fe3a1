"""Going on with a run that was interrupted, in its own directory, from its own config."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from descent.config import Config
from descent.errors import UserError, must
from descent.files import locked, write_atomically
from descent.hyperparameters import RUN_LENGTH_ARGUMENTS
from descent.parse import parse
from descent.result import Result, read_result
from descent.run import run_safely

LENGTH = "trainer.max_epochs"


def resume(run_dir: Path, overrides: Sequence[str] = ()) -> Result:
    """Trains on from ``checkpoints/last.ckpt``, or from the start where there is none yet.

    Args:
        run_dir: of a run that was interrupted, or of a finished one that is to be longer.
        overrides: at most ``trainer.max_epochs=N``, with N above the epochs that the run was to have.

    Raises:
        UserError: there is no such run, it is finished, or something else than its length is to change.
    """
    saved = load_saved(run_dir)
    config = to_config(saved, run_dir)
    for override in overrides:
        key = override.partition("=")[0]
        if key != LENGTH:
            raise UserError(f"{key} must stay as the run began with it: only {LENGTH}=N may change")
        saved = cast(DictConfig, OmegaConf.merge(saved, OmegaConf.from_dotlist([override])))
        config = _lengthened(config, to_config(saved, run_dir))
    _check_unfinished(run_dir, config)
    if overrides:
        write_atomically(run_dir / ".hydra" / "config.yaml", OmegaConf.to_yaml(saved).encode())
    command = shlex.join(["python", "scripts/resume.py", str(run_dir), *overrides])
    with locked(run_dir, "the run"):
        return run_safely(lambda: config, run_dir, command, resume=True)


def load_saved(run_dir: Path) -> DictConfig:
    """The config of a run as Hydra saved it."""
    path = run_dir / ".hydra" / "config.yaml"
    if not path.is_file():
        raise UserError(f"RUN_DIR must be the directory of a run, got {run_dir}")
    return cast(DictConfig, OmegaConf.load(path))


def to_config(saved: DictConfig, run_dir: Path) -> Config:
    """The same, typed and checked."""
    choices = OmegaConf.load(run_dir / ".hydra" / "hydra.yaml").hydra.runtime.choices
    tree: Any = OmegaConf.to_container(saved, resolve=True)
    return parse(tree, {str(k): v for k, v in choices.items() if not str(k).startswith("hydra/") and v is not None})


def _lengthened(config: Config, longer: Config) -> Config:
    if longer.trainer.max_epochs <= config.trainer.max_epochs:
        raise must(LENGTH, f"above {config.trainer.max_epochs}, what the run was begun with", longer.trainer.max_epochs)
    if any(config.scheduler.get(argument, 0) is None for argument in RUN_LENGTH_ARGUMENTS):
        option = config.choices.get("scheduler")
        raise UserError(f"{LENGTH} must stay {config.trainer.max_epochs}: scheduler={option} is laid out for it")
    return longer


def _check_unfinished(run_dir: Path, config: Config) -> None:
    if not (run_dir / "result.json").is_file():
        return
    result = read_result(run_dir)
    if result["status"] == "diverged":
        raise UserError(f"{run_dir} has diverged, and would again: {result['reason']}")
    if result["status"] == "completed":
        if result["stopped"]:
            raise UserError(f"{run_dir} is finished: {result['stopped']}")
        if result["steps"] == config.trainer.max_steps:
            raise UserError(f"{run_dir} is finished: it has made the {result['steps']} steps of trainer.max_steps")
        if result["epochs"] >= config.trainer.max_epochs:
            done = result["epochs"]
            raise UserError(f"{run_dir} is finished: {LENGTH}=N with N above {done} makes it longer")
