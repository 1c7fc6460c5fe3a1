"""Groups runs into settings and chooses the best setting of each group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan, nan
from statistics import fmean
from typing import Any

from descent.compare.runs import Run
from descent.config.metric import Metric

CLASSES = ("data.", "model.", "callbacks.", "logger.")  # their arguments may be copies of other keys


@dataclass(frozen=True)
class Setting:
    """Runs that differ only in their seed."""

    name: str
    values: dict[str, Any]
    runs: list[Run]


def settings_of(runs: Sequence[Run], first: Sequence[str] = ()) -> list[Setting]:
    """Groups runs by the hyperparameters that differ between them, and names those of ``first`` first.

    Ignores seeds and keys that follow from another key, such as the arguments of one optimizer only, or a
    ``data.batch_size`` of ``${batch.size}``.
    """
    keys = sorted(_varied(runs), key=lambda key: first.index(key) if key in first else len(first))
    found: dict[tuple[str, ...], Setting] = {}
    for run in runs:
        values = {key: run.hparams.get(key) for key in keys}
        setting = Setting(name_of(values) or "all runs", values, [])
        found.setdefault(tuple(map(_same, values.values())), setting).runs.append(run)
    return list(found.values())


def best_settings(settings: Sequence[Setting], group: Sequence[str], metric: Metric) -> list[Setting]:
    """Chooses a setting for each combination of the values of ``group``, such as each optimizer's best learning rate.

    Takes the one with the most seeds, because a protocol repeats the settings that it chooses. Ties go to the fewest
    runs that diverged or have no ``metric``, then to the best mean, then to the first. If the setting has seeds that
    no other setting of its group has, it is measured on those only: the others were used to choose it.
    """

    def merit(setting: Setting) -> tuple[int, int, float]:
        mean = mean_of(setting, metric.name)
        seeds = len({run.result["seed"] for run in setting.runs})  # a repeated seed counts once
        without = len(setting.runs) - len(finals(setting, metric.name))
        return seeds, -without, -inf if isnan(mean) else metric.merit(mean)

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
    """A name such as ``adam, lr=0.1, clip=none``: options by name, keys with their value."""
    shown = {key: "full" if key == "batch.size" and value is None else _text(value) for key, value in values.items()}
    needs_key = {key: "." in key or "/" in key or text in ("none", "null") for key, text in shown.items()}
    return ", ".join(f"{key.removeprefix('optimizer.')}={v}" if needs_key[key] else v for key, v in shown.items())


def mean_of(setting: Setting, metric: str) -> float:
    """The mean of ``metric`` over the runs that did not diverge; nan if there are no values."""
    values = finals(setting, metric)
    return fmean(values) if values else nan


def finals(setting: Setting, metric: str) -> list[float]:
    """The final values of ``metric`` of the runs that did not diverge."""
    found = [run.result["metrics"].get(metric) for run in setting.runs if not run.diverged]
    return [value for value in found if value is not None]


def _varied(runs: Sequence[Run]) -> list[str]:
    keys = dict.fromkeys(key for run in runs for key in run.hparams if key != "seed")
    values = {key: tuple(_same(run.hparams.get(key)) for run in runs) for key in keys}
    differ = [key for key in keys if len(set(values[key])) > 1]
    others = {values[key] for key in differ if not key.startswith(CLASSES)}
    kept = []
    for key in differ:
        copied = key.startswith(CLASSES) and values[key] in others
        nodes = [key[:dot] for dot, letter in enumerate(key) if letter == "."]
        owners = [other for other in differ if other.partition("@")[2] in nodes]  # model/encoder@model.second
        owners += [*(node.replace(".", "/") for node in nodes), *(f"{node}._target_" for node in nodes)]
        if copied or any(o in differ and o != key and _follows(values[key], values[o]) for o in owners):
            continue
        kept.append(key)
    return kept


def _follows(values: Sequence[str], options: Sequence[str]) -> bool:
    """Whether the chosen option of a config group determines the value of a key in it."""
    seen: dict[str, str] = {}
    return all(seen.setdefault(option, value) == value for option, value in zip(options, values, strict=True))


def _same(value: Any) -> str:
    """A text that is the same for equal values: 1 and 1.0 are the same learning rate."""
    number = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return repr(float(value) if number else value)


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)
