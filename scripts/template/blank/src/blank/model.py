"""Defines the model. Replace its layers and loss with your own."""

from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from descent.training.build import build_optimizer, build_scheduler


class Model(LightningModule):
    """Two linear layers with `hidden` units between them; `optimizer` and `scheduler` are groups of the config."""

    def __init__(self, hidden: int, optimizer: dict[str, Any], scheduler: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.layers = nn.Sequential(nn.Linear(5, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        predictions: Tensor = self.layers(inputs)
        return predictions

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        return nn.functional.mse_loss(self(inputs), targets)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.training_step(batch, batch_idx))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("test/loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.hparams["optimizer"], self.parameters())
        if not self.hparams["scheduler"]:
            return optimizer
        return [optimizer], [build_scheduler(self.hparams["scheduler"], optimizer, self.trainer)]
