"""Sets the number of CPU threads that torch trains with."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.parameter import is_lazy

from descent.batches.exact import parts
from descent.batches.position import has_length

# Rows of a batch times parameters. Steps per second of linear models and perceptrons, two threads relative to one: on
# two idle cores 0.95 to 1.10 up to here, 1.2 at 5e6, 1.5 at 3e7; on busy cores, where threads wait for each other, 0.1
# to 0.5.
SMALL = 1e6


class Threads(Callback):
    """Sets the number when training starts. A resumed run keeps its first number, since sums depend on it.

    Args:
        num_threads: ``None``: one if a batch's rows times parameters are at most ``SMALL``, else torch's default.
        batch_size: that of the config, for a batch sampler without a length.
    """

    def __init__(self, num_threads: int | None, batch_size: int | None = None) -> None:
        self.num_threads, self.batch_size = num_threads, batch_size
        self.began_with: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        threads = self.began_with or self.num_threads or (1 if self._is_small(trainer, pl_module) else None)
        if threads:
            torch.set_num_threads(threads)
        self.began_with = torch.get_num_threads()

    def _is_small(self, trainer: Trainer, module: LightningModule) -> bool:
        """Whether a second thread would not help. ``False`` on accelerators, and if the batch size is unknown."""
        rows = [_rows(loader, self.batch_size) for loader in parts(trainer.train_dataloader)]
        return module.device.type == "cpu" and sum(rows) * _size(module) <= SMALL

    def state_dict(self) -> dict[str, Any]:
        return {"num_threads": self.began_with}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.began_with = state_dict["num_threads"]


def _rows(loader: Any, batch_size: int | None) -> float:
    """The rows of a batch, or their mean with a batch sampler, whose batches may differ."""
    if size := getattr(loader, "size", None) or getattr(loader, "batch_size", None):
        return int(size)
    if getattr(loader, "batch_sampler", None) is None:
        return math.inf
    if has_length(loader) and has_length(loader.dataset):
        return len(loader.dataset) / max(1, len(loader))
    return batch_size or math.inf


def _size(module: LightningModule) -> int:
    return sum(weight.numel() for weight in module.parameters() if not is_lazy(weight))


@contextmanager
def threads_as_here() -> Iterator[None]:
    """Restores the number of threads at the end."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
