"""Computes the loss on the whole training set."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torchmetrics import Metric

from descent.batches.in_memory import InMemoryBatches
from descent.batches.rows import Batch
from descent.errors import UserError
from descent.training.collectives import of_first
from descent.training.logged_metrics import copied_states
from descent.training.sparse_callback import SparseCallback, loss_of
from descent.training.transfer import has_own_transfer, transferred
from descent.training.validation_schedule import monitored, validation_schedule

LOSS = "train/loss"
LARGE = 2**25  # bytes; more training rows than that are not copied to compute their loss


def loss_unit(pl_module: LightningModule) -> float:
    """The factor that converts a training loss to the data's units: the module's ``loss_unit``, or 1."""
    return float(getattr(pl_module, "loss_unit", 1.0))


def full_loss(trainer: Trainer, pl_module: LightningModule) -> Tensor:
    """The training step's loss on all training rows at the current weights; differentiable.

    It is computed in evaluation mode, without dropout or logging, and leaves the module's buffers, metrics and plain
    attributes unchanged. The rows are converted, moved and passed through the transfer hooks like a batch. Only for
    batches in memory, see ``has_full_loss``. If every epoch uses the same part of the rows
    (``trainer.overfit_batches``), it is the loss of that part.
    """
    batches = trainer.train_dataloader
    assert isinstance(batches, InMemoryBatches)
    count = None if batches.shuffle else int(trainer.num_training_batches) * batches.size
    data = trainer.datamodule  # type: ignore[attr-defined]  # set in Trainer's connector
    rows = tuple(tensor[:count] for tensor in batches.all())
    is_copied = has_own_transfer(pl_module, data) or sum(tensor.nbytes for tensor in rows) < LARGE
    given = tuple(tensor.clone() for tensor in rows) if is_copied else rows  # training_step may work in place
    before = [tensor._version for tensor in rows]
    with isolate_rng(), _left_as_it_is(pl_module):
        loss = evaluated_loss(pl_module, transferred(given, trainer.precision_plugin, pl_module, data))
    if [tensor._version for tensor in rows] != before:
        raise UserError("training_step must not change its batch in place: it has changed the training rows")
    return loss


def evaluated_loss(pl_module: LightningModule, batch: Any) -> Tensor:
    """The training step's loss on a batch, in evaluation mode; nothing is logged or left behind."""
    with _left_as_it_is(pl_module):
        pl_module.eval()
        vars(pl_module).update(log=_nothing, log_dict=_nothing)
        output = pl_module.training_step(batch, 0)
    loss = output["loss"] if isinstance(output, Mapping) else output
    assert isinstance(loss, Tensor)
    return loss


def full_loss_value(trainer: Trainer, pl_module: LightningModule) -> float:
    """The value of ``full_loss``. All processes get the first one's, so that they make the same decisions."""
    with torch.no_grad():
        return float(of_first(full_loss(trainer, pl_module).item()))


@contextmanager
def _left_as_it_is(pl_module: LightningModule) -> Iterator[None]:
    """Restores the module's buffers, metrics and attributes at the end, such as its own counters.

    The entries of its lists, sets and dictionaries are restored too, but not what these entries contain.
    """
    attributes = [(module, dict(vars(module))) for module in pl_module.modules()]
    own = [value for _, before in attributes for name, value in before.items() if not name.startswith("_")]
    filled: list[Any] = [(value, copy(value)) for value in own if type(value) in (list, set, dict)]
    buffers = [(m, name, buffer) for m in pl_module.modules() for name, buffer in m.named_buffers(recurse=False)]
    for module, name, buffer in buffers:
        setattr(module, name, buffer.clone())
    for metric in pl_module.modules():
        if isinstance(metric, Metric):
            vars(metric).update(copied_states(metric))
    try:
        yield
    finally:
        for value, before in filled:
            value.clear()
            value.extend(before) if isinstance(value, list) else value.update(before)
        for module, before in attributes:
            vars(module).clear()
            vars(module).update(before)
        for module, name, buffer in buffers:
            setattr(module, name, buffer)


def has_full_loss(trainer: Trainer) -> bool:
    """Whether ``full_loss`` works: it needs batches in memory and automatic optimization."""
    automatic = trainer.lightning_module.automatic_optimization
    return isinstance(trainer.train_dataloader, InMemoryBatches) and automatic


def _nothing(*_: Any, **__: Any) -> None:
    """Replaces ``self.log``."""


class TrainingLoss(SparseCallback):
    """Provides ``train/loss`` to checkpoints, schedulers, stopping rules and the result.

    For batches in memory it is the loss of all training rows at the epoch's last weights, not the mean over the
    epoch's batches, each of which has other weights. It is computed only if it is monitored: by name, or because there
    is no validation. For other batches it is that mean, unless the module logs ``train/loss`` itself.

    Args:
        metrics: the monitored metrics.
        every_epoch: whether a scheduler or a stopping rule reads it after every epoch, evaluated or not.
    """

    def __init__(self, metrics: Sequence[str], every_epoch: bool) -> None:
        self.metrics, self.every_epoch = metrics, every_epoch
        self.sum: Any = 0.0  # over the epoch's batches, if there is no full loss
        self.count = 0
        self.before: Tensor | None = None  # LOSS before the epoch; if it changes, the module logs it

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.is_mean, self.epoch = not has_full_loss(trainer), trainer.current_epoch
        self.before = trainer.callback_metrics.get(LOSS)  # restored by LoggedMetrics

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.sum, self.count, self.epoch = 0.0, 0, trainer.current_epoch
        self.before = trainer.callback_metrics.get(LOSS)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.on_step(trainer, trainer.global_step, batch, loss_of(trainer, outputs))

    def on_step(self, trainer: Trainer, step: int, batch: Batch, loss: Tensor | None) -> bool:
        if self.is_mean and loss is not None:
            if trainer.current_epoch != self.epoch:  # its start called no hook
                self.on_train_epoch_start(trainer, trainer.lightning_module)
            self.sum, self.count = self.sum + loss.detach(), self.count + 1
        return False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not has_full_loss(trainer):
            if self.count and trainer.callback_metrics.get(LOSS) is self.before:
                mean = torch.as_tensor(self.sum) / self.count
                trainer.callback_metrics[LOSS] = mean * loss_unit(pl_module)
            return
        is_seen = self.every_epoch or validation_schedule(trainer).is_evaluated(trainer)
        if is_seen and self._is_monitored(trainer):
            with torch.no_grad():
                loss = full_loss(trainer, pl_module)
            value = of_first(loss.item()) * loss_unit(pl_module)
            pl_module.log(LOSS, loss.new_tensor(value), logger=False)

    def state_dict(self) -> dict[str, Any]:
        return {"sum": float(self.sum), "count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.sum, self.count = state_dict["sum"], state_dict["count"]

    def _is_monitored(self, trainer: Trainer) -> bool:
        has_validation = validation_schedule(trainer).has_validation
        return LOSS in (monitored(metric, has_validation) for metric in self.metrics)
