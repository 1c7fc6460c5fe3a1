"""The pictures that a run leaves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer

from descent.training.callback import ResultCallback
from descent.training.sparse_callback import callbacks_of
from regression.callbacks.of import data_of
from regression.callbacks.parameters import Parameters


class Figures(ResultCallback):
    """Draws into ``figures/`` and TensorBoard's Images.

    Args:
        draw: whether to.
    """

    def __init__(self, draw: bool = True) -> None:
        self.draw = draw

    def after_result(self, trainer: Trainer, result: Mapping[str, Any], run_dir: Path) -> None:
        if not self.draw:
            return
        from regression.figures import draw_figures  # matplotlib comes in here

        path = next((parameters.path for parameters in callbacks_of(trainer, Parameters) if parameters.path), None)
        draw_figures(result, data_of(trainer), None if path is None else np.array(path), trainer.loggers, run_dir)
