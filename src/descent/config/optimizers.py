"""Checks optimizers and schedulers: a ``_target_``, its keyword arguments, and how Lightning uses it."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from descent.config.source import SUPPLIED
from descent.config.targets import check_target
from descent.config.types import Boolean, OrNull, PositiveInteger, Text, check

# Keys besides the arguments of the class. A scheduler's are those of Lightning's lr_scheduler config.
USES: dict[str, dict[str, Any]] = {
    "optimizer": {"full_batch_only": Boolean},  # true: it compares successive gradients of the same loss
    "scheduler": {
        "interval": Literal["epoch", "step"],
        "frequency": PositiveInteger,
        "monitor": Annotated[Text | None, OrNull("none is needed")],
    },
}

# Scheduler arguments that may be null in a config. null means the length of the run.
RUN_LENGTH_ARGUMENTS = ("T_max", "total_steps", "total_iters")


def check_spec(
    spec: Mapping[str, Any], group: str, packages: Sequence[str], choice: str | None = None
) -> dict[str, Any]:
    """Checks an optimizer or a scheduler without importing its class.

    Args:
        spec: ``_target_``, the class's keyword arguments, and the keys of ``USES``.
        group: ``optimizer`` or ``scheduler``; begins each key in a message.
        packages, choice: see ``descent.config.targets.check_target``, also for what is returned and raised.
    """
    own = arguments(spec, group)
    for_the_run = {key: own[key] for key in RUN_LENGTH_ARGUMENTS if group == "scheduler" and own.get(key, 0) is None}
    checked = check_target(
        {"_target_": spec.get("_target_"), **own, **dict.fromkeys(for_the_run, 1)},
        group,
        packages,
        SUPPLIED[group],
        choice,
    )
    for key, kind in USES[group].items():
        if key in spec:
            check(kind, spec[key], f"{group}.{key}")
    return {**spec, **checked, **for_the_run}


def unfilled(spec: Mapping[str, Any]) -> list[str]:
    """The arguments of a scheduler, or of its parts, that get the length of the run."""
    nodes = [spec, *(spec.get("schedulers") or [])]
    return [key for node in nodes for key in RUN_LENGTH_ARGUMENTS if node.get(key, 0) is None]


def arguments(spec: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Only the keyword arguments of the class."""
    return {k: v for k, v in spec.items() if k != "_target_" and k not in USES[group]}
