"""Adds the distance to the optimum, and theory, to the comparison of runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, Field, PositiveInt, ValidationError
from pydantic_core import PydanticCustomError

from descent.compare.checks import LARGEST, broken
from descent.compare.extra import Curve, Extra
from descent.compare.plots import MOST_LINES, titled
from descent.compare.runs import Run
from descent.compare.settings import Setting
from descent.drawing import COLORS, legend, look, new_figure, plain
from descent.errors import as_yaml, invalid
from regression.optimum import contraction
from regression.plots import paths_over_contours

MARKERS = "os^"


def _finite(value: float) -> float:
    if not abs(value) < LARGEST:
        raise PydanticCustomError("finite", f"Input should be below {LARGEST:g} in absolute value")
    return value


Finite = Annotated[float, AfterValidator(_finite)]


class OptimumEntry(BaseModel, strict=True):
    """The fields of a result's ``optimum`` that are read; null stands for infinity."""

    weight: list[Finite | None]
    bias: Finite | None = None
    loss: Finite | None = None
    hessian: list[list[Finite | None]] | None = None
    condition_number: Finite | None = None
    max_stable_lr: Finite | None = None


class RowsEntry(BaseModel, strict=True):
    train: PositiveInt | None = None


class HparamsEntry(BaseModel, strict=True):
    momentum: Annotated[Finite, Ge(0)] | None = Field(None, alias="optimizer.momentum")


class Entries(BaseModel):
    """The fields of a result that are read in addition to those of every project."""

    optimum: OptimumEntry | None = None
    rows: RowsEntry | None = None
    hparams: HparamsEntry | None = None


def optimum_of(result: dict[str, Any]) -> OptimumEntry | None:
    return Entries.model_validate(result).optimum


def problem(result: dict[str, Any]) -> str | None:
    """Why a run cannot be compared; ``None`` if it can be."""
    try:
        Entries.model_validate(result)
    except ValidationError as error:
        first = error.errors()[0]
        return broken(f"{'/'.join(map(str, first['loc']))}: {first['msg']}, got {as_yaml(first['input'])}")
    return None


@dataclass(frozen=True)
class Excess(Curve):
    """Training loss above the optimum. The target is a fraction of the optimum's loss, or of the first excess if that
    loss is 0."""

    def __post_init__(self) -> None:
        if self.target is not None and not 0 < self.target < inf:
            raise invalid("--target", "a positive number", self.target)

    def limit(self, run: Run) -> float | None:
        optimum = optimum_of(run.result)
        loss, first = (optimum and optimum.loss) or 0.0, float(run.curve(self.tag)[1][0])
        return (self.target or 0.0) * (loss if loss > 1e-12 * first else first)

    def goal(self) -> str:
        return f"a training loss at most {100 * (self.target or 0.0):g}% above the optimum's"


def paths(settings: Sequence[Setting]) -> Figure | None:
    """For models with two parameters: the path of each setting's first run over the contours of the loss."""
    ways: dict[str, NDArray[np.float64]] = {}
    shown: list[str] = []
    for setting in settings[:MOST_LINES]:
        run = next((run for run in setting.runs if not run.diverged), None)
        optimum = optimum_of(run.result) if run is not None else None
        if run is None or optimum is None or optimum.hessian is None:
            continue
        tags = [tag for tag in run.curves if tag.startswith("parameters/weight_")]
        tags += [tag for tag in run.curves if tag == "parameters/bias"]
        point = optimum.weight + ([] if optimum.bias is None else [optimum.bias])
        numbers = np.array([*point, *chain(*optimum.hessian)], dtype=float)  # null becomes nan
        if (len(tags), len(point), [*map(len, optimum.hessian)]) != (2, 2, [2, 2]) or np.isnan(numbers).any():
            continue
        center, hessian = numbers[:2], numbers[2:].reshape(2, 2)
        if tags != (shown := shown or tags):  # parameters of another model
            continue
        ways[setting.name] = np.stack([run.curves[tag][1] for tag in tags], axis=1)
        names = tuple(tag.removeprefix("parameters/").replace("_", " ") for tag in tags)
    if not ways:
        return None
    figure = paths_over_contours(ways, center, hessian, (names[0], names[1]))
    return titled(
        figure,
        "Paths over the contours of the training loss, one run of each setting",
        "A path should end at the star, where the loss is smallest. It zigzags where its steps are too long "
        "for the direction in which the contours are close together.",
    )


