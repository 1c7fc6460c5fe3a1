"""Reads a table block by block, so that it need not fit into memory."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from zlib import crc32

import numpy as np
import polars as pl
from numpy.typing import NDArray

from descent.batches.parquet import FEWEST, Slice, files_at, read_slice, scan_parquet, slices
from descent.errors import UserError, invalid
from regression.data.cells import as_numbers, bad_cell, is_numeric, missing_cells, missing_error, usable
from regression.data.csv_blocks import Lines, lines_of
from regression.data.encoding import Feature, Missing
from regression.data.files import SUFFIXES, readable, scan
from regression.data.table import check_known, text_columns

log = logging.getLogger(__name__)

KEY = "data.path"
CURE = "data.missing=drop leaves out those rows"
PIECE = 2**24  # bytes


class StreamedTable:
    """The rows of CSV or Parquet files, in blocks.

    A column of text counts as numeric if at least half of its cells in the first block are numbers. Cells that are not
    are then errors.

    Args:
        path: of a file, a directory or a pattern.
        target, features, exclude, missing: see ``read_table``.

    Attributes:
        blocks: the lines or row groups that are read together.
        starts: the row number at which each block starts, and the total.

    Raises:
        UserError: a file cannot be read, a column is missing or not numeric.
    """

    def __init__(
        self, path: Path, target: str, features: Sequence[str] | None, exclude: Sequence[str], missing: Missing
    ) -> None:
        self.target, self.missing = target, missing
        self.files = files_at(str(path), KEY, SUFFIXES)
        with readable(KEY, self.files[0]):
            schema = scan(self.files[0], KEY).collect_schema()
        if target not in schema:
            raise invalid("data.target", f"a column of {self.files[0]} ({', '.join(schema)})", target)
        check_known(exclude, list(schema), self.files[0])
        self.blocks = self._blocks(len(features or schema) + 1)
        if not self.blocks:
            raise UserError(f"{KEY} must be a file with rows of data, got none in {path}")
        self.starts = [0, *accumulate(block.rows for block in self.blocks)]
        others = [name for name in schema if name != target and name not in exclude]
        self.features = [Feature(name) for name in features or self._numeric(others, schema)]
        self.columns = [*self.features, Feature(target)]
        if features is None:
            left_out = [name for name in others if Feature(name) not in self.features]
            if left_out:
                log.warning("note: non-numeric columns are left out: %s", ", ".join(left_out))
        if not self.features:
            raise UserError(f"data.features: {path} has no numeric column besides the target '{target}'")
        for file in self.files[1:]:
            with readable(KEY, file):
                as_numbers(scan(file, KEY), self.columns, file)

    def read(self, block: int) -> tuple[NDArray[np.bool_], pl.DataFrame]:
        """A mask of the block's rows that are kept, and the numbers of these rows, with the target last.

        Raises:
            UserError: a cell is missing, or a file has changed.
        """
        part = self.blocks[block]
        with readable(KEY, part.file):
            if isinstance(part, Lines):
                lines = part.read()
                is_row = ~lines.select(pl.all_horizontal(pl.all().is_null())).to_series()
                frame, kept = lines.lazy().filter(is_row), is_row.to_numpy(writable=True)
                numbers = frame.select(as_numbers(frame, self.columns, part.file)).collect()
            else:
                frame, kept = scan_parquet(part.file), np.ones(part.rows, dtype=np.bool_)
                numbers = read_slice(part, frame.select(as_numbers(frame, self.columns, part.file)))
            if any(numbers.null_count().row(0)):
                if self.missing == "error":
                    counts = missing_cells(scan(part.file, KEY), self.columns)
                    raise missing_error(part.file, counts, CURE)
                there = numbers.select(pl.all_horizontal(pl.all().is_not_null())).to_series()
                numbers = numbers.filter(there)
                kept[kept] = there.to_numpy()
        return kept, numbers

    def check(self, block: int, numbers: pl.DataFrame) -> None:
        """Raises an error if a cell of the block cannot be used."""
        if usable(numbers):
            return
        file = self.blocks[block].file
        with readable(KEY, file):
            error = bad_cell(scan(file, KEY), self.columns, file)
        raise error or UserError(f"{KEY} must not change while it is read: {file}")

    def checksum(self) -> int:
        """The checksum of all bytes of the files, in the order of their names; takes a second per gigabyte."""
        found = 0
        for file in self.files:
            about = file.stat()
            found = _checksum(file, found, (about.st_ino, about.st_size, about.st_mtime_ns))
        return found

    def _blocks(self, columns: int) -> list[Slice] | list[Lines]:
        if self.files[0].suffix.lower() == ".parquet":
            return [*slices(self.files, columns)]
        return [lines for file in self.files for lines in lines_of(file, max(1, FEWEST // columns))]

    def _numeric(self, names: Sequence[str], schema: pl.Schema) -> list[str]:
        """The columns that are numeric in the first block."""
        first = self.blocks[0]
        given = [name for name in names if is_numeric(schema[name]) or schema[name] == pl.String]
        with readable(KEY, first.file):
            frame = first.read().lazy() if isinstance(first, Lines) else scan_parquet(first.file).head(first.rows)
            numbers = frame.select(as_numbers(frame, [Feature(name) for name in given], first.file)).collect()
            found = text_columns(frame, numbers, given)
        return [name for name in given if name not in found]


@lru_cache(10_000)
def _checksum(path: Path, before: int, about: tuple[int, ...]) -> int:
    """Adds a file to the checksum ``before``. Cached: the jobs of a sweep read a file once, unless it changes."""
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            before = crc32(piece, before)
    return before
