"""The LightningDataModule."""

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from zlib import crc32

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from descent.batches.in_memory import Batch, InMemoryBatches
from descent.config.schema import BatchConfig, DataConfig
from descent.errors import UserError
from regression.data.sources import load
from regression.data.split import split
from regression.data.standardization import Standardization
from regression.data.table import Array
from regression.optimum import MOST_WORK, Optimum, least_squares, triangle, work

log = logging.getLogger(__name__)

EVALUATION_BATCH = 2**16  # rows; bounds the memory of validation and test


@dataclass(frozen=True)
class Part:
    """The rows of one split in the units of training, float64, on the CPU."""

    x: Array  # (rows, features)
    y: Array  # (rows,)

    def __len__(self) -> int:
        return len(self.y)


class RegressionData(LightningDataModule):
    """Rows from any source, split, standardised, and served as batches from memory.

    Args:
        data: the source, the split and whether to standardise.
        batch: size and shuffling of the training batches.
        seed: of the order of batches.
        bias: whether the model has one: only then may standardisation subtract means.

    Attributes:
        checksum: of the rows in their own units and of the split.
    """

    train: Part
    val: Part
    test: Part

    def __init__(self, data: DataConfig, batch: BatchConfig, seed: int = 0, bias: bool = True) -> None:
        super().__init__()
        self.batch, self.seed, self.bias = batch, seed, bias
        rows = load(data)
        self.rows = replace(rows, inputs=rows.inputs[:0].copy(), targets=rows.targets[:0].copy())  # the parts have them
        parts = split(data, len(rows.targets))
        train, val, test = (
            (rows.inputs[chosen], rows.targets[chosen]) for chosen in (parts.train, parts.val, parts.test)
        )
        self.checksum = crc32(repr([len(part[1]) for part in (train, val, test)]).encode())
        for array in (*train, *val, *test):
            self.checksum = crc32(np.ascontiguousarray(array).data, self.checksum)
        del rows  # a large table is in memory only once more, and in training precision
        self.standardization = (
            Standardization.fit(*train, bias) if data.standardize else Standardization.identity(self.num_features)
        )
        units = self.standardization
        self.train, self.val, self.test = (
            Part(units.inputs(x, out=x), units.targets(y, out=y)) for x, y in (train, val, test)
        )

    @property
    def num_features(self) -> int:
        return len(self.rows.feature_names)

    @property
    def batches_per_epoch(self) -> int:
        return len(range(0, len(self.train), self.batch.size or len(self.train)))

    @cached_property
    def triangle(self) -> Tensor | None:
        """Of the training rows, see ``regression.optimum.triangle``; ``None`` where it would take too long."""
        rows, features = self.train.x.shape
        if work(rows, features) > MOST_WORK:
            log.warning(
                "note: the least-squares solution of %d rows and %d features would take minutes, and is left out",
                *(rows, features),
            )
            return None
        return triangle(torch.from_numpy(self.train.x), torch.from_numpy(self.train.y), self.bias)

    @cached_property
    def optimum(self) -> Optimum | None:
        """Of the training rows, in the units of training."""
        return None if self.triangle is None else least_squares(self.triangle, len(self.train), self.bias)

    def state_dict(self) -> dict[str, int]:
        """So that a run is resumed on the data it began with."""
        return {"checksum": self.checksum}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        if state_dict != self.state_dict():
            raise UserError("data must be what the run began with to be resumed: its rows have changed")

    def train_dataloader(self) -> InMemoryBatches:
        return InMemoryBatches(*self._tensors(self.train), self.batch.size, self.batch.shuffle, self.seed)

    def val_dataloader(self) -> InMemoryBatches | list[Batch]:
        return self._evaluation_batches(self.val)

    def test_dataloader(self) -> InMemoryBatches | list[Batch]:
        return self._evaluation_batches(self.test)

    def _evaluation_batches(self, part: Part) -> InMemoryBatches | list[Batch]:
        return InMemoryBatches(*self._tensors(part), EVALUATION_BATCH) if len(part) else []

    def _tensors(self, part: Part) -> tuple[Tensor, Tensor]:
        """The rows in the model's precision, moved to its device once and not batch by batch."""
        assert self.trainer is not None
        like = next(self.trainer.lightning_module.parameters())
        return torch.from_numpy(part.x).to(like), torch.from_numpy(part.y).to(like)
