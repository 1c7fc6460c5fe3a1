"""Draws the figures of a run, for ``figures/`` and TensorBoard's Images."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer

from descent.errors import UserError, extra
from descent.files import write_atomically
from descent.training.callback import ResultCallback
from descent.training.logger import RunLogger
from descent.training.sparse_callback import callbacks_of
from regression.base import RegressionModel
from regression.callbacks.getters import data_of, least_squares_of, linear_of, model_of
from regression.callbacks.parameters import Parameters
from regression.data.module import RegressionData
from regression.data.part import AnyPart
from regression.data.rows import Array
from regression.terms import powers

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
MOST_POINTS = 2000  # rows of a split to draw; more only take time
CURVE_POINTS = 200


class Figures(ResultCallback):
    """Draws the figures of a completed run.

    Args:
        draw: whether to draw them.
        in_sweeps: whether to draw them for the runs of a sweep too; each run takes a quarter of a second.
    """

    def __init__(self, draw: bool = True, in_sweeps: bool = False) -> None:
        self.draw, self.in_sweeps = draw, in_sweeps
        self.predicted: dict[str, tuple[Array, Array]] = {}  # targets and predictions of each part
        self.curves: dict[str, tuple[Array, Array]] = {}  # for a single feature: its values and predictions

    def result(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Keeps the predictions of the last weights: the test that follows loads the best checkpoint."""
        if self.draw:
            model, data = model_of(pl_module), data_of(trainer)
            parts = {"training rows": data.train, "validation rows": data.val}
            own = {name: _own_units(data, part) for name, part in parts.items() if len(part)}
            self.predicted = {name: (y, _predictions(model, x)) for name, (x, y) in own.items()}
            x, _ = own["training rows"]
            if x.shape[1] == 1:
                grid = np.linspace(x.min(0), x.max(0), CURVE_POINTS)
                self.curves = {"learned": (grid[:, 0], _predictions(model, grid))}
                least = _at_least_squares(trainer, model, grid)
                self.curves |= {} if least is None else {"least squares": (grid[:, 0], least)}
        return {}

    def after_result(self, trainer: Trainer, result: Mapping[str, Any], run_dir: Path) -> None:
        if not self.draw:
            return
        try:
            with extra("figures", "figures=true"):
                from descent.drawing import png_of  # imports matplotlib, which is only needed for figures
        except UserError as missing:
            log.warning("note: %s", missing)
            return
        parameters = next(iter(callbacks_of(trainer, Parameters)), None)
        if parameters is None:
            raise UserError("figures=true needs callbacks.parameters")
        directory = run_dir / "figures"
        directory.mkdir(exist_ok=True)
        for name, figure in self._figures(result, data_of(trainer), parameters.path):
            png = png_of(figure, DPI)
            write_atomically(directory / f"{name}.png", png)
            width, height = (round(inches * DPI) for inches in figure.get_size_inches())
            for logger in trainer.loggers:
                if isinstance(logger, RunLogger):
                    logger.log_png(f"figures/{name}", png, width, height, result["steps"])

    def _figures(
        self, result: Mapping[str, Any], data: RegressionData, path: list[list[float]]
    ) -> "Iterator[tuple[str, Figure]]":
        from regression.plots import fit_over_data, paths_over_contours, predicted_against_actual

        optimum = result.get("optimum")
        yield "predicted", predicted_against_actual(self.predicted, result["target"])
        if self.curves:
            known = self.curves if optimum is not None else {"learned": self.curves["learned"]}
            x, y = _own_units(data, data.train)
            yield "fit", fit_over_data(x[:, 0], y, known, (result["features"][0], result["target"]))
        if path and optimum is not None:
            names = [*(f"weight of {name}" for name in result["terms"]), "bias"]
            center = [*optimum["weight"], *([] if optimum["bias"] is None else [optimum["bias"]])]
            paths = {"this run": np.array(path)}
            yield "path", paths_over_contours(paths, center, optimum["hessian"], (names[0], names[1]))


def _own_units(data: RegressionData, part: AnyPart) -> tuple[Array, Array]:
    """At most ``MOST_POINTS`` rows of a split, in the data's own units."""
    some = part.some(MOST_POINTS)
    return data.standardization.own_inputs(some.x), data.standardization.own_targets(some.y)


def _predictions(model: RegressionModel, x: Array) -> Array:
    with torch.no_grad():
        found: Array = model.predict_step(torch.from_numpy(x)).numpy()
    return found


def _at_least_squares(trainer: Trainer, model: RegressionModel, x: Array) -> Array | None:
    """The optimum's predictions, computed in training units: powers in own units may lose all digits."""
    linear, found, units = linear_of(model), least_squares_of(trainer, model), data_of(trainer).standardization
    if linear is None or found is None:
        return None
    terms = powers(torch.from_numpy(units.inputs(x)), linear.degree).numpy()
    return units.own_targets(terms @ np.array(found[1].weight) + (found[1].bias or 0.0))
