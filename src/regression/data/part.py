"""Rows of one split, as training sees them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from regression.data.rows import Array
from regression.data.standardization import scale_about


class AnyPart(Protocol):
    """In memory or not, in the units of training."""

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator["Part"]:
        """All rows; of a part that is not in memory block by block."""

    def some(self, most: int) -> "Part":
        """At most so many rows, from all over the part."""

    def target_spread(self) -> tuple[float, float]:
        """The mean and the deviation of the targets; 1 where all are the same."""

    def largest_input(self) -> float:
        """In size."""


@dataclass(frozen=True)
class Part:
    """In memory, in the units of training, float64, on the CPU."""

    x: Array  # (rows, features)
    y: Array  # (rows,)

    def __len__(self) -> int:
        return len(self.y)

    def blocks(self) -> Iterator["Part"]:
        yield self

    def some(self, most: int) -> "Part":
        some = slice(None, None, -(-len(self) // most))
        return Part(self.x[some], self.y[some])

    def target_spread(self) -> tuple[float, float]:
        center = float(self.y.mean())
        return center, scale_about(self.y, center)

    def largest_input(self) -> float:
        return max(float(self.x.max()), -float(self.x.min()))
