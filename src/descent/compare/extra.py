"""What a project adds to a comparison of its runs."""

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
    """What is drawn over each x axis, and what may have to come to a target.

    Attributes:
        tag: of its points.
        mode: ``min`` or ``max``, what is best.
        label: what the axis says.
        name: of the figures, ``<name>_over_steps``.
        target: the value to come to; ``None``: there is none.
    """

    tag: str
    mode: str
    label: str
    name: str = "metric"
    target: float | None = None

    def __post_init__(self) -> None:
        if self.target is not None and not isfinite(self.target):
            raise invalid("--target", "a number", self.target)

    def limit(self, run: Run) -> float | None:
        """The target as a value of the run's curve; of a class of one's own it may be another for each run."""
        return self.target

    def goal(self) -> str:
        """The target in words."""
        return f"{self.label} of at {'least' if self.mode == 'max' else 'most'} {self.target:g}"


@dataclass(frozen=True)
class Extra:
    """What a project's own runs have to show; of other runs nothing of it is shown.

    Attributes:
        curve: drawn where no metric is asked for; a target is of it.
        modes: which of further metrics' values are best, by their names without ``val/`` and the like.
        columns: of the table, each the mean of a metric.
        figures: by name; a function of the settings, best first, that returns none where there is nothing to be seen.
        problem: why a result cannot be compared; ``None`` if it can be.
        metric_problem: what a metric is, by name, that does not compare the runs; ``None`` if it does.
    """

    curve: Curve | None = None
    modes: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Callable[[Sequence[Setting]], Figure | None]] = field(default_factory=dict)
    problem: Callable[[dict[str, Any]], str | None] = lambda result: None
    metric_problem: Callable[[Sequence[Run], str], str | None] = lambda runs, metric: None
