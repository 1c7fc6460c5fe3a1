"""Defines the rows that a source loads."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LARGEST = 1e15  # sums of the squared errors of larger numbers overflow in single precision


@dataclass(frozen=True)
class Rows:
    """Inputs and targets in the data's own units, and what is known about them."""

    inputs: Array  # (rows, features)
    targets: Array  # (rows,)
    feature_names: tuple[str, ...]
    target_name: str = "y"
    true_weight: tuple[float, ...] | None = None  # of the process that generated the data, if known
    true_bias: float | None = None
    missing: bool = False  # whether nan in inputs marks a missing cell


def numbered(num_features: int) -> tuple[str, ...]:
    """Names for unnamed features: ``x_1``, ``x_2``, ..."""
    return tuple(f"x_{i}" for i in range(1, num_features + 1))
