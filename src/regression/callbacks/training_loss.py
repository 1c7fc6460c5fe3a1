"""The loss on the whole training set, for what monitors it."""

from typing import cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from descent.batches.in_memory import InMemoryBatches
from descent.fast.epoch_loop import EpochLoop
from descent.training.watcher import Watcher


def full_loss(trainer: Trainer, pl_module: LightningModule) -> Tensor:
    """The training step's loss on all training rows at the weights as they are now; differentiable."""
    batches = trainer.train_dataloader
    assert isinstance(batches, InMemoryBatches)
    loss = pl_module.training_step((batches.x, batches.y), 0)
    assert isinstance(loss, Tensor)
    return loss


class TrainingLoss(Watcher):
    """Makes ``train/loss`` known to checkpoints, schedulers and stopping rules, after the epochs that are evaluated.

    Needed where there is no validation. It is the loss of all training rows at the epoch's last weights, and not
    the mean over the epoch's batches, which belong to as many different weights.

    Args:
        every_epoch: a scheduler or a stopping rule looks at it after each epoch, evaluated or not.
    """

    def __init__(self, every_epoch: bool) -> None:
        self.every_epoch = every_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_epoch or cast(EpochLoop, trainer.fit_loop.epoch_loop).is_evaluated():
            with torch.no_grad():
                loss = full_loss(trainer, pl_module)
            pl_module.log("train/loss", loss, logger=False)
