"""Logs the training loss, the learning rate and the seconds spent."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from descent.training.logged_metrics import is_logged
from descent.training.logger import RunLogger
from descent.training.step_metrics import StepMetrics
from descent.training.training_loss import LOSS, loss_unit


class TrainingCurves(StepMetrics):
    """Logs ``train/loss``, ``lr`` and ``train/seconds``.

    - ``train/loss`` at x = k is the loss of the batch of step k, at the weights before the step. With gradient
      accumulation it is the mean over the batches of the step. It is not logged where the module logs it itself.
    - ``lr`` at x = k is the learning rate of step k + 1; a scheduler that monitors a metric changes it after the
      validation. Further parameter groups have ``lr/1`` and so on.
    - ``train/seconds`` is the time spent on training, without the time between an interruption and the resumption.
    """

    def __init__(self) -> None:
        self.seconds_before = 0.0  # of training, in the processes before this one
        self.started: float | None = None
        self.is_logged = False  # train/loss, by the module itself

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.monotonic()
        if trainer.global_step == 0:
            self.seconds_before = 0.0
            for logger in trainer.loggers:
                if isinstance(logger, RunLogger):
                    logger.log_layout()
        super().on_train_start(trainer, pl_module)

    def points(self, trainer: Trainer, pl_module: LightningModule, loss: float | None) -> dict[str, float]:
        self.is_logged = self.is_logged or is_logged(trainer, LOSS)
        points = {} if loss is None or self.is_logged else {LOSS: loss * loss_unit(pl_module)}
        points["train/seconds"] = self.seconds()
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        for number, rate in enumerate(rates):
            points[f"lr/{number}" if number else "lr"] = float(rate)
        return points

    def seconds(self) -> float:
        """The time spent on training, without the set-up."""
        return self.seconds_before + (0.0 if self.started is None else time.monotonic() - self.started)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds(), "is_logged": self.is_logged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds_before, self.is_logged = state_dict["seconds"], state_dict.get("is_logged", False)
