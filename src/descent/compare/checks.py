"""What a comparison reads of a ``result.json``, and what it must be."""

import json
from collections.abc import Mapping
from typing import Any

from descent.config.rules import SEED, TEXT, Rule, is_integer, or_null
from descent.errors import must

COMPARABLE = ("completed", "diverged")
NOT_COMPARABLE = ("interrupted", "failed")
MOST = 2**63  # of an integer in a table


LARGEST = 1e300  # of a number: means and deviations of larger ones are not finite


def _is_finite(value: Any) -> bool:
    return (is_integer(value) and -MOST < value < MOST) or (isinstance(value, float) and abs(value) < LARGEST)


def _is_number(value: Any) -> bool:
    return is_integer(value) or isinstance(value, float)


FINITE = Rule(f"a number below {LARGEST:g} in size", _is_finite)
FINITE_OR_NULL = or_null(FINITE, "not finite")  # as results are written
COUNT = Rule("an integer, 0 or more", lambda v: is_integer(v) and 0 <= v < MOST)
SIZE = Rule("a positive integer", lambda v: is_integer(v) and 0 < v < MOST)
DURATION = Rule("a number, 0 or more", lambda v: _is_finite(v) and v >= 0)
RATE = or_null(DURATION, "none")
LIST = Rule("a list of such numbers", lambda v: isinstance(v, list) and all(map(FINITE_OR_NULL.accepts, v)))
TABLE = Rule("a list of such lists", lambda v: isinstance(v, list) and all(map(LIST.accepts, v)))
VALUE = Rule(f"below {LARGEST:g} in size, and an integer below 2**63", lambda v: not _is_number(v) or _is_finite(v))

# By path. A key that is missing is null; the batch size alone has a meaning as null.
RULES: dict[str, Rule] = {
    "checksum": Rule("an integer", is_integer),
    "seed": SEED,
    "rows/train": SIZE,
    **dict.fromkeys(("steps", "gradient_evaluations"), COUNT),
    **dict.fromkeys(("epochs", "samples"), or_null(COUNT, "unknown")),
    "seconds": DURATION,
    **dict.fromkeys(("reason", "stopped"), or_null(TEXT, "none")),
    "hparams/batch.size": or_null(SIZE, "all rows"),
    **dict.fromkeys(("hparams/optimizer.lr", "hparams/optimizer.momentum"), RATE),
}
IN_OPTIMUM: dict[str, Rule] = {
    **dict.fromkeys(("optimum/loss", "optimum/bias"), FINITE_OR_NULL),
    **dict.fromkeys(("optimum/condition_number", "optimum/max_stable_lr"), FINITE_OR_NULL),
    "optimum/weight": LIST,
    "optimum/hessian": or_null(TABLE, "not two parameters"),
}
IN_BEST: dict[str, Rule] = {"best/monitor": TEXT, "best/value": FINITE_OR_NULL}
OBJECT = Rule("an object", lambda v: isinstance(v, dict))


def why_not_comparable(result: Any) -> str | None:
    """In words that follow the run's directory; ``None`` if nothing is wrong with ``result``."""
    if isinstance(result, dict) and result.get("status") in NOT_COMPARABLE:
        return str(result["status"])
    found = _broken(result)
    return f"its result.json is broken ({found:.200})" if found else None


def _broken(result: Any) -> str | None:
    """The first rule that is broken, in words."""
    if not isinstance(result, dict):
        return str(must("it", OBJECT.text, result))
    try:
        json.dumps(result, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:  # half a surrogate pair, NaN: no result is written with such
        return str(error)
    if result.get("status") not in COMPARABLE:
        return str(must("status", f"one of {', '.join(COMPARABLE + NOT_COMPARABLE)}", result.get("status")))
    rules = dict.fromkeys(("metrics", "hparams", "rows"), OBJECT)
    rules |= {key: or_null(OBJECT, "none") for key in ("optimum", "best")}
    rules |= RULES
    rules |= IN_OPTIMUM if result.get("optimum") is not None else {}
    rules |= IN_BEST if result.get("best") is not None else {}
    for path, rule in rules.items():
        value = _at(result, path)
        if not rule.accepts(value):
            return str(must(path, rule.text, value))
    if "batch.size" not in result["hparams"]:
        return "hparams/batch.size is missing"
    for name, rule in (("metrics", FINITE_OR_NULL), ("hparams", VALUE)):
        for key, value in result[name].items():
            if not rule.accepts(value):
                return str(must(f"{name}/{key}", rule.text, value))
    return None


def _at(result: Mapping[str, Any], path: str) -> Any:
    """``None`` where there is nothing."""
    node: Any = result
    for part in path.split("/"):
        node = node.get(part) if isinstance(node, dict) else None
    return node
