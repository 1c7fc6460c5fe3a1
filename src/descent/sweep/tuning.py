"""Chooses and repeats the best settings in the second round of a tuned sweep."""

from collections.abc import Collection, Mapping, Sequence
from itertools import product
from math import isnan, nan
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from descent.config.messages import one_line
from descent.config.metric import quantities_of
from descent.errors import UserError, invalid
from descent.run.result import read_result
from descent.run.run_dirs import job_label


def repeats_of(then: Mapping[str, Any], for_each: str | None, keys: Collection[str]) -> list[list[str]]:
    """Every combination of the values of ``then``, as overrides. ``keys`` are the keys swept in the first round.

    Raises:
        UserError: ``for_each`` is not in ``keys``, or ``then`` cannot be swept.
    """
    if for_each not in keys:
        raise invalid("hydra.sweeper.for_each", "one of the swept keys if hydra.sweeper.then is set", for_each)
    if {"name", for_each} & set(then):
        raise invalid("hydra.sweeper.then", f"keys other than name and {for_each}", [*then])
    try:
        return combinations(as_overrides(then))
    except HydraException as error:
        raise UserError(f"hydra.sweeper.then must be keys with values as in a sweep: {one_line(error)}") from error


def best_of_each(
    for_each: str,
    choose_by: str,
    sweep_dir: Path,
    jobs: Sequence[Sequence[str]],
    then: Collection[str],
    mode: Literal["min", "max"] = "min",
) -> list[tuple[str, ...]]:
    """The setting with the best mean for each value of ``for_each``, as overrides.

    Jobs of one setting differ only in the keys of ``then``. A setting with a job that has not completed is not chosen.

    Raises:
        UserError: ``choose_by`` is not the same quantity in all runs that are compared, or a job has not ended, for
            example because its process was killed.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    found: dict[str, dict[tuple[str, ...], list[float]]] = {}
    for job in jobs:
        setting = tuple(override for override in job if key_of(override) not in then)
        group = next(override for override in job if key_of(override) == for_each)
        result = ended_result(sweep_dir / job_label(job))
        results.setdefault(group, []).append(result)
        value = result["metrics"].get(choose_by) if result["status"] == "completed" else None
        found.setdefault(group, {}).setdefault(setting, []).append(nan if value is None else value)
    choose = max if mode == "max" else min
    best = []
    for group, settings in found.items():
        _check_quantity(choose_by, results[group], group)
        means = {setting: fmean(values) for setting, values in settings.items() if not any(map(isnan, values))}
        if means:
            best.append(choose(means, key=means.__getitem__))
        else:
            print(f"{group} is not repeated: none of its settings completed with {choose_by}")
    return best


def ended_result(run_dir: Path) -> dict[str, Any]:
    """Reads the result of a job that later jobs depend on.

    Raises:
        UserError: the job was interrupted or has no result.
    """
    result = read_result(run_dir) if (run_dir / "result.json").is_file() else {"status": "interrupted"}
    if result["status"] == "interrupted":
        raise UserError(f"{run_dir} was interrupted; run the same command again to resume")
    return result


def _check_quantity(choose_by: str, results: Sequence[Mapping[str, Any]], group: str) -> None:
    kinds = quantities_of(results, choose_by)
    if len(kinds) < 2:
        return
    split = choose_by.partition("/")[0]
    logged = sorted({name for result in results for name in result["metrics"] if name.startswith(f"{split}/")})
    same = [name for name in logged if len(quantities_of(results, name)) < 2]
    cure = f"; {', '.join(same)} {'is' if len(same) == 1 else 'are'} the same in all" if same else ""
    raise UserError(
        f"hydra.sweeper.choose_by must be the same quantity in all runs of {group}, got {choose_by!r}, which is"
        f" {kinds[0]} in some and {', '.join(kinds[1:])} in others{cure}"
    )


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={'null' if value is None else value}" for key, value in values.items()]


def key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def combinations(overrides: Sequence[str], config_loader: ConfigLoader | None = None) -> list[list[str]]:
    """The overrides of each job. If a key is given twice, its last values count.

    Raises:
        HydraException: an override sweeps over a range of numbers, which only a search can do.
    """
    values: dict[str, list[str]] = {}
    for override in OverridesParser.create(config_loader).parse_overrides([*overrides]):
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise HydraException(f"{key} must be a list of values; set hydra.sweeper.space to search a range")
    return [list(job) for job in product(*values.values())]
