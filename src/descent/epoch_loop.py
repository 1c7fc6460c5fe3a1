"""Training steps at the price of a plain loop's, wherever nothing listens to each of them."""

import logging
import math
from collections.abc import Sequence
from inspect import Parameter, signature
from typing import cast

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch import Tensor
from torch.optim import Optimizer

from descent.callbacks.watcher import Watcher
from descent.data.batches import Batch, InMemoryBatches
from descent.obstacles import hears_of_epochs, obstacle
from descent.spacing import Spacing

log = logging.getLogger(__name__)

MOST_AT_ONCE = 256  # steps; their batches are views that are made together


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, without Lightning's way through every single step.

    On a small model Lightning's hooks, contexts and wrappers around a step take several times as long as the step.
    Here ``advance``, for Lightning one batch, takes all steps up to the next that Lightning has something to do after:
    the module's own ``training_step``, ``zero_grad``, ``backward``, Lightning's clipping, the optimizer's ``step`` and
    the schedulers', in Lightning's order, with the same counts, to the same bits. Callbacks say by ``Watcher`` which
    steps they want. Keras knows the idea as ``steps_per_execution``.

    Where something listens to every step, all of them go through Lightning's own loop, and a note says what it is.

    Args:
        trainer: whose loop it is to be: ``trainer.fit_loop.epoch_loop = EpochLoop(trainer, spacing)``.
        spacing: after which epochs to validate, in place of the Trainer's ``check_val_every_n_epoch``.
    """

    def __init__(self, trainer: Trainer, spacing: Spacing) -> None:
        replaced = trainer.fit_loop.epoch_loop
        super().__init__(trainer, replaced.min_steps, replaced.max_steps)
        self.spacing = spacing
        self.is_prepared = False
        self.hurries = False

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if not self.is_prepared:
            self._prepare()
        if self.restarting or not self.hurries:
            super().advance(data_fetcher)
            return
        self._take_steps()
        data_fetcher.fetched = self.batch_progress.current.ready

    def validate_last(self) -> None:
        """A validation at the end of training, for weights that have had none."""
        self.trainer.validating = True
        self._batches_that_stepped -= 1  # as at the end of an epoch: its step is the last one taken
        self.val_loop.run()
        self._batches_that_stepped += 1
        self.trainer.training = True

    def _should_check_val_epoch(self) -> bool:
        epoch = self.trainer.current_epoch + 1
        last = self.trainer.should_stop or epoch == self.trainer.max_epochs
        return bool(self.trainer.enable_validation) and (last or self.spacing.next_validated(epoch) == epoch)

    def _prepare(self) -> None:
        trainer, optimizer = self.trainer, self.trainer.optimizers[0]
        self.is_prepared = self.hurries = True
        if (reason := obstacle(trainer)) is not None:
            self._give_up(reason)
            return
        self.batches = cast(InMemoryBatches, trainer.train_dataloader)
        self.watchers = [c for c in trainer.callbacks if isinstance(c, Watcher)]
        self.informed = [c for c in self.watchers if type(c).on_step is not Watcher.on_step]
        self.epochs_are_heard = hears_of_epochs(trainer)
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.zeroes_plainly = type(optimizer).zero_grad is Optimizer.zero_grad
        self.needs_closure = signature(type(optimizer).step).parameters["closure"].default is Parameter.empty

    def _give_up(self, reason: str) -> None:
        self.hurries = False
        if not self.trainer.fast_dev_run:
            log.warning("note: every training step goes through Lightning's own loop, because %s", reason)

    def _take_steps(self) -> None:
        """Takes steps, over as many epochs as nobody hears of, until Lightning has something to do."""
        while True:
            step = self.global_step
            wanted = [watcher.next_wanted(self.trainer, step + 1) for watcher in self.watchers]
            count = int(min([self._most_at_once(), *(number - step for number in wanted)]))
            self._take(count, [w for w, number in zip(self.watchers, wanted, strict=True) if number == step + count])
            epoch_is_over = self.batch_progress.is_last_batch
            if not self.hurries or self.trainer.should_stop or (epoch_is_over and self._is_epoch_end_heard()):
                return
            self._batches_that_stepped += 1  # as Lightning does after ``advance``
            if epoch_is_over:
                self._turn_epoch()

    def _most_at_once(self) -> int:
        """How many steps may be taken before the loops' counts are needed."""
        if any(scheduler.interval == "step" for scheduler in self.trainer.lr_scheduler_configs):
            return 1
        if self.spacing.steps_per_epoch > 1:
            return min(self.spacing.steps_per_epoch - self.batch_progress.current.ready, MOST_AT_ONCE)
        if self.needs_closure or self.epochs_are_heard or self.trainer.lr_scheduler_configs:
            return 1
        epoch = self.trainer.current_epoch  # as good as the step: each epoch has one
        heard = self.spacing.next_validated(epoch + 1) if self.trainer.enable_validation else math.inf
        return int(min(heard, self.trainer.max_epochs or math.inf) - epoch)

    def _take(self, count: int, wanting: Sequence[Watcher]) -> None:
        """Takes ``count`` steps of one epoch, the last with hooks for ``wanting``; fewer if a callback asks for it."""
        trainer, module, optimizer = self.trainer, self.trainer.lightning_module, self.trainer.optimizers[0]
        precision, results = trainer.precision_plugin, self._results
        clip_val, clip_algorithm = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
        first_step, first_batch = self.global_step, self.batch_progress.current.ready
        logged, taken, evaluations = len(results), 0, 0
        batch: Batch
        loss: Tensor

        def closure() -> Tensor:
            nonlocal loss, evaluations
            with precision.train_step_context():
                output = module.training_step(batch, first_batch + taken)
            loss = output["loss"] if isinstance(output, dict) else output
            evaluations += 1
            if self.zeroes_plainly:  # as zero_grad does, without its record for the profiler
                for parameter in self.parameters:
                    parameter.grad = None
            else:
                optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if taken + 1 == count:
                for callback in wanting:
                    callback.on_before_optimizer_step(trainer, module, optimizer)
            if clip_val is not None:
                precision.clip_gradients(optimizer, clip_val, clip_algorithm)
            return loss

        trainer._logger_connector.on_batch_start(None)  # so that the module may log, once
        module._current_fx_name = "training_step"
        stop = False
        try:
            for batch in self.batches.take(count):
                results.batch, results.batch_size = batch, None
                if self.needs_closure:
                    optimizer.step(closure)
                else:
                    closure()
                    optimizer.step()
                taken += 1
                for callback in self.informed:
                    stop |= callback.on_step(trainer, first_step + taken, batch, loss)
                if stop or len(results) != logged:
                    break
        finally:
            module._current_fx_name = None
            self._count(taken, evaluations)
        if taken == count:
            self._call_hooks(wanting, loss, batch)
        if len(results) != logged:
            trainer._logger_connector.on_batch_end()
            trainer._logger_connector.update_train_step_metrics()
            self._give_up("training_step logs with self.log")

    def _count(self, steps: int, evaluations: int) -> None:
        """Brings what Lightning counts up to date, and the schedulers."""
        if self.spacing.steps_per_epoch == 1 and steps > 1:  # all but the last were epochs that nobody hears of
            self._increment(steps - 1, steps - 1)
            self._batches_that_stepped += steps - 1
            self._turn_epoch(steps - 1)
            steps = evaluations = 1
        self._increment(steps, evaluations)
        self._batches_that_stepped += steps - 1
        if self.trainer.lr_scheduler_configs:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
            if self.batch_progress.is_last_batch:
                self.update_lr_schedulers("epoch", update_plateau_schedulers=False)

    def _increment(self, steps: int, evaluations: int) -> None:
        progress = self.automatic_optimization.optim_progress.optimizer
        progress.step.increment_by(steps)
        progress.zero_grad.increment_by(evaluations)
        ready = self.batch_progress.current.ready + steps
        self.batch_progress.increment_by(steps, is_last_batch=ready == self.spacing.steps_per_epoch)
        self.batches.position = ready

    def _call_hooks(self, wanting: Sequence[Watcher], loss: Tensor, batch: Batch) -> None:
        trackers = self.batch_progress.total, self.batch_progress.current
        for tracker in trackers:  # as a checkpoint that is written in this hook expects it
            tracker.completed -= 1
        for callback in wanting:
            outputs = {"loss": loss.detach()}
            callback.on_train_batch_end(self.trainer, self.trainer.lightning_module, outputs, batch, self.batch_idx)
        for tracker in trackers:
            tracker.completed += 1

    def _is_epoch_end_heard(self) -> bool:
        last = self.trainer.current_epoch + 1 == self.trainer.max_epochs
        return last or self.epochs_are_heard or self._should_check_val_epoch()

    def _turn_epoch(self, epochs_over: int = 1) -> None:
        """What Lightning's loops do between the last batch of an epoch and the first of the next."""
        epochs = self.trainer.fit_loop.epoch_progress
        epochs.increment_by(epochs_over)
        self.trainer._logger_connector.epoch_end_reached()
        self.reset()
        self.batches.set_epoch(epochs.current.processed)
