"""Finds where the rows of a CSV file begin, so that blocks of rows can be read alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl

from descent.errors import UserError
from regression.data.files import first_line

PIECE = 2**24  # bytes scanned at a time
NEWLINE, QUOTE = ord("\n"), ord('"')


@dataclass(frozen=True)
class Lines:
    """Lines of a CSV file that are read together. A line break within quotes does not end a line.

    Attributes:
        header: the number of bytes before the file's first row.
        first: the first byte of the lines; ``end``: the byte after the last.
        rows: the number of lines, including blank ones.
    """

    file: Path
    header: int
    first: int
    end: int
    rows: int

    def read(self) -> pl.DataFrame:
        """All cells as text; the cells of blank lines are null.

        Raises:
            UserError: polars finds another number of lines.
        """
        with self.file.open("rb") as file:
            header = file.read(self.header)
            file.seek(self.first)
            part = header + file.read(self.end - self.first)
        try:
            frame = pl.read_csv(BytesIO(part), infer_schema=False)
            reason = f"{frame.height} lines and not {self.rows}"
        except pl.exceptions.PolarsError as error:
            frame, reason = None, first_line(error)
        if frame is None or frame.height != self.rows:
            rule = 'quotes (") in pairs, and only around whole cells, to be read in parts'
            raise UserError(f"{self.file} must have {rule}: bytes {self.first} to {self.end} give {reason}")
        return frame


def lines_of(file: Path, rows: int) -> Iterator[Lines]:
    """All lines of a file, in blocks of ``rows`` lines."""
    header, first, end, count = 0, 0, 0, 0
    for end in _ends(file):
        if not header:
            with file.open("rb") as opened:
                blank = not opened.read(end).strip()
            header, first = (0, 0) if blank else (end, end)
            continue
        count += 1
        if count == rows:
            yield Lines(file, header, first, end, count)
            first, count = end, 0
    if count:
        yield Lines(file, header, first, end, count)


def _ends(file: Path) -> Iterator[int]:
    """The byte after each line."""
    at, inside, end = 0, False, 0
    with file.open("rb") as opened:
        while piece := opened.read(PIECE):
            cells = np.frombuffer(piece, dtype=np.uint8)
            is_end = cells == NEWLINE
            if inside or QUOTE in piece:
                quoted = np.logical_xor.accumulate(cells == QUOTE) ^ inside
                is_end, inside = is_end & ~quoted, bool(quoted[-1])
            for end in (np.flatnonzero(is_end) + at + 1).tolist():
                yield end
            at += len(piece)
    if at > end:
        yield at  # the last line has no newline
