"""Stops training when the monitored metric no longer improves."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from descent.training.validation_schedule import logged, monitored, validation_schedule


class Patience(EarlyStopping):
    """Lightning's ``EarlyStopping``; checks a training metric after every epoch, others after evaluated epochs only."""

    @property
    def state_key(self) -> str:
        """Without the metric: a resumed run needs the key before its data show which metric it monitors."""
        return type(self).__qualname__

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.monitor = monitored(self.monitor, validation_schedule(trainer).has_validation)
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor.startswith("train/") or validation_schedule(trainer).is_evaluated(trainer):
            logged(trainer, self.monitor, "stopping.monitor or monitor.metric")  # raises a UserError if it was not
            super().on_train_epoch_end(trainer, pl_module)
