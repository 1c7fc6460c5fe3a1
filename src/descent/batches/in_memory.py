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
        self.size = size or len(y)
        self.count = ceil(len(y) / self.size)
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0
        self.position = 0  # how many batches of the epoch have been taken
        self._ordered: tuple[int, Tensor, Tensor] | None = None  # the epoch, and the rows in its order

    @property
    def sampler(self) -> "InMemoryBatches":
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        """The batches that are left of the epoch, or all of them if none is."""
        self.position %= len(self)
        while self.position < len(self):
            yield from self.take(1)

    def take(self, count: int) -> list[Batch]:
        """The next ``count`` batches of the epoch; after its last, of the one that has been set since.

        Where an epoch is a single batch, ``count`` may be any number of epochs.
        """
        if self.count == 1:
            self.position = 1
            return [(self.x, self.y)] * count
        self.position %= self.count
        x, y = self._in_order()
        rows = slice(self.position * self.size, (self.position + count) * self.size)
        self.position += count
        return list(zip(torch.split(x[rows], self.size), torch.split(y[rows], self.size), strict=True))

    def _in_order(self) -> Batch:
        if not self.shuffle:
            return self.x, self.y
        if self._ordered is None or self._ordered[0] != self.epoch:
            self._ordered = None  # free the rows of the epoch before
            order = torch.from_numpy(np.random.default_rng((self.seed, self.epoch, 2)).permutation(len(self.y)))
            order = order.to(self.x.device)
            self._ordered = (self.epoch, self.x[order], self.y[order])  # one copy an epoch; batches are views of it
        return self._ordered[1:]

    def state_dict(self) -> dict[str, int]:
        """What Lightning keeps in a checkpoint to go on within an epoch."""
        return {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.position = state_dict["position"]
