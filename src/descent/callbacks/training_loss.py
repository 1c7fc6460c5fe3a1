"""The loss on the whole training set, for what monitors it."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from descent.data.batches import InMemoryBatches


def full_loss(trainer: Trainer, pl_module: LightningModule) -> Tensor:
    """The training step's loss on all training rows at the weights as they are now; differentiable."""
    batches = trainer.train_dataloader
    assert isinstance(batches, InMemoryBatches)
    loss = pl_module.training_step((batches.x, batches.y), 0)
    assert isinstance(loss, Tensor)
    return loss


class TrainingLoss(Callback):
    """Makes ``train/loss`` known to checkpoints, schedulers and stopping rules at the end of every epoch.

    Needed where there is no validation. It is the loss of all training rows at the epoch's last weights, and not
    the mean over the epoch's batches, which belong to as many different weights.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with torch.no_grad():
            loss = full_loss(trainer, pl_module)
        pl_module.log("train/loss", loss, logger=False)
