"""Defines the LightningDataModule that splits, standardises and batches the rows of a source."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from zlib import crc32

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from descent.batches.in_memory import InMemoryBatches
from descent.batches.rows import RowBatches
from descent.config.types import BelowOne, OrNull, PositiveInteger, Seed
from descent.errors import UserError, invalid
from descent.run.load import CheckpointName
from regression.data.encoding import Encoding, column_names
from regression.data.part import AnyPart, Part
from regression.data.rows import LARGEST, Rows
from regression.data.split import split
from regression.data.standardization import Standardization
from regression.optimum import MOST_WORK, Optimum, least_squares, r_factor, work

log = logging.getLogger(__name__)

EVALUATION_BATCH = 2**16  # rows; limits the memory that validation and test need


class RegressionData(LightningDataModule):
    """Rows of a source, split, standardised, and served in batches from memory. Subclasses define ``load``.

    Args:
        val_fraction: the fraction of all rows for validation; 0: no validation, and the training loss is monitored.
        test_fraction: the fraction of all rows for the test.
        standardize: whether training sees features and target with mean 0 and standard deviation 1.
        seed: of the split and of synthetic data.
        max_rows: use only this many rows, from the first on; ``None``: all.
        batch_size: of the training batches; ``None``: all rows.
        shuffle: whether each epoch has a new order.
        bias: whether the model has a bias: only then may standardisation subtract means.

    Attributes:
        checksum: of the rows in their own units and of the split.
    """

    rows: Rows  # only the names; the parts hold the numbers
    checksum: int
    standardization: Standardization
    train: AnyPart
    val: AnyPart
    test: AnyPart

    def __init__(
        self,
        val_fraction: BelowOne,
        test_fraction: BelowOne,
        standardize: bool,
        seed: Seed,
        max_rows: Annotated[PositiveInteger | None, OrNull("all of them")] = None,
        batch_size: Annotated[PositiveInteger | None, OrNull("the whole training set")] = 32,
        shuffle: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.val_fraction, self.test_fraction, self.seed = val_fraction, test_fraction, seed
        self.standardize, self.max_rows, self.bias = standardize, max_rows, bias
        self.batch_size, self.shuffle = batch_size, shuffle
        self.solved: dict[int, tuple[Tensor, Optimum] | None] = {}  # least squares, by degree
        self.saved: dict[str, Any] = {}  # the state of the run that evaluates a file

    def load(self) -> Rows:
        """All rows of the source."""
        raise NotImplementedError

    def encoded(self, parts: list[Part]) -> list[Part]:
        """The parts, encoded by what the training rows (the first part) contain; by default unchanged."""
        return parts

    def usable_rows(self) -> Rows:
        """The first ``max_rows`` rows.

        Raises:
            UserError: a table cannot be used, or a number is too large to be squared.
        """
        try:
            found = self.load()
        except MemoryError:
            raise UserError("data must fit into the memory of this machine; they do not") from None
        for name, cells in [*zip(found.feature_names, found.inputs.T, strict=True), (found.target_name, found.targets)]:
            larger = np.fmax if found.missing else np.maximum  # fmax ignores nan
            largest = float(larger.reduce(np.abs(cells), initial=0))
            if not largest <= LARGEST:  # also true for nan
                raise invalid(
                    f"column {name}", f"numbers up to {LARGEST:g} (squares of larger numbers may overflow)", largest
                )
        return replace(found, inputs=found.inputs[: self.max_rows], targets=found.targets[: self.max_rows])

    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "checksum"):
            return
        rows = self.usable_rows()
        chosen = split(len(rows.targets), self.val_fraction, self.test_fraction, self.seed)
        parts = [Part(rows.inputs[part], rows.targets[part]) for part in chosen]
        self.rows = replace(rows, inputs=rows.inputs[:0].copy(), targets=rows.targets[:0].copy())
        del rows  # so that a large table is in memory only once more
        checksum = crc32(repr([len(part) for part in parts]).encode())
        for part in parts:
            checksum = crc32(np.ascontiguousarray(part.y).data, crc32(np.ascontiguousarray(part.x).data, checksum))
        self.train, self.val, self.test = parts = self.encoded(parts)
        if self.standardize:
            self.standardization = Standardization.fit(parts[0].x, parts[0].y, self.bias)
        else:
            self.standardization = Standardization.identity(len(self.rows.feature_names))
        for part in parts:
            self.standardization.inputs(part.x, out=part.x)
            self.standardization.targets(part.y, out=part.y)
        self.hide_loaders_without_rows()
        self.checksum = checksum
        if self.batch_size is not None and self.batch_size > len(self.train):
            log.warning(
                "note: batch.size=%d is more than the %d training rows: each batch has all rows",
                *(self.batch_size, len(self.train)),
            )

    def hide_loaders_without_rows(self) -> None:
        """Makes Lightning skip validation, or the test, if it has no rows."""
        for name in ("val", "test"):
            if not len(getattr(self, name)):
                setattr(self, f"{name}_dataloader", getattr(super(), f"{name}_dataloader"))

    def least_squares(self, degree: int = 1) -> tuple[Tensor, Optimum] | None:
        """R and the optimum of the training rows, in training units; ``None`` if they would take too long.

        Args:
            degree: the highest power of the features in the model, see ``regression.optimum.r_factor``.
        """
        if degree not in self.solved:
            self.solved[degree] = self._least_squares(degree)
        return self.solved[degree]

    def _least_squares(self, degree: int) -> tuple[Tensor, Optimum] | None:
        rows, terms = len(self.train), len(self.rows.feature_names) * degree
        if work(rows, terms) > MOST_WORK:
            log.warning(
                "note: the least-squares solution of %d rows and %d %s would take minutes and is not computed",
                *(rows, terms, "features" if degree == 1 else "powers of features"),
            )
            return None
        r = self.r_factor(degree)
        return r, least_squares(r, rows, self.bias)

    def r_factor(self, degree: int) -> Tensor:
        """See ``regression.optimum.r_factor``."""
        r: Tensor | None = None
        for part in self.train.blocks():
            r = r_factor(torch.from_numpy(part.x), torch.from_numpy(part.y), self.bias, degree, r)
        assert r is not None
        return r

    def state_dict(self) -> dict[str, Any]:
        """Holds what identifies the data, so that a run resumes only on the data it began with."""
        return {"checksum": self.checksum, "columns": [*self.rows.feature_names, self.rows.target_name]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not hasattr(self, "checksum"):
            self.saved = state_dict  # the rows come from a file
            return
        own = self.state_dict()
        if any(own.get(key) != state_dict[key] for key in ("checksum", "columns") if key in state_dict):
            raise UserError(
                "data must be the same as at the start of the run to resume it: its rows or columns have changed"
            )

    def batches(self, part: Any, size: int | None, shuffle: bool = False) -> RowBatches:
        """Batches in the model's precision; all rows are moved to its device at once."""
        like = self.like()
        return InMemoryBatches(*(torch.from_numpy(a).to(like) for a in (part.x, part.y)), size=size, shuffle=shuffle)

    def like(self) -> Tensor:
        """A tensor that has the device and precision of the model."""
        assert self.trainer is not None
        return next(self.trainer.lightning_module.parameters())

    def train_dataloader(self) -> RowBatches:
        return self.batches(self.train, self.batch_size, self.shuffle)

    def val_dataloader(self) -> RowBatches:
        return self.batches(self.val, EVALUATION_BATCH)

    def test_dataloader(self) -> RowBatches:
        return self.batches(self.test, EVALUATION_BATCH)

    def file_dataloader(self, path: Path, model: Any, result: Mapping[str, Any]) -> InMemoryBatches:
        """The rows of a table with the run's columns, in the units in which ``model`` was trained."""
        from regression.data.table import read_rows  # only tables need polars, which takes 0.3 s to import

        state = self.state_dict() if hasattr(self, "checksum") else self.saved
        _, target = column_names(result)
        inputs, targets = read_rows(path, "--data", Encoding.of_run(result, state), target)
        if len(targets) < 2:
            raise UserError(f"--data must be a file with at least 2 rows, got {len(targets)} in {path}")
        like, units = next(model.parameters()), model.units
        with np.errstate(all="ignore"):  # a metric that is not finite is reported later
            part = units.inputs(inputs), units.targets(targets)
        return InMemoryBatches(*(torch.from_numpy(array).to(like) for array in part), size=EVALUATION_BATCH)

    def predict_file(self, run_dir: Path, source: Path, output: Path, checkpoint: CheckpointName) -> None:
        """Writes the rows of a table with a column ``prediction``, see ``regression.predict``."""
        from regression.predict import predict_file  # here, because the import is circular

        predict_file(run_dir, source, output, checkpoint)
