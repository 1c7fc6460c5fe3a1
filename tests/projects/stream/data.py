"""Rows that are generated one by one; their number is not known in advance."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset


class Rows(IterableDataset[Any]):
    """``count`` rows, of which about a tenth is left out at random."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.count):
            x = torch.randn(3)
            if np.random.rand() < 0.9:
                yield x, x.prod()


class StreamData(LightningDataModule):
    def __init__(self, batch_size: int | None = 16) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        return DataLoader(Rows(120), self.batch_size)

    def val_dataloader(self) -> Any:
        return DataLoader(Rows(60), self.batch_size)

    def test_dataloader(self) -> Any:
        return DataLoader(Rows(60), self.batch_size)
