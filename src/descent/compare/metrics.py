"""Determines the metrics of a comparison, and whether their smallest or largest values are best."""

from collections.abc import Collection, Mapping, Sequence

from descent.config.metric import Metric, without_split
from descent.errors import UserError, invalid


def modes_of(monitors: Mapping[Metric, object], metric: str, mode: str, modes: Mapping[str, str]) -> dict[str, str]:
    """The mode, ``min`` or ``max``, of each metric by name without split: set by the user, the monitor or the project.

    Args:
        monitors: of the runs, each with a run that has it.

    Raises:
        UserError: the runs' monitors differ, and ``metric`` and ``mode`` are not both given.
    """
    first = next(iter(monitors))
    if len(monitors) == 1:
        modes = {**modes, without_split(first.name): first.mode}
    elif not (metric and mode):
        shown = ", ".join(f"{monitor.name} ({monitor.mode}) in {run}" for monitor, run in monitors.items())
        raise UserError(f"--metric and --mode must be given, because the monitors of the runs differ: {shown}")
    return {**modes, **({without_split(metric or first.name): mode} if mode else {})}


def directed(name: str, modes: Mapping[str, str]) -> Metric:
    """The metric ``name`` with its mode.

    Raises:
        UserError: its mode is not known.
    """
    if without_split(name) in modes:
        return Metric(name, modes[without_split(name)])
    known = ", ".join(f"{other} ({mode})" for other, mode in modes.items())
    raise UserError(f"--metric {name} must come with --mode min or --mode max; the mode is only known for {known}")


def first_logged(names: Sequence[str], logged: Collection[str], modes: Mapping[str, str]) -> Metric:
    """The first of ``names`` that was logged, with its mode.

    Raises:
        UserError: none was logged, or its mode is not known.
    """
    for name in names:
        if name in logged:
            return directed(name, modes)
    raise invalid("--metric", f"one of {', '.join(logged)}", names[0])
