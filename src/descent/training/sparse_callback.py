"""Callbacks that leave most training steps alone."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from lightning.pytorch import Callback, Trainer
from torch import Tensor

from descent.batches.rows import Batch

T = TypeVar("T")


def callbacks_of(trainer: Trainer, kind: type[T]) -> list[T]:
    """Those of a Trainer that are of a kind, in their order."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set in Trainer's connector
    return [callback for callback in callbacks if isinstance(callback, kind)]


def loss_of(trainer: Trainer, outputs: Any) -> Tensor | None:
    """The loss of a batch, from what ``on_train_batch_end`` gets; ``None``: ``training_step`` returned none."""
    loss: Tensor | None = outputs.get("loss") if isinstance(outputs, Mapping) else None
    # Lightning divides it by the number of batches whose gradients are added up
    return loss if loss is None or trainer.accumulate_grad_batches == 1 else loss * trainer.accumulate_grad_batches


class SparseCallback(Callback):
    """A callback that wants the hooks of few steps, and hears only of the epochs that Lightning's loop ends.

    Where all callbacks are such, training steps are taken without Lightning's loop (``descent.fast``), several
    epochs in a row if nothing happens at their ends. One callback that listens to steps and is no ``SparseCallback``
    makes every step go through it.
    """

    def next_active_step(self, trainer: Trainer, step: int) -> float:
        """The first optimizer step from ``step`` on, counted from 1, whose hooks it wants; ``inf``: none.

        Those are ``on_before_optimizer_step`` and ``on_train_batch_end``.
        """
        return math.inf

    def on_step(self, trainer: Trainer, step: int, batch: Batch, loss: Tensor | None) -> bool:
        """After every step outside of Lightning's loop; called only where it is overridden. It may raise, but not log.

        Args:
            step: which it was; ``trainer.global_step`` may be behind.
            loss: of the batch at the weights before the step, with its graph; ``None``: there is none.

        Returns:
            whether ``next_active_step`` has changed.
        """
        return False
