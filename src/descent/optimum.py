"""The exact answer that gradient descent is on its way to: least squares, and how curved the loss is."""

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 2**16  # rows
SINGULAR = 1e-10  # singular values below this share of the largest count as 0


@dataclass(frozen=True)
class Optimum:
    """The minimum of the mean squared error on the training rows, and the loss's shape.

    Attributes:
        loss: the smallest possible mean squared error.
        weight: (d,) where it lies; of all such places the one nearest to 0, where there are several.
        bias: the same for the bias; ``None`` in a model without one.
        condition_number: largest over smallest curvature that is not 0; gradient descent needs of the order of
            this many steps.
        max_stable_lr: 2 / largest curvature; plain gradient descent on all rows diverges above it.
        unique: whether the minimum is a single point.
    """

    loss: float
    weight: list[float]
    bias: float | None
    condition_number: float
    max_stable_lr: float
    unique: bool


def least_squares(x: Tensor, y: Tensor, bias: bool) -> Optimum:
    """The optimum of ``mean((A p - y)^2)`` with ``A = [x, 1]``, or ``A = x`` without bias.

    From ``[A, y] = Q R`` (R holds all that is needed, and its condition number is A's own, not the square that
    ``A^T A`` would have; updated block by block it needs no copy of the data), then the singular values ``s`` of
    A's part of R. The Hessian is ``2 A^T A / n``, so its eigenvalues are ``2 s^2 / n``. See Golub and Van Loan,
    Matrix Computations, 5.3 and 5.5; for the stable learning rate Nesterov, Introductory Lectures on Convex
    Optimization, 1.2.3.

    Args:
        x: (n, d) inputs as training sees them.
        y: (n,) targets.
        bias: whether the model has one.
    """
    n, d = x.shape
    width = d + bias + 1
    r = x.new_empty(0, width, dtype=torch.float64)
    for inputs, targets in zip(torch.split(x, BLOCK), torch.split(y, BLOCK), strict=True):
        ones = [inputs.new_ones(len(inputs), 1)] if bias else []
        rows = torch.cat([inputs, *ones, targets.unsqueeze(1)], dim=1).double()  # (rows, d [+ 1] + 1)
        r = torch.linalg.qr(torch.cat([r, rows]), mode="r").R  # (d [+ 1] + 1, d [+ 1] + 1)
    a, b = r[:, :-1], r[:, -1]
    u, s, vt = torch.linalg.svd(a, full_matrices=False)
    kept = s > SINGULAR * s[0]
    coordinates = u.T @ b  # (d [+ 1],)
    parameters = vt[kept].T @ (coordinates[kept] / s[kept])
    curvature = 2 * s[kept] ** 2 / n
    loss = ((a @ parameters - b) ** 2).sum() / n
    return Optimum(
        loss=loss.item(),
        weight=parameters[:d].tolist(),
        bias=parameters[d].item() if bias else None,
        condition_number=(curvature[0] / curvature[-1]).item() if len(curvature) else 1.0,
        max_stable_lr=(2 / curvature[0]).item() if len(curvature) else float("inf"),
        unique=int(kept.sum()) == width - 1,
    )
