"""Runs training steps as fast as a plain loop does, unless something listens to every step."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import cast

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from descent.batches.rows import Batch, RowBatches
from descent.fast.optimizer_step import OptimizerStep
from descent.fast.unsupported import OWN_BATCHES, has_epoch_hooks, overrides_epoch_hooks, unsupported
from descent.training.sparse_callback import SparseCallback
from descent.training.validation_schedule import validation_schedule

log = logging.getLogger(__name__)

MOST_AT_ONCE = 256  # steps; the views of their batches are made together
LOGS = "training_step logs with self.log"


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, without its overhead per step.

    On a small model Lightning's hooks, contexts and wrappers around a step take several times as long as the step.
    In Lightning, ``advance`` runs one batch. Here it runs all steps up to the next after which Lightning has work to
    do: the module's ``training_step``, ``zero_grad``, ``backward``, Lightning's clipping, the optimizer's ``step`` and
    the schedulers', in Lightning's order, with the same counters and bitwise the same results. A ``SparseCallback``
    says which steps it needs. Keras calls the idea ``steps_per_execution``.

    If something listens to every step, all steps go through Lightning's own loop, and a note names it.

    Args:
        trainer: gets the loop by ``trainer.fit_loop.epoch_loop = EpochLoop(trainer)``.
    """

    def __init__(self, trainer: Trainer) -> None:
        replaced = trainer.fit_loop.epoch_loop
        super().__init__(trainer, replaced.min_steps, replaced.max_steps)
        self.schedule = validation_schedule(trainer)
        self.reason: str | None = None  # why every step goes through Lightning's own loop

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Lightning calls it before each epoch, or before several epochs that run in a row."""
        super().on_run_start(data_fetcher)
        trainer = self.trainer
        reason = unsupported(trainer) or (self.reason if self.reason == LOGS else None)
        if reason != self.reason:
            self._note(reason)
        if reason is None:
            self.batches = cast(RowBatches, trainer.train_dataloader)
            self.sparse = [c for c in trainer.callbacks if isinstance(c, SparseCallback)]
            self.on_step_callbacks = [c for c in self.sparse if type(c).on_step is not SparseCallback.on_step]
            self.epochs_are_heard = has_epoch_hooks(trainer)
            self.step = OptimizerStep(trainer)

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if self.restarting or self.reason is not None:
            super().advance(data_fetcher)
            return
        self._take_steps()
        data_fetcher.fetched = self.batch_progress.current.ready  # in case Lightning's own loop takes over

    def _should_check_val_epoch(self) -> bool:
        return self.trainer.enable_validation and self.schedule.is_evaluated(self.trainer)

    def _note(self, reason: str | None) -> None:
        self.reason = reason
        if reason is not None and not self.trainer.fast_dev_run:
            own = type(self.trainer.train_dataloader) in OWN_BATCHES  # other batches always need Lightning's loop
            level = logging.WARNING if own else logging.INFO
            log.log(level, "note: every training step goes through Lightning's own loop, because %s", reason)

    def _take_steps(self) -> None:
        """Runs steps, across epochs whose ends nothing listens to, until Lightning has work to do."""
        while True:
            step = self.global_step
            wanted = [c.next_active_step(self.trainer, step + 1) for c in self.sparse]
            count = max(1, int(min([self._most_at_once(), *(number - step for number in wanted)])))
            wanting = [w for w, number in zip(self.sparse, wanted, strict=True) if number <= step + count]
            self._take(count, wanting)
            epoch_is_over = self.batch_progress.is_last_batch
            if self.reason is not None or self.trainer.should_stop:
                return
            if epoch_is_over and (self._is_epoch_end_heard() or any(map(overrides_epoch_hooks, wanting))):
                return
            self._batches_that_stepped += 1  # as Lightning does after ``advance``
            if epoch_is_over:
                self._turn_epoch()

    def _most_at_once(self) -> int:
        """Steps left in the epoch; if epochs have one step, until the next epoch whose end something listens to."""
        if len(self.batches) > 1:
            return min(len(self.batches) - self.batch_progress.current.ready, MOST_AT_ONCE)
        if self._is_epoch_end_heard():
            return 1
        epoch = self.trainer.current_epoch
        heard = self.schedule.intervals.next_validated(epoch + 1)
        last = math.inf if self.trainer.max_epochs in (None, -1) else self.trainer.max_epochs
        return int(min(heard - epoch, last - epoch, MOST_AT_ONCE))

    def _take(self, count: int, wanting: Sequence[SparseCallback]) -> None:
        """Runs ``count`` steps, the last with hooks for ``wanting``; fewer if a callback or the module interrupts."""
        trainer, module, results = self.trainer, self.trainer.lightning_module, self._results
        connector, step, per_epoch = trainer._logger_connector, self.step, len(self.batches)
        progress, steps = self.batch_progress, self.automatic_optimization.optim_progress.optimizer.step.total
        total, current = progress.total, progress.current
        connector.on_batch_start(None)  # lets the module log, once
        module._current_fx_name = "training_step"
        logged, stop = len(results), False
        try:
            for number, batch in enumerate(self.batches.take(count), 1):
                if number > 1:
                    self._batches_that_stepped += 1
                    if progress.is_last_batch:  # of a one-step epoch; nothing listens to its end
                        self._count()
                        self._turn_epoch()
                        connector.on_batch_start(None)
                results.batch, results.batch_size = batch, None
                batch_idx = current.ready
                total.ready += 1
                current.ready += 1
                progress.is_last_batch = current.ready == per_epoch
                step(batch, batch_idx, wanting if number == count else ())
                steps.completed += 1  # ``global_step`` reads this
                if trainer.lr_scheduler_configs:
                    self._step_schedulers()
                for callback in self.on_step_callbacks:
                    stop |= callback.on_step(trainer, steps.completed, batch, step.loss)
                if number < count and (stop or trainer.should_stop or len(results) != logged):
                    break
        finally:
            module._current_fx_name = None
            self._count()
            self.batches.position = current.ready
        if number == count:
            self._call_hooks(wanting, step, batch)
        if len(results) != logged:
            connector.on_batch_end()
            connector.update_train_step_metrics()
            self._note(LOGS)
            if not progress.is_last_batch:  # Lightning's own loop continues from there
                self.batches.load_state_dict(self.batches.state_dict())

    def _count(self) -> None:
        """Updates those of Lightning's counters that are not read between steps."""
        optimizer, batch = self.automatic_optimization.optim_progress.optimizer, self.batch_progress
        steps = optimizer.step.total.completed - optimizer.step.total.ready
        optimizer.step.total.ready += steps
        optimizer.step.current.increment_by(steps)
        optimizer.zero_grad.increment_by(self.step.evaluations)
        self.step.evaluations = 0
        for tracker in (vars(batch.total), vars(batch.current)):
            tracker.update(dict.fromkeys(tracker, tracker["completed"] + steps))  # excludes a step that raised

    def _step_schedulers(self) -> None:
        self.update_lr_schedulers("step", update_plateau_schedulers=False)
        if self.batch_progress.is_last_batch:
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)

    def _call_hooks(self, wanting: Sequence[SparseCallback], step: OptimizerStep, batch: Batch) -> None:
        outputs = dict(step.output) if isinstance(step.output, Mapping) else {}
        if step.loss is not None:
            outputs["loss"] = step.loss.detach()
        trackers = self.batch_progress.total, self.batch_progress.current
        for tracker in trackers:  # as in Lightning, which counts the batch as completed after this hook
            tracker.completed -= 1
        for callback in wanting:
            callback.on_train_batch_end(self.trainer, self.trainer.lightning_module, outputs, batch, self.batch_idx)
        for tracker in trackers:
            tracker.completed += 1

    def _is_epoch_end_heard(self) -> bool:
        last = self.trainer.current_epoch + 1 == self.trainer.max_epochs
        return last or self.epochs_are_heard or self.schedule.is_evaluated(self.trainer)

    def _turn_epoch(self) -> None:
        """Does what Lightning's loops do between the last batch of an epoch and the first of the next."""
        epochs = self.trainer.fit_loop.epoch_progress
        epochs.increment_by(1)
        self.trainer._logger_connector.epoch_end_reached()
        self.reset()
        self.batches.set_epoch(epochs.current.processed)
