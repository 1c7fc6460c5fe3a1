"""An LSTM that reads sequences of different lengths."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence


class Reader(LightningModule):
    def __init__(self, lr: float = 0.01, width: int = 8) -> None:
        super().__init__()
        self.lr = lr
        self.lstm = nn.LSTM(1, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, sequences: Tensor, lengths: Tensor) -> Tensor:
        """Numbers (batch,) for padded sequences (batch, longest)."""
        packed = pack_padded_sequence(sequences.unsqueeze(-1), lengths, batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        read: Tensor = self.head(last[0]).squeeze(-1)
        return read

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        loss = nn.functional.mse_loss(self(batch["sequences"], batch["lengths"]), batch["targets"])
        size = len(batch["targets"])
        self.log("train/error", loss.sqrt(), on_step=True, on_epoch=True, batch_size=size)
        return {"loss": loss, "size": size}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        error = (self(batch["sequences"], batch["lengths"]) - batch["targets"]).abs().mean()
        self.log("val/mae", error, batch_size=len(batch["targets"]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        error = (self(batch["sequences"], batch["lengths"]) - batch["targets"]).abs().mean()
        self.log("test/mae", error, batch_size=len(batch["targets"]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/mae"}}
