"""Shows a comparison on the console and as ``report.html``, a single file."""

import base64
import html
from collections.abc import Collection, Iterable, Iterator, Sequence

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

STYLE = """
:root { color-scheme: light dark } body { color: #222; background: #fff }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em }
p, li, figcaption, td:first-child { overflow-wrap: anywhere } div { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px } td, th { padding: .2em .7em; text-align: right }
td:first-child, th:first-child { text-align: left; min-width: 10em } td:not(:first-child) { white-space: nowrap }
th { border-bottom: 1px solid; vertical-align: bottom } tr:nth-child(even) { background: #8882 }
figure { margin: 2.5em 0 } img { max-width: 100%; background: #fff } figcaption { max-width: 55em }
"""
HEAD = (
    "<!doctype html><html lang=en><meta charset=utf-8>"
    '<meta name=viewport content="width=device-width, initial-scale=1">'
    f"<title>Comparison</title><style>{STYLE}</style>"
)
Columns = Sequence[tuple[str, Sequence[str]]]  # titles and cells


def ranked(table: pl.DataFrame, metric: str, columns: Collection[str], runs: bool = False) -> Columns:
    """The most important columns of the table as text, without empty ones.

    Args:
        columns: those of the project's own.
        runs: whether to count the runs of each setting.
    """
    found: list[tuple[str, Iterable[object]]] = [("setting", table["setting"])]
    found += [("runs", table["runs"])] if runs else []
    found += [("diverged", table["diverged"])] if table["diverged"].sum() else []
    pairs = zip(table[f"{metric} mean"], table[f"{metric} deviation"], strict=True)
    found.append((metric, (mean if apart is None else f"{mean:.4g} ± {apart:.1g}" for mean, apart in pairs)))
    found += [(name, [None if value is None else f"{value:.2g}" for value in table[name]]) for name in columns]
    if "at target" in table.columns:
        known = table["at target"] + table["missed"]  # runs that have the curve
        shares = zip(table["at target"], known, strict=True)
        found.append(("at target", (f"{reached}/{number}" if number else "" for reached, number in shares)))
        found.append(("steps to target", table["steps to target"]))
    texts = [(title, [*map(_cell, cells)]) for title, cells in found]
    return [(title, cells) for title, cells in texts if any(cells)]


def print_ranking(table: pl.DataFrame, metric: str, columns: Collection[str], lines: Sequence[str]) -> None:
    """The table's most important columns, and ``lines`` below."""
    (first, names), *others = ranked(table, metric, columns)
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column(first, overflow="fold")
    for title, _ in others:
        shown.add_column(title.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for row in zip(names, *(cells for _, cells in others), strict=True):
        shown.add_row(*row)
    console = Console(highlight=False, markup=False)  # names may hold brackets
    console.print(shown)
    for line in lines:
        console.print(line, soft_wrap=True)


def page(
    title: str,
    ranking: Columns,
    figures: Iterable[tuple[str, str, bytes]],
    notes: Sequence[str],
    left_out: Sequence[str],
) -> Iterator[str]:
    """The lines of ``report.html``.

    Args:
        figures: the title, the caption, which may be empty, and the PNG of each.
    """
    yield HEAD
    yield f"<h1>{html.escape(title)}</h1>"
    yield "".join(f"<p>{html.escape(note)}</p>" for note in notes) + "<div><table><tr>"
    yield "".join(f"<th>{html.escape(title)}</th>" for title, _ in ranking) + "</tr>"
    for row in zip(*(cells for _, cells in ranking), strict=True):
        yield "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
    yield "</table></div><p>settings.csv has all columns, and runs.csv has a row for each run.</p>"
    for shown, caption, png in figures:
        image = f'<img alt="{html.escape(shown)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
        yield f"<figure>{image}{below}</figure>"
    if left_out:
        yield "<h2>Left out</h2><ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in left_out) + "</ul>"
    yield "</html>"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
