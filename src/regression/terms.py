"""Computes the terms of a linear regression: the powers of each feature."""

from collections.abc import Iterable

import torch
from torch import Tensor


def powers(x: Tensor, degree: int) -> Tensor:
    """``x_j^k`` for k = 1 .. degree of each feature: (n, d) to (n, d * degree), a feature's powers side by side."""
    if degree == 1:
        return x
    return torch.cumprod(x.unsqueeze(-1).expand(-1, -1, degree), dim=-1).flatten(1)


def names_of_powers(names: Iterable[str], degree: int) -> list[str]:
    """The names of these terms, in the same order: ``x_1``, ``x_1^2``, ``x_2``, ``x_2^2``."""
    return [name if k == 1 else f"{name}^{k}" for name in names for k in range(1, degree + 1)]
