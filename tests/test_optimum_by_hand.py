"""Compares least squares and its rates with cases solved by hand and with NumPy's eigenvalues."""

from itertools import product
from math import inf

import numpy as np
import pytest
import torch

from regression.optimum import Optimum, contraction, largest_stable_lr, least_squares, r_factor, work


def test_a_line_through_three_points_by_hand() -> None:
    x, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2.0, 4.0, 9.0])
    found = least_squares(r_factor(x, y, False), 3, False)
    # w = (2 + 8 + 27) / 14; the loss is (101 - 37^2 / 14) / 3; the curvature is 2 * 14 / 3
    assert found.weight == pytest.approx([37 / 14]) and found.bias is None
    assert found.loss == pytest.approx((101 - 37**2 / 14) / 3)
    assert (found.condition_number, found.contraction, found.unique) == (pytest.approx(1), pytest.approx(0), True)
    assert (found.max_stable_lr, found.best_lr) == (pytest.approx(3 / 14), pytest.approx(3 / 28))


def test_two_curvatures_by_hand() -> None:
    x, y = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64), torch.tensor([2.0, 3.0], dtype=torch.float64)
    found = least_squares(r_factor(x, y, False), 2, False)  # the Hessian is diag(4, 1)
    assert found.weight == pytest.approx([1.0, 3.0]) and found.loss == pytest.approx(0, abs=1e-30)
    rates = (found.condition_number, found.max_stable_lr, found.best_lr, found.contraction)
    assert rates == pytest.approx((4, 0.5, 0.4, 0.6)) and found.unique


def test_inputs_that_are_all_zero_have_no_curvature() -> None:
    found = least_squares(r_factor(torch.zeros(2, 1), torch.tensor([1.0, 3.0]), False), 2, False)
    assert found == Optimum(pytest.approx(5.0), [0.0], None, 1.0, inf, inf, 0.0, False)
    assert largest_stable_lr(found) == inf
    assert largest_stable_lr(found, momentum=0.5, decay=0.25) == 12  # 2 (1 + 0.5) / 0.25


@pytest.mark.parametrize(("small", "unique"), [(2e-10, True), (0.5e-10, False)])
def test_a_singular_value_1e10_times_smaller_counts_as_zero(small: float, unique: bool) -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, small]], dtype=torch.float64)
    found = least_squares(r_factor(x, torch.tensor([1.0, small], dtype=torch.float64), False), 2, False)
    assert (found.unique, found.weight) == (unique, pytest.approx([1.0, float(unique)]))
    assert found.condition_number == pytest.approx(1 / small**2 if unique else 1.0)


def test_the_number_of_operations_by_hand() -> None:
    assert work(100, 10) == 100 * 10 * 10 + 20 * 10 * 10 * 10
    assert work(5, 10) == 5 * 10 * 5 + 20 * 10 * 5 * 5


def test_the_r_factor_is_that_of_the_table_with_ones_and_targets() -> None:
    x, y = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([2.0, 4.0, 9.0])
    for bias in (True, False):
        table = np.array([[1, 1, 2], [2, 1, 4], [4, 1, 9]], dtype=float)[:, [0, 1, 2] if bias else [0, 2]]
        r = r_factor(x, y, bias)
        assert r.dtype == torch.float64 and torch.equal(r, r.triu())
        np.testing.assert_allclose(r.T @ r, table.T @ table, rtol=1e-12)


def spectral_radius(h: float, lr: float, momentum: float, nesterov: bool) -> float:
    """Returns the spectral radius of a step of torch's SGD on ``h p^2 / 2``, from (p, buffer) to (p, buffer)."""
    buffer = np.array([h, momentum])
    gradient = np.array([h, 0.0])
    step = gradient + momentum * buffer if nesterov else buffer
    after = np.array([[1.0, 0.0] - lr * step, buffer])
    return float(np.abs(np.linalg.eigvals(after)).max())


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9])
def test_the_contraction_is_the_larger_spectral_radius(momentum: float, nesterov: bool) -> None:
    for largest, smallest, lr in product((4.0, 2.0), (1.0, 0.05), (0.05, 0.3, 0.6)):
        expected = max(spectral_radius(h, lr, momentum, nesterov) for h in (largest, smallest))
        assert contraction(largest, smallest, lr, momentum, nesterov) == pytest.approx(expected, rel=1e-6)
    plain = contraction(4.0, 1.0, 0.3, momentum)
    assert plain == contraction(4.0, 1.0, 0.3, momentum, False)
    assert contraction(4.0, 1.0, 0.3) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("momentum", "nesterov", "decay", "limit"),
    [(0, False, 0, 0.5), (0.5, False, 0, 0.75), (0.5, True, 0, 0.375), (0, False, 1, 0.4), (0.5, True, 1, 0.3)],
)
def test_the_largest_stable_rate_by_hand(momentum: float, nesterov: bool, decay: float, limit: float) -> None:
    optimum = Optimum(0.0, [0.0], None, 4.0, 0.5, 0.4, 0.6, True)  # curvatures 4 and 1
    assert largest_stable_lr(optimum, momentum, nesterov, decay) == pytest.approx(limit)
    if not decay:
        assert spectral_radius(4.0, limit, momentum, nesterov) == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-14, 1.0, 1e14])
def test_the_rank_does_not_depend_on_the_scale_of_the_inputs(scale: float) -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [0.5, 4.0]], dtype=torch.float64)
    y = x @ torch.tensor([2.0, -1.0], dtype=torch.float64)
    found = least_squares(r_factor(scale * x, y, False), 3, False)
    assert found.unique
    assert found.weight == pytest.approx([2 / scale, -1 / scale], rel=1e-9)
