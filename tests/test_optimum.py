"""Compares the least-squares optimum with torch.linalg.lstsq, NumPy's pseudo-inverse and the Hessian."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run
from torch.autograd.functional import hessian

from regression.optimum import BLOCK, Optimum, excess_loss, largest_stable_lr, r_factor, to_nearest
from regression.optimum import least_squares as least_squares_of


def problem(n: int = 50, d: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.logspace(0, 2, d, dtype=torch.float64)
    return x, torch.randn(n, generator=generator, dtype=torch.float64)


def least_squares(x: torch.Tensor, y: torch.Tensor, bias: bool) -> Optimum:
    return least_squares_of(r_factor(x, y, bias), len(y), bias)


def loss_hessian(a: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Returns the Hessian of the mean squared error of ``a p``, by autograd."""
    found: torch.Tensor = hessian(lambda p: ((a @ p - y) ** 2).mean(), torch.zeros(a.shape[1], dtype=a.dtype))
    return found


@pytest.mark.parametrize("bias", [True, False])
def test_the_solution_equals_lstsq(bias: bool) -> None:
    x, y = problem()
    a = torch.cat([x, torch.ones(50, 1)], 1) if bias else x
    expected = torch.linalg.lstsq(a, y.unsqueeze(1)).solution[:, 0]
    found = least_squares(x, y, bias)
    assert [*found.weight, *([found.bias] if bias else [])] == pytest.approx(expected.tolist(), rel=1e-10)
    assert found.loss == pytest.approx(((a @ expected - y) ** 2).mean().item(), rel=1e-10)
    assert found.unique


@pytest.mark.parametrize("bias", [True, False])
def test_curvature_equals_the_hessians_eigenvalues(bias: bool) -> None:
    x, y = problem()
    a = torch.cat([x, torch.ones(50, 1)], 1) if bias else x
    eigenvalues = torch.linalg.eigvalsh(loss_hessian(a, y))
    found = least_squares(x, y, bias)
    assert found.condition_number == pytest.approx((eigenvalues[-1] / eigenvalues[0]).item(), rel=1e-8)
    assert found.max_stable_lr == pytest.approx(2 / eigenvalues[-1].item(), rel=1e-10)


def test_more_features_than_rows_give_the_minimum_norm_solution() -> None:
    x, y = problem(n=3, d=6)
    found = least_squares(x, y, bias=False)
    assert not found.unique
    assert found.loss == pytest.approx(0, abs=1e-20)
    assert found.weight == pytest.approx((np.linalg.pinv(x.numpy()) @ y.numpy()).tolist(), rel=1e-8)


def test_with_a_repeated_column_the_optimum_is_not_unique() -> None:
    x, y = problem()
    x = torch.cat([x, x[:, :1]], 1)
    found = least_squares(x, y, bias=True)
    assert not found.unique
    assert found.weight[0] == pytest.approx(found.weight[-1])
    eigenvalues = torch.linalg.eigvalsh(loss_hessian(torch.cat([x, torch.ones(50, 1)], 1), y))
    assert abs(eigenvalues[0] / eigenvalues[1]) < 1e-9  # the direction along which the loss is constant
    assert found.condition_number == pytest.approx((eigenvalues[-1] / eigenvalues[1]).item(), rel=1e-6)
    assert found.best_lr == pytest.approx(2 / (eigenvalues[-1] + eigenvalues[1]).item(), rel=1e-10)


def test_the_distance_to_several_solutions_is_to_the_nearest() -> None:
    x, y = problem()
    x = torch.cat([x, x[:, :1]], 1)
    a = torch.cat([x, torch.ones(50, 1, dtype=x.dtype)], 1)
    difference = torch.tensor([3.0, 0.0, 0.0, 0.0, -3.0, 0.0], dtype=x.dtype)  # the loss is constant along it
    assert to_nearest(r_factor(x, y, bias=True), difference).norm().item() < 1e-12
    any_point = torch.arange(1.0, 7.0, dtype=x.dtype)
    expected = torch.linalg.pinv(a) @ (a @ any_point)  # the projection onto the rows of A
    assert to_nearest(r_factor(x, y, bias=True), any_point).tolist() == pytest.approx(expected.tolist(), abs=1e-9)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("standardize", ["true", "false"])
