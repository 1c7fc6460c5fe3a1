"""Optimizers that hold other weights for training than for evaluation, as schedule-free ones do."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from descent.training.sparse_callback import SparseCallback


class OptimizerModes(SparseCallback):
    """Calls ``train()`` of such optimizers before each step, and ``eval()`` before validation and at the end.

    Their ``train`` and ``eval`` change the weights in place (Defazio et al., 2024, The Road Less Scheduled). Between
    two steps they are in training mode, in which a run is resumed exactly.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.optimizers = [o for o in trainer.optimizers if hasattr(o, "train") and hasattr(o, "eval")]
        if self.optimizers:  # only then are the steps listened to
            self.on_train_batch_start = self._train  # type: ignore[method-assign, assignment]
            self._train()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._eval()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._train()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._eval()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._eval()

    def _train(self, *_: Any) -> None:
        for optimizer in self.optimizers:
            optimizer.train()

    def _eval(self) -> None:
        for optimizer in getattr(self, "optimizers", []):
            optimizer.eval()
