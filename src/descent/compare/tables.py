"""Settings against each other: mean and deviation over seeds, and what it takes to come to a target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan, nan
from statistics import fmean, median_low, stdev
from typing import Any

import polars as pl

from descent.compare import X_AXES
from descent.compare.runs import Run
from descent.rules import better


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but their seed."""

    name: str
    values: dict[str, Any]
    runs: list[Run]


def settings_of(runs: Sequence[Run], first: Sequence[str] = ()) -> list[Setting]:
    """The runs by setting: by all hyperparameters that differ between them, those of ``first`` named first.

    Seeds make no setting of their own, nor does what follows from another key, as an optimizer's arguments that only
    it has.
    """
    keys = sorted(_varied(runs), key=lambda key: first.index(key) if key in first else len(first))
    found: dict[tuple[str, ...], Setting] = {}
    for run in runs:
        values = {key: run.hparams.get(key) for key in keys}
        setting = Setting(name_of(values) or "all runs", values, [])
        found.setdefault(tuple(map(_same, values.values())), setting).runs.append(run)
    return list(found.values())


def best_settings(settings: Sequence[Setting], group: Sequence[str], metric: str) -> list[Setting]:
    """One setting for each combination of the values of ``group``: so each optimizer at its own best learning rate.

    It is the one with the most runs, which a protocol has chosen to repeat with other seeds; among equals the one of
    which fewest runs diverged, and then the one with the best mean of ``metric``. Where it has seeds that no other
    setting of its group has, it is measured on those alone: the others were there to choose it.
    """

    def merit(setting: Setting) -> tuple[int, int, float]:
        mean = mean_of(setting, metric)
        sign = 1 if better(metric) == "max" else -1
        return len(setting.runs), -sum(run.diverged for run in setting.runs), -inf if isnan(mean) else sign * mean

    groups: dict[tuple[str, ...], list[Setting]] = {}
    for setting in settings:
        groups.setdefault(tuple(_same(setting.runs[0].hparams.get(name)) for name in group), []).append(setting)
    chosen = []
    for members in groups.values():
        best = max(members, key=merit)
        seen = {run.result["seed"] for member in members if member is not best for run in member.runs}
        fresh = [run for run in best.runs if run.result["seed"] not in seen]
        chosen.append(replace(best, runs=fresh or best.runs))
    return chosen


def name_of(values: Mapping[str, Any]) -> str:
    """``adam, lr=0.1``: options by their name, keys with their value."""
    shown = {key: "full" if key == "batch.size" and value is None else _text(value) for key, value in values.items()}
    return ", ".join(f"{key.removeprefix('optimizer.')}={v}" if "." in key else v for key, v in shown.items())


def mean_of(setting: Setting, metric: str) -> float:
    """Over the runs that did not diverge; nan where there is none."""
    values = _finals(setting, metric)
    return fmean(values) if values else nan


def best_of(values: Sequence[float], metric: str) -> float:
    return max(values) if better(metric) == "max" else min(values)


def to_target(run: Run, target: float) -> dict[str, float] | None:
    """At which step, sample, gradient evaluation and second the loss first was within ``target`` of the optimum's.

    Args:
        target: the excess over the optimum's loss, as a fraction of it; of the first excess, where that loss is 0.

    Returns:
        ``None`` where it never was, or the run diverged after all: a miss.
    """
    steps, values = run.excess
    if run.diverged or not len(values):
        return None
    optimum = (run.result["optimum"] or {}).get("loss") or 0.0
    limit = target * (optimum if optimum > 1e-12 * values[0] else values[0])
    (reached,) = (values <= limit).nonzero()
    if not len(reached):
        return None
    first = slice(reached[0], reached[0] + 1)
    return {axis: float(run.axis(axis, steps[first])[0]) for axis in X_AXES}


def table_of(settings: Sequence[Setting], metric: str, target: float) -> pl.DataFrame:
    """A row a setting, the best first: the fewest runs diverged, then the best mean of ``metric``.

    Mean and deviation are of the runs that did not diverge, the medians of those that came to the target.
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
                **_mean_and_deviation(metric, _finals(setting, metric)),
                "above the optimum": mean_of(setting, "optimum/excess_loss"),
                **_mean_and_deviation(
                    f"best {monitor}", [best["value"] for best in bests if best["value"] is not None]
                ),
                "at target": len(reached),
                "missed": len(setting.runs) - len(reached),
                **{f"{axis} to target": median_low(r[axis] for r in reached) if reached else None for axis in X_AXES},
            }
        )
    share = (pl.col("runs") - pl.col("diverged")) / pl.col("runs")
    return pl.DataFrame(rows, infer_schema_length=None).sort(
        [share, pl.col(f"{metric} mean").cast(pl.Float64)], descending=[True, better(metric) == "max"], nulls_last=True
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


def _varied(runs: Sequence[Run]) -> list[str]:
    keys = dict.fromkeys(key for run in runs for key in run.hparams if key != "seed")
    differ = [key for key in keys if len({_same(run.hparams.get(key)) for run in runs}) > 1]
    groups = [key for key in differ if "." not in key]
    kept = []
    for key in differ:
        group = key.split(".")[0]
        if "." in key and group in groups and _follows(key, group, runs):
            continue
        kept.append(key)
    return kept


def _follows(key: str, group: str, runs: Sequence[Run]) -> bool:
    """Whether the option chosen of ``group`` decides the value of ``key``."""
    seen: dict[Any, str] = {}
    return all(
        seen.setdefault(run.hparams.get(group), _same(run.hparams.get(key))) == _same(run.hparams.get(key))
        for run in runs
    )


def _finals(setting: Setting, metric: str) -> list[float]:
    """``metric`` at the end of the runs that did not diverge."""
    found = [run.result["metrics"].get(metric) for run in setting.runs if not run.diverged]
    return [value for value in found if value is not None]


def _mean_and_deviation(name: str, values: Sequence[float]) -> dict[str, float | None]:
    return {
        f"{name} mean": fmean(values) if values else None,
        f"{name} deviation": stdev(values) if len(values) > 1 else None,
    }


def _same(value: Any) -> str:
    """Equal for equal values: 1 and 1.0 are one learning rate."""
    return repr(float(value) if isinstance(value, int) and not isinstance(value, bool) else value)


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
