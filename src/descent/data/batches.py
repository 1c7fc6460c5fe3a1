"""Batches cut from tensors in memory: no per-row fetching, no workers, no collating."""

from collections.abc import Iterator
from math import ceil

import numpy as np
import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]


class InMemoryBatches:
    """Iterates over ``(x, y)`` batches of shapes (batch, features) and (batch,).

    The order of epoch e depends on ``seed`` and e alone, not on what ran before.

    Args:
        x: inputs (rows, features), on the device and in the precision of training.
        y: targets (rows,).
        size: rows a batch; the last batch of an epoch may be smaller. ``None``: all rows.
        shuffle: whether each epoch has a new order.
        seed: of the orders.
    """

    batch_sampler = None  # Lightning asks for it wherever there is a sampler

    def __init__(self, x: Tensor, y: Tensor, size: int | None, shuffle: bool = False, seed: int = 0) -> None:
        self.x, self.y = x, y
        self.size = min(size or len(y), len(y))
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0
        self.position = 0  # how many batches of the epoch have been taken

    @property
    def sampler(self) -> "InMemoryBatches":
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return ceil(len(self.y) / self.size)

    def __iter__(self) -> Iterator[Batch]:
        x, y = self.x, self.y
        if self.shuffle and len(self) > 1:
            order = torch.from_numpy(np.random.default_rng((self.seed, self.epoch, 2)).permutation(len(y)))
            order = order.to(x.device)
            x, y = x[order], y[order]  # one copy an epoch; the batches are views of it
        for batch in range(self.position % len(self), len(self)):
            self.position = batch + 1
            rows = slice(batch * self.size, self.position * self.size)
            yield x[rows], y[rows]
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        """What Lightning keeps in a checkpoint to go on within an epoch."""
        return {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.position = state_dict["position"]
