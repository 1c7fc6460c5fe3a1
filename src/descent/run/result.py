"""Defines, writes and reads ``result.json``."""

import json
import math
import platform
import shlex
import subprocess
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from descent.errors import UserError, validation_error
from descent.files import is_locked, write_atomically

Status = Literal["completed", "diverged", "interrupted", "failed"]

EXIT_CODES: dict[Status, int] = {"completed": 0, "failed": 1, "diverged": 3}
READ = (
    *("status", "metrics", "hparams", "steps", "epochs", "samples", "gradient_evaluations", "seconds"),
    *("reason", "stopped", "best", "seed", "checksum"),
)
PACKAGES = ("torch", "lightning", "torchmetrics", "hydra-core", "tensorboard")


@cache
def versions() -> dict[str, str]:
    from importlib.metadata import version  # it is slow to import

    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


@cache
def git_state() -> dict[str, Any] | None:
    command = ["git", "-C", str(Path(__file__).parent), "status", "--porcelain=v2", "--branch"]
    try:
        lines = subprocess.run(command, capture_output=True, check=True).stdout.split(b"\n")  # names are any bytes
    except (OSError, subprocess.CalledProcessError):
        return None
    (commit,) = (line.split()[-1].decode() for line in lines if line.startswith(b"# branch.oid "))
    dirty = any(line and not line.startswith(b"#") for line in lines)
    return None if commit == "(initial)" else {"commit": commit, "dirty": dirty}


@dataclass
class Result:
    """The outcome of a run.

    Attributes:
        status: how it ended.
        reason: why, in one sentence; ``None`` when completed.
        stopped: why it stopped before its last epoch; ``None``: it ran its full length.
        metrics: all logged metrics: validation at the final weights, training at these or over the last epoch,
            ``test/*`` at the best checkpoint's.
        monitor: the monitored metric and its ``mode``, min or max.
        quantities: what a metric measures, by its name without split, if another run may log something else under it.
        best: the step of ``checkpoints/best.ckpt``, and the monitored metric with its value there.
        checksum: of the data, if the data module has one; runs with different checksums cannot be compared.
        steps: of the optimizer.
        epochs: completed.
        samples: rows used in the steps, with repeats.
        gradient_evaluations: one per batch, except L-BFGS, which makes several per step.
        seconds: of training, without set-up and final evaluation.
        signal: the number of the signal that interrupted it.
        config_digest: of the config, see ``descent.config.identity``; a checkpoint of this run has the same.
        hparams: flat; a group's name has the chosen option, keys such as ``optimizer.lr`` the values.
        code: digests of the project's own packages, see ``descent.run.code``.
        git: the commit, and whether there were uncommitted changes; ``None`` outside a repository.
        entries: added by the project's callbacks, by name.
        callbacks: the run's ``ResultCallback``s; not in the file.
        of_last_epoch: training metrics logged during the last epoch, not with the last weights; not in the file.
        of_one_batch: those of them that are of the last batch that logged them, as Lightning logs them in
            ``training_step`` without ``on_epoch=True``; not in the file.
    """

    status: Status
    seed: int | None
    command: str
    reason: str | None = None
    stopped: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    monitor: dict[str, str] = field(default_factory=dict)
    quantities: dict[str, str] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    checksum: int | None = None
    steps: int = 0
    epochs: int = 0
    samples: int = 0
    gradient_evaluations: int = 0
    seconds: float = 0.0
    signal: int | None = None
    config_digest: str | None = None
    hparams: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)
    code: dict[str, str] = field(default_factory=dict)
    git: dict[str, Any] | None = field(default_factory=git_state)
    entries: dict[str, Any] = field(default_factory=dict)
    callbacks: list[Any] = field(default_factory=list, repr=False, compare=False)
    of_last_epoch: list[str] = field(default_factory=list, repr=False, compare=False)
    of_one_batch: list[str] = field(default_factory=list, repr=False, compare=False)

    def __getattr__(self, name: str) -> Any:
        """Returns an entry that a callback added, such as ``result.optimum``."""
        entries = self.__dict__.get("entries", {})
        if name not in entries:
            raise AttributeError(f"this result has no {name}: it has {', '.join(entries) or 'no callback entries'}")
        return entries[name]

    @property
    def exit_code(self) -> int:
        """The exit code of a process that does only this run."""
        return EXIT_CODES[self.status] if self.signal is None else 128 + self.signal

    def as_dict(self) -> dict[str, Any]:
        """Returns the content of the file; callbacks' entries are top-level keys."""
        tree = {key.name: getattr(self, key.name) for key in fields(self)}
        del tree["entries"], tree["callbacks"], tree["of_last_epoch"], tree["of_one_batch"]
        return tree | self.entries

    def write(self, run_dir: Path) -> None:
        """Writes ``result.json``; nan and inf, which JSON lacks, become null."""
        text = json.dumps(_finite(self.as_dict()), indent=2, allow_nan=False, ensure_ascii=False)
        write_atomically(run_dir / "result.json", f"{text}\n".encode())

    def write_unless_trained(self, run_dir: Path) -> None:
        """Does the same, but keeps the existing result of a run that has a checkpoint to resume from."""
        if not ((run_dir / "checkpoints" / "last.ckpt").is_file() and (run_dir / "result.json").is_file()):
            self.write(run_dir)


