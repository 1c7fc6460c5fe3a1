"""The weights with the best monitored value."""

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from descent.config.schema import MonitorConfig
from descent.training.collectives import of_first
from descent.training.training_loss import LOSS, full_loss_value, has_full_loss, loss_unit
from descent.training.validation_schedule import logged, monitored, validation_schedule

STATE = ("metric", "best_value", "best_step", "compared_step")  # in a checkpoint


class BestWeights:
    """Holds them in memory until they are written.

    Args:
        monitor: the metric that decides, from ``trainer.callback_metrics``, and its direction.

    Attributes:
        best_value: worse than any where nothing has been evaluated yet.
        compared_step: the last one whose weights were compared with the best.
        awaits_epoch: whether it is still to be seen that the metric is logged, at the end of an epoch of training.
    """

    def __init__(self, monitor: MonitorConfig) -> None:
        self.metric = monitor.metric
        self.sign = -1.0 if monitor.mode == "max" else 1.0
        self.best_value, self.best_step = self.sign * math.inf, 0
        self.compared_step = 0
        self.unwritten: dict[str, Any] | None = None
        self.awaits_epoch = False

    def start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        has_validation = validation_schedule(trainer).has_validation
        self.metric = monitored(self.metric, has_validation)
        self.is_of_training = self.metric.startswith("train") or not has_validation
        self.awaits_epoch = self.is_of_training and not (self.metric == LOSS and has_full_loss(trainer))
        if trainer.global_step == 0:  # for a run that diverges before its first validation
            self.keep(trainer, pl_module, self.best_value)

    def end_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_of_training and validation_schedule(trainer).is_evaluated(trainer):
            self.compare(trainer, pl_module)
        elif self.awaits_epoch:
            logged(trainer, self.metric)
        self.awaits_epoch = False

    def end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.metric == LOSS and has_full_loss(trainer) and self.compared_step != trainer.global_step:
            self.compare(trainer, pl_module, full_loss_value(trainer, pl_module) * loss_unit(pl_module))
        if not math.isfinite(self.best_value):  # nothing has been evaluated: the run was shorter than an epoch
            self.keep(trainer, pl_module, self.best_value)

    def compare(self, trainer: Trainer, pl_module: LightningModule, value: float | None = None) -> None:
        """Keeps the weights of now if ``value`` is the best; ``None``: the metric as it was logged."""
        if value is None:
            value = of_first(logged(trainer, self.metric).item())
        self.compared_step = trainer.global_step
        if self.sign * value < self.sign * self.best_value:
            self.keep(trainer, pl_module, value)

    def keep(self, trainer: Trainer, pl_module: LightningModule, value: float) -> None:
        self.best_value, self.best_step = value, trainer.global_step
        weights: dict[str, Tensor] = pl_module.state_dict()
        self.unwritten = {
            "state_dict": {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()},
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
        }
        pl_module.on_save_checkpoint(self.unwritten)  # what the module adds is of these weights, too

    def write(self, trainer: Trainer, path: Path, identity: dict[str, Any]) -> None:
        """Writes them where they are not on disk yet."""
        if self.unwritten is not None:
            kept = {"run": identity, **self.unwritten}  # in place of the weights of now
            trainer.save_checkpoint(path, weights_only=True, storage_options=kept)
            self.unwritten = None
