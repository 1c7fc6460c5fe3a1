"""The example's model and data, of a Trainer that may have others."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from descent.errors import UserError
from regression.data.module import RegressionData
from regression.model import LinearRegression

CURE = "; with others choose callbacks=none, for good in the defaults of conf/train.yaml"


def model_of(pl_module: LightningModule) -> LinearRegression:
    """Raises an error where it is another model."""
    if not isinstance(pl_module, LinearRegression):
        raise UserError(f"callbacks=regression needs a LinearRegression, got a {type(pl_module).__name__}{CURE}")
    return pl_module


def data_of(trainer: Trainer) -> RegressionData:
    """Raises an error where they are other data."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set in Trainer's connector
    if not isinstance(data, RegressionData):
        raise UserError(f"callbacks=regression needs RegressionData, got {type(data).__name__}{CURE}")
    return data
