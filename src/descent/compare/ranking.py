"""Compares runs: prints a ranking and writes tables and figures to ``compare/`` next to the runs."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from descent.compare import X_AXES
from descent.compare.extra import Curve, Extra
from descent.compare.metrics import directed, first_logged, modes_of
from descent.compare.notes import best_note, budget_note, curve_notes, general_notes
from descent.compare.page import page, print_ranking, ranked
from descent.compare.plots import CLIPPED, curve_over, heat_map, learning_rates, never_clipped, new_axes
from descent.compare.runs import Run, read_runs
from descent.compare.settings import best_settings, settings_of
from descent.compare.tables import runs_table, table_of
from descent.config.metric import Metric, in_split, monitors_of
from descent.drawing import png_of
from descent.errors import UserError, invalid
from descent.files import write_atomically

DPI = 110


def compare(
    directories: Sequence[Path],
    group: Sequence[str] = (),
    x: str | None = None,
    target: float | None = None,
    metric: str = "",
    mode: str = "",
    target_metric: str = "",
    extra: Extra = Extra(),  # noqa: B008  # frozen
) -> Path:
    """Compares the runs below ``directories``, prints the ranking and returns the output directory.

    Args:
        group: hyperparameters to compare by, with the best setting for each combination of their values; empty: all
            that differ.
        x: one of ``descent.compare.X_AXES``; ``None``: a figure for each that shows something new.
        target: a value that runs should reach on the curve of ``target_metric``; ``None``: the project's, or none.
        metric: reported and used to rank; empty: the runs' monitor, or with ``group`` its test metric if logged. It
            also chooses the best settings, except that a test metric chooses by its validation counterpart: test rows
            are never used to choose.
        mode: ``min`` or ``max``: which values of the metric are best; empty: the mode of the runs' monitor.
        target_metric: empty: the project's curve, or the metric.
        extra: what the project adds.

    Raises:
        UserError: there is nothing to compare, an argument fits no run, or a metric's mode is not known or its quantity
            is not the same in all runs.
    """
    runs, left_out = read_runs(directories, extra.problem)
    logged = sorted({name for run in runs for name in run.result["metrics"]})
    monitors, modes, reported, chooser = _metrics(runs, logged, group, metric, mode, extra)
    own = extra.curve if extra.curve is not None and _has(runs, extra.curve) else None
    shown = _without_test(reported.name)  # test metrics have no curve
    curve = Curve(shown, reported.mode, shown)
    aimed = _aimed(runs, own or curve, target, target_metric, modes)
    every = settings_of(runs, group)
    for key in group:
        if key == "seed" or not any(key in run.hparams for run in runs):
            raise invalid("--group", f"hyperparameters that differ ({', '.join(every[0].values)})", key)
    settings = best_settings(every, group, chooser) if group else every
    columns = {title: of for title, of in extra.columns.items() if of in logged}
    table = table_of(settings, reported, aimed, chooser.name if group else None, columns)
    order = {name: number for number, name in enumerate(table["setting"])}
    settings.sort(key=lambda setting: order[setting.name])
    clipping = [s for s in settings if s.runs[0].hparams.get("clip.gradient_clip_val") is not None]
    idle = never_clipped(clipping)
    some = own is not None and any(run.curves and own.tag not in run.curves for run in runs)
    drawn = [own, curve] if own and (metric or some) else [own or curve]
    axes = [x] if x else new_axes(runs)
    draw: dict[str, Callable[[], Figure | None]] = {
        **{f"{c.name}_over_{axis}": partial(curve_over, settings, c, axis) for c in drawn for axis in axes},
        "learning_rates": partial(learning_rates, every, settings, chooser),
        "heat_map": partial(heat_map, every, chooser, reported),
        "clipped": partial(curve_over, [] if idle else clipping, CLIPPED, "steps"),
        **{name: partial(function, settings) for name, function in extra.figures.items()},
    }
    out = directories[0] / "compare"
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    names = [curve.name, *([extra.curve.name] if extra.curve else [])]
    for name in {*draw, *(f"{name}_over_{axis}" for name in names for axis in X_AXES)}:
        (out / f"{name}.png").unlink(missing_ok=True)  # left by an earlier comparison
    write_atomically(out / "runs.csv", runs_table(runs).write_csv().encode())
    write_atomically(out / "settings.csv", table.write_csv().encode())
    figures = dict(_drawn(draw))
    for name, (_, _, png) in figures.items():
        write_atomically(out / f"{name}.png", png)
    notes = [
        *general_notes(runs, monitors, group, chooser, reported),
        *budget_note(settings),
        *best_note(table, reported),
    ]
    notes += curve_notes(runs, table, aimed, axes)
    notes += ["clipping never acted at a logged step of the ranked settings"] if idle else []
    counted = f"{len(runs)} runs, {len(every)} settings"
    counted += f": the best of each {' and '.join(group)}" if group else ""
    ranking = ranked(table, reported.name, columns, runs=True)
    text = "\n".join(page(counted, ranking, figures.values(), notes, left_out))
    write_atomically(out / "report.html", text.encode())
    lines = [*notes, *(f"left out: {line}" for line in left_out), f"tables and figures: {out / 'report.html'}"]
    print_ranking(table, reported.name, columns, lines)
    return out


def _metrics(
    runs: Sequence[Run], logged: Sequence[str], group: Sequence[str], metric: str, mode: str, extra: Extra
) -> tuple[Sequence[Metric], Mapping[str, str], Metric, Metric]:
    """The runs' monitors, the modes of all metrics, the metric that is reported, and the one that chooses settings."""
    monitors = monitors_of((run.result for run in runs), logged)
    having = {monitors_of([run.result], logged)[0]: run.path for run in reversed(runs)}
    modes = modes_of({monitor: having.get(monitor) for monitor in monitors}, metric, mode, extra.modes)
    monitor = monitors[0].name if len(monitors) == 1 else in_split("val", metric)
    usual = [monitor, in_split("train", monitor)]  # the training metric, if there is no validation
    tested = [in_split("test", monitor)] if group else []
    reported = first_logged([metric] if metric else [*tested, *usual], logged, modes)
    is_test = reported.name.startswith("test/")
    chooser = first_logged([_without_test(reported.name), *usual], logged, modes) if is_test else reported
    for name in (reported.name, chooser.name):
        if (problem := extra.metric_problem(runs, name)) is not None:
            raise UserError(f"{name} is {problem}")
    return monitors, modes, reported, chooser


