"""What all figures have in common."""

import io
import warnings
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")  # Paul Tol, bright
STYLES = ("-", "--", ":")


def new_figure(width: float = 6.0, height: float = 4.0) -> tuple[Figure, Axes]:
    """A figure with one set of axes; not one of pyplot's, which would keep it in memory."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def look(number: int) -> dict[str, Any]:
    """Colour and style of a line, different for each of the first 24."""
    return {"color": COLORS[number % len(COLORS)], "linestyle": STYLES[number // len(COLORS) % len(STYLES)]}


def plain(text: str) -> str:
    """``text`` as it is: what stands between two dollars would be taken for mathematics."""
    return text.replace("$", r"\$")


def legend(axes: Axes, title: str | None = None) -> None:
    """Beside the axes."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(title=title, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def png_of(figure: Figure, dpi: int) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # names in any script are allowed
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
