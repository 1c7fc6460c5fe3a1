"""The base class of callbacks that skip most training steps."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from lightning.pytorch import Callback, Trainer
from torch import Tensor

from descent.batches.rows import Batch

T = TypeVar("T")


def callbacks_of(trainer: Trainer, kind: type[T]) -> list[T]:
    """The Trainer's callbacks of a class, in order."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set in Trainer's connector
    return [callback for callback in callbacks if isinstance(callback, kind)]


def loss_of(trainer: Trainer, outputs: Any) -> Tensor | None:
    """The loss in the outputs that ``on_train_batch_end`` gets; ``None`` if ``training_step`` returned none."""
    loss: Tensor | None = outputs.get("loss") if isinstance(outputs, Mapping) else None
    # Lightning divides the loss by the number of accumulated batches
    return loss if loss is None or trainer.accumulate_grad_batches == 1 else loss * trainer.accumulate_grad_batches


class SparseCallback(Callback):
    """A callback that needs the hooks of few steps, and only of those epochs that Lightning's loop ends.

    If all callbacks that listen to steps are sparse, training bypasses Lightning's loop (``descent.fast``), for
    several epochs in a row if nothing happens at their ends. If one is not, every step goes through Lightning's loop.
    """

    def next_active_step(self, trainer: Trainer, step: int) -> float:
        """The first optimizer step from ``step`` on, counted from 1, whose hooks are needed; ``inf`` for none.

        The hooks are ``on_before_optimizer_step`` and ``on_train_batch_end``.
        """
        return math.inf

    def on_step(self, trainer: Trainer, step: int, batch: Batch, loss: Tensor | None) -> bool:
        """Called after every step outside Lightning's loop, if it is overridden. It may raise, but not log.

        Args:
            step: its number; ``trainer.global_step`` may be behind.
            loss: of the batch at the weights before the step, with its graph; ``None`` if there is none.

        Returns:
            whether ``next_active_step`` has changed.
        """
        return False
