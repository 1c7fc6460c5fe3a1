"""The training curves in TensorBoard."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from descent.callbacks.watcher import Watcher
from descent.model import LinearRegression
from descent.spacing import Spacing

MAX_WEIGHTS = 20  # curves; a table of a thousand columns would bury the rest


class Curves(Watcher):
    """Writes ``train/loss``, ``lr`` and ``parameters/*`` as training goes on.

    At x = k stand the loss of the batch that step k used (at the weights before it), the weights after step k, and
    the learning rate of step k + 1. At x = 0 stand the initial weights. Written straight to the logger: ``self.log``
    would cost each step, and these points none but their own. Parameters and loss are in the data's own units.

    Args:
        spacing: where the points are.
        weight_names: of the weights, for their tags.
    """

    def __init__(self, spacing: Spacing, weight_names: Sequence[str]) -> None:
        self.spacing = spacing
        self.tags = [f"parameters/weight_{name}" for name in weight_names[:MAX_WEIGHTS]]

    def next_wanted(self, trainer: Trainer, step: int) -> float:
        return self.spacing.next_logged(step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.written = trainer.global_step  # by this process, or by the one that a resumed run goes on from
        if trainer.global_step == 0:
            self._write(trainer, pl_module, {})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.spacing.logs(trainer.global_step):
            assert isinstance(pl_module, LinearRegression)
            loss = outputs["loss"].item() * pl_module.units.loss_unit
            self._write(trainer, pl_module, {"train/loss": loss})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self.written:
            self._write(trainer, pl_module, {})

    def _write(self, trainer: Trainer, pl_module: LightningModule, points: dict[str, float]) -> None:
        """Writes the points at the step that was done last, with those of the parameters and the learning rate."""
        assert isinstance(pl_module, LinearRegression)
        self.written = trainer.global_step
        weight, bias = pl_module.own_units()
        points |= zip(self.tags, weight, strict=False)
        if bias is not None:
            points["parameters/bias"] = bias
        points["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        if trainer.logger is not None:
            trainer.logger.log_metrics(points, trainer.global_step)
