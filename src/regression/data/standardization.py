"""Standardises features and targets to mean 0 and standard deviation 1, and converts results back."""

import math
from dataclasses import dataclass

import numpy as np

from regression.data.rows import Array


@dataclass(frozen=True)
class Standardization:
    """``(x - x_mean) / x_scale`` and ``(y - y_mean) / y_scale``, as plain numbers for checkpoints."""

    x_mean: list[float]
    x_scale: list[float]
    y_mean: float = 0.0
    y_scale: float = 1.0

    def __post_init__(self) -> None:
        """Raises an error if the values are not valid; they may come from a checkpoint."""
        if len(self.x_mean) != len(self.x_scale):
            raise ValueError("its standardization must have a mean and a scale for each feature")
        if not all(map(math.isfinite, [*self.x_mean, self.y_mean, *self.x_scale, self.y_scale])):
            raise ValueError("its means and scales must be finite numbers")
        if min(*self.x_scale, self.y_scale, 1.0) <= 0:
            raise ValueError("its scales must be greater than 0")

    @classmethod
    def identity(cls, num_features: int) -> "Standardization":
        """A standardisation that changes nothing."""
        return cls([0.0] * num_features, [1.0] * num_features)

    @classmethod
    def fit(cls, inputs: Array, targets: Array, center: bool) -> "Standardization":
        """Fits training rows: ``inputs`` (rows, features) and ``targets`` (rows,). A constant column has the scale 1.

        Args:
            center: whether to subtract the means. Must be false for a model without bias: its line goes through the
                origin, and centring moves the origin. Scales are then root mean squares.
        """
        x_mean = inputs.mean(0) if center else np.zeros(inputs.shape[1])
        y_mean = targets.mean() if center else np.zeros(())
        # Column by column: all at once would keep several copies of the table in memory.
        x_scale = np.array([scale_about(column, mean) for column, mean in zip(inputs.T, x_mean, strict=True)])
        return cls(x_mean.tolist(), x_scale.tolist(), float(y_mean), scale_about(targets, float(y_mean)))

    def inputs(self, raw: Array, out: Array | None = None) -> Array:
        """Standardised inputs (rows, features), written to ``out`` if given."""
        standardised: Array = np.subtract(raw, self.x_mean, out=out)
        standardised /= self.x_scale
        return standardised

    def targets(self, raw: Array, out: Array | None = None) -> Array:
        """Standardised targets (rows,), written to ``out`` if given."""
        standardised: Array = np.subtract(raw, self.y_mean, out=out)
        standardised /= self.y_scale
        return standardised

    def own_inputs(self, standardised: Array) -> Array:
        """Inputs (rows, features) converted back to their own units."""
        own: Array = standardised * np.array(self.x_scale) + np.array(self.x_mean)
        return own

    def own_targets(self, standardised: Array) -> Array:
        """Targets (rows,) converted back to their own units."""
        own: Array = standardised * self.y_scale + self.y_mean
        return own

    def own_units(self, weight: list[float], bias: float | None) -> tuple[list[float], float | None]:
        """Weights and bias of the same line or polynomial in the data's own units.

        Solves ``(y - y_mean) / y_scale = b + sum_jk w_jk ((x_j - x_mean_j) / x_scale_j)^k`` for ``y``.

        Args:
            weight: (d * degree,), the weights of a feature's powers side by side.
        """
        raw, shifted = self.own_difference(weight, bias)
        return raw, None if shifted is None else shifted + self.y_mean

    def own_difference(self, weight: list[float], bias: float | None) -> tuple[list[float], float | None]:
        """The same for a difference between two lines or polynomials."""
        features, mean, scale = len(self.x_scale), np.array(self.x_mean), np.array(self.x_scale)
        degree = len(weight) // features
        own = np.zeros((degree + 1, features))  # a row for each power, at first of x - mean
        own[1:] = np.array(weight).reshape(features, degree).T * self.y_scale
        with np.errstate(over="ignore", invalid="ignore"):  # powers of a constant column far from 0 may overflow
            for k in range(1, degree + 1):
                own[k:] /= scale
            for low in range(degree):  # Horner's scheme: to powers of x
                for k in range(degree - 1, low - 1, -1):
                    own[k] -= mean * own[k + 1]
        raw: list[float] = own[1:].T.ravel().tolist()
        return raw, None if bias is None else bias * self.y_scale + sum(own[0].tolist())


def scale_about(values: Array, mean: float) -> float:
    """Root mean square about ``mean``; scaled, so that squares of small numbers do not underflow."""
    centered = values - mean
    largest = np.abs(centered).max()
    # Rounding gives a constant column a deviation of about 1e-16 of its size.
    if largest <= 1e-12 * np.abs(values).max():
        return 1.0
    return float(largest * np.sqrt(np.square(centered / largest).mean()))
