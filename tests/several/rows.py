"""Rows from a DataLoader, and a model that logs everything that a step may log."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics import MeanAbsoluteError, SumMetric


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(torch.randn(10, 3, dtype=torch.float64))


class LoaderData(LightningDataModule):
    """Training rows, shuffled by a DataLoader with ``workers``; 11 validation rows in batches of 5, 5 and 1."""

    def __init__(self, rows: int = 33, batch_size: int = 8, workers: int = 0, streams: bool = False) -> None:
        super().__init__()
        self.rows, self.batch_size, self.workers, self.streams = rows, batch_size, workers, streams

    def setup(self, stage: str) -> None:
        x = torch.randn(self.rows + 11, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        y = x.sin().sum(dim=1)
        self.train, self.val = TensorDataset(x[:-11], y[:-11]), TensorDataset(x[-11:], y[-11:])

    def train_dataloader(self) -> Any:
        if self.streams:
            return DataLoader(Stream(), 4)
        return DataLoader(self.train, self.batch_size, shuffle=True, num_workers=self.workers)

    def val_dataloader(self) -> Any:
        return DataLoader(self.val, 5)

    test_dataloader = val_dataloader


class Network(LightningModule):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))
        self.mae, self.val_mae, self.seen = MeanAbsoluteError(), MeanAbsoluteError(), SumMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.layers(x).squeeze(-1), y)
        self.mae(self.layers(x).squeeze(-1), y)
        self.log("train/mae", self.mae, on_step=False, on_epoch=True)
        self.log("train/mse", loss, on_step=True, on_epoch=True)
        self.log("train/largest", y.max(), on_step=False, on_epoch=True, reduce_fx="max")
        self.log("train/total", y.sum(), on_step=False, on_epoch=True, reduce_fx="sum")
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val/loss", nn.functional.mse_loss(self.layers(x).squeeze(-1), y))
        self.val_mae(self.layers(x).squeeze(-1), y)
        self.seen(len(y))
        self.log_dict({"val/mae": self.val_mae, "val/rows": self.seen})

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/loss", nn.functional.mse_loss(self.layers(batch[0]).squeeze(-1), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)
