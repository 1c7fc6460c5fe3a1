"""A comparison as it is read: on the console, and as ``report.html``, one file that needs nothing else."""

import base64
import html
from collections.abc import Collection, Iterable, Iterator, Sequence

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 13px } td, th { padding: .2em .7em; text-align: right }
td:first-child, th:first-child { text-align: left } tr:nth-child(even) { background: #f4f4f4 }
th { border-bottom: 1px solid #222 } figure { margin: 2em 0 } img { max-width: 100% }
div { overflow-x: auto }
"""


def print_ranking(table: pl.DataFrame, metric: str, columns: Collection[str], lines: Sequence[str]) -> None:
    """The table's most important columns, and ``lines`` below.

    Args:
        columns: those of the project's own.
    """
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("setting", overflow="fold")
    diverged = ["diverged"] if table["diverged"].sum() else []
    target = "at target" in table.columns
    titles = [*diverged, metric, *columns, *(["at target", "steps to it"] if target else [])]
    for title in titles:
        shown.add_column(title.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for row in table.iter_rows(named=True):
        mean, deviation = row[f"{metric} mean"], row[f"{metric} deviation"]
        cells = [
            *(row[name] for name in diverged),
            _cell(mean) if deviation is None else f"{mean:.4g} ± {deviation:.1g}",
        ]
        cells += ["" if row[name] is None else f"{row[name]:.2g}" for name in columns]
        if target:
            known = row["at target"] + row["missed"]  # of runs that have the curve
            cells += [f"{row['at target']}/{known}" if known else "", row["steps to target"]]
        shown.add_row(row["setting"], *map(_cell, cells))
    console = Console(highlight=False, markup=False)  # names may hold brackets
    console.print(shown)
    for line in lines:
        console.print(line, soft_wrap=True)


def page(
    title: str, table: pl.DataFrame, figures: Iterable[tuple[str, bytes]], notes: Sequence[str], left_out: Sequence[str]
) -> Iterator[str]:
    """The lines of ``report.html``.

    Args:
        figures: what each shows, and its PNG.
    """
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>Comparison</title><style>{STYLE}</style>"
    yield f"<h1>{html.escape(title)}</h1>"
    yield "".join(f"<p>{html.escape(note)}</p>" for note in notes) + "<div><table><tr>"
    yield "".join(f"<th>{html.escape(column.replace('_', ' '))}</th>" for column in table.columns) + "</tr>"
    for row in table.iter_rows():
        yield "<tr>" + "".join(f"<td>{html.escape(_cell(value))}</td>" for value in row) + "</tr>"
    yield "</table></div>"
    for caption, png in figures:
        data = base64.b64encode(png).decode()
        yield f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}"></figure>'
    if left_out:
        yield "<h2>Left out</h2><ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in left_out) + "</ul>"
    yield "</html>"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
