"""Stops runs whose loss is not finite or far above the first."""

import math
import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from descent.batches.rows import Batch
from descent.training.intervals import Intervals
from descent.training.sparse_callback import SparseCallback, loss_of
from descent.training.training_loss import full_loss_value, has_full_loss


class DivergenceError(Exception):
    """The loss is not finite or far above the first. The message says at which step, and what might help."""


class Divergence(SparseCallback):
    """Raises ``DivergenceError`` at a step whose loss is not finite or more than ``factor`` times the first.

    Raises before anything is saved, so the checkpoints hold earlier weights. On an accelerator it checks only the
    steps that are logged or saved.

    Args:
        factor: the largest allowed ratio to the first loss.

    Attributes:
        intervals: when steps are logged; ``build_trainer`` sets it.
    """

    intervals: Intervals

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.first: float | None = None
        self.latest: tuple[int, Tensor] | None = None  # step and loss

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.first is None:
            first = self.first_loss(trainer, pl_module)
            self.first = None if first is None else abs(first)

    def first_loss(self, trainer: Trainer, pl_module: LightningModule) -> float | None:
        """The loss on all rows before the first step; ``None``: not available, the first step's loss is used."""
        if not has_full_loss(trainer):
            return None
        return full_loss_value(trainer, pl_module)

    def advice(self, trainer: Trainer) -> str:
        """What might help, for the message."""
        return "try a lower optimizer.lr" if trainer.gradient_clip_val else "try a lower optimizer.lr, or clip=norm"

    @property
    def limit(self) -> float:
        """The largest loss that does not count as divergence, in training units."""
        return min(self.first * self.factor if self.first else math.inf, sys.float_info.max)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.on_step(trainer, trainer.global_step, batch, loss_of(trainer, outputs))

    def on_step(self, trainer: Trainer, step: int, batch: Batch, loss: Tensor | None) -> bool:
        if loss is not None:
            self.latest = step, loss
            if loss.device.type == "cpu" or self.intervals.logs(step):  # each check makes an accelerator wait
                self.check(trainer)
        return False

    def check(self, trainer: Trainer) -> None:
        """Checks the latest loss; also called before a checkpoint is written."""
        if self.latest is None:
            return
        step, loss = self.latest[0], self.latest[1].item()
        if self.first is None and math.isfinite(loss):
            self.first = abs(loss)
        if loss <= self.limit:  # false for nan
            return
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        advice = self.advice(trainer)
        if math.isnan(loss):
            advice += ", or look for nan in the data"
        if step <= 1 and not math.isfinite(loss):
            advice = "look for nan and inf in the data and in the initial weights"
        how = "is not finite" if not math.isfinite(loss) else f"is over {self.factor:g} times the first"
        raise DivergenceError(
            f"the training loss before step {step} {how} ({loss:.3g}) at learning rate {rate:g}: {advice}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.first = state_dict["first"]
