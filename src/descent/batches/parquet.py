"""Reads Parquet files as blocks of rows, with columns as tensors."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import polars.selectors as cs
import torch
from torch import Tensor

from descent.batches.row_groups import row_groups
from descent.batches.rows import Batch
from descent.errors import UserError, invalid

FEWEST, MOST = 2**17, 2**24  # numbers in a block: fewer cost more time per row; the most take 128 MB


@dataclass(frozen=True)
class Slice:
    """Rows of a file that are read together: whole row groups, or a part of a large one."""

    file: Path
    first: int
    rows: int


class ParquetBlocks:
    """The rows of Parquet files, for ``StreamedBatches``.

    A block is a row group, several small adjacent ones, or a part of one with more than 16 million numbers.

    Args:
        path: a file, a directory of ``.parquet`` files, or a ``glob`` pattern. Several files are read in the order of
            their names.
        columns: for each tensor of a batch, a column or a list of columns side by side: ``[["a", "b"], "y"]``. A
            column of arrays needs its own tensor.
        dtype: of floating-point columns; integers become ``int64``, and ``bool`` stays ``bool``.

    Raises:
        UserError: a file or column does not exist or cannot be read; or, when a block is read, a cell is missing.
    """

    def __init__(
        self, path: str | Path, columns: Sequence[str | Sequence[str]], dtype: torch.dtype = torch.float32
    ) -> None:
        self.columns = [[entry] if isinstance(entry, str) else [*entry] for entry in columns]
        self.single = [isinstance(entry, str) for entry in columns]
        self.dtype, names = dtype, {name for entry in self.columns for name in entry}
        files = files_at(str(path), "path", (".parquet",))
        for file in files:
            if missing := sorted(names - {*scan_parquet(file).collect_schema()}):
                raise UserError(f"{file} must have the columns {', '.join(sorted(names))}; it has no {missing[0]}")
        self.slices = [*slices(files, len(names))]
        self.rows = [part.rows for part in self.slices]

    def read(self, block: int) -> Batch:
        """The rows of a block, as one tensor for each entry of ``columns``."""
        part = self.slices[block]
        names = dict.fromkeys(name for entry in self.columns for name in entry)
        frame = read_slice(part, scan_parquet(part.file).select(cs.by_name(*names, require_all=True)))
        for name, missing in frame.null_count().row(0, named=True).items():
            if missing:
                where = f"rows {part.first + 1:,} to {part.first + part.rows:,}"
                raise UserError(f"column {name} of {part.file} must have no missing cell, got {missing} in {where}")
        return tuple(self._tensor(frame, *pair) for pair in zip(self.columns, self.single, strict=True))

    def _tensor(self, frame: pl.DataFrame, names: Sequence[str], is_single: bool) -> Tensor:
        cells = [frame[name].to_numpy(writable=True) for name in names]
        for name, cell in zip(names, cells, strict=True):
            if cell.dtype == object or cell.dtype.kind not in "fiub":
                raise invalid(f"column {name}", "numbers or numeric arrays of one length", str(frame[name].dtype))
        numbers = cells[0] if is_single else np.column_stack(cells)
        if numbers.dtype.kind in "iu":
            return torch.from_numpy(numbers.astype(np.int64))
        tensor = torch.from_numpy(numbers)
        return tensor if tensor.dtype == torch.bool else tensor.to(self.dtype)


def files_at(path: str, key: str, suffixes: Sequence[str]) -> list[Path]:
    """The file, or the files of a directory or pattern, sorted by name.

    Raises:
        UserError: there are none, or they have other or different suffixes; the message begins with ``key``.
    """
    given, rule = Path(path), f"an existing file, a directory or a pattern of {' or '.join(suffixes)} files"
    if given.is_dir():
        found = [file for file in given.iterdir() if file.suffix.lower() in suffixes]
    elif given.exists() or not glob.has_magic(path):
        found = [given] if given.is_file() else []
    else:
        found = [file for file in map(Path, glob.glob(path, recursive=True)) if file.is_file()]  # noqa: PTH207  # a pattern may be absolute
    kinds = {file.suffix.lower() for file in found}
    if not found or not kinds <= {*suffixes}:
        raise invalid(key, rule, path)
    if len(kinds) > 1:
        raise invalid(key, f"{rule}, all of one kind", path)
    return sorted(found)


def slices(files: Iterable[Path], columns: int) -> Iterator[Slice]:
    """Splits files into blocks, given the number of ``columns`` to read.

    Raises:
        UserError: a file cannot be read.
    """
    fewest, most = max(1, FEWEST // columns), max(1, MOST // columns)
    for file in files:
        try:
            groups = row_groups(file)
        except (OSError, ValueError) as error:
            raise UserError(f"{file} must be a Parquet file that can be read: {error}") from error
        first = rows = 0
        for group in [*groups, 0]:
            rows += group
            if rows >= fewest or not group:
                parts = max(1, -(-rows // most))
                ends = [first + rows * (part + 1) // parts for part in range(parts)]
                for begin, end in zip([first, *ends], ends, strict=False):
                    if end > begin:
                        yield Slice(file, begin, end - begin)
                first, rows = first + rows, 0


def scan_parquet(file: Path) -> pl.LazyFrame:
    """Scans exactly this file, without interpreting its path."""
    # absolute, because polars expands a leading ~ to the home directory
    return pl.scan_parquet(file.absolute(), glob=False, hive_partitioning=False)


def read_slice(part: Slice, frame: pl.LazyFrame) -> pl.DataFrame:
    """Reads the rows of a block from a lazy frame of its file.

    Raises:
        UserError: the file cannot be read, or now has fewer rows.
    """
    try:
        found = frame.slice(part.first, part.rows).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise UserError(f"{part.file} must be a Parquet file that can be read: {str(error).splitlines()[0]}") from error
    if found.height != part.rows:
        raise UserError(f"{part.file} must not change while it is read")
    return found
