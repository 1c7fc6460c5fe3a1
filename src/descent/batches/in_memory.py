"""Cuts batches from tensors in memory, without per-row fetching, workers or collating."""

import numpy as np
import torch
from torch import Tensor

from descent.batches.rows import Batch, RowBatches


class InMemoryBatches(RowBatches):
    """Iterates over batches: tuples of the same rows of each tensor, in the order of ``RowBatches``.

    Batches may be views of the tensors: changing a batch in place changes the rows.

    Args:
        tensors: with the same number of rows, on the device and in the precision of training.
        size: rows per batch, 1 or more; the last batch of an epoch may be smaller. ``None``: all rows.
        shuffle: whether to draw a new order for each epoch.
        seed: for the orders; ``None``: the run's seed.

    Raises:
        ValueError: the tensors differ in their number of rows.
    """

    def __init__(
        self, *tensors: Tensor, size: int | None = None, shuffle: bool = False, seed: int | None = None
    ) -> None:
        rows = len(tensors[0])
        if any(len(tensor) != rows for tensor in tensors):
            raise ValueError(f"tensors must have the same number of rows, got {[len(tensor) for tensor in tensors]}")
        super().__init__(rows, size or rows, shuffle, seed)
        self.tensors: Batch = tensors
        self._ordered: tuple[tuple[int, int], Batch] | None = None  # (epoch, repeat), and the rows in that order

    def all(self) -> Batch:
        """The whole training set as one batch."""
        return self.tensors

    def cut(self, repeat: int, first: int, count: int) -> list[Batch]:
        if self.count == 1:
            return [self.tensors]
        rows = slice(first * self.size, (first + count) * self.size)
        return list(zip(*(torch.split(tensor[rows], self.size) for tensor in self._in_order(repeat)), strict=True))

    def _in_order(self, repeat: int) -> Batch:
        if not self.shuffle:
            return self.tensors
        key = self.epoch, repeat
        if self._ordered is None or self._ordered[0] != key:
            self._ordered = None  # free the rows of the previous epoch
            order = torch.from_numpy(np.random.default_rng((self.seed or 0, key[0], 2, key[1])).permutation(self.rows))
            order = order.to(self.tensors[0].device)
            # one copy per epoch; batches are views of it
            self._ordered = (key, tuple(tensor.index_select(0, order) for tensor in self.tensors))
        return self._ordered[1]
