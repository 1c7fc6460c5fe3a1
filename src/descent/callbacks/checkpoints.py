"""``checkpoints/best.ckpt`` and ``last.ckpt``."""

import math
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor


class Checkpoints(Checkpoint):
    """Keeps the best and the last state of a run.

    ``best.ckpt`` has the weights with the lowest monitored value, ``last.ckpt`` all that training needs to go on.
    Writing a file takes as long as hundreds of steps on small data, so the best weights are held in memory and
    both files are written at the end of training, and before it at the first end of an epoch after
    ``every_seconds``. They are written together, so ``last.ckpt`` never knows of a best that is not on disk.

    Args:
        directory: of the two files.
        monitor: the value to be lowest, from ``trainer.callback_metrics``.
        every_seconds: at least so long between two writes.
    """

    def __init__(self, directory: Path, monitor: str, every_seconds: float) -> None:
        self.directory, self.monitor, self.every_seconds = directory, monitor, every_seconds
        self.best_value = math.inf
        self.unwritten: dict[str, Any] | None = None  # the best, where it is not on disk yet

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.written_at = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._compare(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation:
            self._compare(trainer, pl_module)
        if time.monotonic() - self.written_at >= self.every_seconds:
            self.write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.best_value == math.inf:  # no validation has taken place: the run was shorter than an epoch
            self._keep(trainer, pl_module, math.inf)
        self.write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._write_best(trainer)

    def write(self, trainer: Trainer) -> None:
        """Brings both files up to date."""
        self._write_best(trainer)
        trainer.save_checkpoint(self.directory / "last.ckpt")
        self.written_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best_value": self.best_value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_value = state_dict["best_value"]

    def _compare(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics[self.monitor].item()
        if value < self.best_value:
            self._keep(trainer, pl_module, value)

    def _keep(self, trainer: Trainer, pl_module: LightningModule, value: float) -> None:
        self.best_value = value
        weights: dict[str, Tensor] = pl_module.state_dict()
        self.unwritten = {
            "state_dict": {name: weight.clone() for name, weight in weights.items()},
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
        }

    def _write_best(self, trainer: Trainer) -> None:
        if self.unwritten is not None:
            # save_checkpoint would write the weights of now
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=True) | self.unwritten
            trainer.strategy.save_checkpoint(checkpoint, self.directory / "best.ckpt")
            self.unwritten = None
