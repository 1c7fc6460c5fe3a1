"""Settings against each other: mean and deviation over seeds, and what it takes to come to a target."""

from collections.abc import Sequence
from statistics import fmean, median_low, stdev
from typing import Any

import polars as pl

from descent.compare import X_AXES
from descent.compare.runs import Run
from descent.compare.settings import Setting, finals, mean_of
from descent.config.rules import better


def to_target(run: Run, target: float) -> dict[str, float] | None:
    """At which step, sample, gradient evaluation and second the loss first was within ``target`` of the optimum's.

    Args:
        target: the excess over the optimum's loss, as a fraction of it; of the first excess, where that loss is 0.

    Returns:
        by x axis, of the first logged point that was; and ``apart``, how many steps before it the last point is that
        was not: it is not known any finer. ``None`` where none was, or the run diverged after all: a miss.
    """
    steps, values = run.excess
    if run.diverged or not len(values):
        return None
    optimum = (run.result.get("optimum") or {}).get("loss") or 0.0
    limit = target * (optimum if optimum > 1e-12 * values[0] else values[0])
    (reached,) = (values <= limit).nonzero()
    if not len(reached):
        return None
    first = reached[0]
    spent = {axis: float(run.axis(axis, steps[first : first + 1])[0]) for axis in X_AXES}
    return spent | {"apart": float(steps[first] - steps[max(0, first - 1)])}


def table_of(settings: Sequence[Setting], metric: str, target: float, chosen_by: str | None = None) -> pl.DataFrame:
    """A row a setting, the best first: the fewest runs diverged, then the best mean of ``metric``.

    Mean and deviation are of the runs that did not diverge, the medians of those that came to the target, of an even
    number the lower of the two in the middle. ``steps between points`` is the largest distance from the point at the
    target to the one before.

    Args:
        metric: what is reported.
        target: see ``to_target``.
        chosen_by: the metric that chose the settings among others, where one did.
    """
    rows = []
    found = (run.result.get("best") for setting in settings for run in setting.runs)
    monitor = next((best["monitor"] for best in found if best), "val/loss")
    for setting in settings:
        whole = [run for run in setting.runs if not run.diverged]
        bests = [best for run in whole if (best := run.result.get("best")) and best["monitor"] == monitor]
        reached = [spent for run in setting.runs if (spent := to_target(run, target)) is not None]
        rows.append(
            {
                "setting": setting.name,
                "runs": len(setting.runs),
                "diverged": len(setting.runs) - len(whole),
                "chosen by": chosen_by,
                "reported": metric,
                **_mean_and_deviation(metric, finals(setting, metric)),
                "above the optimum": mean_of(setting, "optimum/excess_loss"),
                **_mean_and_deviation(
                    f"best {monitor}", [best["value"] for best in bests if best.get("value") is not None]
                ),
                "at target": len(reached),
                "missed": len(setting.runs) - len(reached),
                **{f"{axis} to target": median_low(r[axis] for r in reached) if reached else None for axis in X_AXES},
                "steps between points": max(r["apart"] for r in reached) if reached else None,
            }
        )
    share = (pl.col("runs") - pl.col("diverged")) / pl.col("runs")
    return pl.DataFrame(rows, infer_schema_length=None).sort(
        [share, pl.col(f"{metric} mean").cast(pl.Float64)],
        descending=[True, better(metric) == "max"],
        nulls_last=True,
        maintain_order=True,
    )


def runs_table(runs: Sequence[Run]) -> pl.DataFrame:
    """A row a run: its directory, outcome, every flat hyperparameter and metric."""
    outcome = ("status", "reason", "stopped", "seed", "steps", "epochs", "samples", "gradient_evaluations", "seconds")
    rows = [
        {"run": str(run.path)}
        | {key: run.result.get(key) for key in outcome}
        | run.result["metrics"]
        | {key: _plain(value) for key, value in run.hparams.items()}
        for run in runs
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return pl.DataFrame(
        [{key: row.get(key) for key in columns} for row in rows], infer_schema_length=None, strict=False
    )


def _mean_and_deviation(name: str, values: Sequence[float]) -> dict[str, float | None]:
    return {
        f"{name} mean": fmean(values) if values else None,
        f"{name} deviation": stdev(values) if len(values) > 1 else None,
    }


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
