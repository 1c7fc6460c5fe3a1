"""Going on with a run that was interrupted, in its own directory, from its own config."""

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
    """Trains on from ``checkpoints/last.ckpt``, or from the start where there is none yet.

    Args:
        run_dir: of a run that was interrupted, or of a finished one that is to be longer.
        overrides: at most ``trainer.max_epochs=N``, with N above the epochs that the run was to have.

    Raises:
        UserError: there is no such run, it is finished, or something else than its length is to change.
    """
    config = saved_config(run_dir)
    saved, runtime = read(run_dir)
    for override in overrides:
        key = override.partition("=")[0]
        if key != LENGTH:
            raise UserError(f"{key} must stay as the run began with it: only {LENGTH}=N may change")
        saved = cast(DictConfig, OmegaConf.merge(saved, OmegaConf.from_dotlist([override])))
        config = _lengthened(config, cli.to_config(saved, runtime, saved=True))
    _check_unfinished(run_dir, config)

    def keep_length() -> None:
        if not is_main():
            return
        write_atomically(run_dir / ".hydra" / "config.yaml", OmegaConf.to_yaml(saved).encode())

    command = shlex.join(["python", "scripts/resume.py", str(run_dir), *overrides])
    # without a new length as well: a run that was killed as it became longer has it in its config alone
    longer = not _is_laid_out(config)
    return run_safely(
        lambda: config, run_dir, command, resume=True, longer=longer, on_start=keep_length if overrides else None
    )


def check_unchanged(run_dir: Path, config: Config) -> None:
    """Before a sweep takes a run for finished, or goes on with it.

    Raises:
        UserError: the run began with another config; names the keys, and the values then and now. Or it is finished,
            and its table has changed since.
    """
    result = read_result(run_dir) if is_finished(run_dir) else None
    if result is None and not (run_dir / "checkpoints" / "last.ckpt").is_file():
        return  # it has not begun
    saved = saved_config(run_dir)
    changed = differences(flat_config(saved), flat_config(config))
    if changed is None and result is not None and result.get("config_digest") not in (None, config_digest(saved)):
        changed = "its config.yaml is not the one that it ran with"
    if changed:
        raise UserError(f"{run_dir} was begun with another config: {changed}; name=... begins anew")
    if result is not None:
        since = f"runs in {run_dir.parent} were finished; name=... begins anew"
        note_changes(result.get("code"), config, since)
    if result is None or result["checksum"] is None:
        return  # training looks at its rows for itself
    for file in files_of(config.data):
        if _checksum(config, file, run_dir) != result["checksum"]:
            raise UserError(
                f"{file} must have the rows that {run_dir} was trained on: its rows or their split have"
                " changed; name=... begins anew"
            )


def files_of(spec: Mapping[str, Any]) -> list[Path]:
    """The files that a data module is given, those of a project relative to the current directory too."""
    paths = [Path(value) for value in spec.values() if isinstance(value, str)]
    return [path for path in paths if path.is_absolute() or path.is_file()]


_checksums: dict[str, int] = {}


def _checksum(config: Config, file: Path, run_dir: Path) -> int:
    """Of the rows and their split as they are now. A file is read once, and again where it has changed.

    Args:
        file: or a directory of files, or a pattern of their names.
        run_dir: of a run that was trained on it.
    """
    found = [file] if file.is_file() else [*file.iterdir()] if file.is_dir() else map(Path, glob(str(file)))  # noqa: PTH207  # absolute
    about = [(path.name, (stat := path.stat()).st_ino, stat.st_size, stat.st_mtime_ns) for path in sorted(found)]
    if not about:
        raise UserError(f"{file} must be there: a run was trained on it")
    key = repr((config.seed, config.data, about))
    if key not in _checksums:
        from descent.run.load import load_state_before_setup  # torch comes in here
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
        raise invalid(
            LENGTH, f"above {config.trainer.max_epochs}, what the run was begun with", longer.trainer.max_epochs
        )
    if _is_laid_out(config):
        option = config.choices.get("scheduler")
        raise UserError(f"{LENGTH} must stay {config.trainer.max_epochs}: scheduler={option} is laid out for it")
    return longer


def _is_laid_out(config: Config) -> bool:
    """Whether the scheduler depends on the length of the run."""
    return bool(unfilled(config.scheduler))


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
            done = f"{run_dir} is finished"
            if _is_laid_out(config):  # another length would be another schedule
                raise UserError(f"{done}: scheduler={config.choices.get('scheduler')} ends with its {LENGTH}")
            raise UserError(f"{done}: {LENGTH}=N with N above {result['epochs']} makes it longer")