def _without_test(name: str) -> str:
    """The metric itself, or for a test metric that of the validation rows."""
    return in_split("val", name) if name.startswith("test/") else name


def _aimed(
    runs: Sequence[Run], curve: Curve, target: float | None, target_metric: str, modes: Mapping[str, str]
) -> Curve:
    """The curve for the target: ``curve``, or that of ``target_metric``, with the target if one is given."""
    if target_metric:
        curve = Curve(target_metric, directed(target_metric, modes).mode, target_metric)
        if target is None:
            raise invalid("--target", f"a value of {target_metric}", target)
    if target is None:
        return curve
    if not _has(runs, curve):
        tags = sorted({tag for run in runs for tag in run.curves})
        raise invalid("--target-metric", f"one that has a curve ({', '.join(tags)})", curve.tag)
    return replace(curve, target=target)


def _has(runs: Sequence[Run], curve: Curve) -> bool:
    return any(curve.tag in run.curves for run in runs)


def _drawn(draw: Mapping[str, Callable[[], Figure | None]]) -> Iterator[tuple[str, tuple[str, str, bytes]]]:
    """Draws the figures that have data: name, then title, caption and PNG."""
    for name, function in draw.items():
        try:
            figure = function()
            if figure is not None:
                yield name, (figure.get_suptitle() or name, str(figure.get_label()), png_of(figure, DPI))
        except Exception as error:  # whatever fails in a project's own figure, the tables are still valid
            print(f"note: {name} cannot be drawn: {error}", file=sys.stderr)
