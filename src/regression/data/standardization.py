"""Standardisation: training sees features and target with mean 0 and deviation 1, people see their own units."""

import math
from dataclasses import dataclass

import numpy as np

from regression.data.rows import Array


@dataclass(frozen=True)
class Standardization:
    """``(x - x_mean) / x_scale`` and ``(y - y_mean) / y_scale``. Plain numbers, so that a checkpoint can hold it."""

    x_mean: list[float]
    x_scale: list[float]
    y_mean: float = 0.0
    y_scale: float = 1.0

    def __post_init__(self) -> None:
        """Raises an error where they are not those of a data set; they may come from a checkpoint."""
        if len(self.x_mean) != len(self.x_scale):
            raise ValueError("its standardization must have a mean and a scale for each feature")
        if not all(map(math.isfinite, [*self.x_mean, self.y_mean, *self.x_scale, self.y_scale])):
            raise ValueError("its means and scales must be finite numbers")
        if min(*self.x_scale, self.y_scale, 1.0) <= 0:
            raise ValueError("its scales must be greater than 0")

    @classmethod
    def identity(cls, num_features: int) -> "Standardization":
        """Leaves everything as it is."""
        return cls([0.0] * num_features, [1.0] * num_features)

    @classmethod
    def fit(cls, inputs: Array, targets: Array, center: bool) -> "Standardization":
        """From training rows: ``inputs`` (rows, features) and ``targets`` (rows,).

        Args:
            center: subtract the means. A model without bias must not: its line goes through the origin, and
                after centring that would be another point. Scales are then root mean squares.

        A constant column keeps the scale 1.
        """
        x_mean = inputs.mean(0) if center else np.zeros(inputs.shape[1])
        y_mean = targets.mean() if center else np.zeros(())
        # column by column: the whole table at once would be in memory several times
        x_scale = np.array([scale_about(column, mean) for column, mean in zip(inputs.T, x_mean, strict=True)])
        return cls(x_mean.tolist(), x_scale.tolist(), float(y_mean), scale_about(targets, float(y_mean)))

    def inputs(self, raw: Array, out: Array | None = None) -> Array:
        """Standardised inputs (rows, features), written into ``out`` if it is given."""
        standardised: Array = np.subtract(raw, self.x_mean, out=out)
        standardised /= self.x_scale
        return standardised

    def targets(self, raw: Array, out: Array | None = None) -> Array:
        """The same for targets (rows,)."""
        standardised: Array = np.subtract(raw, self.y_mean, out=out)
        standardised /= self.y_scale
        return standardised

    def own_inputs(self, standardised: Array) -> Array:
        """Inputs (rows, features) in their own units again."""
        own: Array = standardised * np.array(self.x_scale) + np.array(self.x_mean)
        return own

    def own_targets(self, standardised: Array) -> Array:
        """The same for targets (rows,)."""
        own: Array = standardised * self.y_scale + self.y_mean
        return own

    def own_units(self, weight: list[float], bias: float | None) -> tuple[list[float], float | None]:
        """Weights and bias of the same line, or of the same polynomial, in the data's own units.

        ``(y - y_mean) / y_scale = b + the sum of w_jk ((x_j - x_mean_j) / x_scale_j)^k``, solved for ``y``.

        Args:
            weight: (d * degree,), those of a feature's powers side by side.
        """
        raw, shifted = self.own_difference(weight, bias)
        return raw, None if shifted is None else shifted + self.y_mean

    def own_difference(self, weight: list[float], bias: float | None) -> tuple[list[float], float | None]:
        """The same of a difference between two."""
        features, mean, scale = len(self.x_scale), np.array(self.x_mean), np.array(self.x_scale)
        degree = len(weight) // features
        own = np.zeros((degree + 1, features))  # a row for each power, of x - mean at first
        own[1:] = np.array(weight).reshape(features, degree).T * self.y_scale
        with np.errstate(over="ignore", invalid="ignore"):  # powers of a constant column that is far from 0
            for k in range(1, degree + 1):
                own[k:] /= scale
            for low in range(degree):  # Horner's scheme: of x
                for k in range(degree - 1, low - 1, -1):
                    own[k] -= mean * own[k + 1]
        raw: list[float] = own[1:].T.ravel().tolist()
        return raw, None if bias is None else bias * self.y_scale + sum(own[0].tolist())


def scale_about(values: Array, mean: float) -> float:
    """Root mean square about ``mean``, without squaring numbers so small that their squares vanish."""
    centered = values - mean
    largest = np.abs(centered).max()
    # rounding leaves a constant column a deviation of about 1e-16 of its size
    if largest <= 1e-12 * np.abs(values).max():
        return 1.0
    return float(largest * np.sqrt(np.square(centered / largest).mean()))
