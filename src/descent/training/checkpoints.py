"""``checkpoints/best.ckpt`` and ``last.ckpt``, and ending a run where it can be resumed exactly."""

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

log = logging.getLogger(__name__)

SHARE = 20  # writing takes at most one part in so many of a run's time


class Checkpoints(SparseCallback, Checkpoint):
    """Keeps the best and the last state of a run.

    ``best.ckpt`` has the weights with the best monitored value, ``last.ckpt`` all that training needs to go on.
    Writing a file takes as long as hundreds of steps on small data, so the best weights are held in memory, and
    both files are written at the end of training and before it every ``every_seconds`` or ``every_steps``, at the
    next safe point. They are written together, so ``last.ckpt`` never knows of a best that is not on disk.

    Safe points, from which Lightning's loops resume exactly, are the end of a step that is not the last of its
    epoch, and the end of an epoch with all that belongs to it. Schedulers that watch a metric step after the last
    hook of their epoch; so that point is the start of the next epoch or the end of training, with the loops'
    progress as the epoch's end left it. With gradient accumulation the steps of the optimizer are safe points.

    Args:
        directory: of the two files.
        monitor: the metric that decides, from ``trainer.callback_metrics``, and its direction.
        every_seconds: at most about so long between two writes; ``None``: no such rule. After one that took more
            than a nineteenth of it, the next is so much later; 0: at every safe point.
        every_steps: the same in optimizer steps.
        signals: where a signal shows that asks the run to end.
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
        self.every_seconds = math.inf if every_seconds is None else every_seconds
        self.interval = self.longest = self.every_seconds  # between two writes, now and the longest so far
        self.every_steps = math.inf if every_steps is None else every_steps
        self.stopped = False  # by a stopping rule, be it that trainer.min_epochs has it go on
        self.epoch_end: dict[str, Any] | None = None  # the loops' progress at the end of the epoch before
        # of the checkpoint that a resumed run goes on from
        self.optimizer_states: list[dict[str, Any]] = []
        self.random_state: dict[str, Any] | None = None
        self.resumed_at = 0  # in batches
        self.began_with: dict[str, Any] = {}  # its config
        self.checksum: int | None = None  # of the data that it began with
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
        self.signals.listen()  # Lightning has put a handler of its own in place, which may end training mid-epoch
        self.written_at, self.resumed_at = time.monotonic(), _batches(trainer)
        self.written_step = self.seen_step = trainer.global_step
        data = getattr(trainer, "datamodule", None)
        self.identity = {**self.identity, "checksum": getattr(data, "checksum", None)}
        if trainer.world_size > 1:
            self.identity["processes"] = trainer.world_size
        if self.checksum not in (None, self.identity["checksum"]):
            raise UserError(
                "data must be what the run began with to be resumed: the checksum of the"
                f" {type(data).__name__} was {self.checksum} and is {self.identity['checksum']}"
            )
        if self.began_with:
            check_length(trainer, self.began_with, self.identity["config"])
        trainer.should_stop = self.stopped  # a resumed run that a rule had ended stays at its end
        if trainer.num_training_batches > 1 and _is_more_due(trainer, 0):
            log.warning(
                "note: this run can be interrupted only where an epoch ends, because it validates, or a scheduler"
                " watches a metric, after every step"
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
        if is_overridden("on_train_batch_end", pl_module):  # Lightning calls it after those of all callbacks
            self._follow(trainer, pl_module)

    def next_active_step(self, trainer: Trainer, step: int) -> float:
        return step if self.best.awaits_epoch or self._is_due(step) else self.written_step + self.every_steps

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
        if "on_train_batch_end" not in vars(pl_module):
            self._end_step(trainer, batch_idx)

    def _follow(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Has steps end after the module's own ``on_train_batch_end``, which a resumed run would leave out."""
        given = pl_module.on_train_batch_end

        def on_train_batch_end(outputs: Any, batch: Any, batch_idx: int) -> None:
            given(outputs, batch, batch_idx)
            self._end_step(trainer, batch_idx)

        pl_module.on_train_batch_end = on_train_batch_end  # type: ignore[method-assign]

    def _end_step(self, trainer: Trainer, batch_idx: int) -> None:
        has_stepped = trainer.global_step != self.seen_step  # or gradients are on their way, which no checkpoint has
        self.seen_step = trainer.global_step
        is_last = trainer.is_last_batch or trainer.fit_loop.epoch_loop.done  # where training stops within the epoch
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
            # a batch at which on_train_batch_start ended the epoch (-1) was not; Lightning tells by these where it is
            counts.started = counts.completed = counts.ready
        self.epoch_end = deepcopy(trainer.fit_loop.state_dict())
        # or Lightning would leave out the step of a scheduler that watches a metric, after a resumed run's first epoch
        trainer.fit_loop.restarting = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        vars(pl_module).pop("on_train_batch_end", None)
        self.best.end(trainer, pl_module)
        self.write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        vars(pl_module).pop("on_train_batch_end", None)
        if not several() or isinstance(exception, Interrupted | DivergenceError):  # others come alone to a process
            self.best.write(trainer, self.directory / "best.ckpt", self.identity)

    def write(self, trainer: Trainer) -> None:
        """Brings both files up to date, and the loggers' up to the same step."""
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
        self.written_at, self.written_step = time.monotonic(), trainer.global_step

    def compare_last(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After training: the last weights, of which no epoch's validation was, have been validated."""
        self.best.compare(trainer, pl_module)
        self.write(trainer)

    def state_dict(self) -> dict[str, Any]:
        best = {name: getattr(self.best, name) for name in STATE}
        return best | {"stopped": self.stopped, "longest": self.longest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in STATE:
            setattr(self.best, name, state_dict[name])
        self.stopped = state_dict["stopped"]
        self.longest = max(self.every_seconds, state_dict.get("longest", 0.0))  # has been said before

    def _restore_random_state(self, trainer: Trainer) -> None:
        """Puts the states back that the checkpoint was written with, until the first new batch."""
        if self.random_state is not None and _batches(trainer) == self.resumed_at:
            set_random_state(self.random_state)

    def _safe_point(self, trainer: Trainer, ends_step: bool = False) -> None:
        number, due = largest(self.signals.number or 0, self._is_due(trainer.global_step))  # of all processes
        if due:
            if ends_step:
                log_step_metrics(trainer)
            began = time.monotonic()
            self.write(trainer)
            if self.signals.number is None and self.every_seconds:
                self._space_out(self.written_at - began)
            if not several():
                self.signals.check()
            elif number:  # of one that came in since the others do not know
                raise Interrupted(int(number))

    def _space_out(self, took: float) -> None:
        """Has the next write wait until this one is a small share of the time."""
        self.interval = max(self.every_seconds, (SHARE - 1) * took)
        if self.interval > self.longest:
            self.longest = self.interval
            log.warning(
                "note: writing a checkpoint takes %.3g s, so they are %.3g s apart and not checkpoint.every_seconds=%g",
                *(took, self.interval, self.every_seconds),
            )

    def _is_due(self, step: int) -> bool:
        late = time.monotonic() - self.written_at >= self.interval
        return self.signals.number is not None or late or step - self.written_step >= self.every_steps


def _batches(trainer: Trainer) -> int:
    """How many batches training has begun."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.ready)


def _adds_up_gradients(pl_module: LightningModule) -> bool:
    """Whether gradients may be on their way from one step to the next, as no loop of Lightning's would have them."""
    return not pl_module.automatic_optimization or is_overridden("optimizer_zero_grad", pl_module)


def _is_more_due(trainer: Trainer, batch_idx: int) -> bool:
    """Whether Lightning does more after this batch, which a run that is resumed from here would leave out."""
    every = trainer.val_check_batch
    validates = trainer.enable_validation and every not in (None, math.inf) and (batch_idx + 1) % int(every) == 0
    return validates or any(s.reduce_on_plateau and s.interval == "step" for s in trainer.lr_scheduler_configs)
