"""``trainer.max_steps``: the end of training after so many optimizer steps."""

from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer

from descent.batches.in_memory import InMemoryBatches
from descent.training.budget import Budget
from descent.training.watcher import Watcher


class MaxSteps(Watcher):
    """Ends training after step ``max_steps``, with a validation as at any other end.

    In place of Trainer's own ``max_steps``, with which Lightning takes a run that was saved at the end of an epoch
    for one in the middle of it, and resumes it wrongly.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def next_wanted(self, trainer: Trainer, step: int) -> float:
        return self.max_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step >= self.max_steps:
            trainer.should_stop = True


def run_length(trainer: Trainer) -> int:
    """How many optimizer steps the run is to have; how many fit into a budget of seconds is not known."""
    limits = [int(trainer.estimated_stepping_batches)]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set in Trainer's connector
        if isinstance(callback, MaxSteps):
            limits.append(callback.max_steps)
        if isinstance(callback, Budget):
            limits.append(callback.most_steps(cast(InMemoryBatches, trainer.train_dataloader)))
    return min(limits)