def check_directory(run_dir: Path) -> None:
    if run_dir.is_file():
        raise UserError(f"RUN_DIR must be the directory of a run, not a file in it, got {run_dir}")


def read_result(run_dir: Path) -> dict[str, Any]:
    """Reads the ``result.json`` of a run.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is not what a run writes; the message names the file.
    """
    check_directory(run_dir)
    path = run_dir / "result.json"
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} must be the result of a run; it cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} must be the result of a run, a JSON object, got {found!r:.40}")
    from pydantic import ValidationError  # it is slow to import

    try:
        _what_others_read().model_validate(found)
    except ValidationError as error:
        raise UserError(f"{path} must be the result of a run; {validation_error(error)}") from error
    return found


@cache
def _what_others_read() -> Any:
    """Returns a pydantic model of the entries that a ``result.json`` must have, typed as in ``Result``."""
    from pydantic import ConfigDict, create_model

    kinds: dict[str, Any] = {key.name: key.type for key in fields(Result) if key.name in READ}
    kinds["metrics"] = dict[str, Any]  # nan is null
    entries: Any = {name: (kind, ...) for name, kind in kinds.items()}
    entries["quantities"] = (dict[str, str], {})  # optional
    return create_model("Written", __config__=ConfigDict(extra="allow", strict=True), **entries)


def is_finished(run_dir: Path) -> bool:
    """Whether the run has completed or diverged."""
    try:
        return bool(read_result(run_dir)["status"] in ("completed", "diverged"))
    except (OSError, UserError):  # the result is missing or broken
        return False


def mark_unfinished(run_dir: Path) -> None:
    """Marks a finished run as interrupted before it resumes, in case it is killed then."""
    if is_finished(run_dir):
        result = read_result(run_dir) | {"status": "interrupted", "reason": "it was resumed and has not ended since"}
        write_atomically(run_dir / "result.json", f"{json.dumps(result, indent=2, ensure_ascii=False)}\n".encode())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def run_result(run_dir: Path) -> dict[str, Any]:
    """Reads the result of a run that has trained.

    Raises:
        UserError: the directory is not that of a run, or the run failed before it trained.
    """
    try:
        result = read_result(run_dir)
    except FileNotFoundError:
        text = f"RUN_DIR must be the directory of a run that has ended, got {run_dir}"
        if (run_dir / ".lock").is_file() and is_locked(run_dir):
            text += ": it is still training"
        elif (run_dir / "checkpoints" / "last.ckpt").is_file():
            text += f": python scripts/resume.py {shlex.quote(str(run_dir))} finishes it"
        raise UserError(text) from None
    if result["status"] == "failed" and not result["metrics"]:
        raise UserError(f"{run_dir} must have trained; it has not: {result['reason']}")
    return result
