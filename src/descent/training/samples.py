"""How many rows training has seen."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from descent.batches.in_memory import InMemoryBatches
from descent.training.budget import batch_size
from descent.training.sparse_callback import SparseCallback


class Samples(SparseCallback):
    """Counts the rows of the batches, repeats included, where they cannot be calculated."""

    def __init__(self) -> None:
        self.samples = 0

    def total(self, trainer: Trainer) -> int:
        """Of the whole run, once it is over."""
        batches = trainer.train_dataloader
        if not isinstance(batches, InMemoryBatches):
            return self.samples
        per_epoch = int(trainer.num_training_batches)  # limit_train_batches may leave some
        passes, rest = divmod(trainer.fit_loop.epoch_loop.total_batch_idx + 1, per_epoch)
        return passes * min(per_epoch * batches.size, batches.rows) + rest * batches.size

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(trainer.train_dataloader, InMemoryBatches):
            self.samples += batch_size(batch)

    def state_dict(self) -> dict[str, Any]:
        return {"samples": self.samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.samples = state_dict["samples"]
