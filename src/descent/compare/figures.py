"""The figures of a comparison, each to be read without a caption."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from descent.compare import X_AXES
from descent.compare.runs import Run
from descent.compare.settings import Setting, mean_of, name_of
from descent.config.rules import better
from regression.pictures import look, new_figure, paths_over_contours, plain

MOST_LINES = 12  # settings in a figure, the best ones; more cannot be told apart


@dataclass(frozen=True)
class Drawn:
    """A figure and what it shows, in a sentence."""

    title: str
    figure: Figure

    def __post_init__(self) -> None:
        self.figure.suptitle(self.title, fontsize=10)


def excess_over(settings: Sequence[Setting], x: str) -> Drawn | None:
    """Training loss above the optimum, on a logarithmic axis: the geometric mean over seeds, and their range."""
    drawable = [s for s in settings if any(len(run.excess[0]) and not run.diverged for run in s.runs)]
    shown = drawable[:MOST_LINES]
    if not shown:
        return None
    figure, axes = new_figure(7.5)
    for number, setting in enumerate(shown):
        grid, values = _together(setting.runs, x)
        if not len(grid):
            continue
        axes.plot(grid, np.exp(np.log(values).mean(axis=0)), **look(number), label=plain(setting.name))
        if len(values) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            axes.fill_between(grid, low, high, color=look(number)["color"], alpha=0.2, linewidth=0)
    axes.set(xlabel=X_AXES[x], ylabel="training loss above the optimum", yscale="log")
    legend(axes, f"the best {len(shown)} of {len(drawable)}" if len(shown) < len(drawable) else None)
    return Drawn(f"Training loss above the optimum over {X_AXES[x]}; bands: range over seeds", figure)


def learning_rates(every: Sequence[Setting], ranked: Sequence[Setting], metric: str) -> Drawn | None:
    """Sensitivity to the learning rate, one line for each optimizer, or what else differs, in the order of the ranking.

    Points are means over the runs that did not diverge, of the seeds that all settings of a line have; a cross says
    that a run diverged.
    """
    lines: dict[str, list[Setting]] = {_without_rate(setting): [] for setting in ranked}
    for setting in every:
        if setting.values.get("optimizer.lr") is not None:
            lines.setdefault(_without_rate(setting), []).append(setting)
    lines = {name: line for name, line in lines.items() if len(line) > 1}
    if not lines:
        return None
    figure, axes = new_figure(7.5)
    crosses, known = False, False
    for number, (name, line) in enumerate([*lines.items()][:MOST_LINES]):
        shared = set.intersection(*({run.result["seed"] for run in setting.runs} for setting in line))
        points = []
        for setting in line:
            runs = [run for run in setting.runs if run.result["seed"] in shared] or setting.runs
            rate = setting.values["optimizer.lr"]
            points.append((rate, mean_of(replace(setting, runs=runs), metric)))
            known |= points[-1][1] > 0
            if any(run.diverged for run in runs):
                crosses = True
                height = 0.97 - 0.035 * (number % 8)  # one row a line, so that they do not hide each other
                color = look(number)["color"]
                axes.plot(rate, height, "x", color=color, transform=axes.get_xaxis_transform(), markersize=7)
        axes.plot(*zip(*sorted(points), strict=True), **look(number), marker="o", markersize=4, label=plain(name))
    axes.set(xlabel="learning rate", ylabel=metric, xscale="log")
    if known:  # a logarithm needs something to be drawn
        axes.set_yscale(_scale(metric))
    legend(axes, "x: diverged" if crosses else None)
    return Drawn(f"{metric} over the learning rate; crosses: runs that diverged", figure)


def _without_rate(setting: Setting) -> str:
    others = {key: value for key, value in setting.values.items() if key != "optimizer.lr"}
    return name_of(others) or str(setting.runs[0].hparams.get("optimizer"))


def heat_map(settings: Sequence[Setting], chosen_by: str, metric: str) -> Drawn | None:
    """The mean of ``metric`` for each optimizer and batch size, of the setting with the best mean of ``chosen_by``.

    Settings of which a run diverged are not chosen.
    """
    cells: dict[tuple[str, str], list[Setting]] = {}
    for setting in settings:
        hparams = setting.runs[0].hparams
        cell = str(hparams.get("optimizer")), str(hparams.get("batch.size") or "full")
        cells.setdefault(cell, [])
        if not any(run.diverged for run in setting.runs) and not isnan(mean_of(setting, chosen_by)):
            cells[cell].append(setting)
    optimizers = sorted({optimizer for optimizer, _ in cells})
    sizes = sorted({size for _, size in cells}, key=lambda s: float("inf") if s == "full" else int(s))
    if len(optimizers) < 2 or len(sizes) < 2:
        return None
    table = np.full((len(optimizers), len(sizes)), np.nan)
    choose = max if better(chosen_by) == "max" else min
    for (optimizer, size), found in cells.items():
        if found:
            best = choose(found, key=lambda setting: mean_of(setting, chosen_by))
            table[optimizers.index(optimizer), sizes.index(size)] = mean_of(best, metric)
    figure, axes = new_figure(7.5, 1.2 + 0.35 * len(optimizers))
    logarithmic = _scale(metric) == "log"
    with np.errstate(divide="ignore", invalid="ignore"):
        shades = np.log10(table) if logarithmic else -table
    shades[~np.isfinite(shades)] = np.nan  # a loss of 0
    image = axes.imshow(shades, cmap="viridis_r", aspect="auto")
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set_yticks(range(len(optimizers)), optimizers)
    axes.set(xlabel="batch size", ylabel="optimizer")
    middle = np.nanmean(shades) if not np.isnan(shades).all() else 0.0
    for (row, column), value in np.ndenumerate(table):
        tried = (optimizers[row], sizes[column]) in cells
        text = f"{value:.3g}" if not np.isnan(value) else "diverged" if tried else "no run"
        dark = shades[row, column] > middle  # false for nan
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    figure.colorbar(image, label=f"log10 of {metric}" if logarithmic else f"-{metric}")
    return Drawn(f"{metric} by optimizer and batch size, of each cell's best setting by {chosen_by}", figure)


def clipped_over(settings: Sequence[Setting]) -> Drawn | None:
    """The fraction of steps whose gradient was clipped, over the steps."""
    shown = [s for s in settings if any(run.hparams.get("clip.gradient_clip_val") for run in s.runs)][:MOST_LINES]
    if not shown:
        return None
    figure, axes = new_figure(7.5)
    for number, setting in enumerate(shown):
        for run in setting.runs:
            if "grad/clipped" in run.curves:
                axes.plot(*run.curves["grad/clipped"], **look(number), alpha=0.6, label=plain(setting.name))
    axes.set(xlabel=X_AXES["steps"], ylabel="fraction clipped so far", ylim=(-0.02, 1.02))
    legend(axes)
    return Drawn("Of the steps looked at, the fraction whose gradient was clipped", figure)


def paths(settings: Sequence[Setting]) -> Drawn | None:
    """For models of two parameters: the path of each setting's first run over the contours of the loss."""
    ways: dict[str, NDArray[np.float64]] = {}
    for setting in settings[:MOST_LINES]:
        run = next((run for run in setting.runs if not run.diverged), None)
        optimum = run.result.get("optimum") if run is not None else None
        if run is None or optimum is None or optimum.get("hessian") is None:
            continue
        tags = [tag for tag in run.curves if tag.startswith("parameters/weight_")]
        tags += [tag for tag in run.curves if tag == "parameters/bias"]
        point = optimum["weight"] + ([] if optimum.get("bias") is None else [optimum["bias"]])
        if len(tags) != 2 or len(point) != 2 or [len(row) for row in optimum["hessian"]] != [2, 2]:
            continue
        if None in (*point, *optimum["hessian"][0], *optimum["hessian"][1]):  # not finite
            continue
        center, hessian = point, optimum["hessian"]
        ways[setting.name] = np.stack([run.curves[tag][1] for tag in tags], axis=1)
        names = tuple(tag.removeprefix("parameters/").replace("_", " ") for tag in tags)
    if not ways:
        return None
    figure = paths_over_contours(ways, center, hessian, (names[0], names[1]))
    return Drawn("Paths over the contours of the training loss, one run of each setting", figure)


def _together(runs: Sequence[Run], x: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The excess losses of runs that did not diverge at common places of the x axis, (places,) and (runs, places)."""
    curves = []
    for run in runs:
        steps, values = run.excess
        places = run.axis(x, steps)
        kept = np.isfinite(places) & (values > 0)
        if kept.sum() > 1 and not run.diverged:
            curves.append((places[kept], values[kept]))
    if not curves:
        return np.array([]), np.empty((0, 0))
    end = min(places[-1] for places, _ in curves)
    grid = np.unique(np.concatenate([places[places <= end] for places, _ in curves]))
    return grid, np.exp(np.array([np.interp(grid, places, np.log(values)) for places, values in curves]))


def _scale(metric: str) -> str:
    return "linear" if metric.endswith("r2") else "log"  # R² can be negative


def legend(axes: Axes, title: str | None = None) -> None:
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if unique:
        axes.legend(unique.values(), unique.keys(), title=title, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
