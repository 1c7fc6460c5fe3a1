"""Which rows of each batch are this process's, where several train one model."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import TypeVar

Rows = TypeVar("Rows", bound=Sized)  # a tensor or a list


@dataclass
class Share:
    """Every ``world``-th row of a batch, from ``rank`` on.

    A process that a short batch has no row for takes its first, and does not count it: the steps of all processes stay
    in time with each other.

    Args:
        rank: of this process.
        world: how many there are.

    Attributes:
        rows: of the latest batch, of all processes together.
        own: how many of them are this process's; 0: its row does not count.
    """

    rank: int
    world: int
    rows: int = 0
    own: int = 0

    def count(self, rows: int) -> None:
        """Notes that the next batch has so many rows."""
        self.rows, self.own = rows, len(range(self.rank, rows, self.world))

    def of(self, rows: Rows) -> Rows:
        """The part of ``rows`` that this process takes."""
        part = slice(self.rank, None, self.world) if self.rank < len(rows) else slice(1)
        taken: Rows = rows[part]  # type: ignore[index]
        return taken

    @property
    def weight(self) -> float:
        """By which the mean over the latest share goes into a mean over all processes, each by 1."""
        return self.world * self.own / self.rows
