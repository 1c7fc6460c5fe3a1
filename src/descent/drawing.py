"""Helpers that all figures share."""

import io
import warnings
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")  # Paul Tol, bright
STYLES = ("-", "--", ":")


def new_figure(width: float = 6.0, height: float = 4.0) -> tuple[Figure, Axes]:
    """A figure with one set of axes, made without pyplot, which would keep it in memory."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def look(number: int) -> dict[str, Any]:
    """The look of line ``number``; the first 24 lines all differ.

    Of one style, later lines are thinner, so that a line below another stays visible.
    """
    style, color = divmod(number % (len(STYLES) * len(COLORS)), len(COLORS))
    return {"color": COLORS[color], "linestyle": STYLES[style], "linewidth": 3.5 - 0.4 * color}


def plain(text: str) -> str:
    """``text`` with its dollar signs escaped; Matplotlib would read text between two of them as mathematics."""
    return text.replace("$", r"\$")


def legend(axes: Axes, title: str | None = None) -> None:
    """Draws the legend beside the axes, if any line has a label."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        short = [fill(label, 44, break_on_hyphens=False) for label in labels]  # the axes need room beside it
        axes.legend(handles, short, title=title, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def png_of(figure: Figure, dpi: int) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # names may be in any script
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
