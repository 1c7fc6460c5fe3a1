"""A small network, with noise on its inputs."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from descent.training.build import build_optimizer


class Net(LightningModule):
    def __init__(self, optimizer: dict[str, Any], width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.layers = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.l1_loss(self.layers(x + 0.1 * torch.randn_like(x)).squeeze(-1), y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/l1", self.loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/l1", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return build_optimizer(self.hparams["optimizer"], self.parameters())
