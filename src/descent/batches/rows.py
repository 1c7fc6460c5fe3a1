"""Cuts batches from rows in a known order, so that the position is a number."""

from collections.abc import Iterable, Iterator
from math import ceil

from torch import Tensor

from descent.batches.share import Share

Batch = tuple[Tensor, ...]


class RowBatches:
    """Iterates over batches of ``size`` rows. Subclasses implement ``cut``, which provides them.

    The order of epoch e depends only on ``seed`` and e, not on what ran before. If an epoch's batches are repeated, as
    when a shorter loader runs next to a longer one, each repeat has a new order.

    Args:
        rows: number of rows in an epoch.
        size: rows per batch; the last batch of an epoch may be smaller.
        shuffle: whether to draw a new order for each epoch.
        seed: for the orders; ``None``: the run's seed.

    Attributes:
        tensors: some or all rows, on the device and in the precision of the batches.
        share: this process's part of each batch, if several processes train one model; the run sets it.
    """

    share: Share | None = None
    batch_sampler = None  # Lightning reads it if there is a sampler
    tensors: Batch

    def __init__(self, rows: int, size: int, shuffle: bool, seed: int | None) -> None:
        self.rows, self.size, self.count = rows, size, ceil(rows / size)
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0
        self.position = 0  # how many batches of the epoch were taken, including repeats
        self._resumed = False  # whether the next iteration starts at the position

    def cut(self, repeat: int, first: int, count: int) -> Iterable[Batch]:
        """Returns ``count`` batches from number ``first`` on, in the order of the epoch or of a repeat.

        A single batch of all rows may have any order.
        """
        raise NotImplementedError

    @property
    def sampler(self) -> "RowBatches":
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch or not (self._resumed or self.position % self.count):
            self.position, self._resumed = 0, False  # another epoch, or another validation in this one
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        """The epoch's batches; the first time after a state was loaded, those that are left."""
        resumed, self._resumed = self._resumed, False
        if self.position % self.count and not resumed:  # during training, or after an abandoned iteration
            for number in range(self.count):
                yield from self._shared(self.cut(0, number, 1))
            return
        if resumed and self.position and self.position % self.count == 0:
            return  # its batches ran out before those of a longer loader
        yield from self.take(1)
        while self.position % self.count:
            yield from self.take(1)

    def take(self, count: int) -> Iterable[Batch]:
        """Returns the next ``count`` batches of the epoch.

        If an epoch is a single batch, ``count`` is a number of epochs.
        """
        if self.count == 1:
            self.position = 1
            return self._shared([*self.cut(0, 0, 1)] * count)
        self.position += count
        return self._shared(self.cut(*divmod(self.position - count, self.count), count))

    def _shared(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """All rows of each batch, or this process's part."""
        return batches if self.share is None else map(self._own, batches)

    def _own(self, batch: Batch) -> Batch:
        assert self.share is not None
        self.share.count(len(batch[0]))
        return tuple(map(self.share.of, batch))

    def state_dict(self) -> dict[str, int]:
        """What Lightning saves in a checkpoint to resume within an epoch."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.position, self.epoch, self._resumed = state_dict["position"], state_dict["epoch"], True
