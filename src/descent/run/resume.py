"""Resumes an interrupted run in its directory, with its saved config."""

import shlex
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from descent.config.identity import LENGTH, config_digest, differences, flat_config
from descent.config.optimizers import unfilled
from descent.config.schema import Config
from descent.errors import UserError, invalid
from descent.files import write_atomically
from descent.processes import is_main
from descent.run import cli
from descent.run.code import note_changes
from descent.run.command import run_safely
from descent.run.result import Result, is_finished, read_result
from descent.run.saved_config import read, saved_config


def resume(run_dir: Path, overrides: Sequence[str] = ()) -> Result:
    """Resumes training from ``checkpoints/last.ckpt``, or starts it if there is none yet.

    Args:
        run_dir: of an interrupted run, or of a finished one to make longer.
        overrides: at most ``trainer.max_epochs=N``, with N above the run's own.

    Raises:
        UserError: there is no such run, it is finished, or an override changes something else than its length.
    """
    config = saved_config(run_dir)
    saved, runtime = read(run_dir)
    for override in overrides:
        key = override.partition("=")[0]
        if key != LENGTH:
            raise UserError(f"{key} must keep its value: only {LENGTH}=N may change")
        saved = cast(DictConfig, OmegaConf.merge(saved, OmegaConf.from_dotlist([override])))
        config = _lengthened(config, cli.to_config(saved, runtime, saved=True))
    _check_unfinished(run_dir, config)

    def keep_length() -> None:
        if not is_main():
            return
        write_atomically(run_dir / ".hydra" / "config.yaml", OmegaConf.to_yaml(saved).encode())

    command = shlex.join(["python", "scripts/resume.py", str(run_dir), *overrides])
    # also without overrides: if a run was killed while it became longer, only its config has the new length
    longer = not _depends_on_length(config)
    return run_safely(
        lambda: config,
        run_dir.absolute(),
        command,
        resume=True,
        longer=longer,
        on_start=keep_length if overrides else None,
    )


def check_unchanged(run_dir: Path, config: Config) -> None:
    """Checks that the config and data of a sweep's run have not changed, before it is skipped or resumed.

    Raises:
        UserError: the run started with another config; names the keys, with the values then and now. Or it is
            finished and its data file has changed since.
    """
    result = read_result(run_dir) if is_finished(run_dir) else None
    if result is None and not (run_dir / "checkpoints" / "last.ckpt").is_file():
        return  # it has not started
    saved = saved_config(run_dir)
    changed = differences(flat_config(saved), flat_config(config))
    if changed is None and result is not None and result.get("config_digest") not in (None, config_digest(saved)):
        changed = "its config.yaml is not the one that it ran with"
    if changed:
        raise UserError(f"{run_dir} was started with another config: {changed}; name=... starts a new sweep")
    if result is not None:
        since = f"runs in {run_dir.parent} finished; name=... starts a new sweep"
        note_changes(result.get("code"), config, since)
    if result is None or result["checksum"] is None:
        return  # a resumed run checks its rows itself
    for file in files_of(config.data):
        if _checksum(config, file, run_dir) != result["checksum"]:
            raise UserError(
                f"{file} must have the rows that {run_dir} was trained on: its rows or their split have"
                " changed; name=... starts a new sweep"
            )


def files_of(spec: Mapping[str, Any]) -> list[Path]:
    """Returns the data module's arguments that are absolute paths, or files relative to the current directory."""
    paths = [Path(value) for value in spec.values() if isinstance(value, str)]
    return [path for path in paths if path.is_absolute() or path.is_file()]


_checksums: dict[str, int] = {}


def _checksum(config: Config, file: Path, run_dir: Path) -> int:
    """Returns the checksum of the rows and their split as they are now. Reads a file again only after it has changed.

    Args:
        file: a file, a directory of files, or a glob pattern.
        run_dir: of a run that was trained on it.
    """
    found = [file] if file.is_file() else [*file.iterdir()] if file.is_dir() else map(Path, glob(str(file)))  # noqa: PTH207  # absolute
    about = [(path.name, (stat := path.stat()).st_ino, stat.st_size, stat.st_mtime_ns) for path in sorted(found)]
    if not about:
        raise UserError(f"{file} must exist: a run was trained on it")
    key = repr((config.seed, config.data, about))
    if key not in _checksums:
        from descent.run.load import load_state_before_setup  # imports torch
        from descent.training.build import build_data
        from descent.training.checkpoint_io import read_checkpoint

        data: Any = build_data(config)
        if (last := run_dir / "checkpoints" / "last.ckpt").is_file():
            load_state_before_setup(data, read_checkpoint(last))
        data.setup("fit")
        _checksums[key] = data.checksum
    return _checksums[key]


def _lengthened(config: Config, longer: Config) -> Config:
    if longer.trainer.max_epochs <= config.trainer.max_epochs:
        raise invalid(LENGTH, f"above {config.trainer.max_epochs}, its value so far", longer.trainer.max_epochs)
    if _depends_on_length(config):
        option = config.choices.get("scheduler")
        raise UserError(f"{LENGTH} must stay {config.trainer.max_epochs}: scheduler={option} depends on it")
    return longer


def _depends_on_length(config: Config) -> bool:
    """Whether the scheduler depends on the length of the run."""
    return bool(unfilled(config.scheduler))


def _check_unfinished(run_dir: Path, config: Config) -> None:
    if not (run_dir / "result.json").is_file():
        return
    result = read_result(run_dir)
    if result["status"] == "diverged":
        raise UserError(f"{run_dir} has diverged, and would diverge again: {result['reason']}")
    if result["status"] == "completed":
        if result["stopped"]:
            raise UserError(f"{run_dir} is finished: {result['stopped']}")
        if result["steps"] == config.trainer.max_steps:
            raise UserError(f"{run_dir} is finished: it has taken the {result['steps']} steps of trainer.max_steps")
        if result["epochs"] >= config.trainer.max_epochs:
            done = f"{run_dir} is finished"
            if _depends_on_length(config):  # another length would be another schedule
                scheduler = config.choices.get("scheduler")
                raise UserError(f"{done}; it cannot be made longer, because scheduler={scheduler} depends on {LENGTH}")
            raise UserError(f"{done}: {LENGTH}=N with N above {result['epochs']} makes it longer")
