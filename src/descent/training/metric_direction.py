"""Logs a note if ``monitor.mode`` contradicts the monitored metric."""

import re
from typing import Literal

from lightning.pytorch import Trainer
from torchmetrics import Metric

from descent.config.metric import without_split
from descent.errors import note_once
from descent.training.logged_metrics import results_of

# words in the names of metrics that are logged as tensors
LARGER = {"acc", "accuracy", "r2", "f1", "auc", "auroc", "precision", "recall", "iou", "dice", "bleu", "psnr", "ssim"}
SMALLER = {"loss", "error", "mse", "rmse", "mae"}


def note_direction(trainer: Trainer, name: str, mode: Literal["min", "max"]) -> None:
    """Logs a note if ``mode`` contradicts ``higher_is_better`` of the logged torchmetric, or else the metric's name."""
    found = [value.value for key, value in results_of(trainer).items() if key.endswith(f".{name}")]
    is_larger = next((metric.higher_is_better for metric in found if isinstance(metric, Metric)), None)
    if is_larger is None:
        words = {*re.split(r"[\W_]+", without_split(name).lower())}
        is_larger = False if words & SMALLER else True if words & LARGER else None  # dice_loss is a loss
    if is_larger is not None and is_larger != (mode == "max"):
        taken, better, other = ("largest", "smaller", "min") if mode == "max" else ("smallest", "larger", "max")
        note_once(
            f"monitor.mode={mode}: the {taken} {name} counts as best; {better} is usually better: monitor.mode={other}"
        )
