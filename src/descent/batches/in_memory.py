"""Batches cut from tensors in memory: no per-row fetching, no workers, no collating."""

from collections.abc import Iterator
from math import ceil

import numpy as np
import torch
from torch import Tensor

from descent.batches.share import Share

Batch = tuple[Tensor, ...]


class InMemoryBatches:
    """Iterates over batches that are tuples of the same rows of each tensor.

    The order of epoch e depends on ``seed`` and e alone, not on what ran before. Where the batches of an epoch are gone
    through again, as those of a shorter loader beside a longer one, they have a new order.

    Args:
        tensors: of equally many rows each, on the device and in the precision of training.
        size: rows a batch; the last batch of an epoch may be smaller. ``None``: all rows.
        shuffle: whether each epoch has a new order.
        seed: of the orders; ``None``: the run's.

    Attributes:
        share: of this process, where several train one model; the run sets it.
    """

    share: Share | None = None

    batch_sampler = None  # Lightning asks for it wherever there is a sampler

    def __init__(
        self, *tensors: Tensor, size: int | None = None, shuffle: bool = False, seed: int | None = None
    ) -> None:
        self.rows = len(tensors[0])
        if any(len(tensor) != self.rows for tensor in tensors):
            raise ValueError(f"tensors must have equally many rows, got {[len(tensor) for tensor in tensors]}")
        self.tensors: Batch = tensors
        self.size = size or self.rows
        self.count = ceil(self.rows / self.size)
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0
        self.position = 0  # how many batches of the epoch have been taken, those of repeats as well
        self._resumed = False  # whether the next iteration starts at the position
        self._ordered: tuple[tuple[int, int], Batch] | None = None  # the epoch and repeat, and the rows in their order

    @property
    def sampler(self) -> "InMemoryBatches":
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch or not (self._resumed or self.position % self.count):
            self.position, self._resumed = 0, False  # of another epoch, or of another validation in this one
        self.epoch = epoch

    def all(self) -> Batch:
        """The whole training set as one batch."""
        return self.tensors

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        """The epoch's batches; those that are left of it, the first time after a state was loaded."""
        resumed, self._resumed = self._resumed, False
        if self.position % self.count and not resumed:  # beside training, or after an iteration that was left
            for number in range(self.count):
                yield from self._batches(number, 1)
            return
        if resumed and self.position and self.position % self.count == 0:
            return  # they have ended before those of a longer loader
        yield from self.take(1)
        while self.position % self.count:
            yield from self.take(1)

    def take(self, count: int) -> list[Batch]:
        """The next ``count`` batches of the epoch.

        Where an epoch is a single batch, ``count`` may be any number of epochs.
        """
        if self.count == 1:
            self.position = 1
            return [self._own(self.tensors)] * count
        self.position += count
        return self._batches(self.position - count, count)

    def _batches(self, position: int, count: int) -> list[Batch]:
        repeat, first = divmod(position, self.count)
        rows = slice(first * self.size, (first + count) * self.size)
        parts = (torch.split(tensor[rows], self.size) for tensor in self._in_order(repeat))
        return [self._own(batch) for batch in zip(*parts, strict=True)]

    def _own(self, batch: Batch) -> Batch:
        """All of a batch, or the part of this process."""
        share = self.share
        if share is None:
            return batch
        share.count(len(batch[0]))
        return tuple(share.of(tensor) for tensor in batch)

    def _in_order(self, repeat: int) -> Batch:
        if not self.shuffle:
            return self.tensors
        key = self.epoch, repeat
        if self._ordered is None or self._ordered[0] != key:
            self._ordered = None  # free the rows of the epoch before
            order = torch.from_numpy(np.random.default_rng((self.seed or 0, key[0], 2, key[1])).permutation(self.rows))
            order = order.to(self.tensors[0].device)
            # one copy an epoch; batches are views of it
            self._ordered = (key, tuple(tensor.index_select(0, order) for tensor in self.tensors))
        return self._ordered[1]

    def state_dict(self) -> dict[str, int]:
        """What Lightning keeps in a checkpoint to go on within an epoch."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.position, self.epoch, self._resumed = state_dict["position"], state_dict["epoch"], True
