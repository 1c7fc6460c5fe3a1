"""Tests the full training loss, metrics of an interrupted epoch, and curves that a module logs itself."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Run, needs_fast
from lightning.pytorch import Callback, LightningModule, Trainer
from test_resume import SignalAt
from test_stepping import SMALL, curve
from torch import Tensor
from torchmetrics import CatMetric, MetricCollection
from torchmetrics.classification import BinaryAccuracy

from descent.batches.in_memory import InMemoryBatches
from descent.errors import UserError
from descent.training import training_loss
from descent.training.training_loss import has_full_loss
from regression.data.module import RegressionData
from regression.model import LinearRegression

PLAIN = LinearRegression.training_step


def test_the_full_loss_needs_in_memory_batches_and_automatic_optimization() -> None:
    x = torch.zeros(4, 1)
    for loader, in_memory in ((InMemoryBatches(x, x), True), ([x], False)):
        for automatic in (True, False):
            module = SimpleNamespace(automatic_optimization=automatic)
            trainer: Any = SimpleNamespace(train_dataloader=loader, lightning_module=module)
            assert has_full_loss(trainer) == (in_memory and automatic)


class KeepsRows(Callback):
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batches: Any = trainer.train_dataloader
        self.smallest = float(batches.all()[0].min())


@pytest.mark.parametrize("large", [False, True])
def test_a_training_step_that_works_in_place_leaves_the_rows_unchanged_or_is_refused(
    large: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_place(self: LinearRegression, batch: Any, batch_idx: int) -> Tensor:
        batch[0].clamp_(min=0.0)
        return PLAIN(self, batch, batch_idx)

    monkeypatch.setattr(LinearRegression, "training_step", in_place)
    kept = KeepsRows()
    options = *SMALL, "batch.size=3", "batch.shuffle=true", "monitor.metric=train/loss"
    if large:
        monkeypatch.setattr(training_loss, "LARGE", 0)
        with pytest.raises(UserError, match="training_step must not change its batch in place"):
            run(*options, callbacks=[kept])
    else:
        run(*options, callbacks=[kept])
        assert kept.smallest < 0


@pytest.mark.parametrize("limit", ["overfit_batches=2", "overfit_batches=0.5", "limit_train_batches=2"])
def test_with_a_fixed_subset_the_full_loss_covers_the_subset(limit: str, run: Run) -> None:
    rows = "data=line", "batch.size=1", "data.inputs=[[1],[2],[3],[4]]", "data.targets=[1,2,30,40]"
    options = *rows, "trainer.max_epochs=3", f"trainer.{limit}", "model.bias=false", "trainer=float64"
    result = run(*options, "model.init_weight=0", "optimizer.lr=0.1", "batch.shuffle=false")
    weight = 0.0
    for x, y in [(1, 1), (2, 2)] * 3:
        weight -= 0.1 * 2 * (weight * x - y) * x
    mean = ((weight - 1) ** 2 + (2 * weight - 2) ** 2) / 2
    assert result.metrics["train/loss"] == pytest.approx(mean, rel=1e-12)
    assert result.best == {"step": 6, "metric": "train/loss", "value": pytest.approx(mean, rel=1e-12)}


def test_with_a_changing_subset_the_full_loss_covers_all_rows(run: Run) -> None:
    rows = "data=line", "batch.size=1", "data.inputs=[[1],[2],[3],[4]]", "data.targets=[1,2,30,40]"
    options = *rows, "trainer.max_epochs=3", "trainer.limit_train_batches=2", "model.bias=false", "trainer=float64"
    result = run(*options, "batch.shuffle=true", "optimizer.lr=0.001")
    (weight,) = result.entries["parameters"]["weight"]
    squares = [(weight * x - y) ** 2 for x, y in [(1, 1), (2, 2), (3, 30), (4, 40)]]
    assert result.metrics["train/loss"] == pytest.approx(sum(squares) / 4, rel=1e-12)


@needs_fast  # only the fast loop saves an epoch's sums
def test_metrics_of_an_interrupted_epoch_cover_the_whole_epoch(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure, computed = LinearRegression.configure_model, list[tuple[list[float], dict[str, float]]]()

    def with_metrics(self: Any) -> None:
        configure(self)
        self.every = CatMetric()
        self.both = MetricCollection({"a": BinaryAccuracy(), "b": BinaryAccuracy()})  # they share one state

    def logging(self: Any, batch: Any, batch_idx: int) -> Tensor:
        loss = PLAIN(self, batch, batch_idx)
        for reduce in ("max", "min", "sum", "mean"):
            self.log(reduce, loss.detach(), on_step=False, on_epoch=True, reduce_fx=reduce, batch_size=len(batch[0]))
        self.every.update(loss.detach())
        self.both.update(torch.tensor([batch_idx % 2]), torch.tensor([1]))
        return loss

    def at_end(self: Any) -> None:
        both = {name: value.item() for name, value in self.both.compute().items()}
        computed.append((self.every.compute().tolist(), both))
        self.every.reset()
        self.both.reset()

    monkeypatch.setattr(LinearRegression, "configure_model", with_metrics)
    monkeypatch.setattr(LinearRegression, "training_step", logging)
    monkeypatch.setattr(LinearRegression, "on_train_epoch_end", at_end)
    options = [*SMALL, "trainer.max_epochs=2", "trainer.log_every_n_steps=1", "optimizer.lr=0.3"]
    run(*options, callbacks=[SignalAt(9, where="on_before_backward")], run_dir=tmp_path / "r")  # two epochs of 6 steps
    assert len(computed) == 1
    result = run(*options, run_dir=tmp_path / "r", resume=True)
    losses = [value for step, value in sorted(curve(tmp_path / "r", "train/loss").items()) if step > 6]
    assert len(losses) == 6
    expected = {"max": max(losses), "min": min(losses), "sum": sum(losses), "mean": sum(losses) / 6}
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    every, both = computed[-1]
    assert every == pytest.approx(losses, rel=1e-5)
    assert both == {"a": 0.5, "b": 0.5}


def test_each_parameter_group_has_its_own_learning_rate_curve(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def groups(self: LinearRegression) -> Any:
        weight, bias = self.parameters()
        return torch.optim.SGD([{"params": [weight], "lr": 0.25}, {"params": [bias], "lr": 0.125}])

    monkeypatch.setattr(LinearRegression, "configure_optimizers", groups)
    run(*SMALL, "trainer.max_epochs=1")
    rates = {tag: curve(tmp_path / "0", tag) for tag in ("lr", "lr/1")}
    assert rates == {"lr": {0: 0.25, 6: 0.25}, "lr/1": {0: 0.125, 6: 0.125}}


def test_a_train_loss_that_the_module_logs_replaces_the_projects_curve(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinearRegression, "on_train_epoch_end", lambda self: self.log("train/loss", 7.0))
    options = [*SMALL, "trainer.max_epochs=2", "trainer.log_every_n_steps=1"]
    run(*options, callbacks=[SignalAt(9, where="on_before_backward")], run_dir=tmp_path / "r")
    run(*options, run_dir=tmp_path / "r", resume=True)
    points = curve(tmp_path / "r", "train/loss")
    assert list(points) == [*range(1, 7), 12] and points[6] == points[12] == 7


@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")  # Lightning's own warning
def test_the_full_loss_uses_the_batch_transfer_hooks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def tripled(self: Any, batch: Any, dataloader_idx: int) -> Any:
        return batch[0], 3 * batch[1]

    monkeypatch.setattr(LinearRegression, "on_after_batch_transfer", tripled)
    rows = "data=line", "data.inputs=[[1],[2],[3],[4]]", "data.targets=[1,2,30,40]", "batch=full", "trainer=float64"
    result = run(*rows, "trainer.max_epochs=3", "model.bias=false", "optimizer.lr=0.001", "data.val_fraction=0")
    (weight,) = result.entries["parameters"]["weight"]
    squares = [(weight * x - 3 * y) ** 2 for x, y in [(1, 1), (2, 2), (3, 30), (4, 40)]]
    assert result.metrics["train/loss"] == pytest.approx(sum(squares) / 4, rel=1e-12)


def test_rows_of_another_precision_are_converted_for_the_full_loss(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given = RegressionData.train_dataloader

    def single(self: RegressionData) -> Any:
        return InMemoryBatches(*(tensor.float() for tensor in given(self).tensors), size=32)

    monkeypatch.setattr(RegressionData, "train_dataloader", single)
    result = run(*SMALL, "trainer=float64", "trainer.max_epochs=2")
    assert result.status == "completed" and result.metrics["train/loss"] > 0
