"""Defines the LightningDataModule for rows that are read block by block."""

from functools import partial
from typing import Any
from zlib import crc32

import numpy as np
from torch import Tensor

from descent.batches.rows import RowBatches
from descent.batches.streamed import CHUNK, StreamedBatches
from descent.config.types import Boolean, PositiveInteger
from descent.errors import UserError, invalid
from regression.data.module import RegressionData
from regression.data.rows import Rows
from regression.data.split import check_fractions, split_by_hash
from regression.data.standardization import Standardization

_summaries: dict[str, Any] = {}  # only the latest one of this process: jobs of a sweep share their data


class StreamableData(RegressionData):
    """``RegressionData`` whose rows may stay in their files. Subclasses also define ``table``.

    The first pass over the files checks every cell and computes means, scales and what least squares needs. A run that
    is resumed or evaluated loads all this from its checkpoint.

    Args:
        streaming: whether the rows stay in their files.
        chunk_rows: the minimum number of rows that are in memory at a time, see ``descent.batches.streamed``.
    """

    def __init__(self, streaming: Boolean = False, chunk_rows: PositiveInteger = CHUNK, **common: Any) -> None:
        super().__init__(**common)
        self.streaming, self.chunk_rows = streaming, chunk_rows
        if streaming and self.batch_size is None:
            raise invalid("batch.size", "a positive integer with data.streaming=true: no step sees all rows", None)
        if streaming and self.max_rows is not None:
            raise invalid("data.max_rows", "null with data.streaming=true, which uses all rows", self.max_rows)

    def table(self) -> Any:
        """A ``regression.data.streamed_table.StreamedTable``; import it here, because polars takes 0.3 s to import."""
        raise NotImplementedError

    def load_state_before_setup(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state of the run that is resumed or evaluated, for ``setup``."""
        self.saved = state_dict

    def setup(self, stage: str | None = None) -> None:
        if not self.streaming:
            super().setup(stage)
        elif not hasattr(self, "checksum"):
            check_fractions(self.val_fraction, self.test_fraction)
            self._set_up()

    def _set_up(self) -> None:
        from regression.data.streamed_part import StreamedPart
        from regression.data.summary import Summary

        settings = self.val_fraction, self.test_fraction, self.seed
        table, split = self.table(), partial(split_by_hash, settings=settings)
        names = tuple(feature.name for feature in table.features)
        checksum = crc32(repr((settings, names, table.target, table.missing)).encode(), table.checksum())
        known = self.saved if self.saved.get("checksum") == checksum else _summaries.get(f"{checksum} {table.files}")
        summary = Summary.of_state(known["summary"]) if known else None
        if summary is None or len(summary.counts) != len(table.blocks):  # from a version with other blocks
            summary = Summary.of(table, split)
        _summaries.clear()
        _summaries[f"{checksum} {table.files}"] = {"summary": summary.state()}
        self._check_sizes([part.rows for part in summary.parts])
        units = summary.standardization(self.bias) if self.standardize else Standardization.identity(len(names))
        self.train, self.val, self.test = (StreamedPart(table, split, summary, units, which) for which in range(3))
        self.rows = Rows(np.empty((0, len(names))), np.empty(0), names, table.target)
        self.summary, self.standardization, self.checksum = summary, units, checksum
        self.hide_loaders_without_rows()

    def _check_sizes(self, sizes: list[int]) -> None:
        fractions = {"val": self.val_fraction, "test": self.test_fraction}
        for (name, fraction), rows in zip(fractions.items(), sizes[1:], strict=True):
            if fraction and rows < 2:
                raise invalid(f"data.{name}_fraction", f"0 or at least 2 of the {sum(sizes)} rows", fraction)
        if not sizes[0]:
            raise UserError(
                f"data.val_fraction and data.test_fraction must leave at least one of {sum(sizes)} rows for training"
            )

    def batches(self, part: Any, size: int | None, shuffle: bool = False) -> RowBatches:
        if not self.streaming:
            return super().batches(part, size, shuffle)
        like, chunk = self.like(), self.chunk_rows
        assert size is not None
        blocks = part.in_precision(like.dtype)
        return StreamedBatches(blocks, size=min(size, len(part)), shuffle=shuffle, chunk=chunk, device=like.device)

    def r_factor(self, degree: int) -> Tensor:
        known = self.summary.r_factor(self.standardization, self.bias) if self.streaming and degree == 1 else None
        return super().r_factor(degree) if known is None else known

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | ({"summary": self.summary.state()} if self.streaming else {})
