"""Tests predicted and measured contractions, from hand-written curves."""

from typing import Any

import numpy as np
import pytest
from drawn import frame, lines
from test_compare_by_hand import OPTIMUM, run_of

from descent.compare.settings import settings_of
from regression.comparison import contraction_of, contractions


def falling(factors: list[float], **given: Any) -> Any:
    """A run whose excess starts at 1 and is multiplied by each factor in turn."""
    return run_of(np.cumprod([1.0, *factors]).tolist(), every=10, **given)


def test_the_figure_of_contractions_is_of_theory_and_measurement() -> None:
    hparams = [
        {"optimizer.lr": 0.1, "a": "$"},
        {"optimizer.lr": 0.2, "a": "b"},
        {"optimizer.lr": 0.3, "scheduler": "x"},
    ]
    runs = [falling([0.25] * 8, hparams=hparams[0]), falling([0.25] * 6 + [0.5] * 2, hparams=hparams[1])]
    figure = contractions(settings_of([*runs, falling([0.5] * 8, hparams=hparams[2])]))
    assert figure is not None
    (axes,) = figure.axes
    (_, (*_, [first]), (*_, [second])) = lines(axes)
    assert first == (pytest.approx(0.9), pytest.approx(0.5**0.1))
    assert second == (pytest.approx(0.8), pytest.approx((0.25**2 * 0.5**2) ** (1 / 80)))
    assert [line[:4] for line in lines(axes)] == [
        ("equal", "#bbbbbb", "-", "None"),
        (r"lr=0.1, scheduler=none, \$", "#4477aa", "None", "o"),
        ("lr=0.2, scheduler=none, b (not settled)", "#ee6677", "None", "o"),
    ]
    assert lines(axes)[0][4] == [(0.0, 0.0), (1.0, 1.0)]
    assert [line.get_markerfacecolor() for line in axes.lines[1:]] == ["#4477aa", "none"]
    assert "Hollow points" in figure.get_label()
    all_settled = contractions(settings_of(runs[:1]))
    assert all_settled is not None and "Hollow points" not in all_settled.get_label()
    limits = (0.8 - 0.02 - 1e-3, 1 + 0.02)
    assert axes.get_xlim() == axes.get_ylim() == (pytest.approx(limits[0]), pytest.approx(limits[1]))
    assert frame(figure) == {
        "title": "Contraction of the distance to the optimum per step, SGD on all rows: measured against theory",
        **{"size": (7.5, 4.0), "spines": ["left", "bottom"], "scales": ("linear", "linear")},
        "labels": ("predicted contraction per step, in the long run", "measured"),
        "legend": ("", [r"equal", r"lr=0.1, scheduler=none, \$", "lr=0.2, scheduler=none, b (not settled)"]),
    }


def test_twelve_contractions_are_in_the_legend_and_all_are_drawn() -> None:
    runs = [falling([0.25] * 8, hparams={"optimizer.lr": 0.01 * k}) for k in range(1, 27)]
    figure = contractions(settings_of(runs))
    assert figure is not None
    found = lines(figure.axes[0])[1:]
    assert [label != "" for label, *_ in found] == [True] * 12 + [False] * 14
    assert "".join(marker for _, _, _, marker, _ in found) == "o" * 8 + "s" * 8 + "^" * 8 + "oo"
    assert contractions(settings_of([run_of([])])) is None


@pytest.mark.parametrize(
    ("hparams", "factor"),
    [
        *(({"optimizer.lr": 0.5}, 1.0), ({"optimizer.weight_decay": 0.0}, 0.9), ({"batch.size": 81}, 0.9)),
        *(({"optimizer.dampening": 0.1}, None), ({"optimizer.maximize": True}, None)),
    ],
    ids=str,
)
def test_the_slower_of_two_directions_is_predicted(hparams: dict[str, Any], factor: float | None) -> None:
    found = contraction_of(falling([0.25] * 8, hparams=hparams))  # curvatures 4 and 1
    assert (found and found[0]) == (factor and pytest.approx(factor))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("lr", [0.1, 0.4])
def test_with_momentum_it_is_the_largest_eigenvalue_of_a_step(lr: float, nesterov: bool) -> None:
    m = 0.3
    look_ahead = 1 - lr if nesterov else 1.0
    step = [[(1 + m) * look_ahead - (0.0 if nesterov else lr), -m * look_ahead], [1.0, 0.0]]
    hparams = {"optimizer.lr": lr, "optimizer.momentum": m, "optimizer.nesterov": nesterov}
    one = OPTIMUM | {"condition_number": 1.0, "max_stable_lr": 2.0}  # a curvature of 1
    found = contraction_of(falling([0.25] * 8, optimum=one, hparams=hparams))
    assert found is not None
    assert found[0] == pytest.approx(np.abs(np.linalg.eigvals(step)).max())


@pytest.mark.parametrize(("points", "known"), [(4, False), (5, True)])
def test_a_contraction_needs_a_late_and_a_last_point_above_rounding(points: int, known: bool) -> None:
    for rest in ([], [1e-9, 0.5]):  # below a billionth of the first it is rounding error
        assert (contraction_of(falling([0.25] * (points - 1) + rest)) is not None) == known


@pytest.mark.parametrize(("last", "settled"), [(1.015, True), (0.985, True), (1.025, False), (0.975, False)])
def test_it_is_settled_where_the_last_quarters_are_within_a_fiftieth(last: float, settled: bool) -> None:
    found = contraction_of(falling([0.5] * 4 + [np.exp(-1.0)] * 2 + [np.exp(-last)] * 2))
    assert found is not None
    assert found[2] == settled
    assert found[1] == pytest.approx(np.exp(-(1 + last) / 2 / 20))  # ten steps a point; loss is distance squared


def test_a_single_setting_has_a_figure_of_its_contraction() -> None:
    runs = [falling([0.5] * 8, hparams={"batch.size": None, "optimizer.lr": 0.1})]
    assert contractions(settings_of(runs)) is not None


def test_a_contraction_is_of_the_first_seed_and_needs_no_size_of_the_loss() -> None:
    runs = [falling([factor] * 8, seed=seed) for seed, factor in enumerate((0.25, 0.5))]
    figure = contractions(settings_of(runs))
    assert figure is not None
    assert lines(figure.axes[0])[1][4] == [(pytest.approx(0.9), pytest.approx(0.5**0.1))]
    for scale in (1e-12, 1e12):
        found = contraction_of(run_of([scale * 0.25**k for k in range(9)]))
        assert found is not None and found[1] == pytest.approx(0.5**0.1)


def test_without_a_condition_number_or_a_rate_no_contraction_is_predicted() -> None:
    assert contraction_of(falling([0.25] * 8, optimum=OPTIMUM | {"condition_number": None})) is None
    for hparams in ({"optimizer.lr": 0.0}, {"optimizer._target_": None}):
        assert contraction_of(falling([0.25] * 8, hparams=hparams)) is None
