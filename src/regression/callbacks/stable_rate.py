"""Stops diverging runs and says which learning rates are stable on a quadratic loss."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from descent.training.divergence import Divergence
from regression.callbacks.getters import data_of, least_squares_of, model_of
from regression.data.part import Part
from regression.optimum import largest_stable_lr

log = logging.getLogger(__name__)


class StableRate(Divergence):
    """Replaces ``Divergence``, and says above which learning rate the optimizer is not stable.

    The first loss is the loss of the whole training set before the first step, or of predicting 0 everywhere if that
    is larger: the loss of a single row, or of good initial weights, can be small by chance.

    Args:
        factor: a loss above this multiple of the first loss counts as divergence.
        optimizer: the optimizer's config. The largest stable rate is known only for full-batch SGD without clipping,
            and if there is a least-squares solution.
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
                "note: the learning rate is %g; above %.4g this optimizer diverges on full batches,"
                " unless a scheduler lowers the rate soon enough",
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
        smaller = "; smaller batches need a lower rate" if rate < self.stable_lr else ""
        return f"{advice} (full batches are stable below {self.stable_lr:.4g}{smaller})"

    def _stable_lr(self, trainer: Trainer, pl_module: LightningModule) -> float | None:
        given, found = self.optimizer, least_squares_of(trainer, pl_module)
        if given["_target_"] != "torch.optim.SGD" or given.get("dampening") or given.get("maximize"):
            return None
        if found is None or trainer.gradient_clip_val is not None:
            return None
        return largest_stable_lr(
            found[1], given.get("momentum", 0.0), given.get("nesterov", False), given.get("weight_decay", 0.0)
        )
