"""Computes counts, means, scales and R of a table in blocks, in one pass before training."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from descent.config.types import check
from descent.errors import invalid
from descent.training.threads import threads_as_here
from regression.data.rows import Array
from regression.data.standardization import Standardization
from regression.data.streamed_table import StreamedTable
from regression.optimum import MOST_WORK, work

Parts = Callable[[int, int], np.ndarray[Any, np.dtype[np.int8]]]  # first row, number of rows -> parts
CACHED = 4096  # rows in each QR decomposition: with 100,000, a row takes five times as long
FAR = 1e3  # R loses digits if the mean is more deviations than this from the first block's mean


@dataclass
class Columns:
    """Statistics of the columns (features + 1) of one part, updated block by block: Chan, Golub and LeVeque, 1983."""

    rows: int = 0
    mean: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)  # sums of squares about the mean
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def add(self, cells: Array) -> None:
        rows, mean = len(cells), cells.mean(0)
        squares, low, high = np.square(cells - mean).sum(0), cells.min(0), cells.max(0)
        if self.rows:
            total, difference = self.rows + rows, mean - self.mean
            squares = self.squares + squares + difference**2 * (self.rows * rows / total)
            mean = self.mean + difference * (rows / total)
            low, high = np.minimum(low, self.low), np.maximum(high, self.high)
        self.rows += rows
        self.mean, self.squares, self.low, self.high = (a.tolist() for a in (mean, squares, low, high))

    def scale_about(self, column: int, center: float) -> float:
        """Computes ``regression.data.standardization.scale_about`` for a column.

        Raises:
            UserError: the squares of the column underflow.
        """
        low, high, mean = self.low[column], self.high[column], self.mean[column]
        largest = max(high - center, center - low)
        if largest <= 1e-12 * max(abs(low), abs(high)):
            return 1.0
        scale = float(np.sqrt(self.squares[column] / self.rows + (mean - center) ** 2))
        if scale < 0.999 * largest / np.sqrt(self.rows):
            rule = "numbers whose squares do not underflow in double precision"
            raise invalid(f"column {column + 1} of features and target", rule, largest)
        return scale


@dataclass
class Summary:
    """What a run needs to know about all rows; plain values, for checkpoints.

    Attributes:
        counts: the number of training, validation and test rows in each block.
        parts: the column statistics of each part.
        shift, unit: the units of R: the mean and standard deviation of the first block of training rows.
        r: R of ``[1, x, y]`` in these units; empty if it would take too long.
    """

    counts: list[list[int]]
    parts: list[Columns]
    shift: list[float]
    unit: list[float]
    r: list[list[float]]

    @classmethod
    def of(cls, table: StreamedTable, parts: Parts) -> "Summary":
        """Reads and checks the whole table."""
        columns, found = len(table.columns), cls([], [Columns(), Columns(), Columns()], [], [], [])
        r = None if work(table.starts[-1], columns) > MOST_WORK else torch.empty(0, columns + 1, dtype=torch.float64)
        for block in range(len(table.blocks)):
            kept, cells = table.read(block)
            table.check(block, cells)
            part = parts(table.starts[block], len(kept))[kept]
            split = [cells.filter(part == which).to_numpy() for which in range(3)]
            found.counts.append([len(rows) for rows in split])
            for column, rows in zip(found.parts, split, strict=True):
                if len(rows):
                    column.add(rows)
            train = split[0]
            if not found.shift and len(train):
                first = found.parts[0]
                found.shift, found.unit = first.mean, [first.scale_about(j, m) for j, m in enumerate(first.mean)]
            if r is not None and len(train):
                a = torch.ones(len(train), columns + 1, dtype=torch.float64)
                a[:, 1:] = torch.from_numpy((train - found.shift) / found.unit)
                with threads_as_here():
                    torch.set_num_threads(1)  # a second thread would only wait for the first
                    several = [torch.linalg.qr(rows, mode="r").R for rows in torch.split(a, CACHED)]
                    r = torch.linalg.qr(torch.cat([r, *several]), mode="r").R
        found.r = [] if r is None else r.tolist()
        return found

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> "Summary":
        found: Summary = check(cls, state, "the checkpoint's summary of the data")
        return found

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def standardization(self, center: bool) -> Standardization:
        """Computes ``Standardization.fit`` of the training rows."""
        train = self.parts[0]
        means = train.mean if center else [0.0] * len(train.mean)
        scales = [train.scale_about(column, mean) for column, mean in enumerate(means)]
        return Standardization(means[:-1], scales[:-1], means[-1], scales[-1])

    def r_factor(self, units: Standardization, bias: bool) -> torch.Tensor | None:
        """``regression.optimum.r_factor`` of the training rows in ``units``; ``None`` if it is unknown or inexact.

        ``[x, 1, y]`` in ``units`` is ``[1, x, y]`` in the units of ``r`` times a matrix M: the result is R of ``r M``.
        """
        mean, scale = np.array([*units.x_mean, units.y_mean]), np.array([*units.x_scale, units.y_scale])
        shift, unit, train = np.array(self.shift), np.array(self.unit), self.parts[0]
        deviation = np.sqrt(np.array(train.squares) / train.rows)
        far = np.abs(np.array(train.mean) - shift) > FAR * deviation
        if not self.r or (far & (deviation > 0)).any():
            return None
        m = np.diag([1.0, *(unit / scale)])
        m[0, 1:] = (shift - mean) / scale
        order = [*range(1, len(mean)), *([0] if bias else []), len(mean)]
        r: torch.Tensor = torch.tensor(self.r, dtype=torch.float64) @ torch.from_numpy(m[:, order])
        found: torch.Tensor = torch.linalg.qr(r, mode="r").R
        return found
