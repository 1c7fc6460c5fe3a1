"""Draws the step rows of the benchmark's table, README.md beside this file: `python -m benchmarks.figure OUT.png`."""

import re
import sys
from pathlib import Path

from matplotlib.figure import Figure

ROW = r"\| a step, (.+?) \| .*? \| (plain loop|usual Lightning) \| .*? \| \*\*([\d.]+)\*\* \|"
COLORS = {"plain loop": "#4477aa", "usual Lightning": "#ee6677"}


def figure_of(table: str) -> Figure:
    """Draws a bar for each step that the table measures against a plain loop or usual Lightning."""
    rows = re.findall(ROW, table)
    figure = Figure(figsize=(7.5, 0.6 + 0.28 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    for against, color in COLORS.items():
        found = {place: float(ratio) for place, (_, other, ratio) in enumerate(rows) if other == against}
        bars = axes.barh([*found], [*found.values()], color=color, label=f"against {against}")
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.axvline(1, color="#222222", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [what for what, _, _ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="time of a step relative to the other's (less is faster)")
    axes.legend(fontsize=8, loc="lower right")
    return figure


if __name__ == "__main__":
    figure_of((Path(__file__).parent / "README.md").read_text(encoding="utf-8")).savefig(sys.argv[1], dpi=110)
