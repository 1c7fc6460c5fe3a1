"""Divides each batch among the processes that train one model."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import TypeVar

Rows = TypeVar("Rows", bound=Sized)  # a tensor or a list


@dataclass
class Share:
    """Every ``world``-th row of a batch, from row ``rank`` on.

    If a batch is too short to have a row for a process, that process takes the first row but does not count it, so
    that all processes take the same steps.

    Args:
        rank: of this process.
        world: number of processes.

    Attributes:
        rows: number of rows in the latest batch, over all processes.
        own: how many of them belong to this process; 0: its row does not count.
    """

    rank: int
    world: int
    rows: int = 0
    own: int = 0

    def count(self, rows: int) -> None:
        """Records the number of rows of the next batch."""
        self.rows, self.own = rows, len(range(self.rank, rows, self.world))

    def of(self, rows: Rows) -> Rows:
        """Returns this process's part of ``rows``."""
        part = slice(self.rank, None, self.world) if self.rank < len(rows) else slice(1)
        taken: Rows = rows[part]  # type: ignore[index]
        return taken

    @property
    def weight(self) -> float:
        """The factor for this process's mean that makes the plain mean over processes the mean over all rows."""
        return self.world * self.own / self.rows
