"""Ending a run whose loss has left all bounds."""

import logging
import math
import sys
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from descent.batches.in_memory import Batch, InMemoryBatches
from descent.training.watcher import Watcher, loss_of
from regression.callbacks.training_loss import full_loss

log = logging.getLogger(__name__)


class DivergenceError(Exception):
    """The loss is not finite, or far above the first. Its text says where and what might help."""


class Divergence(Watcher):
    """Raises ``DivergenceError`` at the step whose loss is not finite or more than ``factor`` times the first.

    The first is the loss of the whole training set before the first step, or that of predicting 0 everywhere if it
    is larger: the loss of a single row, or of good initial weights, can be small by luck. Raised before anything is
    saved, so the checkpoints hold weights from before.

    Args:
        factor: how many times the first loss is too much.
        stable_lr: the largest learning rate at which the optimizer is stable on all rows; ``None``: not known.
    """

    def __init__(self, factor: float, stable_lr: float | None) -> None:
        self.factor, self.stable_lr = factor, stable_lr
        self.first: float | None = None
        self.limit = math.inf  # the largest loss that is not divergence, in the units of training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rate = trainer.optimizers[0].param_groups[0].get("initial_lr", trainer.optimizers[0].param_groups[0]["lr"])
        if self.first is None:
            if self.stable_lr is not None and rate > self.stable_lr:
                log.warning(
                    "note: the learning rate %g is above %.4g, beyond which this optimizer diverges on all "
                    "rows, unless the rate comes down in time",
                    *(rate, self.stable_lr),
                )
            with torch.no_grad():
                targets = cast(InMemoryBatches, trainer.train_dataloader).y
                self.first = max(full_loss(trainer, pl_module).item(), targets.square().mean().item())
        self.limit = min(self.first * self.factor if self.first else math.inf, sys.float_info.max)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._check(trainer, trainer.global_step, loss_of(outputs))

    def on_step(self, trainer: Trainer, step: int, batch: Batch, loss: Tensor | None) -> bool:
        self._check(trainer, step, None if loss is None else loss.item())
        return False

    def _check(self, trainer: Trainer, step: int, loss: float | None) -> None:
        if loss is not None and not loss <= self.limit:  # nan is not
            self._give_up(trainer, step, loss)

    def _give_up(self, trainer: Trainer, step: int, loss: float) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        how = "is not finite" if not math.isfinite(loss) else f"is over {self.factor:g} times the first"
        advice = "try a lower optimizer.lr" if trainer.gradient_clip_val else "try a lower optimizer.lr, or clip=norm"
        if self.stable_lr is not None:
            smaller = "; a batch that is smaller allows less" if rate < self.stable_lr else ""
            advice += f" (on all rows at once it is stable below {self.stable_lr:.4g}{smaller})"
        raise DivergenceError(
            f"the training loss before step {step} {how} ({loss:.3g}), the learning rate is {rate:g}: {advice}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.first = state_dict["first"]
