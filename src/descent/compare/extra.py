"""Defines what a project adds to a comparison of its runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from matplotlib.figure import Figure

from descent.compare.runs import Run
from descent.compare.settings import Setting
from descent.errors import invalid


@dataclass(frozen=True)
class Curve:
    """A curve to draw over each x axis, with an optional target.

    Attributes:
        tag: of the logged scalar.
        mode: ``min`` or ``max``: which values are best.
        label: of the y axis.
        name: of the figures, ``<name>_over_steps``.
        target: the value to reach; ``None``: no target.
        caption: of the figures; empty: which values are better, and what the slope says.
    """

    tag: str
    mode: str
    label: str
    name: str = "metric"
    target: float | None = None
    caption: str = ""

    def __post_init__(self) -> None:
        if self.target is not None and not isfinite(self.target):
            raise invalid("--target", "a number", self.target)

    def limit(self, run: Run) -> float | None:
        """The target as a value of the run's curve. A subclass may return another value for each run."""
        return self.target

    def goal(self) -> str:
        """The target in words."""
        return f"{self.label} of at {'least' if self.mode == 'max' else 'most'} {self.target:g}"


@dataclass(frozen=True)
class Extra:
    """What a project adds for its own runs; it has no effect on other runs.

    Attributes:
        curve: drawn, and used for targets; the metric's curve is only added if a metric is given or runs lack this one.
        modes: ``min`` or ``max`` for further metrics, by name without split (``val/`` etc.).
        columns: of the table, by title; each is the mean of a metric.
        figures: by name; functions of the settings, best first, that return ``None`` if there is nothing to draw.
            ``descent.compare.plots.titled`` gives a figure its title and its caption.
        problem: returns why a result cannot be compared; ``None`` if it can be.
        metric_problem: returns why a metric cannot compare the runs, to follow ``<metric> is``; ``None`` if it can.
    """

    curve: Curve | None = None
    modes: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Callable[[Sequence[Setting]], Figure | None]] = field(default_factory=dict)
    problem: Callable[[dict[str, Any]], str | None] = lambda result: None
    metric_problem: Callable[[Sequence[Run], str], str | None] = lambda runs, metric: None
