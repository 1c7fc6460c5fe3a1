"""Optimizers and schedulers in a config: a ``_target_`` and the keyword arguments that its class takes.

A new one needs no line here: its keys are held against the class's own signature. The ranges below are
those that torch's optimizers share; torch itself checks the rest.
"""

import re
from collections.abc import Mapping
from typing import Any

from descent.config.rules import (
    BELOW_ONE,
    BOOLEAN,
    INTEGER_FROM_0,
    MONITOR,
    NOT_NEGATIVE,
    NUMBER,
    POSITIVE,
    POSITIVE_INTEGER,
    Rule,
    one_of,
    or_null,
    pair,
)
from descent.config.signature import signature_of
from descent.errors import UserError, must

# The only packages that a _target_ may name. Add your own package here.
ALLOWED_PACKAGES = ("torch.optim", "descent")

# Keys that are not the class's own but say how Lightning or this project uses it.
OWN_KEYS: dict[str, dict[str, Rule]] = {
    "optimizer": {"full_batch_only": BOOLEAN},
    "scheduler": {
        "interval": one_of("epoch", "step"),
        "frequency": POSITIVE_INTEGER,
        "monitor": or_null(MONITOR, "none is needed"),
    },
}

# Scheduler arguments that may be null in a config, which then means: as long as the run.
RUN_LENGTH_ARGUMENTS = ("T_max", "total_steps", "total_iters")

RANGES: dict[str, Rule] = {
    "lr": POSITIVE,
    "momentum": NOT_NEGATIVE,
    "dampening": NUMBER,
    "weight_decay": NOT_NEGATIVE,
    "nesterov": BOOLEAN,
    "amsgrad": BOOLEAN,
    "centered": BOOLEAN,
    "maximize": BOOLEAN,
    "betas": pair(BELOW_ONE),
    "alpha": BELOW_ONE,
    "rho": BELOW_ONE,
    "eps": NOT_NEGATIVE,
    "lr_decay": NOT_NEGATIVE,
    "initial_accumulator_value": NOT_NEGATIVE,
    "momentum_decay": NOT_NEGATIVE,
    "lambd": NOT_NEGATIVE,
    "t0": NOT_NEGATIVE,
    "etas": pair(POSITIVE),
    "step_sizes": Rule("two rising positive numbers", lambda v: pair(POSITIVE).accepts(v) and v[0] < v[1]),
    "max_iter": POSITIVE_INTEGER,
    "max_eval": or_null(POSITIVE_INTEGER, "5/4 of max_iter"),
    "history_size": POSITIVE_INTEGER,
    "tolerance_grad": NOT_NEGATIVE,
    "tolerance_change": NOT_NEGATIVE,
    "line_search_fn": or_null(one_of("strong_wolfe"), "a fixed step"),
    "step_size": POSITIVE_INTEGER,
    "gamma": POSITIVE,
    "milestones": Rule(
        "a rising list of positive integers",
        lambda v: isinstance(v, list) and len(v) > 0 and all(map(POSITIVE_INTEGER.accepts, v)) and sorted(v) == v,
    ),
    "T_max": or_null(POSITIVE_INTEGER, "the run"),
    "total_steps": or_null(POSITIVE_INTEGER, "the run"),
    "total_iters": or_null(POSITIVE_INTEGER, "the run"),
    "max_lr": POSITIVE,
    "start_factor": POSITIVE,
    "end_factor": NOT_NEGATIVE,
    "factor": BELOW_ONE,
    "patience": INTEGER_FROM_0,
    "cooldown": INTEGER_FROM_0,
    "eta_min": NOT_NEGATIVE,
    "div_factor": POSITIVE,
    "final_div_factor": POSITIVE,
    "last_epoch": Rule("-1: resuming a run sets it", lambda v: v == -1),
    "foreach": or_null(BOOLEAN, "torch decides"),
    "fused": or_null(BOOLEAN, "torch decides"),
    "capturable": BOOLEAN,
    "decoupled_weight_decay": BOOLEAN,
    "differentiable": Rule("false: no gradient flows through the steps", lambda v: v is False),
}


def check_spec(spec: Mapping[str, Any], group: str, choice: str | None = None) -> None:
    """Checks an optimizer or a scheduler without importing its class.

    Args:
        spec: ``_target_``, the class's keyword arguments, and the ``OWN_KEYS`` of the group.
        group: ``optimizer`` or ``scheduler``; begins each key in a message.
        choice: the option that was chosen, for messages.

    Raises:
        UserError: a class that is not allowed or not there, an unknown or missing key, a value out of range.
    """
    target = spec.get("_target_")
    names = [re.escape(package) for package in ALLOWED_PACKAGES]
    if not isinstance(target, str) or not re.fullmatch(rf"({'|'.join(names)})(\.\w+)+", target):
        raise must(f"{group}._target_", f"a class in {' or '.join(ALLOWED_PACKAGES)}", target)
    try:
        signature = signature_of(target)
    except LookupError:
        raise must(f"{group}._target_", "a class that exists", target) from None
    own = OWN_KEYS[group]
    for name, value in spec.items():
        if name == "_target_":
            continue
        where = f"{group}.{name}"
        if name not in own and signature is not None and name not in signature.arguments:
            raise UserError(f"{where} is not a key: {group}={choice or target} takes {', '.join(signature.arguments)}")
        rule = own.get(name) or RANGES.get(name)
        if rule is not None and not rule.accepts(value):
            raise must(where, rule.text, value)
    required = signature.required if signature else ()
    for name in (*required, *(own if group == "scheduler" else ())):
        if name not in spec:
            raise UserError(f"{group}.{name} is missing: {group}={choice or target} needs it")


def arguments(spec: Mapping[str, Any], group: str) -> dict[str, Any]:
    """The keyword arguments of the class alone."""
    return {k: v for k, v in spec.items() if k != "_target_" and k not in OWN_KEYS[group]}
