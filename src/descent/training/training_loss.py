"""The loss on the whole training set, for what monitors it."""

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
from descent.training.collectives import of_first
from descent.training.logged_metrics import copied_states
from descent.training.sparse_callback import SparseCallback, loss_of
from descent.training.transfer import transferred
from descent.training.validation_schedule import monitored, validation_schedule

LOSS = "train/loss"


def loss_unit(pl_module: LightningModule) -> float:
    """What a training loss is multiplied by to be in the data's own units: the module's ``loss_unit``, or 1."""
    return float(getattr(pl_module, "loss_unit", 1.0))


def full_loss(trainer: Trainer, pl_module: LightningModule) -> Tensor:
    """The training step's loss on all rows of training at the weights as they are now; differentiable.

    In evaluation mode, without dropout; nothing is logged, and the module's buffers, metrics and plain attributes are
    afterwards what they were. The rows come to it as a batch does: converted, moved, and through the hooks of the
    transfer. Only of batches in memory, see ``has_full_loss``. Where each epoch has the same part of
    them (``trainer.overfit_batches``), it is the loss of that part.
    """
    batches = trainer.train_dataloader
    assert isinstance(batches, InMemoryBatches)
    count = None if batches.shuffle else int(trainer.num_training_batches) * batches.size
    rows = tuple(tensor[:count].clone() for tensor in batches.all())  # a hook may work in place
    data = trainer.datamodule  # type: ignore[attr-defined]  # set in Trainer's connector
    with isolate_rng(), _left_as_it_is(pl_module):
        return evaluated_loss(pl_module, transferred(rows, trainer.precision_plugin, pl_module, data))


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
    """Its value. Of several processes each has the first one's, so that all decide alike."""
    with torch.no_grad():
        return float(of_first(full_loss(trainer, pl_module).item()))


@contextmanager
def _left_as_it_is(pl_module: LightningModule) -> Iterator[None]:
    """Works on copies of buffers and metrics, and gives all attributes back, counters of the module's own for instance.

    So is what a list, a set or a dictionary of the module's own holds, but not what those within it hold.
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
    """Whether there is such a loss: of batches in memory, of a module that does not optimize by hand."""
    automatic = trainer.lightning_module.automatic_optimization
    return isinstance(trainer.train_dataloader, InMemoryBatches) and automatic


def _nothing(*_: Any, **__: Any) -> None:
    """In place of ``self.log``."""


class TrainingLoss(SparseCallback):
    """Makes ``train/loss`` known to checkpoints, schedulers, stopping rules and the result.

    Of batches in memory it is the loss of all training rows at the epoch's last weights, and not the mean over the
    epoch's batches, which belong to as many different weights; computed where it is monitored, because it is asked for
    or because there is no validation. Elsewhere it is that mean, unless the module logs a loss of that name itself.

    Args:
        metrics: that are monitored.
        every_epoch: a scheduler or a stopping rule looks at it after each epoch, evaluated or not.
    """

    def __init__(self, metrics: Sequence[str], every_epoch: bool) -> None:
        self.metrics, self.every_epoch = metrics, every_epoch
        self.sum: Any = 0.0  # of the epoch's batches, where there is no loss of all rows
        self.count = 0
        self.before: Tensor | None = None  # the epoch; another is what the module has logged itself since

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.is_mean, self.epoch = not has_full_loss(trainer), trainer.current_epoch
        self.before = trainer.callback_metrics.get(LOSS)  # LoggedMetrics has put it back

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.sum, self.count, self.epoch = 0.0, 0, trainer.current_epoch
        self.before = trainer.callback_metrics.get(LOSS)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.on_step(trainer, trainer.global_step, batch, loss_of(trainer, outputs))

    def on_step(self, trainer: Trainer, step: int, batch: Batch, loss: Tensor | None) -> bool:
        if self.is_mean and loss is not None:
            if trainer.current_epoch != self.epoch:  # whose start was not heard of
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
