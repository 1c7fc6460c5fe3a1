"""Draws the fit, predictions against targets, and paths of two parameters."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from descent.drawing import COLORS, legend, look, new_figure, plain
from regression.data.rows import Array

MOST_UNEQUAL = 5  # parameters whose ranges differ by a larger factor get axes of different scales


def fit_over_data(x: Array, y: Array, curves: Mapping[str, tuple[Array, Array]], names: tuple[str, str]) -> Figure:
    """Rows of a single feature (rows,), with curves drawn over them.

    Args:
        curves: the inputs and predictions of each curve, by name.
        names: of the feature and the target.
    """
    figure, axes = new_figure()
    axes.plot(x, y, ".", color="#999999", markersize=4, label="training rows")
    for number, (name, curve) in enumerate(curves.items()):
        axes.plot(*curve, **look(number), label=name)
    axes.set(xlabel=plain(names[0]), ylabel=plain(names[1]))
    axes.legend(fontsize=8)
    return figure


def predicted_against_actual(parts: Mapping[str, tuple[Array, Array]], target: str) -> Figure:
    """Predictions against targets (rows,) of each part; they are equal on the diagonal."""
    figure, axes = new_figure(5, 5)
    ends = [
        min(min(a.min(), p.min()) for a, p in parts.values()),
        max(max(a.max(), p.max()) for a, p in parts.values()),
    ]
    axes.plot(ends, ends, color="#bbbbbb", label="equal")
    for number, (name, (actual, predicted)) in enumerate(parts.items()):
        axes.plot(actual, predicted, ".", color=COLORS[number], markersize=4, label=name)
    axes.set(xlabel=plain(f"actual {target}"), ylabel=plain(f"predicted {target}"), aspect="equal")
    axes.legend(fontsize=8)
    return figure


def paths_over_contours(
    paths: Mapping[str, Array], center: ArrayLike, hessian: ArrayLike, names: tuple[str, str]
) -> Figure:
    """Paths of two parameters over the contours of ``(p - center)^T hessian (p - center) / 2``.

    Args:
        paths: (points, 2) each, by name.
        center: (2,) the optimum.
        hessian: (2, 2).
        names: of the parameters.
    """
    figure, axes = new_figure(7, 5)
    every = np.concatenate([*paths.values(), np.array([center])])
    low, high = every.min(axis=0), every.max(axis=0)
    spans, least = high - low, 1e-9 + 1e-3 * np.abs(high).max()
    of_one_scale = bool(spans.min() == 0 or spans.max() < MOST_UNEQUAL * spans.min())
    # 15% more than the paths on both sides
    reach = 0.65 * (np.full(2, max(spans.max(), least)) if of_one_scale else spans)
    middle = (low + high) / 2
    ends = [*zip((middle - reach).tolist(), (middle + reach).tolist(), strict=True)]
    grid = np.meshgrid(*(np.linspace(*end, 120) for end in ends))
    difference = np.stack(grid, axis=-1) - np.array(center)
    above = 0.5 * np.einsum("...i,ij,...j", difference, np.array(hessian), difference)
    if above.max() > 1e-200:  # the loss is not flat
        levels = np.geomspace(above.max() * 1e-4, above.max(), 13)
        axes.contour(*grid, above, levels=levels, colors="#cccccc", linewidths=0.8)
    for number, (name, path) in enumerate(paths.items()):
        style = look(number)
        style["linewidth"] /= 2  # thinner than the points, which show each step
        axes.plot(*path.T, marker=".", markersize=4, **style, label=plain(name))
    axes.plot(*np.array(center), "*", color="#000000", markersize=12, label="least squares")
    axes.set(xlabel=plain(names[0]), ylabel=plain(names[1]), xlim=ends[0], ylim=ends[1])
    axes.set_aspect("equal" if of_one_scale else "auto")
    legend(axes)
    return figure
