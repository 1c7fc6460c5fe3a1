"""Standardisation: training sees features and target with mean 0 and deviation 1, people see their own units."""

from dataclasses import dataclass

import numpy as np

from descent.data.table import Array


@dataclass(frozen=True)
class Standardization:
    """``(x - x_mean) / x_scale`` and ``(y - y_mean) / y_scale``. Plain numbers, so that a checkpoint can hold it."""

    x_mean: list[float]
    x_scale: list[float]
    y_mean: float = 0.0
    y_scale: float = 1.0

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
        x_scale = _deviation(inputs - x_mean)
        y_scale = _deviation(targets - y_mean)
        # rounding leaves a constant column a deviation of about 1e-16 of its size
        x_scale[x_scale <= 1e-12 * np.abs(inputs).max(0)] = 1.0
        constant = y_scale <= 1e-12 * np.abs(targets).max()
        return cls(x_mean.tolist(), x_scale.tolist(), float(y_mean), 1.0 if constant else float(y_scale))

    def inputs(self, raw: Array) -> Array:
        standardised: Array = (raw - np.array(self.x_mean)) / np.array(self.x_scale)
        return standardised

    def targets(self, raw: Array) -> Array:
        return (raw - self.y_mean) / self.y_scale

    @property
    def loss_unit(self) -> float:
        """What a squared error is multiplied by to be in the data's own units."""
        return self.y_scale**2

    def own_units(self, weight: list[float], bias: float | None) -> tuple[list[float], float | None]:
        """Weights and bias of the same line in the data's own units.

        ``(y - y_mean) / y_scale = sum w_j (x_j - x_mean_j) / x_scale_j + b``, solved for ``y``.
        """
        raw = [w * self.y_scale / s for w, s in zip(weight, self.x_scale, strict=True)]
        if bias is None:
            return raw, None
        shift = sum(w * m for w, m in zip(raw, self.x_mean, strict=True))
        return raw, bias * self.y_scale + self.y_mean - shift


def _deviation(centered: Array) -> Array:
    """Root mean square of each column, without squaring numbers so small that their squares vanish."""
    largest = np.abs(centered).max(0)
    unit = np.where(largest > 0, largest, 1.0)
    deviation: Array = unit * np.sqrt(((centered / unit) ** 2).mean(0))
    return deviation
