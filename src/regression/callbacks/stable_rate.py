"""Divergence, with what is known of learning rates on a quadratic loss."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from descent.training.divergence import Divergence
from regression.callbacks.of import data_of, least_squares_of, model_of
from regression.data.part import Part
from regression.optimum import largest_stable_lr

log = logging.getLogger(__name__)


class StableRate(Divergence):
    """Takes the place of ``Divergence``, and says from which learning rate on the optimizer cannot be stable.

    The first loss is the loss of the whole training set before the first step, or that of predicting 0 everywhere if
    it is larger: the loss of a single row, or of good initial weights, can be small by luck.

    Args:
        factor: how many times the first loss is too much.
        optimizer: its config; the largest stable rate is known of SGD on all rows, without clipping, where there is a
            least-squares solution.
    """

    def __init__(self, factor: float, optimizer: Mapping[str, Any]) -> None:
        super().__init__(factor)
        self.optimizer = optimizer
        self.stable_lr: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stable_lr = self._stable_lr(trainer, pl_module)
        group = trainer.optimizers[0].param_groups[0]
        rate = group.get("initial_lr", group["lr"])
        if self.first is None and self.stable_lr is not None and rate > self.stable_lr:
            log.warning(
                "note: the learning rate %g is above %.4g, beyond which this optimizer diverges on all "
                "rows, unless the rate comes down in time",
                *(rate, self.stable_lr),
            )
        super().on_train_start(trainer, pl_module)

    def first_loss(self, trainer: Trainer, pl_module: LightningModule) -> float | None:
        loss, train = super().first_loss(trainer, pl_module), data_of(trainer).train
        if loss is None or not isinstance(train, Part):
            return loss
        targets = torch.from_numpy(train.y)
        return max(loss, model_of(pl_module).loss(torch.zeros_like(targets), targets).item())

    def advice(self, trainer: Trainer) -> str:
        advice = super().advice(trainer)
        if self.stable_lr is None:
            return advice
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        smaller = "; a batch that is smaller allows less" if rate < self.stable_lr else ""
        return f"{advice} (on all rows at once it is stable below {self.stable_lr:.4g}{smaller})"

    def _stable_lr(self, trainer: Trainer, pl_module: LightningModule) -> float | None:
        given, found = self.optimizer, least_squares_of(trainer, pl_module)
        if given["_target_"] != "torch.optim.SGD" or given.get("dampening") or given.get("maximize"):
            return None
        if found is None or trainer.gradient_clip_val is not None:
            return None
        return largest_stable_lr(
            found[1], given.get("momentum", 0.0), given.get("nesterov", False), given.get("weight_decay", 0.0)
        )
