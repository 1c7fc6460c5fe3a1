"""Signals or fails one of the processes right before a step, or makes all communicate within steps."""

import os
import signal
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class SignalAt(Callback):
    """Sends a process a signal when the step after ``step`` starts; ``RAISE`` raises an error instead."""

    def __init__(self, step: int, rank: int, name: str = "SIGTERM") -> None:
        self.step, self.rank, self.name = step, rank, name

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if (trainer.global_step, trainer.global_rank) != (self.step, self.rank):
            return
        if self.name == "RAISE":
            raise ValueError("on one of them")
        os.kill(os.getpid(), getattr(signal, self.name))


class Gathers(Callback):
    """Makes ``training_step`` communicate, as contrastive losses do."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = pl_module.training_step

        def gathering(*args: Any) -> Any:
            trainer.strategy.barrier()
            return step(*args)

        pl_module.training_step = gathering  # type: ignore[method-assign]
