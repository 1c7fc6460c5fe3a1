"""Detects whether training changed any weight."""

from hashlib import sha256
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class UnchangedWeights(Callback):
    """Keeps a digest of the run's first weights, which takes no device memory."""

    first: str | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.first = self.first or _digest(pl_module)

    def is_unchanged(self, pl_module: LightningModule) -> bool:
        """Whether the module's weights still equal the first ones, bit for bit."""
        return self.first == _digest(pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.first = state_dict["first"]


def _digest(module: LightningModule) -> str:
    digest = sha256()
    for weight in module.parameters():
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
