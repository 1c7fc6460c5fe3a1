"""Reads batches block by block from data that does not fit into memory."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from descent.batches.rows import Batch, RowBatches

BLOCKS, ROWS = 6, 7  # what a key orders; other purposes are in descent.batches.map_style
CHUNK = 400_000  # rows


class Blocks(Protocol):
    """Rows in blocks that can be read separately.

    Attributes:
        rows: number of rows of each block.
    """

    rows: Sequence[int]

    def read(self, block: int) -> Batch:
        """Returns the rows of a block as tensors on the CPU, in the precision of training; the same on each call."""


class StreamedBatches(RowBatches):
    """Iterates over batches: tuples of the same rows of each tensor. Holds one chunk of rows and the next in memory.

    A chunk is as many consecutive blocks as it takes to reach ``chunk`` rows. With ``shuffle``, each epoch shuffles its
    blocks, then the rows of each chunk. So rows that are far apart share a batch only if their blocks share a chunk: if
    the rows are sorted, make the chunk a large part of the data, or shuffle the data once beforehand. The order does
    not depend on what was read before, so a run resumes at a position without reading up to it.

    Args:
        blocks: the rows to read.
        size: rows per batch, 1 or more; only the last batch of an epoch may be smaller.
        shuffle: whether to draw a new order for each epoch.
        seed: for the orders; ``None``: the run's seed.
        chunk: minimum number of rows to hold in memory, and to read ahead; blocks are never split.
        device: where the batches are, moved chunk by chunk; ``None``: the CPU.

    Raises:
        ValueError: the blocks have no rows.
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
        self._loaded: tuple[tuple[_Plan, int], Batch] | None = None  # (plan, chunk number), and its rows
        self._ahead: tuple[tuple[_Plan, int], Future[Batch]] | None = None  # the next chunk
        self._reader = ThreadPoolExecutor(1, "read")

    @property
    def tensors(self) -> Batch:  # type: ignore[override]
        """The tensors of the chunk at the current position."""
        repeat, number = divmod(self.position, self.count)
        plan = self._plan(repeat)
        return self._chunk(plan, plan.chunk_at(number * self.size))

    def cut(self, repeat: int, first: int, count: int) -> Iterator[Batch]:
        for number in range(first, first + count):
            yield self._rows(repeat, number * self.size, min((number + 1) * self.size, self.rows))

    def _rows(self, repeat: int, start: int, stop: int) -> Batch:
        """Rows ``start`` to ``stop`` in the order of the epoch, from one or more chunks."""
        plan, parts = self._plan(repeat), []
        while start < stop:
            number = plan.chunk_at(start)
            begin, end = plan.ends[number] - plan.sizes[number], min(stop, plan.ends[number])
            rows = tuple(tensor[start - begin : end - begin] for tensor in self._chunk(plan, number))
            # clones the rest of a chunk, so that the chunk is freed before the next is read
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
        """Returns a chunk and starts to read the next one in the background."""
        wanted = plan, number
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # free the previous chunk
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
        key: the seed, the epoch, and the repeat within it.
        rows: number of rows of each block.
        chunk, shuffle: see ``StreamedBatches``.

    Attributes:
        chunks: the blocks of each chunk.
        sizes: number of rows of each chunk; ``ends``: where each chunk ends in the epoch.
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
