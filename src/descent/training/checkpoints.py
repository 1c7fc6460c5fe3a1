"""``checkpoints/best.ckpt`` and ``last.ckpt``, and ending a run where it can be resumed exactly."""

import math
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor
from torch.optim import Optimizer

from descent.batches.in_memory import Batch, InMemoryBatches
from descent.fast.epoch_loop import EpochLoop
from descent.run.signals import Deferred
from descent.training.random_state import random_state, set_random_state
from descent.training.watcher import Watcher
from regression.callbacks.training_loss import full_loss


class Checkpoints(Watcher, Checkpoint):
    """Keeps the best and the last state of a run.

    ``best.ckpt`` has the weights with the lowest monitored value, ``last.ckpt`` all that training needs to go on.
    Writing a file takes as long as hundreds of steps on small data, so the best weights are held in memory, and
    both files are written at the end of training and before it every ``every_seconds`` or ``every_steps``, at the
    next safe point. They are written together, so ``last.ckpt`` never knows of a best that is not on disk.

    Safe points, from which Lightning's loops resume exactly, are the end of a step that is not the last of its
    epoch, and the end of an epoch with all that belongs to it. Schedulers that watch a metric step after the last
    hook of their epoch; so that point is the start of the next epoch or the end of training, with the loops'
    progress as the epoch's end left it.

    Args:
        directory: of the two files.
        monitor: the value to be lowest, from ``trainer.callback_metrics``.
        every_seconds: at most about so long between two writes; ``None``: no such rule.
        every_steps: the same in optimizer steps.
        signals: where a signal shows that asks the run to end.
        identity: of the run, kept in both files under ``run``; see ``descent.config.identity``.
        on_start: called right before the first step.
    """

    def __init__(
        self,
        directory: Path,
        monitor: str,
        every_seconds: float | None,
        every_steps: int | None,
        signals: Deferred,
        identity: dict[str, Any],
        on_start: Callable[[], None] | None = None,
    ) -> None:
        self.directory, self.monitor, self.signals = directory, monitor, signals
        self.identity, self.on_start = identity, on_start
        self.every_seconds = math.inf if every_seconds is None else every_seconds
        self.every_steps = math.inf if every_steps is None else every_steps
        self.best_value, self.best_step = math.inf, 0
        self.compared_step = 0  # the last one whose weights were compared with the best
        self.unwritten: dict[str, Any] | None = None  # the best, where it is not on disk yet
        self.seconds_before = 0.0  # of training, in the processes before this one
        self.stopped = False  # by a stopping rule
        self.epoch_end: dict[str, Any] | None = None  # the loops' progress at the end of the epoch before
        # of the checkpoint that a resumed run goes on from
        self.optimizer_states: list[dict[str, Any]] = []
        self.random_state: dict[str, Any] | None = None
        self.resumed_step = 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.optimizer_states = checkpoint["optimizer_states"]
        self.random_state, self.resumed_step = checkpoint["random_state"], checkpoint["global_step"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.listen()  # Lightning has put a handler of its own in place, which may end training mid-epoch
        self.started = self.written_at = time.monotonic()
        self.written_step = trainer.global_step
        trainer.should_stop = self.stopped  # a resumed run that a rule had ended stays at its end
        if trainer.global_step == 0:  # for a run that diverges before its first validation
            self._keep(trainer, pl_module, math.inf)
        # Lightning loads the position only where the loader was not asked for before, as schedulers do
        batches = trainer.train_dataloader
        assert isinstance(batches, InMemoryBatches)
        batches.load_state_dict({"position": trainer.global_step % int(trainer.num_training_batches)})
        for optimizer, saved in zip(trainer.optimizers, self.optimizer_states, strict=False):
            _restore_dtypes(optimizer, saved)
        if self.on_start is not None:
            self.on_start()
        self._restore_random_state(trainer)

    def next_wanted(self, trainer: Trainer, step: int) -> float:
        return step if self._is_due(step) else self.written_step + self.every_steps

    def on_step(self, trainer: Trainer, step: int, batch: Batch, loss: Tensor | None) -> bool:
        return self._is_due(step)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_random_state(trainer)  # what came since may have drawn numbers
        if self.epoch_end is not None:
            self._safe_point(trainer)
            self.epoch_end = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 < trainer.num_training_batches and not trainer.should_stop:
            self._safe_point(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._compare(trainer, pl_module, trainer.callback_metrics[self.monitor].item())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation and cast(EpochLoop, trainer.fit_loop.epoch_loop).is_evaluated():
            self._compare(trainer, pl_module, trainer.callback_metrics[self.monitor].item())
        self.epoch_end = deepcopy(trainer.fit_loop.state_dict())
        # or Lightning would leave out the step of a scheduler that watches a metric, after a resumed run's first epoch
        trainer.fit_loop.restarting = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stopped = trainer.should_stop
        if self.compared_step != trainer.global_step:
            self._evaluate_last(trainer, pl_module)
        if self.best_value == math.inf:  # no validation has taken place: the run was shorter than an epoch
            self._keep(trainer, pl_module, math.inf)
        self.write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._write_best(trainer)

    def write(self, trainer: Trainer) -> None:
        """Brings both files up to date, and TensorBoard's up to the same step."""
        for logger in trainer.loggers:
            logger.save()
        self._write_best(trainer)
        self.written_at, self.written_step = time.monotonic(), trainer.global_step
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        if self.epoch_end is not None:
            checkpoint["loops"]["fit_loop"] = self.epoch_end
        checkpoint |= {"run": self.identity, "random_state": random_state()}
        trainer.strategy.save_checkpoint(checkpoint, self.directory / "last.ckpt")

    def state_dict(self) -> dict[str, Any]:
        seconds = self.seconds_before + time.monotonic() - self.started
        best = {"best_value": self.best_value, "best_step": self.best_step, "compared_step": self.compared_step}
        return best | {"seconds": seconds, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in ("best_value", "best_step", "compared_step"):
            setattr(self, name, state_dict[name])
        self.seconds_before, self.stopped = state_dict["seconds"], state_dict["stopped"]

    def _restore_random_state(self, trainer: Trainer) -> None:
        """Puts the states back that the checkpoint was written with, until the first new step."""
        if self.random_state is not None and trainer.global_step == self.resumed_step:
            set_random_state(self.random_state)

    def _safe_point(self, trainer: Trainer) -> None:
        if self._is_due(trainer.global_step):
            self.write(trainer)
        self.signals.check()

    def _is_due(self, step: int) -> bool:
        late = time.monotonic() - self.written_at >= self.every_seconds
        return self.signals.number is not None or late or step - self.written_step >= self.every_steps

    def _evaluate_last(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Of the weights at the end, where no epoch's evaluation was of them."""
        if trainer.enable_validation:
            cast(EpochLoop, trainer.fit_loop.epoch_loop).validate_last()
        else:
            with torch.no_grad():
                self._compare(trainer, pl_module, full_loss(trainer, pl_module).item())

    def _compare(self, trainer: Trainer, pl_module: LightningModule, value: float) -> None:
        self.compared_step = trainer.global_step
        if value < self.best_value:
            self._keep(trainer, pl_module, value)

    def _keep(self, trainer: Trainer, pl_module: LightningModule, value: float) -> None:
        self.best_value, self.best_step = value, trainer.global_step
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
            checkpoint["run"] = self.identity
            trainer.strategy.save_checkpoint(checkpoint, self.directory / "best.ckpt")
            self.unwritten = None


def _restore_dtypes(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Gives each state its saved precision: torch loads NAdam's single precision product as a double."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in saved["state"].items():
        state = optimizer.state[parameters[index]]
        for name, value in values.items():
            if isinstance(value, Tensor):
                state[name] = state[name].to(value.dtype)
