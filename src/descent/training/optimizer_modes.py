"""Switches schedule-free optimizers between their training and their evaluation weights."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from descent.training.sparse_callback import SparseCallback


class OptimizerModes(SparseCallback):
    """Calls the optimizer's ``train()`` before each step, and its ``eval()`` before validation and at the end.

    Both methods change the weights in place (Defazio et al., 2024, The Road Less Scheduled). Optimizers without them
    are ignored. Between steps the optimizer stays in training mode, from which runs resume exactly.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.optimizers = [o for o in trainer.optimizers if hasattr(o, "train") and hasattr(o, "eval")]
        if self.optimizers:  # without one, no hook listens to the steps
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
