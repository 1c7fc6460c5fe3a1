"""Checks the space of a search, and turns it into Optuna's distributions."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from descent.config.types import Boolean, Integer, Number, PositiveInteger, Seed
from descent.config.types import check as check_value
from descent.errors import UserError, as_yaml, invalid

RANGE = (
    "{low: a number, high: a larger one, log: true or false, int: true or false}, with low above 0 if log is true and"
    " whole numbers if int is true, or a list of values"
)


def check_search(arguments: Sequence[str], space: Mapping[str, Any], n_trials: int, seed: int) -> None:
    """Raises an error for a setting that is not allowed."""
    check_value(PositiveInteger, n_trials, "hydra.sweeper.n_trials")
    check_value(Seed, seed, "hydra.sweeper.seed")
    for key, limits in space.items():
        if not _is_range(limits):
            raise invalid(f"hydra.sweeper.space.{key}", RANGE, limits)
    for override in OverridesParser.create().parse_overrides([*arguments]):
        if override.key_or_group in space:
            raise UserError(f"{override.key_or_group} must be either set or in hydra.sweeper.space, got both")
        if override.is_sweep_override():
            raise invalid(
                override.key_or_group, "a single value in a search", str(override.input_line).partition("=")[2]
            )


def _is_range(limits: Any) -> bool:
    if isinstance(limits, Sequence) and not isinstance(limits, str):
        values = [value for value in limits if value is None or isinstance(value, str | bool | int | float)]
        return len(values) == len(limits) == len({repr(value) for value in values}) > 1
    if not isinstance(limits, Mapping) or not {"low", "high"} <= set(limits) <= {"low", "high", "log", "int"}:
        return False
    low, high, log, whole = limits["low"], limits["high"], limits.get("log", False), limits.get("int", False)
    try:
        number = Integer if whole is True else Number
        for kind, value in ((number, low), (number, high), (Boolean, log), (Boolean, whole)):
            check_value(kind, value, "")
    except UserError:
        return False
    return bool(low < high and (low > 0 or not log))


def distribution(limits: Any) -> Any:
    """Optuna's distribution for an entry of ``hydra.sweeper.space``."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(limits, Mapping):
        return CategoricalDistribution([*limits])
    low, high, log = limits["low"], limits["high"], limits.get("log", False)
    return (IntDistribution if limits.get("int", False) else FloatDistribution)(low, high, log=log)


def described(distribution: Any) -> str:
    """What later trials of a study must have in common with earlier ones; the ends of a range may change."""
    if (choices := getattr(distribution, "choices", None)) is not None:
        return as_yaml([*choices])
    kind = "int: true, " if type(distribution).__name__ == "IntDistribution" else ""
    return f"{kind}log: {as_yaml(distribution.log)}"


def text(value: Any, limits: Any) -> str:
    """A value of an entry of ``hydra.sweeper.space`` as in an override; a number from a range has six digits."""
    if isinstance(value, float) and isinstance(limits, Mapping):
        return f"{value:.6g}"
    return _quoted(value) if isinstance(value, str) else as_yaml(value)


def _quoted(value: str) -> str:
    """The string, in quotes if Hydra would read it as something else."""
    with suppress(HydraException):
        if OverridesParser.create().parse_override(f"key={value}").value() == value:
            return value
    return QuotedString(value, Quote.single).with_quotes()
