"""Ends training after ``trainer.max_steps`` optimizer steps."""

import math
import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from descent.errors import UserError
from descent.training.budget import Budget
from descent.training.sparse_callback import SparseCallback, callbacks_of
from descent.training.validation_schedule import steps_per_epoch

NO_BATCH = "training must have a batch: train_dataloader or trainer.limit_train_batches leaves none"


class MaxSteps(SparseCallback):
    """Ends training after step ``max_steps``, with the validation that ends every run.

    Replaces the Trainer's own ``max_steps``, with which Lightning resumes wrongly: it takes a run saved at the end of
    an epoch for one saved in the middle.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def next_active_step(self, trainer: Trainer, step: int) -> float:
        return self.max_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step >= self.max_steps:
            trainer.should_stop = True


def run_length(trainer: Trainer) -> int | None:
    """The number of optimizer steps in the run, ignoring a budget of seconds; ``None``: not known.

    With manual optimization, it is the number of batches, unless a limit of steps or gradients may come first: then
    it is not known, since a batch may have any number of steps.

    Raises:
        UserError: there is no batch.
    """
    estimated = trainer.estimated_stepping_batches
    if trainer.num_training_batches == 0:
        raise UserError(NO_BATCH)
    batches = sys.maxsize if estimated in (-1, math.inf) else int(estimated)
    limits: list[int | None] = [callback.max_steps for callback in callbacks_of(trainer, MaxSteps)]
    for budget in callbacks_of(trainer, Budget):
        most = budget.most_batches(trainer.train_dataloader, trainer.num_training_batches)
        limits.append(most if most in (None, sys.maxsize) else _steps_in(most, trainer))
    if None in limits:
        return None
    known = min([batches, *(limit for limit in limits if limit is not None)])
    if known < batches and not trainer.lightning_module.automatic_optimization:
        return None
    return None if known == sys.maxsize else known


def _steps_in(batches: int, trainer: Trainer) -> int:
    """The optimizer steps that so many batches make, if gradients are accumulated over several."""
    per_epoch, accumulated = trainer.num_training_batches, trainer.accumulate_grad_batches
    epochs, rest = divmod(batches, per_epoch)
    whole = epochs * steps_per_epoch(per_epoch, accumulated) if epochs else 0
    return int(whole + math.ceil(rest / accumulated))
