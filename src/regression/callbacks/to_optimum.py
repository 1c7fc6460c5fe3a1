"""How far training still is from the exact answer, and what that is."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from math import hypot
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from rich.console import RenderableType

from descent.run.console import cell
from descent.training.callback import ResultCallback
from descent.training.step_metrics import StepMetrics, flat
from regression.callbacks.of import data_of, model_of
from regression.data.module import RegressionData
from regression.optimum import excess_loss

log = logging.getLogger(__name__)


class ToOptimum(StepMetrics, ResultCallback):
    """Writes ``optimum/excess_loss`` and ``optimum/distance``, both in the data's own units.

    The first is how far the loss of all training rows is above the smallest possible, the second the Euclidean
    distance of weights and bias from the least-squares solution. Neither looks at the data again: the R of
    their QR decomposition is enough, so a point costs the same for any number of rows.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        optimum = data_of(trainer).optimum
        if optimum is not None and not optimum.unique:
            log.warning(
                "note: the least-squares solution is not unique; the one nearest to 0 in the units of training is"
                " reported"
            )
        super().on_train_start(trainer, pl_module)

    def points(self, trainer: Trainer, pl_module: LightningModule, loss: float | None) -> dict[str, float]:
        model, data = model_of(pl_module), data_of(trainer)
        optimum = data.optimum
        if optimum is None or data.r_factor is None:
            return {}
        least = [*optimum.weight, *([] if optimum.bias is None else [optimum.bias])]
        difference = flat(model.linear.parameters()) - torch.tensor(least, dtype=torch.float64)
        values = difference.tolist()
        of_weight, of_bias = (values, None) if optimum.bias is None else (values[:-1], values[-1])
        weight, bias = model.units.own_difference(of_weight, of_bias)
        return {
            "optimum/excess_loss": excess_loss(data.r_factor, len(data.train), difference) * model.units.loss_unit,
            "optimum/distance": hypot(*weight, bias or 0.0),
        }

    def result(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {"optimum": _optimum(data_of(trainer)), "metrics": self.points(trainer, pl_module, None)}

    def tables(self, result: Mapping[str, Any]) -> Iterable[RenderableType]:
        if result["optimum"] is not None:
            yield f"loss at least squares: {cell(result['optimum']['loss'])}"


def _optimum(data: RegressionData) -> dict[str, Any] | None:
    """The least-squares solution in the data's own units; curvature and learning rates in those of training."""
    found = data.optimum
    if found is None:
        return None
    weight, bias = data.standardization.own_units(found.weight, found.bias)
    own: dict[str, Any] = {"loss": found.loss * data.standardization.loss_unit, "weight": weight, "bias": bias}
    if len(weight) + (bias is not None) == 2:  # for the contours of the loss
        inputs = data.standardization.own_inputs(data.train.x)
        a = inputs if bias is None else np.column_stack([inputs, np.ones(len(inputs))])
        own["hessian"] = (2 * a.T @ a / len(a)).tolist()
    return asdict(found) | own
