"""Sequences of different lengths and their means; collate functions pad them, and crop them at random in training."""

import random
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

Row = tuple[Tensor, Tensor]


def rows(count: int, seed: int) -> list[Row]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (count,), generator=generator).tolist()
    sequences = [torch.rand(length, generator=generator) for length in lengths]
    return [(sequence, sequence.mean()) for sequence in sequences]


def padded(batch: list[Row]) -> dict[str, Tensor]:
    sequences = [sequence for sequence, _ in batch]
    return {
        "targets": torch.stack([target for _, target in batch]),
        "sequences": pad_sequence(sequences, batch_first=True),
        "lengths": torch.tensor([len(sequence) for sequence in sequences]),
    }


def cropped(batch: list[Row]) -> dict[str, Tensor]:
    """Crops each sequence at random, for training."""
    return padded([(sequence[: random.randint(2, len(sequence))], target) for sequence, target in batch])


class LengthsData(LightningDataModule):
    def __init__(self, batch_size: int = 20) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        self.train, self.val, self.test = rows(130, 0), rows(50, 1), rows(50, 2)

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, self.batch_size, shuffle=True, collate_fn=cropped)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return DataLoader(self.val, self.batch_size, collate_fn=padded)  # type: ignore[arg-type]

    def test_dataloader(self) -> Any:
        return DataLoader(self.test, self.batch_size, collate_fn=padded)  # type: ignore[arg-type]
