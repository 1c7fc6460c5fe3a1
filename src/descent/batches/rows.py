"""Batches that are cut from rows in a known order: the position among them is a number."""

from collections.abc import Iterable, Iterator
from math import ceil

from torch import Tensor

from descent.batches.share import Share

Batch = tuple[Tensor, ...]


class RowBatches:
    """Iterates over batches of ``size`` rows. A subclass says in ``cut`` where they come from.

    The order of epoch e depends on ``seed`` and e alone, not on what ran before. Where the batches of an epoch are gone
    through again, as those of a shorter loader beside a longer one, they have a new order.

    Args:
        rows: of an epoch.
        size: rows a batch; the last batch of an epoch may be smaller.
        shuffle: whether each epoch has a new order.
        seed: of the orders; ``None``: the run's.

    Attributes:
        tensors: rows, some or all, as batches have them: on their device and in their precision.
        share: of this process, where several train one model; the run sets it.
    """

    share: Share | None = None
    batch_sampler = None  # Lightning asks for it wherever there is a sampler
    tensors: Batch

    def __init__(self, rows: int, size: int, shuffle: bool, seed: int | None) -> None:
        self.rows, self.size, self.count = rows, size, ceil(rows / size)
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0
        self.position = 0  # how many batches of the epoch have been taken, those of repeats as well
        self._resumed = False  # whether the next iteration starts at the position

    def cut(self, repeat: int, first: int, count: int) -> Iterable[Batch]:
        """``count`` batches from the number ``first`` on, of the epoch's order or of a repeat's.

        A single batch of all rows may have them in any order.
        """
        raise NotImplementedError

    @property
    def sampler(self) -> "RowBatches":
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch or not (self._resumed or self.position % self.count):
            self.position, self._resumed = 0, False  # of another epoch, or of another validation in this one
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        """The epoch's batches; those that are left of it, the first time after a state was loaded."""
        resumed, self._resumed = self._resumed, False
        if self.position % self.count and not resumed:  # beside training, or after an iteration that was left
            for number in range(self.count):
                yield from self._shared(self.cut(0, number, 1))
            return
        if resumed and self.position and self.position % self.count == 0:
            return  # they have ended before those of a longer loader
        yield from self.take(1)
        while self.position % self.count:
            yield from self.take(1)

    def take(self, count: int) -> Iterable[Batch]:
        """The next ``count`` batches of the epoch.

        Where an epoch is a single batch, ``count`` may be any number of epochs.
        """
        if self.count == 1:
            self.position = 1
            return self._shared([*self.cut(0, 0, 1)] * count)
        self.position += count
        return self._shared(self.cut(*divmod(self.position - count, self.count), count))

    def _shared(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """All of each batch, or the part of this process."""
        return batches if self.share is None else map(self._own, batches)

    def _own(self, batch: Batch) -> Batch:
        assert self.share is not None
        self.share.count(len(batch[0]))
        return tuple(map(self.share.of, batch))

    def state_dict(self) -> dict[str, int]:
        """What Lightning keeps in a checkpoint to go on within an epoch."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.position, self.epoch, self._resumed = state_dict["position"], state_dict["epoch"], True
