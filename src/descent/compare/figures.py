"""The figures of a comparison, each to be read without a caption."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from descent.compare.runs import Run
from descent.compare.tables import Setting, best_of, mean_of, name_of
from descent.optimum import Optimum
from descent.optimum import contraction as predicted_contraction
from descent.pictures import COLORS, STYLES, new_figure, paths_over_contours

MOST_LINES = 12  # settings in a figure, the best ones; more cannot be told apart
AXES = {
    "steps": "optimizer steps",
    "samples": "samples seen",
    "gradient_evaluations": "gradient evaluations",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Drawn:
    """A figure with its file name and what it shows, in a sentence."""

    name: str
    title: str
    figure: Figure

    def __post_init__(self) -> None:
        self.figure.suptitle(self.title, fontsize=10)


def excess_over(settings: Sequence[Setting], x: str) -> Drawn | None:
    """Training loss above the optimum, on a logarithmic axis: the mean over seeds, and their range."""
    shown = [s for s in settings if any(len(run.excess[0]) for run in s.runs)][:MOST_LINES]
    if not shown:
        return None
    figure, axes = new_figure(7.5)
    for number, setting in enumerate(shown):
        grid, values = _together(setting.runs, x)
        if not len(grid):
            continue
        color, style = COLORS[number % len(COLORS)], STYLES[number // len(COLORS)]
        middle = np.exp(np.log(values).mean(axis=0))
        axes.plot(grid, middle, style, color=color, label=setting.name)
        if len(values) > 1:
            axes.fill_between(grid, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2, linewidth=0)
    axes.set(xlabel=AXES[x], ylabel="training loss above the optimum", yscale="log")
    left = len(settings) - len(shown)
    _legend(axes, f"the best {MOST_LINES} of {len(settings)} settings" if left else None)
    return Drawn(f"excess_over_{x}", f"Training loss above the optimum over {AXES[x]}; bands: range over seeds", figure)


def learning_rates(settings: Sequence[Setting], metric: str) -> Drawn | None:
    """Sensitivity to the learning rate, one line for each optimizer, or what else differs; crosses are divergence."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for setting in settings:
        others = {key: value for key, value in setting.values.items() if key != "optimizer.lr"}
        name, rate = (
            name_of(others) or str(setting.runs[0].hparams.get("optimizer")),
            setting.values.get("optimizer.lr"),
        )
        if rate is not None:
            lines.setdefault(name, []).append((rate, mean_of(setting, metric)))
    lines = {name: line for name, line in lines.items() if len(line) > 1}
    if not lines:
        return None
    figure, axes = new_figure(7.5)
    for number, (name, line) in enumerate(sorted(lines.items())[:MOST_LINES]):
        color, style = COLORS[number % len(COLORS)], STYLES[number // len(COLORS)]
        axes.plot(*zip(*sorted(line), strict=True), style, marker="o", markersize=4, color=color, label=name)
        for rate in (rate for rate, value in line if np.isnan(value)):
            height = 0.97 - 0.035 * (number % 8)  # one row a line, so that they do not hide each other
            axes.plot(rate, height, "x", color=color, transform=axes.get_xaxis_transform(), markersize=7)
    axes.set(xlabel="learning rate", ylabel=metric, xscale="log", yscale=_scale(metric))
    _legend(axes, "x: diverged" if any(np.isnan(value) for line in lines.values() for _, value in line) else None)
    return Drawn("learning_rates", f"{metric} over the learning rate; crosses: runs that diverged", figure)


def heat_map(settings: Sequence[Setting], metric: str) -> Drawn | None:
    """The best setting's mean of ``metric`` for each optimizer and batch size."""
    cells: dict[tuple[str, str], list[float]] = {}
    for setting in settings:
        hparams = setting.runs[0].hparams
        cell = str(hparams.get("optimizer")), str(hparams.get("batch.size") or "full")
        cells.setdefault(cell, []).append(mean_of(setting, metric))
    optimizers = sorted({optimizer for optimizer, _ in cells})
    sizes = sorted({size for _, size in cells}, key=lambda s: float("inf") if s == "full" else int(s))
    if len(optimizers) < 2 or len(sizes) < 2:
        return None
    table = np.full((len(optimizers), len(sizes)), np.nan)
    for (optimizer, size), values in cells.items():
        known = [v for v in values if not np.isnan(v)]
        table[optimizers.index(optimizer), sizes.index(size)] = best_of(known, metric) if known else np.nan
    figure, axes = new_figure(7.5, 1.2 + 0.35 * len(optimizers))
    logarithmic = _scale(metric) == "log"
    shades = np.log10(table) if logarithmic else -table
    image = axes.imshow(shades, cmap="viridis_r", aspect="auto")
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set_yticks(range(len(optimizers)), optimizers)
    axes.set(xlabel="batch size", ylabel="optimizer")
    middle = np.nanmean(shades) if not np.isnan(shades).all() else 0.0
    for (row, column), value in np.ndenumerate(table):
        tried = (optimizers[row], sizes[column]) in cells
        text = f"{value:.3g}" if not np.isnan(value) else "diverged" if tried else "no run"
        dark = not np.isnan(value) and shades[row, column] > middle
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    figure.colorbar(image, label=f"log10 of {metric}" if logarithmic else f"-{metric}")
    return Drawn("heat_map", f"{metric} by optimizer and batch size, of the best setting in each cell", figure)


def clipped_over(settings: Sequence[Setting]) -> Drawn | None:
    """The fraction of steps whose gradient was clipped, over the steps."""
    shown = [s for s in settings if any(run.hparams.get("clip.gradient_clip_val") for run in s.runs)][:MOST_LINES]
    if not shown:
        return None
    figure, axes = new_figure(7.5)
    for number, setting in enumerate(shown):
        for run in setting.runs:
            if "grad/clipped" in run.curves:
                steps, values, _ = run.curves["grad/clipped"]
                color, style = COLORS[number % len(COLORS)], STYLES[number // len(COLORS)]
                axes.plot(steps, values, style, color=color, alpha=0.6, label=setting.name)
    axes.set(xlabel=AXES["steps"], ylabel="fraction of steps clipped so far", ylim=(-0.02, 1.02))
    _legend(axes)
    return Drawn("clipped", "Fraction of steps whose gradient was clipped", figure)


def paths(settings: Sequence[Setting]) -> Drawn | None:
    """For models of two parameters: the way of each setting's first run over the contours of the loss."""
    ways: dict[str, NDArray[np.float64]] = {}
    for setting in settings[:MOST_LINES]:
        run = next((run for run in setting.runs if not run.diverged), None)
        if run is None or (run.result.get("optimum") or {}).get("hessian") is None:
            continue
        tags = [tag for tag in run.curves if tag.startswith("parameters/weight_")]
        tags += [tag for tag in run.curves if tag == "parameters/bias"]
        ways[setting.name] = np.stack([run.curves[tag][1] for tag in tags], axis=1)
        optimum, names = run.result["optimum"], tuple(tag.removeprefix("parameters/").replace("_", " ") for tag in tags)
    if not ways:
        return None
    center = optimum["weight"] + ([] if optimum["bias"] is None else [optimum["bias"]])
    figure = paths_over_contours(ways, center, optimum["hessian"], (names[0], names[1]))
    return Drawn("paths", "The way over the contours of the training loss, one run of each setting", figure)


def contraction(runs: Sequence[Run]) -> Drawn | None:
    """Predicted against measured shrinking of the distance to the optimum a step, for SGD on all rows."""
    found = [triple for run in runs if (triple := contraction_of(run)) is not None]
    if not found:
        return None
    figure, axes = new_figure(7.5)
    predicted, measured, settled = np.array(found).T
    axes.plot([0, 1], [0, 1], color="#bbbbbb", zorder=0, label="equal")
    for label, kept, face in (
        ("settled", settled == 1, COLORS[0]),
        ("oscillating or not settled", settled == 0, "none"),
    ):
        if kept.any():
            axes.plot(predicted[kept], measured[kept], "o", color=COLORS[0], markerfacecolor=face, label=label)
    low = min(predicted.min(), measured.min())
    limits = low - 0.1 * (1 - low) - 1e-3, 1 + 0.1 * (1 - low)
    axes.set(xlabel="predicted contraction per step, in the long run", ylabel="measured", xlim=limits, ylim=limits)
    _legend(axes)
    return Drawn("contraction", "By which a step shortens the distance to the optimum: theory and practice", figure)


def contraction_of(run: Run) -> tuple[float, float, bool] | None:
    """Of SGD on all rows at a fixed rate: as predicted, as seen in the second half of the run, whether it is settled.

    It is settled when the last two quarters agree. Before, directions of larger curvature still die away; momentum
    may oscillate for ever.
    """
    hparams, rows, optimum = run.hparams, run.result["rows"]["train"], run.result.get("optimum")
    plain = hparams.get("optimizer._target_") == "torch.optim.SGD" and not any(
        hparams.get(f"optimizer.{key}") for key in ("weight_decay", "dampening", "maximize")
    )
    full = (hparams.get("batch.size") or rows) >= rows
    free = not hparams.get("clip.gradient_clip_val") and hparams.get("scheduler") in (None, "none")
    if run.diverged or not (plain and full and free and optimum):
        return None
    exact = Optimum(**{field.name: optimum[field.name] for field in fields(Optimum)})
    momentum, nesterov = hparams.get("optimizer.momentum") or 0.0, bool(hparams.get("optimizer.nesterov"))
    steps, excess, _ = run.excess
    kept = excess > 1e-9 * excess[:1]  # below it is rounding
    steps, logs = steps[kept], np.log(excess[kept])
    middle, last = len(steps) // 2, len(steps) - 1
    late = (middle + last) // 2
    if not middle < late < last:
        return None

    def slope(start: int, end: int) -> float:
        return float((logs[end] - logs[start]) / (2 * (steps[end] - steps[start])))  # the loss goes with the square

    settled = abs(slope(middle, late) - slope(late, last)) < 0.02 * abs(slope(middle, last))
    predicted = predicted_contraction(exact, hparams["optimizer.lr"], momentum, nesterov)
    return predicted, float(np.exp(slope(middle, last))), settled


def _together(runs: Sequence[Run], x: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The runs' excess losses at common places of the x axis, (places,) and (runs, places)."""
    curves = []
    for run in runs:
        steps, values, seconds = run.excess
        kept = np.isfinite(values) & (values > 0)
        if kept.sum() > 1:
            curves.append((run.axis(x, steps, seconds)[kept], values[kept]))
    if not curves:
        return np.array([]), np.empty((0, 0))
    end = min(places[-1] for places, _ in curves)
    grid = np.unique(np.concatenate([places[places <= end] for places, _ in curves]))
    return grid, np.exp(np.array([np.interp(grid, places, np.log(values)) for places, values in curves]))


def _scale(metric: str) -> str:
    return "linear" if metric.endswith("r2") else "log"  # R² can be negative


def _legend(axes: Axes, title: str | None = None) -> None:
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if unique:
        axes.legend(unique.values(), unique.keys(), title=title, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
