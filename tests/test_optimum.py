"""The exact answer, held against torch.linalg.lstsq, NumPy's pseudo-inverse and the Hessian itself."""

import numpy as np
import pytest
import torch
from torch.autograd.functional import hessian

from descent.optimum import least_squares


def problem(n: int = 50, d: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.logspace(0, 2, d, dtype=torch.float64)
    return x, torch.randn(n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("bias", [True, False])
def test_the_solution_is_that_of_lstsq(bias: bool) -> None:
    x, y = problem()
    a = torch.cat([x, torch.ones(50, 1)], 1) if bias else x
    expected = torch.linalg.lstsq(a, y.unsqueeze(1)).solution[:, 0]
    found = least_squares(x, y, bias)
    assert [*found.weight, *([found.bias] if bias else [])] == pytest.approx(expected.tolist(), rel=1e-10)
    assert found.loss == pytest.approx(((a @ expected - y) ** 2).mean().item(), rel=1e-10)
    assert found.unique


@pytest.mark.parametrize("bias", [True, False])
def test_curvature_is_that_of_the_hessian(bias: bool) -> None:
    x, y = problem()
    a = torch.cat([x, torch.ones(50, 1)], 1) if bias else x
    h = hessian(lambda p: ((a @ p - y) ** 2).mean(), torch.zeros(a.shape[1], dtype=torch.float64))
    eigenvalues = torch.linalg.eigvalsh(h)
    found = least_squares(x, y, bias)
    assert found.condition_number == pytest.approx((eigenvalues[-1] / eigenvalues[0]).item(), rel=1e-8)
    assert found.max_stable_lr == pytest.approx(2 / eigenvalues[-1].item(), rel=1e-10)


def test_more_features_than_rows_give_the_solution_nearest_to_zero() -> None:
    x, y = problem(n=3, d=6)
    found = least_squares(x, y, bias=False)
    assert not found.unique
    assert found.loss == pytest.approx(0, abs=1e-20)
    assert found.weight == pytest.approx((np.linalg.pinv(x.numpy()) @ y.numpy()).tolist(), rel=1e-8)


def test_a_repeated_column_is_not_a_unique_optimum() -> None:
    x, y = problem()
    x = torch.cat([x, x[:, :1]], 1)
    found = least_squares(x, y, bias=True)
    assert not found.unique
    assert found.weight[0] == pytest.approx(found.weight[-1])
