"""Writes ``checkpoints/best.ckpt`` and ``last.ckpt``, and interrupts runs where they can resume exactly."""

import logging
import math
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from descent.batches.rows import Batch
from descent.config.schema import MonitorConfig
from descent.errors import UserError
from descent.signals import Deferred, Interrupted
from descent.training.best_weights import STATE, BestWeights
from descent.training.collectives import gathered, largest, own_of, several
from descent.training.divergence import Divergence, DivergenceError
from descent.training.logged_metrics import log_step_metrics
from descent.training.random_state import random_state, set_random_state
from descent.training.restoring import check_length, restore_dtypes
from descent.training.sparse_callback import SparseCallback, callbacks_of
from descent.training.write_interval import WriteInterval

log = logging.getLogger(__name__)


class Checkpoints(SparseCallback, Checkpoint):
    """Keeps the best and the last state of a run.

    ``best.ckpt`` has the weights with the best monitored value, ``last.ckpt`` everything needed to resume training.
    On small data, writing a file takes as long as hundreds of steps. So the best weights are held in memory, and both
    files are written at the end of training and, every ``every_seconds`` or ``every_steps``, at the next safe point.
    ``best.ckpt`` is written first, so ``last.ckpt`` never refers to best weights that are not on disk.

    Lightning's loops resume exactly from safe points: the end of each optimizer step except the last of an epoch, and
    the end of an epoch. Schedulers that monitor a metric step after the epoch's last hook, so the end of an epoch is
    saved at the start of the next one, or at the end of training, with the loops' progress from the epoch's end.

    Args:
        directory: where the two files are.
        monitor: the metric to compare, from ``trainer.callback_metrics``, and its direction.
        every_seconds: the interval between writes, as in ``WriteInterval``; 0: every safe point.
        every_steps: the same in optimizer steps.
        signals: holds the signal that interrupts the run.
        identity: of the run, kept in both files under ``run``; see ``descent.config.identity``.
        on_start: called right before the first step.
    """

    def __init__(
        self,
        directory: Path,
        monitor: MonitorConfig,
        every_seconds: float | None,
        every_steps: int | None,
        signals: Deferred,
        identity: dict[str, Any],
        on_start: Callable[[], None] | None = None,
    ) -> None:
        self.directory, self.signals = directory, signals
        self.best = BestWeights(monitor)
        self.identity, self.on_start = identity, on_start
        self.interval = WriteInterval(every_seconds, every_steps)
        self.stopped = False  # whether a stopping rule has ended the run, even if trainer.min_epochs continues it
        self.epoch_end: dict[str, Any] | None = None  # the loops' progress at the end of the previous epoch
        # from the checkpoint that a resumed run starts from
        self.optimizer_states: list[dict[str, Any]] = []
        self.random_state: dict[str, Any] | None = None
        self.resumed_at = 0  # in batches
        self.began_with: dict[str, Any] = {}  # its config
        self.checksum: int | None = None  # of its data
        self.gradients: dict[str, Tensor] = {}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.optimizer_states = checkpoint["optimizer_states"]
        self.random_state = checkpoint["random_state"]
        if "gradients" in checkpoint:
            self.gradients = own_of(checkpoint["gradients"])
        if "random_states" in checkpoint:
            self.random_state = own_of(checkpoint["random_states"])
        self.began_with, self.checksum = checkpoint["run"].get("config", {}), checkpoint["run"].get("checksum")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.listen()  # replaces Lightning's handler, which may end training mid-epoch
        self.resumed_at, self.seen_step = _batches(trainer), trainer.global_step
        self.interval.start(trainer.global_step)
        data = getattr(trainer, "datamodule", None)
        self.identity = {**self.identity, "checksum": getattr(data, "checksum", None)}
        if trainer.world_size > 1:
            self.identity["processes"] = trainer.world_size
        if self.checksum not in (None, self.identity["checksum"]):
            raise UserError(
                "data must be the same as at the start of the run to resume it: the checksum of the"
                f" {type(data).__name__} was {self.checksum} and is {self.identity['checksum']}"
            )
        if self.began_with:
            check_length(trainer, self.began_with, self.identity["config"])
        trainer.should_stop = self.stopped  # a resumed run that a stopping rule has ended does not continue
        if trainer.num_training_batches > 1 and _is_more_due(trainer, 0):
            log.warning(
                "note: this run can be interrupted only at the end of an epoch, because it validates, or a scheduler"
                " monitors a metric, after every step"
            )
        self.best.start(trainer, pl_module)
        for optimizer, saved in zip(trainer.optimizers, self.optimizer_states, strict=False):
            restore_dtypes(optimizer, saved)
        for name, gradient in self.gradients.items():
            parameter = pl_module.get_parameter(name)
            parameter.grad = gradient.to(parameter.device)
        self.gradients = {}
        if self.on_start is not None:
            self.on_start()
        self._restore_random_state(trainer)
        if is_overridden("on_train_batch_end", pl_module):  # Lightning calls it after all callbacks
            self._follow(trainer, pl_module)

    def next_active_step(self, trainer: Trainer, step: int) -> float:
        return step if self.best.awaits_epoch or self._is_due(step) else self.interval.next_step

    def on_step(self, trainer: Trainer, step: int, batch: Batch, loss: Tensor | None) -> bool:
        return self._is_due(step)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_random_state(trainer)  # other hooks may have drawn random numbers
        if self.epoch_end is not None:
            self._safe_point(trainer)
            self.epoch_end = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if "on_train_batch_end" not in vars(pl_module):
            self._end_step(trainer, batch_idx)

    def _follow(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends a step after the module's own ``on_train_batch_end``, so that a resumed run does not skip it."""
        given = pl_module.on_train_batch_end

        def on_train_batch_end(outputs: Any, batch: Any, batch_idx: int) -> None:
            given(outputs, batch, batch_idx)
            self._end_step(trainer, batch_idx)

        pl_module.on_train_batch_end = on_train_batch_end  # type: ignore[method-assign]

    def _end_step(self, trainer: Trainer, batch_idx: int) -> None:
        has_stepped = trainer.global_step != self.seen_step  # Lightning's accumulating gradients are not saved
        self.seen_step = trainer.global_step
        is_last = trainer.is_last_batch or trainer.fit_loop.epoch_loop.done  # done: training stops mid-epoch
        if has_stepped and not is_last and not _is_more_due(trainer, batch_idx):
            self._safe_point(trainer, ends_step=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not self.best.is_of_training:
            self.best.compare(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.best.end_epoch(trainer, pl_module)
        batches = trainer.fit_loop.epoch_loop.batch_progress
        trackers: list[Any] = [batches.total, batches.current]
        for counts in trackers:
            # these differ if on_train_batch_start ended the epoch (-1); Lightning reads its position from them
            counts.started = counts.completed = counts.ready
        self.epoch_end = deepcopy(trainer.fit_loop.state_dict())
        # otherwise Lightning skips metric-based schedulers after the first epoch of a resumed run
        trainer.fit_loop.restarting = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        vars(pl_module).pop("on_train_batch_end", None)
        self.best.end(trainer, pl_module)
        self.write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        vars(pl_module).pop("on_train_batch_end", None)
        if not several() or isinstance(exception, Interrupted | DivergenceError):  # all processes raise these two
            self.best.write(trainer, self.directory / "best.ckpt", self.identity)

    def write(self, trainer: Trainer) -> None:
        """Writes both files, and the loggers' files up to the same step."""
        for divergence in callbacks_of(trainer, Divergence):
            divergence.check(trainer)
        self.stopped = trainer.should_stop
        for logger in trainer.loggers:
            logger.save()
        self.best.write(trainer, self.directory / "best.ckpt", self.identity)
        own: dict[str, Any] = {"run": self.identity, "random_state": random_state()}
        if several():
            own["random_states"] = gathered(own["random_state"])
        if _adds_up_gradients(trainer.lightning_module):
            gradients = ((name, parameter.grad) for name, parameter in trainer.lightning_module.named_parameters())
            own["gradients"] = gathered({name: gradient.cpu() for name, gradient in gradients if gradient is not None})
        if self.epoch_end is not None:
            own["loops"] = {"fit_loop": self.epoch_end}
        trainer.save_checkpoint(self.directory / "last.ckpt", weights_only=False, storage_options=own)
        self.interval.start(trainer.global_step)

    def compare_last(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares the last weights, validated only after training, and writes both files."""
        self.best.compare(trainer, pl_module)
        self.write(trainer)

    def state_dict(self) -> dict[str, Any]:
        best = {name: getattr(self.best, name) for name in STATE}
        return best | {"stopped": self.stopped, "noted_interval": self.interval.noted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in STATE:
            setattr(self.best, name, state_dict[name])
        self.stopped = state_dict["stopped"]
        self.interval.noted = max(self.interval.noted, state_dict.get("noted_interval", 0.0))

    def _restore_random_state(self, trainer: Trainer) -> None:
        """Restores the checkpoint's random state; has no effect after the first new batch."""
        if self.random_state is not None and _batches(trainer) == self.resumed_at:
            set_random_state(self.random_state)

    def _safe_point(self, trainer: Trainer, ends_step: bool = False) -> None:
        number, due = largest(self.signals.number or 0, self._is_due(trainer.global_step))  # of all processes
        if due:
            if ends_step:
                log_step_metrics(trainer)
            began = time.monotonic()
            self.write(trainer)
            if self.signals.number is None and self.interval.every_seconds:
                self.interval.adapt(time.monotonic() - began)
            if not several():
                self.signals.check()
            elif number:  # a later signal is not known to the other processes
                raise Interrupted(int(number))

    def _is_due(self, step: int) -> bool:
        return self.signals.number is not None or self.interval.is_due(step)


def _batches(trainer: Trainer) -> int:
    """The number of training batches begun."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.ready)


def _adds_up_gradients(pl_module: LightningModule) -> bool:
    """Whether the module may carry gradients from one step to the next, which Lightning's loops do not save."""
    return not pl_module.automatic_optimization or is_overridden("optimizer_zero_grad", pl_module)


def _is_more_due(trainer: Trainer, batch_idx: int) -> bool:
    """Whether Lightning does more after this batch, which a run resumed from here would skip."""
    every = trainer.val_check_batch
    validates = trainer.enable_validation and every not in (None, math.inf) and (batch_idx + 1) % int(every) == 0
    return validates or any(s.reduce_on_plateau and s.interval == "step" for s in trainer.lr_scheduler_configs)
