"""Defines the rows of one split, in training units."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from regression.data.rows import Array
from regression.data.standardization import scale_about


class AnyPart(Protocol):
    """Rows of a split in training units, in memory or not."""

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator["Part"]:
        """All rows, block by block if they are not in memory."""

    def some(self, most: int) -> "Part":
        """At most ``most`` rows, spread over the whole part."""

    def target_spread(self) -> tuple[float, float]:
        """The mean and the standard deviation of the targets; the deviation is 1 if all are equal."""

    def largest_input(self) -> float:
        """The largest absolute value of the inputs."""


@dataclass(frozen=True)
class Part:
    """Rows in memory, in training units, float64, on the CPU."""

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