def contractions(settings: Sequence[Setting]) -> Figure | None:
    """Measured against predicted contraction of the distance to the optimum per step."""
    every = [(setting.name, contraction_of(setting.runs[0])) for setting in settings]
    found = [(name, *triple) for name, triple in every if triple is not None]
    if not found:
        return None
    figure, axes = new_figure(7.5)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", zorder=0, label="equal")
    for number, (name, predicted, measured, settled) in enumerate(found):
        color = look(number)["color"]
        face, note = (color, "") if settled else ("none", " (not settled)")
        label = plain(name + note) if number < MOST_LINES else None
        marker = MARKERS[number // len(COLORS) % len(MARKERS)]
        axes.plot(predicted, measured, marker, color=color, markerfacecolor=face, label=label)
    low = min(min(predicted, measured) for _, predicted, measured, _ in found)
    limits = low - 0.1 * (1 - low) - 1e-3, 1 + 0.1 * (1 - low)
    axes.set(xlabel="predicted contraction per step, in the long run", ylabel="measured", xlim=limits, ylim=limits)
    legend(axes)
    unsettled = " Hollow points had not settled, so theory need not hold for them yet."
    return titled(
        figure,
        "Contraction of the distance to the optimum per step, SGD on all rows: measured against theory",
        "On the grey line, a run is as fast as theory says; lower is faster."
        + (unsettled if not all(settled for *_, settled in found) else ""),
    )


def contraction_of(run: Run) -> tuple[float, float, bool] | None:
    """For full-batch SGD at a fixed rate: predicted, measured in the second half of the run, and whether it settled.

    It has settled if the last two quarters agree. Before that, directions with faster contraction still matter; with
    momentum it may oscillate forever.
    """
    hparams, optimum, size = run.hparams, optimum_of(run.result), run.hparams.get("batch.size")
    sgd = hparams.get("optimizer._target_") == "torch.optim.SGD" and not any(
        hparams.get(f"optimizer.{key}") for key in ("weight_decay", "dampening", "maximize")
    )
    full = size is None or size >= ((run.result.get("rows") or {}).get("train") or inf)
    free = not hparams.get("clip.gradient_clip_val") and hparams.get("scheduler") in (None, "none")
    if run.diverged or not (sgd and full and free and optimum and hparams.get("optimizer.lr")):
        return None
    if not (optimum.max_stable_lr and optimum.condition_number):  # no curvature: all inputs are 0
        return None
    steps, excess = run.curve(EXCESS.tag)
    kept = excess > 1e-9 * excess[:1]  # below this is rounding error
    steps, logs = steps[kept], np.log(excess[kept])
    middle, last = len(steps) // 2, len(steps) - 1
    late = (middle + last) // 2
    if not middle < late < last:
        return None

    def slope(start: int, end: int) -> float:
        return float((logs[end] - logs[start]) / (2 * (steps[end] - steps[start])))  # loss is distance squared

    settled = abs(slope(middle, late) - slope(late, last)) < 0.02 * abs(slope(middle, last))
    largest = 2 / optimum.max_stable_lr
    predicted = contraction(
        *(largest, largest / optimum.condition_number, hparams["optimizer.lr"]),
        *(hparams.get("optimizer.momentum") or 0.0, bool(hparams.get("optimizer.nesterov"))),
    )
    return predicted, float(np.exp(slope(middle, last))), settled


def metric_problem(runs: Sequence[Run], metric: str) -> str | None:
    """Why runs cannot be compared by a metric: ``val/loss`` depends on ``model.loss``."""
    losses = sorted({str(run.hparams.get("model.loss", "mse")) for run in runs})
    if len(losses) == 1 or not metric.endswith("/loss"):
        return None
    return f"not comparable across model.loss ({', '.join(losses)}); use --metric val/mae"


EXCESS = Excess("optimum/excess_loss", "min", "training loss above the optimum", "excess", target=0.01)
EXTRA = Extra(
    curve=EXCESS,
    modes={"loss": "min", "mae": "min", "r2": "max"},
    columns={"above the optimum": EXCESS.tag},
    figures={"paths": paths, "contraction": contractions},
    problem=problem,
    metric_problem=metric_problem,
)
