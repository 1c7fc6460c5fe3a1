"""The data. Put your own in place of those that `setup` makes."""

from zlib import crc32

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, random_split

Rows = DataLoader[tuple[Tensor, ...]]


class Data(LightningDataModule):
    """Inputs (batch, 5) and targets (batch, 1).

    Args:
        batch_size: of training; null, with batch=full, is all rows.
        shuffle: the training rows, anew each epoch.
        num_rows: in all.
    """

    def __init__(self, batch_size: int | None, shuffle: bool, num_rows: int) -> None:
        super().__init__()
        self.batch_size, self.shuffle, self.num_rows = batch_size, shuffle, num_rows

    def setup(self, stage: str) -> None:
        fixed = torch.Generator().manual_seed(0)  # not the run's seed: runs of all seeds have the same rows
        inputs = torch.randn(self.num_rows, 5, generator=fixed)
        rows = TensorDataset(inputs, inputs.sum(dim=1, keepdim=True).sin())
        self.checksum = crc32(b"".join(tensor.numpy().tobytes() for tensor in rows.tensors))  # tells other data apart
        self.train, self.val, self.test = random_split(rows, [0.8, 0.1, 0.1], fixed)

    def train_dataloader(self) -> Rows:
        return DataLoader(self.train, self.batch_size or len(self.train), shuffle=self.shuffle)

    def val_dataloader(self) -> Rows:
        return DataLoader(self.val, 100)

    def test_dataloader(self) -> Rows:
        return DataLoader(self.test, 100)
