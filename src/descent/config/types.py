"""Types of config values, for the schema and for annotations in your own classes.

Each has the words that complete "<key> must be ..." in an error message. ``Annotated[..., Rule("words")]`` gives words
to your own type.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Len, Lt, Predicate
from pydantic import (
    AfterValidator,
    AllowInfNan,
    GetCoreSchemaHandler,
    Strict,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WrapValidator,
)
from pydantic_core import CoreSchema, core_schema

from descent.errors import validation_error


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words; they replace every message of pydantic about it."""

    text: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.custom_error_schema(
            handler(source), custom_error_type="rule", custom_error_message=self.text
        )


@dataclass(frozen=True)
class OrNull:
    """Adds the meaning of ``null`` to the words of ``T | None``."""

    meaning: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler(source)
        inner = schema["schema"]
        text = inner.get("custom_error_message") or f"one of {', '.join(inner['expected'])}"
        text = f"{text} or null ({self.meaning})"
        return core_schema.custom_error_schema(schema, custom_error_type="rule", custom_error_message=text)


def check(kind: Any, value: Any, key: str, cwd: Path | None = None) -> Any:
    """Validates ``value`` as the type ``kind`` and returns it. Relative paths start at ``cwd``.

    Raises:
        UserError: ``key`` must be what the type's words say.
    """
    try:
        return TypeAdapter(kind).validate_python(value, context={"cwd": cwd})
    except ValidationError as error:
        raise validation_error(error, key) from error


is_file = os.path.isfile  # pathlib's raises an error for a name that is too long or has a null byte


def _as_given(value: Any, check: Any) -> Any:
    check(value)
    return value


def _absolute(value: str, info: ValidationInfo) -> str:
    start = (info.context or {}).get("cwd") or Path.cwd()
    return str(start / os.path.expanduser(value))  # noqa: PTH111  # pathlib reads ./~ as ~


# Finite numbers in the range of single precision; others are never sensible settings. An int stays an int.
_Float = Annotated[float, Strict(), AllowInfNan(False), Gt(-1e30), Lt(1e30), WrapValidator(_as_given)]
_Integer = Annotated[int, Strict()]

Boolean = Annotated[bool, Strict(), Rule("true or false")]
Integer = Annotated[_Integer, Rule("an integer")]
PositiveInteger = Annotated[_Integer, Gt(0), Lt(2**31), Rule("a positive integer")]
Seed = Annotated[_Integer, Ge(0), Lt(2**32), Rule("an integer from 0 to 4294967295")]
Number = Annotated[_Float, Rule("a number between -1e30 and 1e30")]
Positive = Annotated[_Float, Gt(0), Rule("a number greater than 0 and below 1e30")]
NotNegative = Annotated[_Float, Ge(0), Rule("a number from 0 up to 1e30")]
AtLeastOne = Annotated[_Float, Ge(1), Rule("a number from 1 up to 1e30")]
BelowOne = Annotated[_Float, Ge(0), Lt(1), Rule("a number from 0 up to, not including, 1")]
Fraction = Annotated[_Float, Ge(0), Le(1), Rule("a number from 0 to 1")]
Text = Annotated[str, Strict(), StringConstraints(pattern=r"\S"), Rule("a string")]
AnyText = Annotated[str, Strict(), Rule("a string")]
Texts = Annotated[
    list[Text],
    Len(1),
    Predicate(lambda texts: len(set(texts)) == len(texts)),
    Rule("a list of one or more different strings, such as [a,b]"),
]
Row = Annotated[list[Number], Len(1), Rule("a list of numbers, at least one")]
Rows = Annotated[
    list[Row],
    Predicate(lambda rows: len({len(row) for row in rows}) <= 1),
    Rule("a list of rows, each a list of numbers, all of one length"),
]
SomeRows = Annotated[Rows, Len(1), Rule("a list of at least one row, each a list of numbers, all of one length")]
Name = Annotated[
    str,
    Strict(),
    StringConstraints(pattern=re.compile(r"^[^\W_][\w.=-]*\Z")),
    Predicate(lambda name: len(name.encode()) <= 100),
    Rule("letters, digits, '.', '_', '=' and '-', beginning with a letter or digit, at most 100 bytes"),
]
# Relative paths start in the directory that the run is started from; "~" is the home directory.
AbsolutePath = Annotated[str, Strict(), AfterValidator(_absolute), Rule("a path")]
ExistingFile = Annotated[str, Strict(), AfterValidator(_absolute), Predicate(is_file), Rule("a file")]
Keys = Annotated[dict[str, Any], Rule("a group of keys")]
