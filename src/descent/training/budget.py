"""Ends training when a budget of samples, gradient evaluations or seconds is spent."""

import sys
import time
import warnings
from collections.abc import Sized
from math import ceil
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor
from torch.utils.data import DataLoader

from descent.batches.rows import Batch, RowBatches
from descent.errors import note_once
from descent.training.collectives import largest
from descent.training.sparse_callback import SparseCallback, callbacks_of


class Budget(SparseCallback):
    """Ends training after the first step that reaches a limit; a limit of ``None`` is not checked.

    Args:
        samples: rows trained on, including repeats.
        evaluations: gradients computed.
        seconds: training time, including the time before an interruption.
    """

    def __init__(self, samples: int | None, evaluations: int | None, seconds: float | None) -> None:
        self.limits = {"samples": samples, "gradient evaluations": evaluations, "seconds": seconds}
        self.samples, self.seconds_before = 0, 0.0
        self.reason: str | None = None  # why training stopped

    def most_batches(self, batches: Any, per_epoch: float) -> int | None:
        """The most batches within the limits; fewer if a batch has several gradients or the seconds run out.

        ``None``: there is a limit of samples, and the sizes of the batches are not known.

        Args:
            per_epoch: how many of the batches an epoch has.
        """
        samples, evaluations = self.limits["samples"], self.limits["gradient evaluations"]
        limits = [sys.maxsize if evaluations is None else int(evaluations)]
        if samples is not None:
            rows_and_size = _rows_and_size(batches)
            if rows_and_size is None:
                return None
            rows, size = rows_and_size
            rows = int(min(rows, per_epoch * size))
            passes, rest = divmod(int(samples), rows)
            limits.append(passes * ceil(rows / size) + ceil(rest / size))
        return min(limits)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started, self.seen_step = time.monotonic(), trainer.global_step

    def on_step(self, trainer: Trainer, step: int, batch: Batch, loss: Tensor | None) -> bool:
        self.samples += rows_of(trainer, batch)
        if step == self.seen_step:  # gradients are accumulating
            return False
        self.seen_step = step
        spent = {
            "samples": self.samples,
            "gradient evaluations": gradient_evaluations(trainer),
            "seconds": self._seconds(),
        }
        if self.limits["seconds"] is not None:
            spent["seconds"] = largest(spent["seconds"])[0]  # the clocks of several processes differ
        for unit, limit in self.limits.items():
            if limit is not None and spent[unit] >= limit:
                self.reason = f"its budget of {limit:,} {unit} is spent"
                trainer.should_stop = True
        return False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.on_step(trainer, trainer.global_step, batch, None)

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def state_dict(self) -> dict[str, Any]:
        return {"samples": self.samples, "seconds": self._seconds(), "reason": self.reason}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.samples, self.seconds_before, self.reason = (state_dict[k] for k in ("samples", "seconds", "reason"))


class SampleCounter(SparseCallback):
    """Counts the rows of the batches, including repeats, and the gradients, if they cannot be calculated."""

    def __init__(self) -> None:
        self.samples = 0
        self.gradients = 0  # with manual optimization, where a step may use several or share one

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not pl_module.automatic_optimization:  # otherwise the hook would keep training in Lightning's loop
            self.on_after_backward = self._count  # type: ignore[method-assign]

    def _count(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.gradients += trainer.training

    def total(self, trainer: Trainer) -> int:
        """The number of rows in the whole run, after it ends."""
        batches = trainer.train_dataloader
        if not isinstance(batches, RowBatches):
            return self.samples
        per_epoch = int(trainer.num_training_batches)  # limit_train_batches may leave some out
        passes, rest = divmod(trainer.fit_loop.epoch_loop.total_batch_idx + 1, per_epoch)
        return passes * min(per_epoch * batches.size, batches.rows) + rest * batches.size

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(trainer.train_dataloader, RowBatches):
            self.samples += rows_of(trainer, batch)

    def state_dict(self) -> dict[str, Any]:
        return {"samples": self.samples, "gradients": self.gradients}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.samples, self.gradients = state_dict["samples"], state_dict.get("gradients", 0)


def _rows_and_size(batches: Any) -> tuple[int, int] | None:
    """The rows of an epoch and of a batch; ``None``: not known."""
    if isinstance(batches, RowBatches):
        return batches.rows, batches.size
    loader = getattr(batches, "loader", batches)
    if not isinstance(loader, DataLoader) or not loader.batch_size or not isinstance(loader.sampler, Sized):
        return None
    rows, size = len(loader.sampler), loader.batch_size
    return rows // size * size if loader.drop_last else rows, size


def gradient_evaluations(trainer: Trainer) -> int:
    """The number of gradients computed, counting each accumulated one.

    Torch's L-BFGS counts its own calls of the closure. With manual optimization, each ``manual_backward`` counts; in a
    module that calls ``loss.backward()`` instead, each step.
    """
    if not trainer.lightning_module.automatic_optimization:
        return sum(counter.gradients for counter in callbacks_of(trainer, SampleCounter)) or trainer.global_step
    states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
    counted: int = sum(state.get("func_evals", 0) for state in states)
    counted = counted or trainer.global_step
    if trainer.accumulate_grad_batches == 1:
        return counted
    return counted + trainer.fit_loop.epoch_loop.total_batch_idx + 1 - trainer.global_step


def rows_of(trainer: Trainer, batch: Any) -> int:
    """The number of rows in a training batch, over all processes."""
    share = getattr(trainer.train_dataloader, "share", None)
    return batch_size(batch) if share is None else int(share.rows)


def batch_size(batch: Any) -> int:
    """The number of rows in a batch; 1, with a note, if Lightning does not find its size."""
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Tensor) and batch[0].ndim:
        return len(batch[0])
    with warnings.catch_warnings():  # of parts of several sizes, as from several loaders: the first counts
        warnings.simplefilter("ignore")
        try:
            return extract_batch_size(batch)
        except MisconfigurationException:
            note_once(f"each batch counts as one sample, because its size is not known: {_described(batch)}")
            return 1


def _described(batch: Any) -> str:
    entries = f" of {type(batch[0]).__name__}" if isinstance(batch, list | tuple) and batch else ""
    return f"{type(batch).__name__}{entries}"
