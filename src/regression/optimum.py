"""Computes the least-squares optimum and the curvature of the loss."""

import cmath
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from regression.terms import powers

BLOCK = 2**20  # numbers
SINGULAR = 1e-10  # singular values below this fraction of the largest count as 0
ROUNDING = 1e-14  # below this fraction they are rounding errors
MOST_WORK = 1e12  # operations: about a minute


@dataclass(frozen=True)
class Optimum:
    """The minimum of the mean squared error on the training rows, and the shape of the loss.

    ``L`` and ``m`` are the largest and the smallest nonzero eigenvalue (curvature) of the Hessian. All values are in
    training units.

    Attributes:
        loss: the smallest possible mean squared error.
        weight: (d,) weights at the minimum; if it is not unique, the one nearest to 0.
        bias: the bias at the minimum; ``None`` for a model without bias.
        condition_number: ``L / m``; gradient descent needs on the order of this many steps.
        max_stable_lr: ``2 / L``; plain full-batch gradient descent diverges above it.
        best_lr: ``2 / (L + m)``, the fixed learning rate with the smallest ``contraction``.
        contraction: ``(L - m) / (L + m)``: a step of plain full-batch gradient descent at ``best_lr`` multiplies the
            distance to the optimum by at most this factor, and in the long run by exactly this factor.
        unique: whether the minimum is a single point.
        lower_by: how far the loss falls below ``loss``, at least, along directions that count as flat but are not.
    """

    loss: float
    weight: list[float]
    bias: float | None
    condition_number: float
    max_stable_lr: float
    best_lr: float
    contraction: float
    unique: bool
    lower_by: float = 0.0