def test_the_hessian_in_the_result_equals_autograds_on_the_tables_rows(
    bias: bool, standardize: str, run: Run, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(1)
    x = 3 * torch.randn(20, 1 if bias else 2, generator=generator, dtype=torch.float64) + 1
    y = 2 * x[:, 0] + torch.randn(20, generator=generator, dtype=torch.float64)
    lines = [",".join(["y", *(f"x{i}" for i in range(x.shape[1]))])]
    lines += [",".join(map(repr, row)) for row in torch.cat([y[:, None], x], 1).tolist()]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    table = ("data=table", f"data.path={tmp_path}/rows.csv", "data.target=y", f"data.standardize={standardize}")
    parts = ("data.val_fraction=0", "data.test_fraction=0", f"model.bias={str(bias).lower()}", "trainer.max_epochs=1")
    result = run(*table, *parts, "trainer=float64")
    assert result.optimum is not None
    a = torch.cat([x, torch.ones(20, 1)], 1) if bias else x
    assert np.array(result.optimum["hessian"]) == pytest.approx(loss_hessian(a, y).numpy(), rel=1e-10)


def test_a_table_of_several_blocks_has_the_optimum_of_lstsq() -> None:
    x, y = problem(n=BLOCK // 4 * 2 + 7)
    found, expected = least_squares(x, y, bias=True), np.linalg.lstsq(np.c_[x, np.ones(len(y))], y, rcond=None)[0]
    assert [*found.weight, found.bias] == pytest.approx(expected.tolist(), rel=1e-10)


def test_excess_loss_is_the_difference_of_two_losses() -> None:
    x, y = problem()
    found, step = least_squares(x, y, bias=True), torch.tensor([0.1, -0.2, 0.3, -0.4, 0.5], dtype=torch.float64)
    p = torch.tensor([*found.weight, found.bias], dtype=torch.float64) + step
    loss = ((torch.cat([x, torch.ones(50, 1)], 1) @ p - y) ** 2).mean().item()
    assert excess_loss(r_factor(x, y, True), 50, step) == pytest.approx(loss - found.loss, rel=1e-10)


def descend(x: torch.Tensor, y: torch.Tensor, steps: int, **options: float | bool) -> list[float]:
    """Returns the distance from the optimum at each step of torch's SGD on all rows."""
    p = torch.full((x.shape[1],), 1.0, dtype=torch.float64, requires_grad=True)
    target = torch.tensor(least_squares(x, y, bias=False).weight, dtype=torch.float64)
    optimizer = torch.optim.SGD([p], **options)  # type: ignore[arg-type]
    distances = [(p.detach() - target).norm().item()]
    for _ in range(steps):
        optimizer.zero_grad()
        ((x @ p - y) ** 2).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        distances.append((p.detach() - target).norm().item())
    return distances


def scaled() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = problem(n=200)
    return x / torch.logspace(0, 1, 4, dtype=torch.float64), y  # a condition number of about 100


def test_gradient_descent_at_the_best_rate_contracts_as_predicted() -> None:
    x, y = scaled()
    found = least_squares(x, y, bias=False)
    distances = descend(x, y, 400, lr=found.best_lr)
    assert all(b <= a * found.contraction * (1 + 1e-9) for a, b in pairwise(distances))
    assert (distances[400] / distances[300]) ** 0.01 == pytest.approx(found.contraction, rel=1e-6)


@pytest.mark.parametrize("better", [0.8, 1.005])
def test_no_other_fixed_rate_contracts_faster(better: float) -> None:
    x, y = scaled()
    found = least_squares(x, y, bias=False)
    best, other = (descend(x, y, 400, lr=found.best_lr * factor)[-1] for factor in (1.0, better))
    assert best < other


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True}, {"weight_decay": 0.5}], ids=str
)
def test_sgd_converges_just_below_the_stable_rate_and_diverges_just_above(options: dict[str, float]) -> None:
    x, y = scaled()
    found = least_squares(x, y, bias=False)
    limit = largest_stable_lr(
        found, options.get("momentum", 0.0), bool(options.get("nesterov")), options.get("weight_decay", 0.0)
    )
    below = descend(x, y, 1200, lr=limit * 0.995, **options)
    above = descend(x, y, 1200, lr=limit * 1.005, **options)
    # with weight decay SGD converges to another point
    assert below[1200] < below[0]
    assert above[1200] > 10 * above[600] > 10 * below[600]


def test_momentum_at_its_optimal_setting_reaches_its_rate() -> None:
    x, y = scaled()
    found = least_squares(x, y, bias=False)
    root = found.condition_number**0.5
    momentum = ((root - 1) / (root + 1)) ** 2  # Polyak, Some methods of speeding up the convergence, 1964
    lr = largest_stable_lr(found, momentum) / (1 + 1 / found.condition_number)  # 2 (1 + b) / (L + m)
    distances = descend(x, y, 100, lr=lr, momentum=momentum)
    # at a double root the distance falls as k rate^k
    assert (distances[100] / distances[50] / 2) ** (1 / 50) == pytest.approx(momentum**0.5, rel=0.01)
    assert distances[100] < 1e-3 * descend(x, y, 100, lr=found.best_lr)[100]
