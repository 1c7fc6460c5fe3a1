"""Keeps the weights with the best monitored value."""

import logging
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from descent.config.metric import without_split
from descent.config.schema import MonitorConfig
from descent.training.collectives import of_first
from descent.training.metric_direction import note_direction
from descent.training.sparse_callback import SparseCallback, callbacks_of
from descent.training.training_loss import LOSS, full_loss_value, has_full_loss, loss_unit
from descent.training.validation_schedule import logged, monitored, validation_schedule
from descent.training.weight_averaging import check_monitor

log = logging.getLogger(__name__)

REST = ("callbacks", "loops", "optimizer_states", "lr_schedulers")  # of a whole checkpoint
STATE = ("metric", "best_value", "best_step", "compared_step")  # in a checkpoint


class BestWeights:
    """Holds the best weights in memory until they are written.

    Args:
        monitor: the metric to compare, from ``trainer.callback_metrics``, and its direction.

    Attributes:
        best_value: ``inf`` (``-inf`` if larger values are better) until the metric is first evaluated.
        compared_step: the step of the last comparison.
        awaits_epoch: whether the first epoch's end must still check that the metric is logged.
    """

    def __init__(self, monitor: MonitorConfig) -> None:
        self.metric = monitor.metric
        self.sign = -1.0 if monitor.mode == "max" else 1.0
        self.best_value, self.best_step = self.sign * math.inf, 0
        self.compared_step = 0
        self.unwritten: dict[str, Any] | None = None
        self.awaits_epoch = False
        self.has_note = False  # on a value that is nan

    def start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        has_validation = validation_schedule(trainer).has_validation
        given, self.metric = self.metric, monitored(self.metric, has_validation)
        if self.metric != given and without_split(given) != "loss":  # conf/train.yaml says this of val/loss
            log.warning("note: without validation, %s is monitored in place of %s", self.metric, given)
        self.is_of_training = self.metric.startswith("train") or not has_validation
        check_monitor(trainer, self.metric, self.is_of_training)
        self.awaits_epoch = self.is_of_training and not (self.metric == LOSS and has_full_loss(trainer))
        if trainer.global_step == 0:  # in case the run diverges before its first validation
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
        if not math.isfinite(self.best_value):  # never evaluated: the run was shorter than an epoch
            self.keep(trainer, pl_module, self.best_value)

    def compare(self, trainer: Trainer, pl_module: LightningModule, value: float | None = None) -> None:
        """Keeps the current weights if ``value`` is the best; ``None``: the last logged value of the metric."""
        if value is None:
            value = of_first(logged(trainer, self.metric).item())
            note_direction(trainer, self.metric, "max" if self.sign < 0 else "min")
        self.compared_step = trainer.global_step
        if math.isnan(value) and not self.has_note:
            self.has_note = True
            log.warning(
                "note: %s is nan at step %d, so these weights cannot be the best; if it stays nan, best.ckpt has the"
                " last weights",
                *(self.metric, trainer.global_step),
            )
        if self.sign * value < self.sign * self.best_value:
            self.keep(trainer, pl_module, value)

    def keep(self, trainer: Trainer, pl_module: LightningModule, value: float) -> None:
        self.best_value, self.best_step = value, trainer.global_step
        kept = {
            "state_dict": dict(pl_module.state_dict()),
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
        }
        # they may replace the weights, as an average does, and what they add must match these weights
        savers = [callback for callback in callbacks_of(trainer, Callback) if _saves(callback)]
        if savers and trainer.global_step:  # some callbacks start in the first step
            whole = kept | _rest(trainer)
            for callback in savers:
                callback.on_save_checkpoint(trainer, pl_module, whole)
            kept = {key: value for key, value in whole.items() if key not in REST}
        pl_module.on_save_checkpoint(kept)
        self.unwritten = _copied(kept)

    def write(self, trainer: Trainer, path: Path, identity: dict[str, Any]) -> None:
        """Writes the best weights unless they are already on disk."""
        if self.unwritten is not None:
            kept = {"run": identity, **self.unwritten}  # replaces the current weights
            trainer.save_checkpoint(path, weights_only=True, storage_options=kept)
            self.unwritten = None


def _saves(callback: Callback) -> bool:
    """Whether it changes a checkpoint; those of the machinery add only what a resumed run needs."""
    saves = type(callback).on_save_checkpoint is not Callback.on_save_checkpoint
    return saves and not isinstance(callback, SparseCallback)


def _rest(trainer: Trainer) -> dict[str, Any]:
    """What a whole checkpoint has besides the weights, for callbacks that read it."""
    states = (
        {callback.state_key: callback.state_dict() for callback in callbacks_of(trainer, Callback)},
        {"fit_loop": trainer.fit_loop.state_dict()},
        [optimizer.state_dict() for optimizer in trainer.optimizers],
        [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
    )
    return dict(zip(REST, states, strict=True))


def _copied(value: Any) -> Any:
    """A copy in the CPU's memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        copies = map(_copied, value)
        return list(copies) if isinstance(value, list) else tuple(copies)
    return deepcopy(value)
