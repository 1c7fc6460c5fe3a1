"""Images of handwritten digits, 8 by 8, with random shifts and noise in training."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import torch
from lightning.pytorch import LightningDataModule
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split


class Augmented(Dataset[Any]):
    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        image, label = self.rows[index]
        shift = int(torch.randint(-1, 2, ()))
        return image.roll(shift, dims=-1) + 0.1 * torch.randn_like(image), label


class DigitsData(LightningDataModule):
    def __init__(self, batch_size: int | None = 32, num_workers: int = 2, num_rows: int = 300) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)

    def setup(self, stage: str) -> None:
        pixels, labels = load_digits(return_X_y=True)
        images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
        rows = TensorDataset(images, torch.tensor(labels))
        count = self.hparams["num_rows"]
        sizes = [count, 150, 150, len(rows) - count - 300]
        self.train, self.val, self.test, _ = random_split(rows, sizes, torch.Generator().manual_seed(0))

    def train_dataloader(self) -> Any:
        size, workers = self.hparams["batch_size"], self.hparams["num_workers"]
        return DataLoader(Augmented(self.train), batch_size=size, shuffle=True, num_workers=workers)

    def val_dataloader(self) -> Any:
        return DataLoader(self.val, batch_size=100)

    def test_dataloader(self) -> Any:
        return DataLoader(self.test, batch_size=100)

    def file_batches(self, path: Path) -> Iterator[Tensor]:
        """Images of a CSV with one image a row, and a column for each of the 64 pixels."""
        for frame in pl.scan_csv(path).collect().iter_slices(100):
            yield torch.tensor(frame.to_numpy(), dtype=torch.float32).reshape(-1, 1, 8, 8) / 16

    def write_predictions(self, path: Path, predictions: Iterable[Tensor], output: Path) -> None:
        """Writes a CSV with the column ``digit``."""
        pl.DataFrame({"digit": torch.cat(list(predictions)).numpy()}).write_csv(output)
