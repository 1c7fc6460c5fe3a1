"""Describes figures by plain values, to compare with values written by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from matplotlib.axes import Axes
from matplotlib.figure import Figure


@contextmanager
def drawn() -> Iterator[list[tuple[Figure, Any]]]:
    """The figures that are saved within the context, each with its resolution."""
    figures: list[tuple[Figure, Any]] = []
    save = Figure.savefig

    def savefig(self: Figure, *args: Any, **options: Any) -> None:
        figures.append((self, options.get("dpi")))
        save(self, *args, **options)

    with mock.patch.object(Figure, "savefig", savefig):
        yield figures


def frame(figure: Figure) -> dict[str, Any]:
    """Everything that is drawn around the data."""
    axes = figure.axes[0]
    legend = axes.get_legend()
    return {
        "title": figure.get_suptitle(),
        "size": tuple(float(inches) for inches in figure.get_size_inches()),
        "labels": (axes.get_xlabel(), axes.get_ylabel()),
        "scales": (axes.get_xscale(), axes.get_yscale()),
        "legend": None
        if legend is None
        else (legend.get_title().get_text(), [text.get_text() for text in legend.get_texts()]),
        "spines": [side for side, spine in axes.spines.items() if spine.get_visible()],
    }


def lines(axes: Axes) -> list[tuple[str, str, str, str, list[tuple[float, float]]]]:
    """Label, colour, style, marker and points of each line; the label is empty if it is not in the legend."""
    return [
        (
            "" if str(line.get_label()).startswith("_") else str(line.get_label()),
            str(line.get_color()),
            str(line.get_linestyle()),
            str(line.get_marker()),
            [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)],
        )
        for line in axes.lines
    ]
