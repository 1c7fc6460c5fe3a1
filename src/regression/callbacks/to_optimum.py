"""Logs the distance to the least-squares solution, and reports that solution."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from math import hypot
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from rich.console import RenderableType

from descent.run.console import cell
from descent.training.callback import ResultCallback
from descent.training.step_metrics import StepMetrics, flat
from regression.callbacks.getters import data_of, least_squares_of, linear_of
from regression.optimum import excess_loss, to_nearest
from regression.terms import powers

log = logging.getLogger(__name__)


class ToOptimum(StepMetrics, ResultCallback):
    """Logs ``optimum/excess_loss`` and ``optimum/distance``, both in the data's own units.

    - The excess loss is the loss over all training rows minus the smallest possible loss.
    - The distance is the Euclidean distance of weights and bias from the least-squares solution, from the nearest one
      if there are several.

    Both need only the R of the data's QR decomposition, so a point costs the same for any number of rows. A model
    that is not linear in its parameters, or has another loss than the mean squared error, logs neither.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if found := least_squares_of(trainer, pl_module):
            _, optimum = found
            if not optimum.unique:
                log.warning(
                    "note: the least-squares solution is not unique: the reported one is the nearest to 0 in the units"
                    " of training, and optimum/distance is the distance to the nearest of all solutions"
                )
            if optimum.lower_by > 1e-6 * optimum.loss:
                log.warning(
                    "note: the least-squares problem is ill-conditioned: singular values below 1e-10 of the largest"
                    " count as 0; in their directions the loss falls at least %.3g below the one reported",
                    optimum.lower_by * data_of(trainer).standardization.y_scale ** 2,
                )
        super().on_train_start(trainer, pl_module)

    def points(self, trainer: Trainer, pl_module: LightningModule, loss: float | None) -> dict[str, float]:
        model, data, found = linear_of(pl_module), data_of(trainer), least_squares_of(trainer, pl_module)
        if model is None or found is None:
            return {}
        r, optimum = found
        least = [*optimum.weight, *([] if optimum.bias is None else [optimum.bias])]
        difference = flat(model.linear.parameters()) - torch.tensor(least, dtype=torch.float64)
        values = (difference if optimum.unique else to_nearest(r, difference)).tolist()
        of_weight, of_bias = (values, None) if optimum.bias is None else (values[:-1], values[-1])
        weight, bias = model.units.own_difference(of_weight, of_bias)
        return {
            "optimum/excess_loss": excess_loss(r, len(data.train), difference) * model.loss_unit,
            "optimum/distance": hypot(*weight, bias or 0.0),
        }

    def result(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {"optimum": _optimum(trainer, pl_module), "metrics": self.points(trainer, pl_module, None)}

    def tables(self, result: Mapping[str, Any]) -> Iterable[RenderableType]:
        if result["optimum"] is not None:
            yield f"least-squares loss: {cell(result['optimum']['loss'])}"


def _optimum(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any] | None:
    """The least-squares solution in the data's own units; curvature and learning rates in those of training."""
    model, data, solved = linear_of(pl_module), data_of(trainer), least_squares_of(trainer, pl_module)
    if model is None or solved is None:
        return None
    found = solved[1]
    weight, bias = model.units.own_units(found.weight, found.bias)
    own: dict[str, Any] = {key: getattr(found, key) * model.loss_unit for key in ("loss", "lower_by")}
    own |= {"weight": weight, "bias": bias}
    if len(weight) + (bias is not None) == 2:  # for the contours of the loss
        hessian = torch.zeros(2, 2, dtype=torch.float64)
        for part in data.train.blocks():
            a = powers(torch.from_numpy(data.standardization.own_inputs(part.x)), model.degree)
            if bias is not None:
                a = torch.cat([a, a.new_ones(len(a), 1)], dim=1)
            hessian += 2 * a.T @ a / len(data.train)
        own["hessian"] = hessian.tolist()
    return asdict(found) | own
