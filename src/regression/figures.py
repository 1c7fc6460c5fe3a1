"""The pictures that a run leaves, in ``figures/`` and in TensorBoard's Images."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from descent.drawing import png_of
from descent.files import write_atomically
from descent.training.logger import RunLogger
from regression.data.module import Part, RegressionData
from regression.data.table import Array
from regression.pictures import fit_over_data, paths_over_contours, predicted_against_actual

DPI = 100
MOST_POINTS = 2000  # rows of a split that are drawn; more only take time


def draw_figures(
    result: Mapping[str, Any],
    data: RegressionData,
    path: Array | None,
    loggers: Sequence[Logger],
    run_dir: Path,
) -> None:
    """Draws what there is to be seen of a finished run.

    Args:
        path: the parameters in the data's own units (points, parameters), of a model that has two.
    """
    directory = run_dir / "figures"
    directory.mkdir(exist_ok=True)
    for name, figure in _figures(result, data, path):
        png = png_of(figure, DPI)
        write_atomically(directory / f"{name}.png", png)
        width, height = (round(inches * DPI) for inches in figure.get_size_inches())
        for logger in loggers:
            if isinstance(logger, RunLogger):
                logger.log_png(f"figures/{name}", png, width, height, result["steps"])


def _figures(result: Mapping[str, Any], data: RegressionData, path: Array | None) -> Iterator[tuple[str, Figure]]:
    parts = {"training rows": data.train, "validation rows": data.val}
    own = {name: _own(data, part) for name, part in parts.items() if len(part)}
    weight, bias = result["parameters"]["weight"], result["parameters"]["bias"]
    predicted = {name: (y, x @ np.array(weight) + (bias or 0.0)) for name, (x, y) in own.items()}
    yield "predicted", predicted_against_actual(predicted, result["target"])
    if len(weight) == 1:
        lines = {"learned": (weight[0], bias or 0.0)}
        if result["optimum"] is not None:
            lines["least squares"] = (result["optimum"]["weight"][0], result["optimum"]["bias"] or 0.0)
        x, y = own["training rows"]
        yield "fit", fit_over_data(x[:, 0], y, lines, (result["features"][0], result["target"]))
    if path is not None and result["optimum"] is not None and "hessian" in result["optimum"]:
        names = [*(f"weight of {name}" for name in result["features"]), *([] if bias is None else ["bias"])]
        center = [*result["optimum"]["weight"], *([] if bias is None else [result["optimum"]["bias"]])]
        figure = paths_over_contours({"this run": path}, center, result["optimum"]["hessian"], (names[0], names[1]))
        yield "path", figure


def _own(data: RegressionData, part: Part) -> tuple[Array, Array]:
    """Rows of a split in the data's own units, as many as are worth drawing."""
    some = slice(None, None, -(-len(part) // MOST_POINTS))
    return data.standardization.own_inputs(part.x[some]), data.standardization.own_targets(part.y[some])
