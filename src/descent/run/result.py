"""What a run leaves behind: ``result.json``."""

import json
import math
import platform
import subprocess
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from descent.errors import UserError, validation_error
from descent.files import write_atomically

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
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": git("status", "--porcelain") != ""}
    except (OSError, subprocess.CalledProcessError):
        return None


@dataclass
class Result:
    """The outcome of a run.

    Attributes:
        status: how it ended.
        reason: why, in one sentence; ``None`` when completed.
        stopped: which stopping rule ended it before its last epoch; ``None``: it ran its full length.
        metrics: whatever was logged: of training and validation at the final weights, ``test/*`` at those of the best
            checkpoint.
        monitor: the metric that decided, and its ``mode``, min or max.
        quantities: what a metric is, by its name without split, where another run may have another under that name.
        best: which step ``checkpoints/best.ckpt`` is of, and the metric's value that made it the best.
        checksum: of the data, where the data module has one; runs with another cannot be compared.
        steps: of the optimizer.
        epochs: completed.
        samples: rows that the steps have seen, repeats counted.
        gradient_evaluations: as many as batches, but for L-BFGS, which takes several a step.
        seconds: of training, set-up and final evaluation not counted.
        signal: the number of the signal that interrupted it.
        config_digest: of the config, see ``descent.config.identity``; a checkpoint with another is not of this run.
        hparams: flat; a group's name holds the option chosen, ``optimizer.lr`` and the like its values.
        code: digests of the project's own packages, see ``descent.run.code``.
        git: commit and whether there were uncommitted changes; ``None`` outside a repository.
        entries: what the project's callbacks add, by name.
        callbacks: those of the run that have something to say of it; not in the file.
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

    def __getattr__(self, name: str) -> Any:
        """What the callbacks added: ``result.optimum`` where one of them adds it."""
        entries = self.__dict__.get("entries", {})
        if name not in entries:
            raise AttributeError(f"this result has no {name}: it has {', '.join(entries) or 'no entries of callbacks'}")
        return entries[name]

    @property
    def exit_code(self) -> int:
        """Of a process that did this run alone."""
        return EXIT_CODES[self.status] if self.signal is None else 128 + self.signal

    def as_dict(self) -> dict[str, Any]:
        """All of it, as in the file: the entries of callbacks beside the others."""
        tree = {key.name: getattr(self, key.name) for key in fields(self)}
        del tree["entries"], tree["callbacks"]
        return tree | self.entries

    def write(self, run_dir: Path) -> None:
        """Writes ``result.json``. JSON knows no nan and inf: they become null."""
        text = json.dumps(_finite(self.as_dict()), indent=2, allow_nan=False, ensure_ascii=False)
        write_atomically(run_dir / "result.json", f"{text}\n".encode())

    def write_unless_trained(self, run_dir: Path) -> None:
        """The same, but leaves the result of a run that can still go on from its checkpoint."""
        if not ((run_dir / "checkpoints" / "last.ckpt").is_file() and (run_dir / "result.json").is_file()):
            self.write(run_dir)


def read_result(run_dir: Path) -> dict[str, Any]:
    """The ``result.json`` of a run, as it was written.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is not what a run writes; the message has its path.
    """
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
    """Entries that have to be in a ``result.json``, of the types that a ``Result`` has them in."""
    from pydantic import ConfigDict, create_model

    kinds: dict[str, Any] = {key.name: key.type for key in fields(Result) if key.name in READ}
    kinds["metrics"] = dict[str, Any]  # nan is null
    entries: Any = {name: (kind, ...) for name, kind in kinds.items()}
    entries["quantities"] = (dict[str, str], {})  # which earlier versions did not write
    return create_model("Written", __config__=ConfigDict(extra="allow", strict=True), **entries)


def is_finished(run_dir: Path) -> bool:
    """Whether the run has come to its end, be it a good one or divergence."""
    try:
        return bool(read_result(run_dir)["status"] in ("completed", "diverged"))
    except (OSError, UserError):  # there is none yet, or it is broken
        return False


def mark_unfinished(run_dir: Path) -> None:
    """Before a finished run goes on: should it be killed, its result is not that of the end before."""
    if is_finished(run_dir):
        result = read_result(run_dir) | {"status": "interrupted", "reason": "it went on, and has not ended since"}
        write_atomically(run_dir / "result.json", f"{json.dumps(result, indent=2, ensure_ascii=False)}\n".encode())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def run_result(run_dir: Path) -> dict[str, Any]:
    """The result of a run that has begun to train.

    Raises:
        UserError: the directory is not one of a run, or the run failed before it knew its data.
    """
    try:
        result = read_result(run_dir)
    except FileNotFoundError:
        raise UserError(f"RUN_DIR must be the directory of a run that has ended, got {run_dir}") from None
    if result["status"] == "failed" and not result["metrics"]:
        raise UserError(f"{run_dir} must have trained; it has not: {result['reason']}")
    return result
