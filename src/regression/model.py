"""Defines the models: linear regression, polynomials and a multilayer perceptron."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from torch import Tensor, nn

from descent.config.types import Number, OrNull, PositiveInteger
from descent.errors import UserError, invalid
from regression.base import RegressionModel
from regression.data.rows import LARGEST
from regression.terms import names_of_powers, powers

Initial = Annotated[Number | None, OrNull("torch's default initialisation")]


class LinearRegression(RegressionModel):
    """``y = w x + b``.

    Args:
        optimizer: see ``RegressionModel``, as for all arguments that are not listed here.
        init_weight: the initial value of every weight; ``None``: torch's default, which is random.
        init_bias: the initial value of b; ``None``: likewise.

    Attributes:
        degree: the highest power of each feature; every power has its own weight. 1: the features themselves.
    """

    def __init__(
        self, optimizer: dict[str, Any], init_weight: Initial = None, init_bias: Initial = None, **common: Any
    ) -> None:
        if not common.get("bias", True) and init_bias is not None:
            raise invalid("model.init_bias", "null when model.bias is false", init_bias)
        super().__init__(optimizer=optimizer, **common)

    def make_layers(self, num_features: int) -> None:
        given = self.hparams
        self.degree: int = given.get("degree", 1)
        self.linear = nn.Linear(num_features * self.degree, 1, bias=given["bias"])
        if given["init_weight"] is not None:
            nn.init.constant_(self.linear.weight, given["init_weight"])
        if given["init_bias"] is not None:
            nn.init.constant_(self.linear.bias, given["init_bias"])

    def forward(self, x: Tensor) -> Tensor:
        """Predictions (batch,) for inputs (batch, d), both in training units."""
        prediction: Tensor = self.linear(powers(x, self.degree)).squeeze(-1)
        return prediction

    def own_units(self) -> tuple[list[float], float | None]:
        """The weights ``[w_1, ..., w_d]`` and the bias, or ``None``, in the data's own units.

        With powers: the weights of all powers of the first feature, then of the second, and so on.
        """
        weight: list[float] = self.linear.weight.detach()[0].tolist()
        bias = self.linear.bias.item() if self.hparams["bias"] else None
        return self.units.own_units(weight, bias)


class Polynomial(LinearRegression):
    """``y = b + sum_jk w_jk x_j^k`` over the features j and k = 1 .. degree, without products of features.

    The model is linear in its parameters, so its least-squares optimum, curvature and stable learning rates are known.
    Training uses powers of the standardised features; ``own_units`` gives weights for powers of the original features.

    Args:
        degree: the highest power.

    Raises:
        UserError: when training starts: a power is above ``LARGEST``, or a column has the name of another's power.
    """

    def __init__(self, optimizer: dict[str, Any], degree: PositiveInteger = 2, **common: Any) -> None:
        super().__init__(optimizer=optimizer, **common)

    def configure_model(self) -> None:
        if not hasattr(self, "linear"):
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # set in Trainer's connector
            degree, names = self.hparams["degree"], data.rows.feature_names
            largest = max(part.largest_input() for part in (data.train, data.val, data.test) if len(part))
            if largest > 1 and degree * np.log(largest) > np.log(LARGEST):
                rule = (
                    f"such that powers of features up to {largest:.4g} (data.standardize=true makes them smaller) are"
                )
                raise invalid("model.degree", f"{rule} at most {LARGEST:g}", degree)
            terms = names_of_powers(names, degree)
            if twice := sorted({name for name in names if terms.count(name) > 1}):
                raise UserError(f"column {twice[0]} must be renamed: a power of another column has this name")
        super().configure_model()


class MLP(RegressionModel):
    """A multilayer perceptron: linear layers with an activation between them.

    Args:
        hidden: the width of the hidden layer, or a list of widths; ``[]``: no hidden layer, so linear regression.
        activation: a class of ``torch.nn``.
    """

    def __init__(
        self,
        optimizer: dict[str, Any],
        hidden: PositiveInteger | list[PositiveInteger] = 32,
        activation: Literal["ReLU", "LeakyReLU", "ELU", "GELU", "SiLU", "Softplus", "Sigmoid", "Tanh"] = "ReLU",
        **common: Any,
    ) -> None:
        super().__init__(optimizer=optimizer, **common)

    def make_layers(self, num_features: int) -> None:
        hidden: int | Sequence[int] = self.hparams["hidden"]
        widths = [num_features, *([hidden] if isinstance(hidden, int) else hidden), 1]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after, bias=self.hparams["bias"]), getattr(nn, self.hparams["activation"])()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Predictions (batch,) for inputs (batch, d), both in training units."""
        prediction: Tensor = self.layers(x).squeeze(-1)
        return prediction
