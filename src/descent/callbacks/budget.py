"""Ending training when a budget is spent, be it of samples, gradient evaluations or seconds."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from descent.callbacks.telemetry import gradient_evaluations
from descent.callbacks.watcher import Watcher
from descent.data.batches import Batch


class Budget(Watcher):
    """Ends training after the first step by which a limit is reached.

    Args:
        samples: rows that the steps have seen, repeats counted; ``None``: no such limit.
        evaluations: gradients computed.
        seconds: of training, those before an interruption included.
    """

    def __init__(self, samples: int | None, evaluations: int | None, seconds: float | None) -> None:
        self.limits = {"samples": samples, "gradient evaluations": evaluations, "seconds": seconds}
        self.samples, self.seconds_before = 0, 0.0
        self.reason: str | None = None  # why it stopped, once it has

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.monotonic()

    def on_step(self, trainer: Trainer, step: int, batch: Batch, loss: Tensor) -> bool:
        self.samples += len(batch[1])
        spent = {
            "samples": self.samples,
            "gradient evaluations": gradient_evaluations(trainer),
            "seconds": self._seconds(),
        }
        for unit, limit in self.limits.items():
            if limit is not None and spent[unit] >= limit:
                self.reason = f"its budget of {limit:,} {unit} is spent"
                trainer.should_stop = True
        return False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.on_step(trainer, trainer.global_step, batch, outputs["loss"])

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def state_dict(self) -> dict[str, Any]:
        return {"samples": self.samples, "seconds": self._seconds(), "reason": self.reason}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.samples, self.seconds_before, self.reason = (state_dict[k] for k in ("samples", "seconds", "reason"))
