"""What others read of a ``result.json``, and what it must be."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from descent.errors import UserError, validation_error
from descent.run.result import Status


class Written(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    status: Status
    metrics: dict[str, Any]
    hparams: dict[str, Any]
    steps: int
    epochs: int
    samples: int
    gradient_evaluations: int
    seconds: float
    reason: str | None
    stopped: str | None
    best: dict[str, Any] | None
    seed: int | None
    checksum: int | None


def check(found: Any, path: Path) -> None:
    """Raises an error where what was found in a file is not what a run writes."""
    try:
        Written.model_validate(found)
    except ValidationError as error:
        raise UserError(f"{path} must be the result of a run; {validation_error(error)}") from error
