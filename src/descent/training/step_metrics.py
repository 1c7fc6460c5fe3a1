"""Writes points of training curves directly to the loggers."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from descent.training.intervals import Intervals
from descent.training.sparse_callback import SparseCallback, loss_of


class StepMetrics(SparseCallback):
    """A callback that writes points at x = k, after step k: at 0, where ``intervals`` says, and at the end.

    ``self.log`` would slow down every step; this costs nothing between the points.

    Attributes:
        intervals: where the points are; ``build_trainer`` sets it.
        losses: of the step's batches, one unless gradients are accumulated.
        seen_step: the last step that ended.
        written: the step of the last point, or the step that the run resumed at.
    """

    intervals: Intervals
    losses: list[Tensor]
    seen_step: int
    written: int

    def points(self, trainer: Trainer, pl_module: LightningModule, loss: float | None) -> dict[str, float]:
        """The values by tag; may be empty.

        Args:
            loss: of the last step's batch at the weights before the step, or the mean over its batches if gradients
                are accumulated; ``None`` at 0, at an end between two points, and if ``training_step`` returned none.
        """
        raise NotImplementedError

    def next_active_step(self, trainer: Trainer, step: int) -> float:
        return self.intervals.next_logged(step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses, self.seen_step, self.written = [], trainer.global_step, trainer.global_step
        if trainer.global_step == 0:
            self._write(trainer, pl_module, None)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, loss = trainer.global_step, loss_of(trainer, outputs)
        self.losses += [] if loss is None else [loss.detach()]
        if step != self.seen_step:
            losses, self.losses, self.seen_step = self.losses, [], step
            if self.intervals.logs(step):
                self._write(trainer, pl_module, sum(loss.item() for loss in losses) / len(losses) if losses else None)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self.written:
            self._write(trainer, pl_module, None)

    def _write(self, trainer: Trainer, pl_module: LightningModule, loss: float | None) -> None:
        self.written = trainer.global_step
        points = self.points(trainer, pl_module, loss)
        for logger in trainer.loggers if points else []:
            logger.log_metrics(points, trainer.global_step)


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """All numbers of ``tensors`` in one float64 vector, on the CPU since not every device has float64."""
    rows = [dense(tensor.detach()).flatten() for tensor in tensors]  # empty if the step had no loss and so no gradient
    return torch.cat(rows).cpu().double() if rows else torch.empty(0, dtype=torch.float64)


def dense(tensor: Tensor) -> Tensor:
    """The same, if it is not sparse, as are the gradients of ``nn.Embedding(..., sparse=True)``."""
    return tensor if tensor.layout == torch.strided else tensor.to_dense()
