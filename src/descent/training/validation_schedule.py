"""Validates after the epochs that ``Intervals`` selects."""

import math
import re
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from descent.batches.in_memory import InMemoryBatches
from descent.errors import invalid
from descent.training.intervals import Intervals
from descent.training.sparse_callback import SparseCallback, callbacks_of


class ValidationSchedule(SparseCallback):
    """Completes ``intervals`` when training starts and the data are known, and validates when it says.

    By default, runs on data in memory validate less often as they get longer, and others after every epoch. Training
    ends with a validation.

    Args:
        intervals: gets the steps per epoch and the size of a validation.

    Attributes:
        has_validation: whether there are validation rows; known when training starts.
        validated_step: the step of the last validation.
    """

    def __init__(self, intervals: Intervals) -> None:
        self.intervals = intervals
        self.has_validation = False
        self.validated_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        intervals, accumulated = self.intervals, trainer.accumulate_grad_batches
        if trainer.enable_validation and trainer.val_dataloaders is None:  # Lightning did this if epoch 1 validates
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.setup_data()
            trainer.training = True
        self.has_validation = trainer.enable_validation and sum(trainer.num_val_batches) > 0
        intervals.steps_per_epoch = steps_per_epoch(trainer.num_training_batches, accumulated)
        if not isinstance(trainer.train_dataloader, InMemoryBatches):
            intervals.validate_every = intervals.validate_every or 1
        every: Any = trainer  # the attribute is set in Trainer's connector
        every.log_every_n_steps = int(min(every.log_every_n_steps, trainer.num_training_batches))
        evaluated = trainer.val_dataloaders if self.has_validation else trainer.train_dataloader
        if isinstance(evaluated, InMemoryBatches):
            intervals.validated_cells = evaluated.tensors[0].numel()
        for scheduler in trainer.lr_scheduler_configs:
            if scheduler.reduce_on_plateau:
                intervals.validate_every = intervals.validate_every or 1  # it needs the metric
                scheduler.monitor = monitored(str(scheduler.monitor), self.has_validation)
                if scheduler.monitor.startswith("val/") and scheduler.frequency % intervals.validate_every:
                    raise invalid(
                        "scheduler.frequency",
                        f"a multiple of trainer.check_val_every_n_epoch ({intervals.validate_every}) to monitor"
                        f" {scheduler.monitor}",
                        scheduler.frequency,
                    )
        self._set(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._set(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.should_stop:
            self._set(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated_step = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        return {"validated_step": self.validated_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validated_step = state_dict["validated_step"]

    def is_evaluated(self, trainer: Trainer) -> bool:
        """Whether this epoch ends with an evaluation, on the validation rows or, without any, on the training rows."""
        epoch = trainer.current_epoch + 1
        return trainer.should_stop or epoch == trainer.max_epochs or self.intervals.next_validated(epoch) == epoch

    def _set(self, trainer: Trainer) -> None:
        epoch = trainer.current_epoch + 1
        if trainer.check_val_every_n_epoch is not None:  # it is None if validation is counted in steps
            trainer.check_val_every_n_epoch = epoch if self.is_evaluated(trainer) else epoch + 1


def validation_schedule(trainer: Trainer) -> ValidationSchedule:
    """The Trainer's ``ValidationSchedule``."""
    (schedule,) = callbacks_of(trainer, ValidationSchedule)
    return schedule


def steps_per_epoch(batches: float, accumulated: int) -> float:
    """Optimizer steps per epoch; ``inf`` for ``inf`` batches. Lightning always steps after the last batch."""
    return batches if batches == math.inf else math.ceil(batches / accumulated)


def monitored(metric: str, has_validation: bool) -> str:
    """``metric``, with ``train/`` instead of ``val/`` if there is no validation."""
    return metric if has_validation else re.sub("^val/", "train/", metric)


def logged(trainer: Trainer, metric: str, key: str = "monitor.metric") -> Tensor:
    """The latest value of the monitored metric; ``key`` is the config key that names it.

    Raises:
        UserError: it was not logged.
    """
    known = trainer.callback_metrics
    if metric not in known:
        rule = f"one that was logged ({', '.join(known) or 'none was'})"
        if not validation_schedule(trainer).has_validation:
            rule += ", with train/ instead of val/, because there are no validation rows"
        raise invalid(key, rule, metric)
    return known[metric]
