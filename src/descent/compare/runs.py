"""Reads runs from their directories, and leaves out those that cannot be compared."""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from descent.compare.checks import why_not_comparable
from descent.errors import UserError
from descent.run.result import read_result
from descent.run.run_dirs import PROGRESS_BAR

EVENTS = "events.out.tfevents."  # prefix of TensorBoard's file names
Points = tuple[NDArray[np.int64], NDArray[np.float64]]  # steps, values

# DataLoader arguments that set how rows are read, not which rows.
READING = ("batch_size", "shuffle", "num_workers", "pin_memory", "persistent_workers", "prefetch_factor", "drop_last")


def _is_no_restart(record: logging.LogRecord) -> bool:
    """Hides TensorBoard's message that it drops points because a killed run was resumed."""
    return "out of order event.step" not in record.getMessage()


logging.getLogger("tensorboard").addFilter(_is_no_restart)


@dataclass(frozen=True)
class Run:
    """A run that completed or diverged."""

    path: Path
    result: dict[str, Any]

    @cached_property
    def hparams(self) -> dict[str, Any]:
        """The hyperparameters by flat key, such as ``model.optimizer.lr``."""
        return {key: value for key, value in _flat(self.result["hparams"]).items() if key != PROGRESS_BAR}

    @property
    def diverged(self) -> bool:
        return bool(self.result["status"] == "diverged")

    @property
    def has_event_file(self) -> bool:
        return any(self.path.glob(f"{EVENTS}*"))

    @property
    def data(self) -> dict[str, Any]:
        """What identifies the data: the checksum of the rows, or the data settings if there is none."""
        if self.result.get("checksum") is not None:
            return {"checksum": self.result["checksum"]}
        settings = {key: value for key, value in self.hparams.items() if key.split(".")[0] == "data"}
        return {key: value for key, value in settings.items() if key.split(".")[-1] not in READING}

    @cached_property
    def sample(self) -> str:
        """Identifies the config and the seed, which a repetition has in common."""
        return json.dumps([self.result.get("config_digest"), self.hparams, self.result["seed"]], sort_keys=True)

    @cached_property
    def curves(self) -> dict[str, Points]:
        """The scalars of the event files, read by TensorBoard, with each step once and in order."""
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

        events = EventAccumulator(str(self.path), size_guidance={SCALARS: 0})
        events.Reload()
        found = {}
        for tag in events.Tags()[SCALARS]:
            points = {point.step: point for point in events.Scalars(tag)}
            steps = np.array(sorted(points), dtype=np.int64)
            found[tag] = steps, np.array([points[step].value for step in steps.tolist()])
        return found

    def curve(self, tag: str) -> Points:
        """The points of a curve; empty if the run has none."""
        return self.curves.get(tag, (np.array([], dtype=np.int64), np.array([])))

    def axis(self, name: str, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """The values of an x axis of ``X_AXES`` at ``steps``; nan if not known.

        Samples are counted as the run's average per step.
        """
        if name == "steps":
            return steps.astype(np.float64)
        if name == "samples":
            return steps * (self.result["samples"] / self.result["steps"] if self.result["steps"] else np.nan)
        if name == "gradient_evaluations" and self.result["gradient_evaluations"] == self.result["steps"]:
            return steps.astype(np.float64)  # there is no curve of them
        known, values = self.curve("grad/evaluations" if name == "gradient_evaluations" else "train/seconds")
        if not len(known):
            return np.full(len(steps), np.nan)
        if name == "gradient_evaluations":  # it has no point where they equal the steps, and none after the last step
            logged, _ = self.curve("grad/norm")  # logged at the same steps
            equal = [0, *logged[logged < known[0]]]
            known = np.array([*equal, *known, self.result["steps"]])
            values = np.array([*equal, *values, self.result["gradient_evaluations"]])
        return np.asarray(np.interp(steps, known, values), dtype=np.float64)


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) and value else {f"{above}{key}": value}
    return flat


def read_runs(
    directories: Sequence[Path], problem: Callable[[dict[str, Any]], str | None] = lambda result: None
) -> tuple[list[Run], list[str]]:
    """Returns the runs below ``directories`` that can be compared, and why others are left out.

    Leaves out runs that are broken, failed or interrupted, copies, runs with other data than most, and runs with a
    newer repetition of the same config and seed, because a repetition is not a new sample.

    Args:
        problem: the project's own check of a result.

    Raises:
        UserError: a directory does not exist, or no run can be compared.
    """
    found: dict[str, Run] = {}
    left_out: list[str] = []
    for path in _run_dirs(directories, left_out):
        try:
            run = Run(path, read_result(path))
            reason = why_not_comparable(run.result) or problem(run.result) or _unfit(run)
        except FileNotFoundError:
            reason = "not finished, it has no result.json"
        except UserError as error:
            reason = str(error)
        if not reason:
            first = found.setdefault(json.dumps(run.result), run)  # copies also agree in the seconds, to the last digit
            reason = f"a copy of {first.path}" if first is not run else None
        if reason:
            left_out.append(f"{path}: {reason}")
    if not found:
        some = "; ".join(left_out[:5]) + (f"; and {len(left_out) - 5} more" if len(left_out) > 5 else "")
        why = f" ({some})" if some else ""
        raise UserError(f"DIR must hold finished runs, got {', '.join(map(str, directories))}{why}")
    (most, _), *_ = Counter(json.dumps(run.data, sort_keys=True) for run in found.values()).most_common()
    usual, kept = json.loads(most), []
    for run in found.values():
        differ = [key for key in {**usual, **run.data} if usual.get(key) != run.data.get(key)]
        if differ:
            left_out.append(f"{run.path}: another data set (by its {', '.join(differ)})")
        else:
            kept.append(run)
    newest: dict[str, Run] = {}
    for run in sorted(kept, key=lambda run: (run.path / "result.json").stat().st_mtime):
        newest[run.sample] = run
    left_out += [
        f"{run.path}: {newest[run.sample].path} is newer, with the same config and seed"
        for run in kept
        if newest[run.sample] is not run
    ]
    return [run for run in kept if newest[run.sample] is run], left_out


def _run_dirs(directories: Sequence[Path], left_out: list[str]) -> list[Path]:
    """The run directories, each once. Directories that cannot be read are added to ``left_out``."""
    paths: dict[Path, Path] = {}
    errors: list[OSError] = []
    for directory in directories:
        if not os.path.isdir(directory):  # noqa: PTH112  # Path.is_dir raises if a parent cannot be read
            raise UserError(f"DIR must be a directory, got {directory}")
        for root, _, names in os.walk(directory, onerror=errors.append):
            path = Path(root).resolve()
            # event files below a run's directory belong to another logger
            begun = any(name.startswith(EVENTS) for name in names) and paths.keys().isdisjoint(path.parents)
            if begun or "result.json" in names:
                paths.setdefault(path, Path(root))
    left_out += [f"{error.filename}: {error.strerror}" for error in errors]
    return sorted(paths.values())


def _unfit(run: Run) -> str | None:
    """Why the curves cannot be compared; ``None`` if they can be or if there are none."""
    if not run.has_event_file:
        return None
    try:
        steps, _ = run.curve("train/seconds")
    except Exception as error:  # TensorBoard's reader may raise anything on a foreign file
        return f"its event file cannot be read ({type(error).__name__}: {error})"
    if not len(steps):
        return "its event file is broken: it has no points"
    if not run.diverged and steps[-1] != run.result["steps"]:
        return f"its event file is broken: it ends at step {steps[-1]} of {run.result['steps']}"
    return None
