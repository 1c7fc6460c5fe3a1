"""Accesses the values of ``self.log`` and torchmetrics' update counts, which have no public API."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from torchmetrics import Metric


def results_of(trainer: Trainer) -> Mapping[str, Any]:
    """This epoch's values of ``self.log``, by hook and name: ``training_step.train/loss``."""
    return getattr(trainer, "_results", None) or {}


def training_results_of(trainer: Trainer) -> Mapping[str, Any]:
    """The same of training, also after it has ended."""
    results: Mapping[str, Any] = trainer.fit_loop.epoch_loop._results
    return results


def log_step_metrics(trainer: Trainer) -> None:
    """Writes this step's values of ``self.log`` now; Lightning does so after the step's last hook."""
    trainer._logger_connector.update_train_step_metrics()


def set_update_count(metric: Metric, count: int) -> None:
    """Sets the number of updates of a metric after its state was restored."""
    metric._update_count = count
