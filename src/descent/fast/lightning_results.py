"""What ``self.log`` was given within an epoch, and torchmetrics' counts: neither has a public name."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from torchmetrics import Metric


def results_of(trainer: Trainer) -> Mapping[str, Any]:
    """What ``self.log`` has been given in this epoch, by hook and name: ``training_step.train/loss``."""
    return getattr(trainer, "_results", None) or {}


def log_step_metrics(trainer: Trainer) -> None:
    """Writes what ``self.log`` was given in this step, which Lightning does after the last hook of the step."""
    trainer._logger_connector.update_train_step_metrics()


def set_update_count(metric: Metric, count: int) -> None:
    """Says how often a metric has been updated whose state was restored."""
    metric._update_count = count
