"""A small convolutional network."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassRecall

from descent.training.build import build_optimizer, build_scheduler


class Digits(LightningModule):
    def __init__(
        self,
        optimizer: dict[str, Any],
        scheduler: dict[str, Any] | None = None,
        channels: int = 4,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(16 * channels, 10),
        )
        kinds = {"acc": MulticlassAccuracy(10, average="micro"), "recall": MulticlassRecall(10)}
        self.train_metrics = MetricCollection(kinds, prefix="train/")
        self.val_acc = MulticlassAccuracy(10, average="micro")
        self.test_acc = MulticlassAccuracy(10, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Scores (batch, 10) for images (batch, 1, 8, 8)."""
        scores: Tensor = self.layers(images)
        return scores

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        scores = self(images)
        loss = nn.functional.cross_entropy(scores, labels)
        self.log("train/loss", loss)
        self.train_metrics(scores, labels)
        self.log_dict(self.train_metrics, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        scores = self(images)
        self.log("val/loss", nn.functional.cross_entropy(scores, labels))
        self.val_acc(scores, labels)
        self.log("val/acc", self.val_acc)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        self.test_acc(self(images), labels)
        self.log("test/acc", self.test_acc)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return torch.argmax(self(batch), dim=1)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.hparams["optimizer"], self.parameters())
        if not self.hparams["scheduler"]:
            return optimizer
        return [optimizer], [build_scheduler(self.hparams["scheduler"], optimizer, self.trainer)]
