"""Runs that belong together, and which setting is a group's best."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan, nan
from statistics import fmean
from typing import Any

from descent.compare.runs import Run
from descent.config.rules import better


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

    It is the one with the most seeds, which a protocol has chosen to repeat with others; among equals the one of
    which fewest runs diverged, then the one with the best mean of ``metric``, then the first. Where it has seeds that
    no other setting of its group has, it is measured on those alone: the others were there to choose it.
    """

    def merit(setting: Setting) -> tuple[int, int, float]:
        mean = mean_of(setting, metric)
        sign = 1 if better(metric) == "max" else -1
        seeds = len({run.result["seed"] for run in setting.runs})  # a run that is there twice chooses nothing
        return seeds, -sum(run.diverged for run in setting.runs), -inf if isnan(mean) else sign * mean

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


def chooser_of(metric: str, known: Collection[str]) -> str:
    """By what settings are chosen where ``metric`` is reported: test rows choose nothing, validation rows do."""
    twin = f"val/{metric.removeprefix('test/')}" if metric.startswith("test/") else metric
    return next((name for name in (twin, "val/loss") if name in known), "train/loss")


def name_of(values: Mapping[str, Any]) -> str:
    """``adam, lr=0.1``: options by their name, keys with their value."""
    shown = {key: "full" if key == "batch.size" and value is None else _text(value) for key, value in values.items()}
    return ", ".join(f"{key.removeprefix('optimizer.')}={v}" if "." in key else v for key, v in shown.items())


def mean_of(setting: Setting, metric: str) -> float:
    """Over the runs that did not diverge; nan where there is none."""
    values = finals(setting, metric)
    return fmean(values) if values else nan


def finals(setting: Setting, metric: str) -> list[float]:
    """``metric`` at the end of the runs that did not diverge."""
    found = [run.result["metrics"].get(metric) for run in setting.runs if not run.diverged]
    return [value for value in found if value is not None]


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
    seen: dict[str, str] = {}
    return all(
        seen.setdefault(_same(run.hparams.get(group)), _same(run.hparams.get(key))) == _same(run.hparams.get(key))
        for run in runs
    )


def _same(value: Any) -> str:
    """Equal for equal values: 1 and 1.0 are one learning rate."""
    return repr(float(value) if isinstance(value, int) and not isinstance(value, bool) else value)


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)
