"""The exact answer that gradient descent is on its way to: least squares, and how curved the loss is."""

import cmath
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from regression.terms import powers

BLOCK = 2**20  # numbers
SINGULAR = 1e-10  # singular values below this share of the largest count as 0
ROUNDING = 1e-14  # and below this one they are nothing but rounding
MOST_WORK = 1e12  # operations: about a minute


@dataclass(frozen=True)
class Optimum:
    """The minimum of the mean squared error on the training rows, and the loss's shape.

    ``L`` and ``m`` are the largest and the smallest curvature that is not 0, that is, eigenvalue of the Hessian.

    All of it is in the units of training.

    Attributes:
        loss: the smallest possible mean squared error.
        weight: (d,) where it lies; of all such places the one nearest to 0, where there are several.
        bias: the same for the bias; ``None`` in a model without one.
        condition_number: ``L / m``; gradient descent needs of the order of this many steps.
        max_stable_lr: ``2 / L``; plain gradient descent on all rows diverges above it.
        best_lr: ``2 / (L + m)``, the fixed learning rate with the smallest factor below.
        contraction: ``(L - m) / (L + m)``, by which a step of plain gradient descent on all rows at ``best_lr``
            shortens the distance to the optimum at least, and in the long run exactly.
        unique: whether the minimum is a single point.
        lower_by: at least by how much the loss falls below ``loss`` along directions that count as flat and are not.
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
    """``R`` of ``[A, y] = Q R``, of ``A = [x, 1]``, or ``A = x`` without bias; float64, (d [+ 1] + 1) squared.

    Of a polynomial x are all its terms, see ``regression.terms.powers``, and d their number.

    It holds all that least squares needs, and its condition number is A's own, not the square that ``A^T A`` would
    have. Updated block by block it needs no copy of the data. See Golub and Van Loan, Matrix Computations, 5.3.

    Args:
        x: (n, d) inputs as training sees them.
        y: (n,) targets.
        bias: whether the model has one.
        degree: the highest power of each input in A.
        before: R of other rows, whose R with these it then is.
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
    """Operations of the decompositions below, by their order of size."""
    k = min(rows, features)
    return rows * features * k + 20 * features * k**2


def least_squares(r: Tensor, n: int, bias: bool) -> Optimum:
    """The optimum of ``mean((A p - y)^2)``.

    By the singular values ``s`` of A's part of R. The Hessian is ``2 A^T A / n``, so its eigenvalues are
    ``2 s^2 / n``. See Golub and Van Loan, Matrix Computations, 5.5; for the learning rates Nesterov, Introductory
    Lectures on Convex Optimization, 1.2.3 and 2.1.5.

    Args:
        r: from ``r_factor``.
        n: rows.
        bias: whether the model has one.
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
    """How far the loss at ``optimum + difference`` is above the optimum's: ``|A difference|^2 / n``.

    Without subtracting two losses that are nearly equal, so it is exact down to the smallest numbers.

    Args:
        r: from ``r_factor``.
        n: rows.
        difference: (d [+ 1],) float64, weights and then the bias.
    """
    return (r[:, :-1] @ difference).square().sum().item() / n


def to_nearest(r: Tensor, difference: Tensor) -> Tensor:
    """The difference to the nearest of all solutions, where the one that ``difference`` starts at is not unique.

    Without what does not change the loss: the projection onto the rows of A.

    Args:
        r: from ``r_factor``.
        difference: (d [+ 1],) float64, weights and then the bias.
    """
    _, s, vt = torch.linalg.svd(r[:, :-1], full_matrices=False)
    rows = vt[s > SINGULAR * s[0]]
    nearest: Tensor = rows.T @ (rows @ difference)
    return nearest


def largest_stable_lr(optimum: Optimum, momentum: float = 0.0, nesterov: bool = False, decay: float = 0.0) -> float:
    """Above which SGD on all rows diverges: ``2 (1 + momentum) / (L + decay)`` with heavy-ball momentum.

    Nesterov's momentum: ``2 (1 + momentum) / ((1 + 2 momentum) (L + decay))``. Both follow from the roots of the
    recursion in the direction of the largest curvature: Polyak, Some methods of speeding up the convergence of
    iteration methods, 1964; O'Donoghue and Candes, Adaptive restart for accelerated gradient schemes, 2015, 2.1.
    """
    curvature = 2 / optimum.max_stable_lr + decay
    if not curvature:
        return inf
    return 2 * (1 + momentum) / (curvature * (1 + 2 * momentum if nesterov else 1))


def contraction(largest: float, smallest: float, lr: float, momentum: float = 0.0, nesterov: bool = False) -> float:
    """By which a step of SGD on all rows shortens the distance to the optimum in the long run; above 1 it grows.

    The largest root of the recursion, at the largest or the smallest curvature ``h``, whichever is slower:
    ``r^2 - (1 + momentum - lr h) r + momentum`` for heavy-ball momentum, ``max |1 - lr h|`` without, and
    ``r^2 - (1 + momentum) (1 - lr h) r + momentum (1 - lr h)`` for Nesterov's. See as above.
    """
    roots = []
    for h in (largest, smallest):
        total = (1 + momentum) * (1 - lr * h) if nesterov else 1 + momentum - lr * h
        product = momentum * (1 - lr * h) if nesterov else momentum
        root = cmath.sqrt(total**2 / 4 - product)
        roots += [abs(total / 2 + root), abs(total / 2 - root)]
    return max(roots)
