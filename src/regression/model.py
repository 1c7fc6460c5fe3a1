"""The models: linear regression, polynomials and a multilayer perceptron."""

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
        optimizer: this and the arguments that are not named here: see ``RegressionModel``.
        init_weight: the initial value of every weight; ``None``: torch's default, random.
        init_bias: the same for b.

    Attributes:
        degree: up to which powers of each feature are terms of it, each with a weight: 1, the features alone.
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
        """Predictions (batch,) for inputs (batch, d), both in the units of training."""
        prediction: Tensor = self.linear(powers(x, self.degree)).squeeze(-1)
        return prediction

    def own_units(self) -> tuple[list[float], float | None]:
        """The weight of each term and the bias, or ``None``, in the data's own units.

        ``[w_1, ..., w_d]``, or of powers those of the first feature, those of the second and so on.
        """
        weight: list[float] = self.linear.weight.detach()[0].tolist()
        bias = self.linear.bias.item() if self.hparams["bias"] else None
        return self.units.own_units(weight, bias)


class Polynomial(LinearRegression):
    """``y = b + the sum of w_jk x_j^k`` over the features j and k = 1 .. degree; no products of features.

    It is linear in its parameters, so least squares, curvature and stable rates are known of it as of a line. Training
    takes powers of the standardised features; ``own_units`` are weights of powers of the features themselves.

    Args:
        degree: the highest power.

    Raises:
        UserError: as training begins: a power is above ``LARGEST``, or a column has the name of another's power.
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
                raise UserError(f"column {twice[0]} must have another name: it is that of another column's power")
        super().configure_model()


class MLP(RegressionModel):
    """A multilayer perceptron: linear layers with an activation between each two.

    Args:
        hidden: the width of the hidden layer, or of each; ``[]``: none, which is linear regression.
        activation: the class of ``torch.nn``.
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
        """Predictions (batch,) for inputs (batch, d), both in the units of training."""
        prediction: Tensor = self.layers(x).squeeze(-1)
        return prediction
