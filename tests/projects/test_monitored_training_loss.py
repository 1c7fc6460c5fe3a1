"""Tests the training loss of batches from a DataLoader."""

from pathlib import Path
from typing import Any

import pytest
from conftest import needs_fast
from digits.data import DigitsData
from digits.model import Digits
from lightning.pytorch import Callback, LightningModule, Trainer
from running import SignalAt, advised, train_project

from descent.errors import UserError

pytestmark = advised


class Means(Callback):
    """Records the mean loss of each epoch's batches."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.means: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())
        if trainer.is_last_batch:
            self.means.append(sum(self.losses) / len(self.losses))
            self.losses.clear()


@needs_fast  # keeps an epoch's sums
def test_of_a_loader_the_monitored_training_loss_is_each_epochs_mean_over_its_batches(tmp_path: Path) -> None:
    means, options = Means(), ("monitor.metric=train/loss", "trainer.max_epochs=2")
    whole = train_project("lengths", tmp_path / "whole", *options, callbacks=[means])
    assert len(means.means) == 2 and means.means == sorted(means.means, reverse=True)
    assert whole.metrics["train/loss"] == pytest.approx(means.means[-1], rel=1e-5)
    assert whole.best == {"step": 14, "metric": "train/loss", "value": whole.metrics["train/loss"]}
    assert whole.samples == 2 * 130
    for batch in (10, 0):  # 10 is in the second epoch of seven steps
        at = SignalAt(batch)
        found = train_project("lengths", tmp_path / "r", *options, callbacks=[at], resume=batch == 0)
        assert found.status == ("interrupted" if batch else "completed")
    assert (found.metrics, found.best, found.samples) == (whole.metrics, whole.best, whole.samples)


def test_of_a_loader_the_training_loss_is_in_the_result_where_nothing_monitors_it_too(tmp_path: Path) -> None:
    means = Means()
    result = train_project("lengths", tmp_path, "trainer.max_epochs=2", callbacks=[means])
    assert result.best is not None and result.best["metric"] != "train/loss"
    assert result.metrics["train/loss"] == pytest.approx(means.means[-1], rel=1e-5)


def test_of_a_loader_too_the_training_loss_is_in_the_units_of_the_module(tmp_path: Path) -> None:
    class Tenfold(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.loss_unit = 10.0  # type: ignore[assignment]

    means = Means()
    result = train_project("lengths", tmp_path, "trainer.max_epochs=1", callbacks=[means, Tenfold()])
    assert result.metrics["train/loss"] == pytest.approx(10 * means.means[-1], rel=1e-5)


def test_what_needs_the_loss_of_all_rows_is_refused_without_one(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        train_project("lengths", tmp_path / "r", "trainer.max_epochs=1", "stopping.gradient_norm=1")
    assert str(refused.value) == "stopping=converged needs batches in memory and a module with automatic optimization"


@pytest.mark.parametrize(("metric", "is_noted"), [("val/acc", True), ("val/loss", False)])
def test_a_metric_of_training_that_is_monitored_for_want_of_validation_is_noted(
    metric: str, is_noted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for hook in ("validation_step", "val_dataloader"):
        monkeypatch.delattr(Digits if hook == "validation_step" else DigitsData, hook)
    options = "trainer.max_epochs=1", "data.num_workers=0", f"monitor.metric={metric}", "monitor.mode=max"
    result = train_project("digits", tmp_path, *options)
    assert result.best is not None and result.best["metric"] == metric.replace("val", "train")
    note = "note: without validation, train/acc is monitored in place of val/acc"
    assert (note in caplog.messages) is is_noted
    assert is_noted or "is monitored in place of" not in caplog.text
