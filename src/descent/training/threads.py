"""How many threads torch computes a step with, on a CPU."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.parameter import is_lazy

# Rows of a batch times parameters. Two threads against one, steps a second of linear models and perceptrons on two idle
# cores: 0.95 to 1.10 times as many up to here, 1.2 at 5e6, 1.5 at 3e7; on busy cores, where they wait for each other, a
# tenth to a half.
SMALL = 1e6


class Threads(Callback):
    """Sets them where training begins. A resumed run has those that it began with, since sums depend on them.

    Args:
        num_threads: ``None``: one where rows of a batch times parameters are at most ``SMALL``, torch's own elsewhere.
    """

    def __init__(self, num_threads: int | None) -> None:
        self.num_threads = num_threads
        self.began_with: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        threads = self.began_with or self.num_threads or (1 if _is_small(trainer, pl_module) else None)
        if threads:
            torch.set_num_threads(threads)
        self.began_with = torch.get_num_threads()

    def state_dict(self) -> dict[str, Any]:
        return {"num_threads": self.began_with}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.began_with = state_dict["num_threads"]


def _is_small(trainer: Trainer, module: LightningModule) -> bool:
    """Whether a second thread would be of no use. Not where the rows of a batch are not known."""
    loader: Any = trainer.train_dataloader
    rows = getattr(loader, "size", None) or getattr(loader, "batch_size", None) or math.inf
    return module.device.type == "cpu" and rows * _size(module) <= SMALL


def _size(module: LightningModule) -> int:
    return sum(weight.numel() for weight in module.parameters() if not is_lazy(weight))


@contextmanager
def threads_as_here() -> Iterator[None]:
    """After it the process has as many as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
