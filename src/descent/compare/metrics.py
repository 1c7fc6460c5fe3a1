"""Which metric is reported and which one chooses, and which of their values are best."""

from collections.abc import Collection, Mapping, Sequence

from descent.config.metric import Metric, without_split
from descent.errors import UserError, invalid


def modes_of(monitors: Mapping[Metric, object], metric: str, mode: str, modes: Mapping[str, str]) -> dict[str, str]:
    """What is best, ``min`` or ``max``, by name without split: as the user, the runs' monitor or the project says.

    Args:
        monitors: of the runs, and a run that has it.

    Raises:
        UserError: the runs' monitors differ, and the user does not say what decides.
    """
    first = next(iter(monitors))
    if len(monitors) == 1:
        modes = {**modes, without_split(first.name): first.mode}
    elif not (metric and mode):
        shown = ", ".join(f"{monitor.name} ({monitor.mode}) in {run}" for monitor, run in monitors.items())
        raise UserError(f"--metric and --mode must be given, or the directories of runs with one monitor: {shown}")
    return {**modes, **({without_split(metric or first.name): mode} if mode else {})}


def directed(name: str, modes: Mapping[str, str]) -> Metric:
    """A metric with what is best of it.

    Raises:
        UserError: nobody says it.
    """
    if without_split(name) in modes:
        return Metric(name, modes[without_split(name)])
    known = ", ".join(f"{other} ({mode})" for other, mode in modes.items())
    raise UserError(f"--metric {name} must come with --mode min or --mode max: what is best is known of {known} only")


def first_logged(names: Sequence[str], logged: Collection[str], modes: Mapping[str, str]) -> Metric:
    """The first of ``names`` that there is.

    Raises:
        UserError: there is none, or nobody says what is best of it.
    """
    for name in names:
        if name in logged:
            return directed(name, modes)
    raise invalid("--metric", f"one of {', '.join(logged)}", names[0])
