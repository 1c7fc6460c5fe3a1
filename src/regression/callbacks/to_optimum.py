"""How far training still is from the exact answer."""

from math import hypot

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from descent.training.points import Points, flat
from descent.training.spacing import Spacing
from regression.model import LinearRegression
from regression.optimum import Optimum, excess_loss


class ToOptimum(Points):
    """Writes ``optimum/excess_loss`` and ``optimum/distance``, both in the data's own units.

    The first is how far the loss of all training rows is above the smallest possible, the second the Euclidean
    distance of weights and bias from the least-squares solution. Neither looks at the data again: the triangle of
    their QR decomposition is enough, so a point costs the same for any number of rows.

    Args:
        spacing: where the points are.
        triangle: of the training rows, see ``regression.optimum.triangle``.
        rows: how many those are.
        optimum: of the training rows, in the units of training.
    """

    def __init__(self, spacing: Spacing, triangle: Tensor, rows: int, optimum: Optimum) -> None:
        super().__init__(spacing)
        self.triangle, self.rows = triangle, rows
        bias = [] if optimum.bias is None else [optimum.bias]
        self.target = torch.tensor([*optimum.weight, *bias], dtype=torch.float64)

    def points(self, trainer: Trainer, model: LinearRegression, loss: float | None) -> dict[str, float]:
        difference = flat(model.linear.parameters()) - self.target
        values = difference.tolist()
        split = (values[:-1], values[-1]) if model.hparams["bias"] else (values, None)
        weight, bias = model.units.own_difference(*split)
        return {
            "optimum/excess_loss": excess_loss(self.triangle, self.rows, difference) * model.units.loss_unit,
            "optimum/distance": hypot(*weight, bias or 0.0),
        }
