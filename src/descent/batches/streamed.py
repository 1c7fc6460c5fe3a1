"""Batches of rows that do not fit into memory, read block by block."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from descent.batches.rows import Batch, RowBatches

BLOCKS, ROWS = 6, 7  # what an order is of, see descent.batches.map_style for other keys
CHUNK = 400_000  # rows


class Blocks(Protocol):
    """Rows in blocks, each of which can be read by itself.

    Attributes:
        rows: how many each block has.
    """

    rows: Sequence[int]

    def read(self, block: int) -> Batch:
        """The rows of a block as tensors, always the same, on the CPU and in the precision of training."""


class StreamedBatches(RowBatches):
    """Iterates over batches that are tuples of the same rows of each tensor, with one chunk of them in memory, and
    the next.

    Shuffled, an epoch has its blocks in an order of its own, and a chunk is as many of them, one after another, as
    reach ``chunk`` rows; its rows have an order of their own, too. So rows that are far apart meet in a batch only if
    their blocks are in one chunk. Where the rows are sorted, the chunk should be a large part of them all, or they
    should be shuffled once before. In neither order does anything depend on what was read before: a position is gone to
    without reading up to it.

    Args:
        blocks: of the rows.
        size: rows a batch; only the last batch of an epoch may be smaller.
        shuffle: whether each epoch has a new order.
        seed: of the orders; ``None``: the run's.
        chunk: rows that are in memory at a time, at least, and as many that are read ahead; a block is never divided.
        device: that the batches are on, moved there chunk by chunk; ``None``: the CPU.
    """

    def __init__(
        self,
        blocks: Blocks,
        *,
        size: int,
        shuffle: bool = False,
        seed: int | None = None,
        chunk: int = CHUNK,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(sum(blocks.rows), size, shuffle, seed)
        if not self.rows:
            raise ValueError("blocks must have rows, got none")
        self.blocks, self.chunk, self.device = blocks, chunk, device
        self._planned: _Plan | None = None
        self._loaded: tuple[tuple[_Plan, int], Batch] | None = None  # the chunk of that number
        self._ahead: tuple[tuple[_Plan, int], Future[Batch]] | None = None  # the one after it
        self._reader = ThreadPoolExecutor(1, "read")

    @property
    def tensors(self) -> Batch:  # type: ignore[override]
        """Those of the chunk that comes next."""
        repeat, number = divmod(self.position, self.count)
        plan = self._plan(repeat)
        return self._chunk(plan, plan.chunk_at(number * self.size))

    def cut(self, repeat: int, first: int, count: int) -> Iterator[Batch]:
        for number in range(first, first + count):
            yield self._rows(repeat, number * self.size, min((number + 1) * self.size, self.rows))

    def _rows(self, repeat: int, start: int, stop: int) -> Batch:
        """Of the epoch's order, from one or more chunks."""
        plan, parts = self._plan(repeat), []
        while start < stop:
            number = plan.chunk_at(start)
            begin, end = plan.ends[number] - plan.sizes[number], min(stop, plan.ends[number])
            rows = tuple(tensor[start - begin : end - begin] for tensor in self._chunk(plan, number))
            # a copy of the rest, so that the chunk is freed before the next is read
            parts.append(rows if end == stop else tuple(tensor.clone() for tensor in rows))
            del rows
            start = end
        return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))

    def _plan(self, repeat: int) -> "_Plan":
        key = self.seed or 0, self.epoch, repeat
        if self._planned is None or self._planned.key != key:
            self._planned = _Plan(key, self.blocks.rows, self.chunk, self.shuffle)
        return self._planned

    def _chunk(self, plan: "_Plan", number: int) -> Batch:
        """Also begins to read the next one, while training takes its steps on this."""
        wanted = plan, number
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # free the one before
            ahead, self._ahead = self._ahead, None
            rows = ahead[1].result() if ahead and ahead[0] == wanted else self._read(*wanted)
            self._loaded = wanted, tuple(tensor.to(self.device, non_blocking=tensor.is_pinned()) for tensor in rows)
            if number + 1 < len(plan.chunks):
                self._ahead = (plan, number + 1), self._reader.submit(self._read, plan, number + 1)
        return self._loaded[1]

    def _read(self, plan: "_Plan", number: int) -> Batch:
        parts = [self.blocks.read(block) for block in plan.chunks[number]]
        rows = tuple(map(torch.cat, zip(*parts, strict=True)))
        if self.shuffle:
            order = torch.from_numpy(order_of((*plan.key, ROWS, number), len(rows[0])))
            rows = tuple(tensor.index_select(0, order) for tensor in rows)
        is_for_gpu = self.device is not None and self.device.type == "cuda"
        return tuple(tensor.pin_memory() for tensor in rows) if is_for_gpu else rows


class _Plan:
    """The chunks of an epoch.

    Args:
        key: the seed, the epoch, and how often its batches were gone through before.
        rows: of each block.
        chunk, shuffle: as of ``StreamedBatches``.

    Attributes:
        chunks: the blocks of each.
        sizes: how many rows each has; ``ends``: and where in the epoch they end.
    """

    def __init__(self, key: tuple[int, int, int], rows: Sequence[int], chunk: int, shuffle: bool) -> None:
        self.key, self.chunks, self.sizes = key, list[list[int]](), list[int]()
        order = order_of((*key, BLOCKS, 0), len(rows)) if shuffle else np.arange(len(rows))
        for block in order.tolist():
            if not rows[block]:
                continue
            if not self.sizes or self.sizes[-1] >= chunk:
                self.chunks.append([])
                self.sizes.append(0)
            self.chunks[-1].append(block)
            self.sizes[-1] += rows[block]
        self.ends = [*accumulate(self.sizes)]

    def chunk_at(self, row: int) -> int:
        return bisect_right(self.ends, row)


def order_of(key: tuple[int, ...], count: int) -> NDArray[np.int64]:
    return np.random.default_rng(key).permutation(count)
