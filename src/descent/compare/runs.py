"""Runs read back from their directories: results and curves, and which of them cannot be compared."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from descent.errors import UserError
from descent.result import read_result

Curve = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]  # steps, values, seconds since the start
X_AXES = ("steps", "samples", "gradient_evaluations", "seconds")
COMPARABLE = ("completed", "diverged")


@dataclass(frozen=True)
class Run:
    """A run that came to its end, be it a good one or divergence."""

    path: Path
    result: dict[str, Any]

    @property
    def hparams(self) -> dict[str, Any]:
        found: dict[str, Any] = self.result["hparams"]
        return found

    @property
    def diverged(self) -> bool:
        return bool(self.result["status"] == "diverged")

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """The scalars of the event files, by TensorBoard's own reader, each step once and in order."""
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

        events = EventAccumulator(str(self.path), size_guidance={SCALARS: 0})
        events.Reload()
        found = {}
        for tag in events.Tags()[SCALARS]:
            points = {point.step: point for point in events.Scalars(tag)}
            steps = np.array(sorted(points), dtype=np.int64)
            start = min(point.wall_time for point in points.values())
            found[tag] = (
                steps,
                np.array([points[step].value for step in steps.tolist()]),
                np.array([points[step].wall_time - start for step in steps.tolist()]),
            )
        return found

    @property
    def excess(self) -> Curve:
        """``optimum/excess_loss``, from step 0."""
        empty = np.array([], dtype=np.int64), np.array([]), np.array([])
        return self.curves.get("optimum/excess_loss", empty)

    def axis(self, name: str, steps: NDArray[np.int64], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """What an x axis of ``X_AXES`` shows at ``steps``."""
        known, counts, _ = self.curves.get("grad/evaluations", (np.array([]), np.array([]), np.array([])))
        end = self.result["steps"], self.result["gradient_evaluations"]
        rows = self.result["rows"]["train"]
        size = min(self.hparams["batch.size"] or rows, rows)
        passes, rest = np.divmod(steps, -(-rows // size))
        places: dict[str, NDArray[np.float64]] = {
            "steps": steps.astype(np.float64),
            "samples": (passes * rows + np.minimum(rest * size, rows)).astype(np.float64),
            "gradient_evaluations": np.asarray(np.interp(steps, [0, *known, end[0]], [0, *counts, end[1]])),
            "seconds": seconds,
        }
        return places[name]


def read_runs(directories: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs below ``directories`` that can be compared, and why others are left out.

    A run is left out that is broken, failed or was interrupted, or whose rows are not those of most runs.

    Raises:
        UserError: there is no such directory, or no run that can be compared in them.
    """
    found: list[Run] = []
    left_out: list[str] = []
    for path in _run_dirs(directories):
        try:
            result = read_result(path)
            status = result["status"]
            if status in COMPARABLE:
                _ = result["hparams"], result["rows"]["train"], result["metrics"]
                found.append(Run(path, result))
            else:
                left_out.append(f"{path}: {status}")
        except FileNotFoundError:
            left_out.append(f"{path}: not finished, it has no result.json")
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            left_out.append(f"{path}: its result.json is broken ({type(error).__name__}: {error})")
    if not found:
        why = "".join(f"\n  {line}" for line in left_out)
        raise UserError(f"DIR must hold finished runs, got {', '.join(map(str, directories))}{why}")
    (most, _), *others = Counter(_data(run) for run in found).most_common()
    if others:
        left_out += [f"{run.path}: another data set" for run in found if _data(run) != most]
    return [run for run in found if _data(run) == most], left_out


def _run_dirs(directories: Sequence[Path]) -> list[Path]:
    paths = set()
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"DIR must be a directory, got {directory}")
        for pattern in ("result.json", "events.out.tfevents.*"):
            paths |= {path.parent for path in directory.rglob(pattern)}
    return sorted(paths)


def _data(run: Run) -> str:
    """What tells one set of rows from another: the data's keys, the split, and the least-squares loss."""
    keys = {k: v for k, v in run.hparams.items() if k.split(".")[0] == "data"}
    optimum = run.result.get("optimum") or {}
    known = [keys, run.result["rows"], run.result["features"], run.result["target"], optimum.get("loss")]
    return json.dumps(known, sort_keys=True)
