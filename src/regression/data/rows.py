"""Rows in memory: as a source loads them, and as training sees them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LARGEST = 1e15  # the squared errors of larger numbers are too large to be summed in single precision


@dataclass(frozen=True)
class Rows:
    """Inputs and targets in the data's own units, and what is known of them."""

    inputs: Array  # (rows, features)
    targets: Array  # (rows,)
    feature_names: tuple[str, ...]
    target_name: str = "y"
    true_weight: tuple[float, ...] | None = None  # of the process that made the data, where it is known
    true_bias: float | None = None
    missing: bool = False  # whether nan in inputs stands for a missing cell


@dataclass(frozen=True)
class Part:
    """The rows of one split in the units of training, float64, on the CPU."""

    x: Array  # (rows, features)
    y: Array  # (rows,)

    def __len__(self) -> int:
        return len(self.y)


def numbered(num_features: int) -> tuple[str, ...]:
    """Names for features that have none: ``x_1``, ``x_2``, ..."""
    return tuple(f"x_{i}" for i in range(1, num_features + 1))
