"""Builds the tables: mean and deviation over seeds, and the cost of reaching a target."""

from collections.abc import Mapping, Sequence
from math import isnan
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import polars as pl

from descent.compare import X_AXES
from descent.compare.extra import Curve
from descent.compare.runs import Run
from descent.compare.settings import Setting, finals
from descent.config.metric import Metric


def best_of(run: Run) -> tuple[str, float | None] | None:
    """The metric that chose the run's best checkpoint, and its value there; ``None``: no best checkpoint."""
    best = run.result.get("best")
    return (best.get("metric", best.get("monitor")), best.get("value")) if best else None


def to_target(run: Run, curve: Curve) -> dict[str, float] | None:
    """The step, sample, gradient evaluation and second at which the run first reached the target of ``curve``.

    Returns:
        The value on each x axis at the first logged point that reached it, nan if not known; and ``apart``, the number
        of steps since the point before it, or since the start, which limits the precision. ``None``: no point
        reached it, or the run diverged.
    """
    steps, values = run.curve(curve.tag)
    limit = curve.limit(run) if len(values) and not run.diverged else None
    if limit is None:
        return None
    with np.errstate(over="ignore"):  # event files have single precision, in which 0.9 is a little below the double
        single, goal = values.astype(np.float32), np.float32(limit)
    (reached,) = (single >= goal if curve.mode == "max" else single <= goal).nonzero()
    if not len(reached):
        return None
    first = reached[0]
    spent = {axis: float(run.axis(axis, steps[first : first + 1])[0]) for axis in X_AXES}
    return spent | {"apart": float(steps[first] - (steps[first - 1] if first else 0))}


def table_of(
    settings: Sequence[Setting],
    metric: Metric,
    curve: Curve,
    chosen_by: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """One row per setting, best first: the smallest share of runs that diverged or lack ``metric``, then the best mean.

    Means and deviations are over the runs that did not diverge. Medians are over those that reached the target; of an
    even number, the lower of the two middle values. ``steps between points`` is the largest distance from the point at
    the target to the point before it.

    Args:
        metric: the reported metric.
        curve: adds columns for its target, if it has one.
        chosen_by: the metric that chose the settings, if one did.
        columns: more columns by title, each the mean of a metric.
    """
    rows = []
    monitor = next((best[0] for s in settings for run in s.runs if (best := best_of(run))), metric.name)
    for setting in settings:
        whole = [run for run in setting.runs if not run.diverged]
        bests = [best for run in whole if (best := best_of(run)) and best[0] == monitor]
        row: dict[str, Any] = {
            "setting": setting.name,
            "runs": len(setting.runs),
            "diverged": len(setting.runs) - len(whole),
            "chosen by": chosen_by,
            "reported": metric.name,
            **_mean_and_deviation(metric.name, finals(setting, metric.name)),
            **{title: _mean(finals(setting, name)) for title, name in (columns or {}).items()},
            **_mean_and_deviation(f"best {monitor}", [value for _, value in bests if value is not None]),
        }
        rows.append(row if curve.target is None else row | _target_columns(setting, curve))
    shares = [len(finals(setting, metric.name)) / len(setting.runs) for setting in settings]
    return pl.DataFrame(rows, infer_schema_length=None).sort(
        [pl.Series(shares), pl.col(f"{metric.name} mean").cast(pl.Float64)],
        descending=[True, metric.mode == "max"],
        nulls_last=True,
        maintain_order=True,
    )


def _target_columns(setting: Setting, curve: Curve) -> dict[str, float | None]:
    reached = [spent for run in setting.runs if (spent := to_target(run, curve)) is not None]
    known = {axis: [spent[axis] for spent in reached if not isnan(spent[axis])] for axis in X_AXES}
    return {
        "at target": len(reached),
        "missed": sum(run.diverged or curve.tag in run.curves for run in setting.runs) - len(reached),
        **{f"{axis} to target": median(values) if values else None for axis, values in known.items()},
        "steps between points": max((spent["apart"] for spent in reached), default=None),
    }


def runs_table(runs: Sequence[Run]) -> pl.DataFrame:
    """One row per run: its directory, outcome, metrics and flat hyperparameters."""
    outcome = ("status", "reason", "stopped", "seed", "steps", "epochs", "samples", "gradient_evaluations", "seconds")
    rows = [
        {"run": str(run.path)}
        | {key: run.result.get(key) for key in outcome}
        | run.result["metrics"]
        | {k: v if isinstance(v, bool | int | float | str | None) else str(v) for k, v in run.hparams.items()}
        for run in runs
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return pl.DataFrame(
        [{key: row.get(key) for key in columns} for row in rows], infer_schema_length=None, strict=False
    )


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _mean_and_deviation(name: str, values: Sequence[float]) -> dict[str, float | None]:
    return {
        f"{name} mean": _mean(values),
        f"{name} deviation": stdev(values) if len(values) > 1 else None,
    }
