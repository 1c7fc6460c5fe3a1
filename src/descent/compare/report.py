"""``compare/`` next to the runs: tables, figures, and ``report.html``, one file that needs nothing else."""

import base64
import html
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import inf, isnan
from pathlib import Path

import polars as pl
from rich.console import Console

from descent.compare import X_AXES
from descent.compare.figures import Drawn, clipped_over, excess_over, heat_map, learning_rates, paths
from descent.compare.runs import Run, read_runs
from descent.compare.settings import Setting, best_settings, chooser_of, settings_of
from descent.compare.tables import runs_table, table_of
from descent.errors import UserError, must
from descent.run.files import write_atomically
from regression.pictures import png_of
from regression.theory import contractions

DPI = 110
FIGURES = (*(f"excess_over_{axis}" for axis in X_AXES), "learning_rates", "heat_map", "paths", "clipped", "contraction")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 13px } td, th { padding: .2em .7em; text-align: right }
td:first-child, th:first-child { text-align: left } tr:nth-child(even) { background: #f4f4f4 }
th { border-bottom: 1px solid #222 } figure { margin: 2em 0 } img { max-width: 100% }
div { overflow-x: auto }
"""


def compare(
    directories: Sequence[Path], group: Sequence[str] = (), x: str | None = None, target: float = 0.01, metric: str = ""
) -> Path:
    """Compares the runs below ``directories``; prints the ranking and returns the directory of what was written.

    Args:
        group: hyperparameters to compare by, the best setting for each combination of their values; empty: by all
            that differ.
        x: of the figures' x axes, ``descent.compare.X_AXES``; ``None``: a figure for each.
        target: the excess over the optimum's loss, as a fraction of it.
        metric: what is reported, and by which to rank; empty: ``val/loss``, or ``train/loss`` where there is no
            validation; with ``group`` ``test/loss``, where the runs have it. The best settings are chosen by it, or
            where it is of test rows by the same of validation: test rows choose nothing.

    Raises:
        UserError: nothing to compare, or an argument that no run knows.
    """
    if not 0 < target < inf:
        raise must("--target", "a positive number", target)
    runs, left_out = read_runs(directories)
    known = sorted({name for run in runs for name in run.result["metrics"]})
    reported = ("test/loss", "val/loss") if group else ("val/loss",)
    metric = metric or next((name for name in reported if name in known), "train/loss")
    if metric not in known:
        raise must("--metric", f"one of {', '.join(known)}", metric)
    every = settings_of(runs, group)
    for key in group:
        if key == "seed" or not any(key in run.hparams for run in runs):
            raise must("--group", f"hyperparameters that differ ({', '.join(every[0].values)})", key)
    chosen_by = chooser_of(metric, known)
    settings = best_settings(every, group, chosen_by) if group else every
    table = table_of(settings, metric, target, chosen_by if group else None)
    order = {name: number for number, name in enumerate(table["setting"])}
    settings.sort(key=lambda setting: order[setting.name])
    out = directories[0] / "compare"
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    for name, frame in (("runs", runs_table(runs)), ("settings", table)):
        write_atomically(out / f"{name}.csv", frame.write_csv().encode())
    figures = dict(_drawn(every, settings, chosen_by, metric, [x] if x else [*X_AXES]))
    for name in FIGURES:
        (out / f"{name}.png").unlink(missing_ok=True)  # of a comparison of something else
    for name, (_, png) in figures.items():
        write_atomically(out / f"{name}.png", png)
    counted = f"{len(runs)} runs, {len(every)} settings"
    notes = [*_notes(runs, group, chosen_by, metric), *_resolution(table)]
    page = "\n".join(_page(table, figures, left_out, metric, target, counted, notes))
    write_atomically(out / "report.html", page.encode())
    _print(table, metric, notes, left_out, out)
    return out


def _notes(runs: Sequence[Run], group: Sequence[str], chosen_by: str, metric: str) -> Iterator[str]:
    """What chose the settings, and what is reported of them."""
    if group:
        yield f"chosen: of each {' and '.join(group)} the setting with the most seeds, then the best by {chosen_by}"
    if metric.startswith("test/"):
        monitors = {best["monitor"] for run in runs if (best := run.result.get("best"))}
        checkpoint = f", at the checkpoint with the best {' or '.join(sorted(monitors))}" if monitors else ""
        yield f"reported: {metric}, of rows that chose nothing{checkpoint}"
    elif group:
        yield f"reported: {metric}, of the rows that chose"
    if group:
        yield "of seeds that did not choose the setting, where it has such"


def _resolution(table: pl.DataFrame) -> Iterator[str]:
    apart = table["steps between points"].drop_nulls()
    if len(apart):
        low, high = int(apart.min()), int(apart.max())  # type: ignore[arg-type]
        steps = f"{high}" if low == high else f"{low} to {high}"
        yield f"steps to the target are as fine as the logged points before it: {steps} apart"


def _drawn(
    every: Sequence[Setting], settings: Sequence[Setting], chosen_by: str, metric: str, axes: Sequence[str]
) -> Iterator[tuple[str, tuple[str, bytes]]]:
    """The figures that there is something for: name, title and PNG."""
    draw: dict[str, Callable[[], Drawn | None]] = {
        **{f"excess_over_{axis}": partial(excess_over, settings, axis) for axis in axes},
        "learning_rates": lambda: learning_rates(every, settings, chosen_by),
        "heat_map": lambda: heat_map(every, chosen_by, metric),
        "paths": lambda: paths(settings),
        "clipped": lambda: clipped_over(settings),
        "contraction": lambda: contractions(settings),
    }
    for name, function in draw.items():
        try:
            drawn = function()
            if drawn is not None:
                yield name, (drawn.title, png_of(drawn.figure, DPI))
        except (ArithmeticError, ValueError) as error:  # the tables are no worse for it
            print(f"note: {name} cannot be drawn: {error}", file=sys.stderr)


def _print(table: pl.DataFrame, metric: str, notes: Sequence[str], left_out: Sequence[str], out: Path) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("setting", overflow="fold")
    diverged = ["diverged"] if table["diverged"].sum() else []
    for column in (*diverged, metric, "above\noptimum", "at\ntarget", "steps\nto it"):
        shown.add_column(column, justify="right", no_wrap=True)
    for row in table.iter_rows(named=True):
        mean, deviation = row[f"{metric} mean"], row[f"{metric} deviation"]
        value = _cell(mean) if deviation is None else f"{mean:.4g} ± {deviation:.1g}"
        above = "" if isnan(row["above the optimum"]) else f"{row['above the optimum']:.2g}"
        reached = f"{row['at target']}/{row['runs']}"
        counts = (*(row[name] for name in diverged), value, above, reached, row["steps to target"])
        shown.add_row(row["setting"], *map(_cell, counts))
    console = Console(highlight=False, markup=False)
    console.print(shown)
    for line in notes:
        console.print(line, soft_wrap=True)
    for line in left_out:
        console.print(f"left out: {line}", soft_wrap=True)
    console.print(f"tables and figures: {out / 'report.html'}", soft_wrap=True)


def _page(
    table: pl.DataFrame,
    figures: Mapping[str, tuple[str, bytes]],
    left_out: Sequence[str],
    metric: str,
    target: float,
    counted: str,
    notes: Sequence[str],
) -> Iterator[str]:
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>Comparison</title><style>{STYLE}</style>"
    yield f"<h1>{html.escape(counted)}</h1>"
    yield "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    yield f"<p>Ranked by the share of runs that diverged, then by the mean of {html.escape(metric)} over the others. "
    yield f"Target: a training loss at most {100 * target:g}% above the optimum's; medians of the runs that came to "
    yield "it, the others are misses.</p><div><table><tr>"
    yield "".join(f"<th>{html.escape(column.replace('_', ' '))}</th>" for column in table.columns) + "</tr>"
    for row in table.iter_rows():
        yield "<tr>" + "".join(f"<td>{html.escape(_cell(value))}</td>" for value in row) + "</tr>"
    yield "</table></div>"
    for title, png in figures.values():
        data, caption = base64.b64encode(png).decode(), html.escape(title)
        yield f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"></figure>'
    if left_out:
        yield "<h2>Left out</h2><ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in left_out) + "</ul>"
    yield "</html>"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
