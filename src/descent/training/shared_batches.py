"""Lets several processes train one model as a single process would on whole batches."""

import functools
import inspect
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from descent.batches.exact import parts
from descent.batches.seeding import first_key
from descent.batches.share import Share
from descent.signals import Deferred
from descent.training.collectives import gathered, reduced
from descent.training.logged_metrics import copied_states
from descent.training.mean_loss import note_other_losses
from descent.training.random_state import random_state, set_random_state
from descent.training.sparse_callback import SparseCallback

log = logging.getLogger(__name__)

PROCESS = 6  # the purpose of a seeding key: the random numbers of a process


class SharedBatches(SparseCallback):
    """Makes losses, gradients and logged values those of whole batches, up to rounding, on every process.

    - A loss is the mean over the rows of a batch. Its value becomes that of all rows. Its gradient is weighted so that
      the mean over the processes, which Lightning's strategy takes, is the gradient of the whole batch.
    - Values that a step logs with ``self.log`` are reduced over the processes at once; means are weighted by rows. All
      processes have the same numbers and so make the same decisions.
    - Metrics of torchmetrics keep the rows of their process and reduce themselves when they are computed. Their value
      for a single step is that of the first process's rows.
    - A process without a row in a batch computes the batch's first row, and discards the effect.

    Args:
        seed: of the run. All processes draw the same first weights, and different numbers later (dropout).
        signals: replaces Lightning's signal handler, which would communicate with the other processes at any moment.
    """

    def __init__(self, seed: int, signals: Deferred) -> None:
        self.seed, self.signals = seed, signals
        self.share: Share | None = None  # during a step
        self.random_state: dict[str, Any] | None = None
        self.is_first = True  # whether no training batch has come yet
        self.noted = set[str]()  # names of values that differ between processes
        self.kept: list[tuple[Metric, dict[str, Any]]] = []  # from before a step that does not count

    def attach(self, pl_module: LightningModule) -> None:
        """Wraps the module's ``training_step``, ``manual_backward`` and ``log``. Called before ``fit``."""
        pl_module.training_step = self._whole_loss(pl_module.training_step)  # type: ignore[method-assign]
        pl_module.manual_backward = self._weighted(pl_module.manual_backward)  # type: ignore[method-assign]
        pl_module.log = self._reduced_log(pl_module, pl_module.log)  # type: ignore[method-assign]
        self.random_state = random_state()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and self.random_state is not None:
            set_random_state(self.random_state)  # Lightning has reset the seed; the module makes its layers next
            self.random_state = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.listen()
        if trainer.global_rank:
            _begin_random_numbers(first_key(self.seed, trainer.global_rank, PROCESS))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.listen()

    on_test_start = on_validation_start

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.is_first:
            note_other_losses(pl_module, batch, trainer.train_dataloader.share.own)  # type: ignore[union-attr]
        self.is_first = False
        self._begin(trainer.train_dataloader, 0, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._end()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._begin(trainer.val_dataloaders, dataloader_idx, pl_module)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._end()

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._begin(trainer.test_dataloaders, dataloader_idx, pl_module)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._end()

    def _begin(self, loaders: Any, number: int, pl_module: LightningModule) -> None:
        self.share = parts(loaders)[number].share
        assert self.share is not None
        if self.share.own == 0:
            metrics = [metric for metric in pl_module.modules() if isinstance(metric, Metric)]
            self.kept = [(metric, copied_states(metric)) for metric in metrics]

    def _end(self) -> None:
        self.share = None
        for metric, states in self.kept:
            for name, state in states.items():
                setattr(metric, name, state)
        self.kept = []

    def _whole_loss(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """A ``training_step`` whose loss has the whole batch's value and the share's weighted gradient."""

        @functools.wraps(step)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            output, share = step(*args, **kwargs), self.share
            if share is None:  # not in a step: the batch has all rows
                return output
            if isinstance(output, Mapping) and isinstance(output.get("loss"), Tensor):
                return {**output, "loss": _of_all(output["loss"], share)}
            return _of_all(output, share) if isinstance(output, Tensor) else output

        return training_step

    def _weighted(self, backward: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(backward)
        def manual_backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            backward(loss if self.share is None else loss * self.share.weight, *args, **kwargs)

        return manual_backward

    def _reduced_log(self, pl_module: LightningModule, log_value: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(log_value)

        @functools.wraps(log_value)
        def log(*args: Any, **kwargs: Any) -> None:
            given = signature.bind(*args, **kwargs).arguments
            if isinstance(given["value"], Tensor | int | float) and not given.get("rank_zero_only"):
                value = torch.as_tensor(given["value"], device=pl_module.device).detach()
                given |= self._of_step(value, given) if self.share else self._of_hook(value, given["name"])
                given["sync_dist"] = False
            log_value(**given)

        return log

    def _of_step(self, value: Tensor, given: Mapping[str, Any]) -> dict[str, Any]:
        """The value and batch size that a single process with all rows would log in this step."""
        share, how = self.share, getattr(given.get("reduce_fx", "mean"), "__name__", given.get("reduce_fx", "mean"))
        assert share is not None
        if not value.is_floating_point():
            value = value.to(torch.get_default_dtype())
        if how in ("max", "min"):
            return {"value": reduced(value, how)}  # an idle process has a row of the same batch
        weight = 1 if how == "sum" else given.get("batch_size") or share.own
        if share.own == 0:
            value, weight = torch.zeros_like(value), 0
        if how == "sum":
            return {"value": reduced(value)}
        total = reduced(torch.stack([value.double() * weight, torch.full_like(value, weight, dtype=torch.float64)]))
        rows = share.rows if given.get("batch_size") is None else int(total[1])
        return {"value": (total[0] / total[1]).to(value.dtype), "batch_size": rows}

    def _of_hook(self, value: Tensor, name: str) -> dict[str, Any]:
        """A value logged outside a step, such as an epoch's: the same on all processes, or else their mean."""
        values = gathered(value.item())
        if len({*map(repr, values)}) == 1:
            return {}
        if name not in self.noted:
            self.noted.add(name)
            log.warning(
                "note: %s is the mean of %d values, because each process computed its own from its share of the rows;"
                " for a value over all rows, use self.log in the step or a torchmetrics metric",
                *(name, len(values)),
            )
        return {"value": value.new_tensor(sum(values) / len(values))}


def _of_all(loss: Tensor, share: Share) -> Tensor:
    """The whole batch's loss, with the weighted gradient of this share."""
    part = loss * share.weight
    counted = part if share.own else torch.zeros_like(part)
    return reduced(counted.double()).to(part.dtype) / share.world + (part - part.detach())


def _begin_random_numbers(key: int) -> None:
    random.seed(key)
    torch.manual_seed(random.getrandbits(63))
    np.random.seed(random.getrandbits(32))
