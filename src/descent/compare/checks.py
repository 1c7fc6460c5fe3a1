"""Checks the parts of ``result.json`` that a comparison reads."""

import json
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
)

from descent.config.types import OrNull, Rule, Seed, Text
from descent.errors import validation_error
from descent.run.result import Status

NOT_COMPARABLE = ("interrupted", "failed")
MOST = 2**63  # limit of an integer in a table
LARGEST = 1e300  # limit of a number: means and deviations of larger ones are not finite


def _check_number(value: Any) -> Any:
    """Rejects numbers that are too large. Other types pass."""
    limit = {int: MOST, float: LARGEST}.get(type(value))
    if limit and not -limit < value < limit:  # false for nan
        raise ValueError
    return value


_Integer = Annotated[int, Strict(), Lt(MOST)]
_Number = Annotated[_Integer | Annotated[float, Strict()], AfterValidator(_check_number)]

Finite = Annotated[_Number, Rule(f"a number below {LARGEST:g} in absolute value")]
FiniteOrNull = Annotated[Finite | None, OrNull("not finite")]  # results store non-finite values as null
Count = Annotated[_Integer, Ge(0), Rule("an integer, 0 or more")]
Size = Annotated[_Integer, Gt(0), Rule("a positive integer")]
NotNegative = Annotated[_Number, Ge(0), Rule("a number, 0 or more")]
Value = Annotated[
    Any,
    AfterValidator(_check_number),
    Rule(f"a number below {LARGEST:g}, or an integer below 2**63, in absolute value"),
]


class Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class Best(Part):
    metric: Text = Field(validation_alias=AliasChoices("metric", "monitor"))  # its old name
    value: FiniteOrNull = None


class Monitor(Part):
    metric: Text
    mode: Literal["min", "max"]


class Hparams(Part):
    __pydantic_extra__: dict[str, Value]
    batch_size: Annotated[Size | None, OrNull("all rows")] = Field(None, alias="batch.size")
    lr: Annotated[NotNegative | None, OrNull("none")] = Field(None, alias="optimizer.lr")


class Comparable(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    status: Status
    reason: str | None
    stopped: str | None
    checksum: int | None
    metrics: dict[str, FiniteOrNull]
    hparams: Hparams
    seed: Seed
    steps: Count
    gradient_evaluations: Count
    epochs: Count
    samples: Count
    seconds: NotNegative
    best: Best | None = None
    monitor: Monitor | None = None
    code: dict[str, str] = {}


def why_not_comparable(result: dict[str, Any]) -> str | None:
    """A reason that is printed after the run's directory; ``None`` if ``result`` can be compared."""
    if result.get("status") in NOT_COMPARABLE:
        return str(result["status"])
    hparams = result.get("hparams")
    for key in ("debug", "trainer.fast_dev_run"):
        if isinstance(hparams, dict) and hparams.get(key):
            return f"{key}={hparams[key]}"
    try:
        json.dumps(result, ensure_ascii=False, allow_nan=False).encode()
        Comparable.model_validate(result)
    except ValidationError as error:
        return broken(str(validation_error(error, separator="/")))
    except (ValueError, RecursionError) as error:  # half a surrogate pair or NaN, which the project never writes
        return broken(str(error))
    return None


def broken(why: str) -> str:
    return f"its result.json is broken ({why:.200})"
