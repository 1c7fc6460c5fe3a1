"""Defines the data. Replace the rows that `setup` makes with your own."""

from zlib import crc32

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, random_split

Rows = DataLoader[tuple[Tensor, ...]]


class Data(LightningDataModule):
    """Batches of inputs (batch, 5) and targets (batch, 1).

    Args:
        batch_size: rows per training batch; None: all rows (batch=full).
        shuffle: whether to shuffle the training rows each epoch.
        num_rows: rows in total, for training, validation and test.
    """

    def __init__(self, batch_size: int | None, shuffle: bool, num_rows: int) -> None:
        super().__init__()
        self.batch_size, self.shuffle, self.num_rows = batch_size, shuffle, num_rows

    def setup(self, stage: str) -> None:
        fixed = torch.Generator().manual_seed(0)  # not the run's seed: all runs get the same rows
        inputs = torch.randn(self.num_rows, 5, generator=fixed)
        rows = TensorDataset(inputs, inputs.sum(dim=1, keepdim=True).sin())
        self.checksum = crc32(b"".join(tensor.numpy().tobytes() for tensor in rows.tensors))  # detects changed data
        self.train, self.val, self.test = random_split(rows, [0.8, 0.1, 0.1], fixed)

    def train_dataloader(self) -> Rows:
        return DataLoader(self.train, self.batch_size or len(self.train), shuffle=self.shuffle)

    def val_dataloader(self) -> Rows:
        return DataLoader(self.val, 100)

    def test_dataloader(self) -> Rows:
        return DataLoader(self.test, 100)
