"""What has been logged and measured so far, of which Lightning's checkpoints keep nothing."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from descent.training.metric_states import States, metric_states, set_metric_states
from descent.training.sparse_callback import SparseCallback


def results_of(trainer: Trainer) -> Mapping[str, Any]:
    """What ``self.log`` has been given in this epoch, by hook and name; Lightning has no public name for it."""
    return getattr(trainer, "_results", None) or {}


class Logged(SparseCallback):
    """Keeps in checkpoints the latest metrics, what an epoch that is not over has summed up, and torchmetrics' states.

    So a run that is resumed within an epoch logs the same means of it, bit for bit, and one that is resumed at its
    end still knows its metrics.
    """

    def __init__(self) -> None:
        self.is_within = False  # an epoch
        self.sums: dict[str, dict[str, Tensor]] = {}  # of the epoch's batches before the checkpoint
        self.metrics: dict[str, Tensor] = {}
        self.states: States = {}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("logged", {})  # an older version wrote none
        self.metrics, self.sums, self.states = (saved.get(key, {}) for key in ("metrics", "sums", "states"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.callback_metrics.update(self.metrics)
        if self.states:
            set_metric_states(pl_module, self.states)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.is_within = not trainer.is_last_batch
        results = results_of(trainer)
        for key in [key for key in self.sums if key in results]:
            _add(results[key], self.sums.pop(key))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.is_within, self.sums = False, {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if "optimizer_states" not in checkpoint:  # the weights alone
            return
        sums = {key: dict(result.metric_state) for key, result in results_of(trainer).items() if result.meta.on_epoch}
        checkpoint["logged"] = {
            "metrics": dict(trainer.callback_metrics),
            "sums": {**self.sums, **sums} if self.is_within else {},
            "states": metric_states(pl_module),
        }


def _add(result: Any, before: Mapping[str, Tensor]) -> None:
    """Goes on with a sum, or whatever else ``self.log`` was told to reduce by."""
    for key, value in before.items():
        now = getattr(result, key)
        extreme = result.meta.is_max_reduction or result.meta.is_min_reduction
        reduce = result.meta.reduce_fx if extreme else torch.add
        setattr(result, key, reduce(value.to(now.device), now))
