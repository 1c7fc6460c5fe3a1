"""The training curves in TensorBoard."""

import time
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from descent.training.logger import RunLogger
from descent.training.points import Points
from descent.training.spacing import Spacing
from regression.model import LinearRegression

MAX_WEIGHTS = 20  # curves; a table of a thousand columns would bury the rest


class Curves(Points):
    """Writes ``train/loss``, ``lr``, ``parameters/*`` and ``train/seconds`` as training goes on.

    At x = k stand the loss of the batch that step k used (at the weights before it), the weights after step k, and
    the learning rate of step k + 1; a scheduler that watches a metric changes it after the validation. Parameters and
    loss are in the data's own units. The seconds are those of training, without the time that an interrupted run lay
    idle.

    Args:
        spacing: where the points are.
        weight_names: of the weights, for their tags.
    """

    def __init__(self, spacing: Spacing, weight_names: Sequence[str]) -> None:
        super().__init__(spacing)
        self.path: list[list[float]] = []  # of two parameters, for the picture
        self.seconds_before = 0.0
        self.tags = [f"parameters/weight_{name}" for name in weight_names[:MAX_WEIGHTS]]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.monotonic()
        if trainer.global_step == 0:
            self.path.clear()
            self.seconds_before = 0.0
            if isinstance(trainer.logger, RunLogger):
                trainer.logger.log_layout()
        super().on_train_start(trainer, pl_module)

    def points(self, trainer: Trainer, model: LinearRegression, loss: float | None) -> dict[str, float]:
        weight, bias = model.own_units()
        if len(weight) + (bias is not None) == 2:
            self.path.append([*weight, *([] if bias is None else [bias])])
        points = {} if loss is None else {"train/loss": loss * model.units.loss_unit}
        points |= zip(self.tags, weight, strict=False)
        if bias is not None:
            points["parameters/bias"] = bias
        points["train/seconds"] = self._seconds()
        points["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        return points

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def state_dict(self) -> dict[str, Any]:
        return {"path": self.path, "seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.path, self.seconds_before = state_dict["path"], state_dict["seconds"]