def r_factor(x: Tensor, y: Tensor, bias: bool, degree: int = 1, before: Tensor | None = None) -> Tensor:
    """``R`` of ``[A, y] = Q R`` with ``A = [x, 1]``, or ``A = x`` without bias: float64, (d [+ 1] + 1) squared.

    For a polynomial, x stands for all its terms (see ``regression.terms.powers``), and d for their number.

    R is all that least squares needs. Its condition number is that of A; that of ``A^T A`` would be squared. R is
    updated block by block, so the data are not copied. See Golub and Van Loan, Matrix Computations, 5.3.

    Args:
        x: (n, d) inputs in training units.
        y: (n,) targets.
        bias: whether the model has a bias.
        degree: the highest power of each input in A.
        before: R of earlier rows; the result is then R of all rows.
    """
    terms = x.shape[1] * degree
    r = x.new_empty(0, terms + bias + 1, dtype=torch.float64) if before is None else before
    rows = max(BLOCK // terms, terms)
    for inputs, targets in zip(torch.split(x, rows), torch.split(y, rows), strict=True):
        ones = [inputs.new_ones(len(inputs), 1)] if bias else []
        block = torch.cat([powers(inputs, degree), *ones, targets.unsqueeze(1)], dim=1).double()
        r = torch.linalg.qr(torch.cat([r, block]), mode="r").R
    return r


def work(rows: int, features: int) -> float:
    """The order of magnitude of operations that the decompositions below take."""
    k = min(rows, features)
    return rows * features * k + 20 * features * k**2


def least_squares(r: Tensor, n: int, bias: bool) -> Optimum:
    """The optimum of ``mean((A p - y)^2)``.

    Uses the singular values ``s`` of the columns of R that belong to A. The Hessian is ``2 A^T A / n``, so its
    eigenvalues are ``2 s^2 / n``. See Golub and Van Loan, Matrix Computations, 5.5; for the learning rates see
    Nesterov, Introductory Lectures on Convex Optimization, 1.2.3 and 2.1.5.

    Args:
        r: from ``r_factor``.
        n: the number of rows.
        bias: whether the model has a bias.
    """
    a, b = r[:, :-1], r[:, -1]
    u, s, vt = torch.linalg.svd(a, full_matrices=False)
    kept, rounding = s > SINGULAR * s[0], s <= ROUNDING * s[0]
    coordinates = u.T @ b  # (d [+ 1],)
    parameters = (vt[kept].T @ (coordinates[kept] / s[kept])).tolist()
    curvature = (2 * s[kept] ** 2 / n).tolist()
    largest, smallest = (curvature[0], curvature[-1]) if curvature else (0.0, 0.0)
    return Optimum(
        loss=((a @ torch.tensor(parameters, dtype=torch.float64) - b) ** 2).sum().item() / n,
        weight=parameters[:-1] if bias else parameters,
        bias=parameters[-1] if bias else None,
        condition_number=largest / smallest if smallest else 1.0,
        max_stable_lr=2 / largest if largest else inf,
        best_lr=2 / (largest + smallest) if largest else inf,
        contraction=(largest - smallest) / (largest + smallest) if largest else 0.0,
        unique=int(kept.sum()) == a.shape[1],
        lower_by=(coordinates[~kept & ~rounding] ** 2).sum().item() / n,
    )


def excess_loss(r: Tensor, n: int, difference: Tensor) -> float:
    """The loss at ``optimum + difference`` minus the loss at the optimum: ``|A difference|^2 / n``.

    It does not subtract two nearly equal losses, so even tiny values are exact.

    Args:
        r: from ``r_factor``.
        n: the number of rows.
        difference: (d [+ 1],) float64, weights, then the bias.
    """
    return (r[:, :-1] @ difference).square().sum().item() / n


def to_nearest(r: Tensor, difference: Tensor) -> Tensor:
    """The difference to the nearest solution, if the solution that ``difference`` is relative to is not unique.

    Removes what does not change the loss, by projecting onto the row space of A.

    Args:
        r: from ``r_factor``.
        difference: (d [+ 1],) float64, weights, then the bias.
    """
    _, s, vt = torch.linalg.svd(r[:, :-1], full_matrices=False)
    rows = vt[s > SINGULAR * s[0]]
    nearest: Tensor = rows.T @ (rows @ difference)
    return nearest


def largest_stable_lr(optimum: Optimum, momentum: float = 0.0, nesterov: bool = False, decay: float = 0.0) -> float:
    """The learning rate above which full-batch SGD diverges.

    ``2 (1 + momentum) / (L + decay)`` for heavy-ball momentum, and for Nesterov momentum
    ``2 (1 + momentum) / ((1 + 2 momentum) (L + decay))``. Both follow from the roots of the recursion along the largest
    curvature: Polyak, Some methods of speeding up the convergence of iteration methods, 1964; O'Donoghue and Candes,
    Adaptive restart for accelerated gradient schemes, 2015, 2.1.
    """
    curvature = 2 / optimum.max_stable_lr + decay
    if not curvature:
        return inf
    return 2 * (1 + momentum) / (curvature * (1 + 2 * momentum if nesterov else 1))


def contraction(largest: float, smallest: float, lr: float, momentum: float = 0.0, nesterov: bool = False) -> float:
    """The factor by which a step of full-batch SGD scales the distance to the optimum in the long run.

    Above 1 the distance grows. The factor is the largest absolute root of the recursion at the largest or the smallest
    curvature ``h``, whichever is slower: ``r^2 - (1 + momentum - lr h) r + momentum`` for heavy-ball momentum,
    ``max |1 - lr h|`` without momentum, and ``r^2 - (1 + momentum) (1 - lr h) r + momentum (1 - lr h)`` for Nesterov
    momentum. Sources: see ``largest_stable_lr``.
    """
    roots = []
    for h in (largest, smallest):
        total = (1 + momentum) * (1 - lr * h) if nesterov else 1 + momentum - lr * h
        product = momentum * (1 - lr * h) if nesterov else momentum
        root = cmath.sqrt(total**2 / 4 - product)
        roots += [abs(total / 2 + root), abs(total / 2 - root)]
    return max(roots)
