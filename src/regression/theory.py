"""Theory and practice: by which factor a step of gradient descent shortens the distance to the optimum."""

from collections.abc import Sequence

import numpy as np

from descent.compare.figures import MOST_LINES, Drawn, legend
from descent.compare.runs import Run
from descent.compare.settings import Setting
from regression.optimum import contraction
from regression.pictures import COLORS, look, new_figure, plain

MARKERS = "os^"


def contractions(settings: Sequence[Setting]) -> Drawn | None:
    """Predicted against measured contraction of the distance to the optimum a step, for SGD on all rows."""
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
    title = "Contraction of the distance to the optimum per step, SGD on all rows: measured against theory"
    return Drawn(title, figure)


def contraction_of(run: Run) -> tuple[float, float, bool] | None:
    """Of SGD on all rows at a fixed rate: as predicted, as seen in the second half of the run, whether it is settled.

    It is settled when the last two quarters agree. Before, directions of larger curvature still die away; momentum
    may oscillate for ever.
    """
    hparams, rows, optimum = run.hparams, run.result["rows"]["train"], run.result.get("optimum")
    sgd = hparams.get("optimizer._target_") == "torch.optim.SGD" and not any(
        hparams.get(f"optimizer.{key}") for key in ("weight_decay", "dampening", "maximize")
    )
    full = (hparams.get("batch.size") or rows) >= rows
    free = not hparams.get("clip.gradient_clip_val") and hparams.get("scheduler") in (None, "none")
    if run.diverged or not (sgd and full and free and optimum and hparams.get("optimizer.lr")):
        return None
    if not (optimum.get("max_stable_lr") and optimum.get("condition_number")):  # all inputs are 0: no curvature
        return None
    steps, excess = run.excess
    kept = excess > 1e-9 * excess[:1]  # below it is rounding
    steps, logs = steps[kept], np.log(excess[kept])
    middle, last = len(steps) // 2, len(steps) - 1
    late = (middle + last) // 2
    if not middle < late < last:
        return None

    def slope(start: int, end: int) -> float:
        return float((logs[end] - logs[start]) / (2 * (steps[end] - steps[start])))  # the loss goes with the square

    settled = abs(slope(middle, late) - slope(late, last)) < 0.02 * abs(slope(middle, last))
    largest = 2 / optimum["max_stable_lr"]
    predicted = contraction(
        *(largest, largest / optimum["condition_number"], hparams["optimizer.lr"]),
        *(hparams.get("optimizer.momentum") or 0.0, bool(hparams.get("optimizer.nesterov"))),
    )
    return predicted, float(np.exp(slope(middle, last))), settled
