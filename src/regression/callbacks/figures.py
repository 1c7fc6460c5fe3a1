"""The figures that a run leaves, in ``figures/`` and in TensorBoard's Images."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import Trainer

from descent.errors import UserError, extra
from descent.files import write_atomically
from descent.training.callback import ResultCallback
from descent.training.logger import RunLogger
from descent.training.sparse_callback import callbacks_of
from regression.callbacks.of import data_of
from regression.callbacks.parameters import Parameters
from regression.data.module import RegressionData
from regression.data.rows import Array, Part

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
MOST_POINTS = 2000  # rows of a split that are drawn; more only take time


class Figures(ResultCallback):
    """Draws what there is to be seen of a completed run.

    Args:
        draw: whether to.
        in_sweeps: also of the runs of a sweep; each takes a quarter of a second.
    """

    def __init__(self, draw: bool = True, in_sweeps: bool = False) -> None:
        self.draw, self.in_sweeps = draw, in_sweeps

    def after_result(self, trainer: Trainer, result: Mapping[str, Any], run_dir: Path) -> None:
        if not self.draw:
            return
        with extra("figures", "figures=true"):
            from descent.drawing import png_of  # imports matplotlib, which a run without figures does not need

        parameters = next(iter(callbacks_of(trainer, Parameters)), None)
        if parameters is None:
            raise UserError("figures=true needs callbacks.parameters")
        directory = run_dir / "figures"
        directory.mkdir(exist_ok=True)
        for name, figure in _figures(result, data_of(trainer), parameters.path):
            png = png_of(figure, DPI)
            write_atomically(directory / f"{name}.png", png)
            width, height = (round(inches * DPI) for inches in figure.get_size_inches())
            for logger in trainer.loggers:
                if isinstance(logger, RunLogger):
                    logger.log_png(f"figures/{name}", png, width, height, result["steps"])


def _figures(
    result: Mapping[str, Any], data: RegressionData, path: list[list[float]]
) -> "Iterator[tuple[str, Figure]]":
    from regression.plots import fit_over_data, paths_over_contours, predicted_against_actual

    parts = {"training rows": data.train, "validation rows": data.val}
    own = {name: _own_units(data, part) for name, part in parts.items() if len(part)}
    weight, bias, optimum = result["parameters"]["weight"], result["parameters"]["bias"], result.get("optimum")
    predicted = {name: (y, x @ np.array(weight) + (bias or 0.0)) for name, (x, y) in own.items()}
    yield "predicted", predicted_against_actual(predicted, result["target"])
    if len(weight) == 1:
        lines = {"learned": (weight[0], bias or 0.0)}
        if optimum is not None:
            lines["least squares"] = (optimum["weight"][0], optimum["bias"] or 0.0)
        x, y = own["training rows"]
        yield "fit", fit_over_data(x[:, 0], y, lines, (result["features"][0], result["target"]))
    if path and optimum is not None:
        names = [*(f"weight of {name}" for name in result["features"]), "bias"]
        center = [*optimum["weight"], *([] if bias is None else [optimum["bias"]])]
        paths = {"this run": np.array(path)}
        yield "path", paths_over_contours(paths, center, optimum["hessian"], (names[0], names[1]))


def _own_units(data: RegressionData, part: Part) -> tuple[Array, Array]:
    """Rows of a split in the data's own units, as many as are worth drawing."""
    some = slice(None, None, -(-len(part) // MOST_POINTS))
    return data.standardization.own_inputs(part.x[some]), data.standardization.own_targets(part.y[some])
