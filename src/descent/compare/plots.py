"""Draws the figures of a comparison."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite, isnan

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from descent.compare import X_AXES
from descent.compare.extra import Curve
from descent.compare.runs import Run
from descent.compare.settings import Setting, finals, mean_of, name_of
from descent.config.metric import Metric
from descent.drawing import legend, look, new_figure, plain

MOST_LINES = 12  # the best settings in a figure; more lines cannot be told apart
CLIPPED = Curve(
    "grad/clipped",
    "max",
    "fraction of the logged steps clipped so far",
    caption="At 0, no logged step so far was clipped; at 1, all were. Near 0, clipping changes little.",
)


def new_axes(runs: Sequence[Run]) -> list[str]:
    """The x axes without those on which the curves of the runs look as they do over steps."""
    results = [run.result for run in runs]
    one_each = all(result["gradient_evaluations"] == result["steps"] for result in results)
    sizes = {result["samples"] / result["steps"] for result in results if result["steps"]}
    same = {"gradient_evaluations": one_each, "samples": len(sizes) < 2}
    return [axis for axis in X_AXES if not same.get(axis)]


def never_clipped(settings: Sequence[Setting]) -> bool:
    """Whether runs clipped their gradients, but none of them at a logged step."""
    fractions = [run.curve(CLIPPED.tag)[1] for setting in settings for run in setting.runs]
    return any(map(len, fractions)) and not any(values.any() for values in fractions)


def curve_over(settings: Sequence[Setting], curve: Curve, x: str) -> Figure | None:
    """Draws a curve over an x axis: its mean over the runs that did not diverge, and their range.

    On a logarithmic axis the mean is geometric.
    """
    whole = [replace(setting, runs=[run for run in setting.runs if not run.diverged]) for setting in settings]
    every = (value for setting in whole for run in setting.runs for value in run.curve(curve.tag)[1])
    scale = scale_of(curve.mode, every)
    lines = [(setting.name, *_together(setting.runs, curve.tag, x, scale)) for setting in whole]
    lines = [line for line in lines if len(line[1])]
    if not lines:
        return None
    figure, axes = new_figure(7.5)
    for number, (name, grid, values) in enumerate(lines[:MOST_LINES]):
        mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
        if scale == "log":
            mean, low, high = np.exp(mean), np.exp(low), np.exp(high)
        axes.plot(grid, mean, **look(number), label=plain(name))
        if len(values) > 1:
            axes.fill_between(grid, low, high, color=look(number)["color"], alpha=0.2, linewidth=0)
    axes.set(xlabel=X_AXES[x], ylabel=plain(curve.label), yscale=scale)
    legend(axes, f"the best {MOST_LINES} of {len(lines)}" if len(lines) > MOST_LINES else None)
    mean = "geometric mean" if scale == "log" else "mean"
    several = any(len(values) > 1 for _, _, values in lines[:MOST_LINES])
    bands = f"; line: {mean}, band: range over seeds" if several else ""
    slope = f"The further left a line improves, the fewer {_unit(x)}s it needs."
    if scale == "log":
        slope = (
            f"A straight line on this logarithmic axis means that each {_unit(x)} shrinks the value by the same factor."
        )
    return titled(figure, f"{curve.label} over {X_AXES[x]}{bands}", curve.caption or f"{_better(curve.mode)} {slope}")


def learning_rates(every: Sequence[Setting], ranked: Sequence[Setting], metric: Metric) -> Figure | None:
    """Draws the metric over the learning rate, one line per combination of the other settings, in ranking order.

    Points are means over the runs that did not diverge, of the seeds that all settings of a line share. A cross marks
    a diverged run.
    """
    lines: dict[str, list[Setting]] = {_without_rate(setting): [] for setting in ranked}
    for setting in every:
        if setting.values.get("optimizer.lr") is not None:
            lines.setdefault(_without_rate(setting), []).append(setting)
    lines = {name: line for name, line in lines.items() if len(line) > 1}
    if not lines:
        return None
    figure, axes = new_figure(7.5)
    crosses, drawn = False, []
    for number, (name, line) in enumerate([*lines.items()][:MOST_LINES]):
        shared = set.intersection(*({run.result["seed"] for run in setting.runs} for setting in line))
        points = []
        for setting in line:
            runs = [run for run in setting.runs if run.result["seed"] in shared] or setting.runs
            rate = setting.values["optimizer.lr"]
            points.append((rate, mean_of(replace(setting, runs=runs), metric.name)))
            if any(run.diverged for run in runs):
                crosses = True
                height = 0.97 - 0.035 * (number % 8)  # one row per line, so that crosses do not overlap
                color = look(number)["color"]
                axes.plot(rate, height, "x", color=color, transform=axes.get_xaxis_transform(), markersize=7)
        drawn += [mean for _, mean in points]
        axes.plot(*zip(*sorted(points), strict=True), **look(number), marker="o", markersize=4, label=plain(name))
    axes.set(xlabel="learning rate", ylabel=plain(metric.name), xscale="log", yscale=scale_of(metric.mode, drawn))
    legend(axes, "x: diverged" if crosses else None)
    wide = "A line that stays good over a wide range belongs to a setting whose learning rate is easy to choose."
    title = f"{metric.name} over the learning rate; crosses: runs that diverged"
    return titled(figure, title, f"{_better(metric.mode)} {wide}")


def _without_rate(setting: Setting) -> str:
    others = {key: value for key, value in setting.values.items() if key != "optimizer.lr"}
    return name_of(others) or str(setting.runs[0].hparams.get("optimizer"))


def heat_map(settings: Sequence[Setting], chosen_by: Metric, metric: Metric) -> Figure | None:
    """Draws the mean of ``metric`` for each optimizer and batch size, at its setting with the best mean ``chosen_by``.

    A setting with a run that diverged or has no value is not chosen.
    """
    cells: dict[tuple[str, str], list[Setting]] = {}
    for setting in settings:
        hparams = setting.runs[0].hparams
        cell = str(hparams.get("optimizer")), str(hparams.get("batch.size") or "full")
        cells.setdefault(cell, []).append(setting)
    optimizers = sorted({optimizer for optimizer, _ in cells})
    sizes = sorted({size for _, size in cells}, key=lambda s: float("inf") if s == "full" else int(s))
    if len(optimizers) < 2 or len(sizes) < 2:
        return None
    table = np.full((len(optimizers), len(sizes)), np.nan)
    for (optimizer, size), tried in cells.items():
        whole = [setting for setting in tried if len(finals(setting, chosen_by.name)) == len(setting.runs)]
        if whole:
            best = max(whole, key=lambda setting: chosen_by.merit(mean_of(setting, chosen_by.name)))
            table[optimizers.index(optimizer), sizes.index(size)] = mean_of(best, metric.name)
    figure, axes = new_figure(7.5, 1.2 + 0.35 * len(optimizers))
    logarithmic = scale_of(metric.mode, table.flat) == "log"
    with np.errstate(divide="ignore", invalid="ignore"):
        shades = np.log10(table) if logarithmic else -table if metric.mode == "max" else table
    shades[~np.isfinite(shades)] = np.nan  # a loss of 0
    image = axes.imshow(shades, cmap="viridis_r", aspect="auto")
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set_yticks(range(len(optimizers)), optimizers)
    axes.set(xlabel="batch size", ylabel="optimizer")
    middle = np.nanmean(shades) if not np.isnan(shades).all() else 0.0
    for (row, column), value in np.ndenumerate(table):
        runs = [run for setting in cells.get((optimizers[row], sizes[column]), []) for run in setting.runs]
        missing = "diverged" if any(run.diverged for run in runs) else "no value" if runs else "no run"
        text = missing if isnan(value) else f"{value:.3g}"
        dark = shades[row, column] > middle  # false for nan
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    sign = "log10 of " if logarithmic else "-" if metric.mode == "max" else ""
    figure.colorbar(image, label=f"{sign}{metric.name}")
    title = f"{metric.name} by optimizer and batch size, of each cell's best setting by {chosen_by.name}"
    return titled(figure, title, "Lighter is better. A row shows what the batch size changes for one optimizer.")


def _together(runs: Sequence[Run], tag: str, x: str, scale: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The curves of the runs on a common grid: (points,) and (runs, points). With ``log``, returns logarithms."""
    curves = []
    for run in runs:
        steps, values = run.curve(tag)
        places = run.axis(x, steps)
        kept = np.isfinite(places) & np.isfinite(values) & ((values > 0) | (scale != "log"))
        if kept.sum() > 1:
            curves.append((places[kept], np.log(values[kept]) if scale == "log" else values[kept]))
    if not curves:
        return np.array([]), np.empty((0, 0))
    start, end = max(places[0] for places, _ in curves), min(places[-1] for places, _ in curves)
    grid = np.unique(np.concatenate([places[(start <= places) & (places <= end)] for places, _ in curves]))
    return grid, np.array([np.interp(grid, places, values) for places, values in curves])


def scale_of(mode: str, values: Iterable[float]) -> str:
    """The scale of an axis: logarithmic if small values are best and none is negative, as for a loss."""
    known = [value for value in values if isfinite(value)]
    return "log" if mode == "min" and known and min(known) >= 0 and max(known) > 0 else "linear"


def _better(mode: str) -> str:
    return "Higher is better." if mode == "max" else "Lower is better."


def _unit(x: str) -> str:
    return x.replace("_", " ").removesuffix("s")


def titled(figure: Figure, title: str, caption: str = "") -> Figure:
    """Gives a figure its title, and a caption that the report shows below it: what to see, in a sentence or two."""
    figure.suptitle(title, fontsize=10, wrap=True, parse_math=False)
    figure.set_label(caption)  # not drawn
    return figure
