"""Gets the example's model and data from a Trainer, or raises an error if it has others."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from descent.errors import UserError
from regression.base import RegressionModel
from regression.data.module import RegressionData
from regression.model import LinearRegression
from regression.optimum import Optimum

CURE = "; callbacks=none works with others, and in the defaults of conf/train.yaml it is for every run"


def model_of(pl_module: LightningModule) -> RegressionModel:
    """The example's model; raises an error if it is another."""
    if not isinstance(pl_module, RegressionModel):
        raise UserError(f"callbacks=regression needs a RegressionModel, got {type(pl_module).__name__}{CURE}")
    return pl_module


def linear_of(pl_module: LightningModule) -> LinearRegression | None:
    """The model if it is linear in its parameters, else ``None``."""
    model = model_of(pl_module)
    return model if isinstance(model, LinearRegression) else None


def data_of(trainer: Trainer) -> RegressionData:
    """The example's data; raises an error if they are others."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set in Trainer's connector
    if not isinstance(data, RegressionData):
        raise UserError(f"callbacks=regression needs RegressionData, got {type(data).__name__}{CURE}")
    return data


def least_squares_of(trainer: Trainer, pl_module: LightningModule) -> tuple[Tensor, Optimum] | None:
    """See ``RegressionData.least_squares``; ``None`` if that is not the optimum of the model's loss."""
    model, data = linear_of(pl_module), data_of(trainer)
    return data.least_squares(model.degree) if model and model.hparams["loss"] == "mse" else None
