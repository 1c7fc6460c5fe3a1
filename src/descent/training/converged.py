"""Stops training when it has converged."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from descent.errors import UserError
from descent.training.collectives import of_first
from descent.training.step_metrics import dense
from descent.training.training_loss import full_loss, has_full_loss


class Converged(Callback):
    """Stops when the full gradient, or the change of the training loss, is below its tolerance.

    One small change of the loss may be chance or a turning point, so it takes three in consecutive epochs.

    Args:
        gradient_norm: tolerance for the Euclidean norm of the gradient of the loss on all training rows, in training
            units; ``None``: not a criterion.
        loss_change: tolerance for ``|loss - previous| / previous`` between two epochs' ends; ``None``: not a criterion.
    """

    def __init__(self, gradient_norm: float | None, loss_change: float | None) -> None:
        self.gradient_norm, self.loss_change = gradient_norm, loss_change
        self.previous: float | None = None
        self.settled = 0  # consecutive epochs with a small loss change
        self.reason: str | None = None  # why training stopped

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not has_full_loss(trainer):
            raise UserError("stopping=converged needs batches in memory and a module with automatic optimization")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with torch.enable_grad():
            full = full_loss(trainer, pl_module)
            trained = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
            gradient = torch.autograd.grad(full, trained, allow_unused=True)
        norm = torch.cat([dense(g).flatten() for g in gradient if g is not None]).norm().item()
        (norm, loss), previous = of_first((norm, full.item())), self.previous
        self.previous = loss
        if self.gradient_norm is not None and norm < self.gradient_norm:
            self.reason = f"gradient norm {norm:.3g} below {self.gradient_norm:g}"
        elif self.loss_change is not None and previous is not None:
            change = abs(loss - previous) / previous if previous else 0.0
            self.settled = self.settled + 1 if change < self.loss_change else 0
            if self.settled == 3:
                self.reason = f"relative change of the training loss {change:.3g} below {self.loss_change:g}"
        trainer.should_stop = trainer.should_stop or self.reason is not None

    def state_dict(self) -> dict[str, Any]:
        return {"previous": self.previous, "settled": self.settled, "reason": self.reason}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.previous, self.settled, self.reason = (state_dict[name] for name in ("previous", "settled", "reason"))
