"""Reads one split of a table block by block, in training units."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from descent.batches.rows import Batch
from regression.data.part import Part
from regression.data.rows import Array
from regression.data.standardization import Standardization
from regression.data.streamed_table import StreamedTable
from regression.data.summary import Parts, Summary

FEW_BLOCKS = 8  # blocks that ``some`` reads, at most


@dataclass(frozen=True)
class StreamedPart:
    """A ``Part`` without ``x`` and ``y``, which also provides the ``Blocks`` of ``descent.batches.streamed``.

    Args:
        which: 0 for training, 1 for validation, 2 for test.
        like: the dtype of the tensors that ``read`` returns.
    """

    table: StreamedTable
    split: Parts
    summary: Summary
    units: Standardization
    which: int
    like: torch.dtype = torch.float64

    def __len__(self) -> int:
        return sum(self.rows)

    @property
    def rows(self) -> list[int]:
        """The number of rows of this part in each block."""
        return [counts[self.which] for counts in self.summary.counts]

    def read(self, block: int) -> Batch:
        part = self._part(block)
        return tuple(torch.from_numpy(a).to(self.like, memory_format=torch.contiguous_format) for a in (part.x, part.y))

    def in_precision(self, dtype: torch.dtype) -> "StreamedPart":
        return replace(self, like=dtype)

    def blocks(self) -> Iterator[Part]:
        """All rows, block by block."""
        return (self._part(block) for block, rows in enumerate(self.rows) if rows)

    def some(self, most: int) -> Part:
        """At most ``most`` rows, from blocks spread over the whole table."""
        there = [block for block, rows in enumerate(self.rows) if rows]
        chosen = there[:: -(-len(there) // FEW_BLOCKS)]
        parts = [self._part(block).some(max(1, most // len(chosen))) for block in chosen]
        return Part(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))

    def target_spread(self) -> tuple[float, float]:
        """The mean and the standard deviation of the targets; the deviation is 1 if all are equal."""
        columns, (mean, scale) = self.summary.parts[self.which], (self.units.y_mean, self.units.y_scale)
        own = columns.mean[-1]
        return (own - mean) / scale, columns.scale_about(len(columns.mean) - 1, own) / scale

    def largest_input(self) -> float:
        """The largest absolute value of the inputs."""
        columns = self.summary.parts[self.which]
        ends: Array = np.array([columns.low[:-1], columns.high[:-1]])
        return float(np.abs(self.units.inputs(ends)).max())

    def _part(self, block: int) -> Part:
        """The rows of a block that belong to this part, in training units."""
        kept, cells = self.table.read(block)
        own = self.split(self.table.starts[block], len(kept))[kept] == self.which
        numbers = cells.filter(own).to_numpy(writable=True)
        x, y = numbers[:, :-1], numbers[:, -1]
        return Part(self.units.inputs(x, out=x), self.units.targets(y, out=y))
