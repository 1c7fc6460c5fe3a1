"""What a config value may be: each rule is a test and the words that an error message uses for it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """Values for which ``accepts`` is true; ``text`` completes the sentence "<key> must be ..."."""

    text: str
    accepts: Callable[[Any], bool]


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """True for finite numbers of a size that single precision has: others are never a sensible setting."""
    return (is_integer(value) or isinstance(value, float)) and abs(value) < 1e30  # false for nan


def is_row(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(is_number, value))


BOOLEAN = Rule("true or false", lambda v: isinstance(v, bool))
TEXT = Rule("a text", lambda v: isinstance(v, str) and v.strip() != "")
NUMBER = Rule("a number below 1e30 in size", is_number)
POSITIVE = Rule("a number greater than 0 and below 1e30", lambda v: is_number(v) and v > 0)
NOT_NEGATIVE = Rule("a number from 0 up to 1e30", lambda v: is_number(v) and v >= 0)
AT_LEAST_ONE = Rule("a number from 1 up to 1e30", lambda v: is_number(v) and v >= 1)
BELOW_ONE = Rule("a number from 0 up to, not including, 1", lambda v: is_number(v) and 0 <= v < 1)
FRACTION = Rule("a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1)
POSITIVE_INTEGER = Rule("a positive integer", lambda v: is_integer(v) and 0 < v < 2**31)
INTEGER_FROM_0 = Rule("an integer, 0 or more", lambda v: is_integer(v) and 0 <= v < 2**31)
SEED = Rule("an integer from 0 to 4294967295", lambda v: is_integer(v) and 0 <= v < 2**32)
NAME = Rule(
    "letters, digits, '.', '_', '=' and '-', beginning with a letter or digit, at most 100",
    lambda v: isinstance(v, str) and re.fullmatch(r"[^\W_][\w.=-]*", v) is not None and len(v.encode()) <= 100,
)
ROWS = Rule(
    "a list of rows, each a list of numbers, all of one length",
    lambda v: isinstance(v, list) and all(map(is_row, v)) and len({len(row) for row in v}) <= 1,
)
SOME_ROWS = Rule(f"{ROWS.text}, at least one", lambda v: ROWS.accepts(v) and len(v) > 0)
SOME_NUMBERS = Rule("a list of numbers, at least one", is_row)
TEXTS = Rule(
    "a list of different texts, at least one",
    lambda v: isinstance(v, list) and len(v) > 0 and all(map(TEXT.accepts, v)) and len(set(v)) == len(v),
)


def one_of(*values: Any) -> Rule:
    return Rule(f"one of {', '.join(map(str, values))}", lambda v: any(v == w and type(v) is type(w) for w in values))


def pair(rule: Rule) -> Rule:
    return Rule(
        f"two values, each {rule.text}",
        lambda v: isinstance(v, list) and len(v) == 2 and all(map(rule.accepts, v)),
    )


def or_null(rule: Rule, meaning: str) -> Rule:
    """``rule``, or ``null``, which has the given meaning."""
    return Rule(f"{rule.text} or null ({meaning})", lambda v: v is None or rule.accepts(v))


MONITOR = one_of("train/loss", "val/loss", "val/mae", "val/r2")


def better(monitor: str) -> str:
    """``max`` or ``min``: which values of ``monitor`` are better."""
    return "max" if monitor.endswith("r2") else "min"
