"""Tests modules that do what the example does not: none gives wrong results silently."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, needs_fast
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities import CombinedLoader
from loaders import Buckets, Endless, Stream
from test_resume import SignalAt, assert_resumes_exactly
from test_stepping import SMALL
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.data import BatchSampler, DataLoader, SubsetRandomSampler, TensorDataset, WeightedRandomSampler
from torchmetrics import SumMetric

from descent.batches.exact import is_shuffled
from descent.batches.in_memory import InMemoryBatches
from descent.config.schema import MonitorConfig
from descent.errors import UserError
from descent.training.callback import ResultCallback
from regression.data.module import RegressionData
from regression.model import LinearRegression

PLAIN = LinearRegression.training_step


def test_a_test_metric_with_the_name_of_another_does_not_take_its_place(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(*SMALL, "trainer.max_epochs=2").metrics
    monkeypatch.setattr(LinearRegression, "on_test_epoch_end", lambda self: self.log("val/loss", 1000.0))
    found = run(*SMALL, "trainer.max_epochs=2").metrics
    assert found["val/loss"] == expected["val/loss"]
    assert found["test/loss"] == 1000.0


def test_a_loss_below_zero_is_no_divergence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def lowered(self: LightningModule, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return mse_loss(self(batch[0]), batch[1]) - 50

    monkeypatch.setattr(LinearRegression, "training_step", lowered)
    result = run(*SMALL, "trainer.max_epochs=2", "data.val_fraction=0")
    assert (result.status, result.metrics["train/loss"] < -40) == ("completed", True)


@pytest.mark.parametrize("step", [2, 3, 4, 9])  # 6 steps an epoch
def test_a_run_that_validates_within_its_epochs_resumes_exactly(step: int, run: Run, tmp_path: Path) -> None:
    options = [*SMALL, "trainer.val_check_interval=0.5", "trainer.max_epochs=3", "optimizer.lr=0.3"]
    assert_resumes_exactly(run, tmp_path, [SignalAt(step, where="on_before_backward")], *options)


def test_every_validation_sees_the_same_batches_where_they_are_limited(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regression.data.module.EVALUATION_BATCH", 2)
    seen: list[Any] = []

    class Trace(Callback):
        def on_validation_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
            seen.append(batch[0].tolist())

    limits = "trainer.limit_val_batches=2", "trainer.val_check_interval=0.5", "trainer.max_epochs=2"
    run(*SMALL, *limits, callbacks=[Trace()])
    assert len(seen) == 2 * 4 and seen[0] != seen[1]
    assert all(seen[number : number + 2] == seen[:2] for number in (2, 4, 6))


@pytest.mark.parametrize("step", [2, 5, 7])
def test_a_plateau_that_is_looked_at_each_step_is_resumed_exactly(step: int, run: Run, tmp_path: Path) -> None:
    def per_step(self: LinearRegression) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "interval": "step", "monitor": "own"}}

    def logging(self: LinearRegression, batch: Any, batch_idx: int) -> Tensor:
        loss = PLAIN(self, batch, batch_idx)
        self.log("own", loss)
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LinearRegression, "configure_optimizers", per_step)
        patch.setattr(LinearRegression, "training_step", logging)
        options = [*SMALL, "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=1"]
        assert_resumes_exactly(run, tmp_path, [SignalAt(step, where="on_before_backward")], *options)


@pytest.mark.parametrize("val_fraction", [0.2, 0.0])
def test_the_loss_of_all_rows_changes_nothing_of_the_module(
    val_fraction: float, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def noting(self: LinearRegression, batch: Any, batch_idx: int) -> Tensor:
        seen.append(self.training)
        if self.training:
            self.log("own", 1.0)
        else:
            self.log("own", 2.0)  # must not be kept
            torch.rand(3)
        return PLAIN(self, batch, batch_idx)

    monkeypatch.setattr(LinearRegression, "training_step", noting)
    result = run(*SMALL, "trainer.max_epochs=2", f"data.val_fraction={val_fraction}")
    assert seen.count(True) == result.steps
    assert result.metrics["own"] == 1.0


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("val_fraction", "rows"), [(0.2, 48), (0.0, 48 + 12)])
def test_a_metric_of_the_training_step_counts_the_rows_of_its_epoch_alone(
    val_fraction: float, rows: int, fast: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure, counted = LinearRegression.configure_model, list[float]()

    def with_metric(self: LinearRegression) -> None:
        configure(self)
        self.seen = SumMetric()

    def counting(self: LinearRegression, batch: Any, batch_idx: int) -> Tensor:
        self.seen.update(len(batch[1]))
        return PLAIN(self, batch, batch_idx)

    def at_end(self: LinearRegression) -> None:
        counted.append(self.seen.compute().item())
        self.seen.reset()

    monkeypatch.setattr(LinearRegression, "configure_model", with_metric)
    monkeypatch.setattr(LinearRegression, "training_step", counting)
    monkeypatch.setattr(LinearRegression, "on_train_epoch_end", at_end)
    options = f"data.val_fraction={val_fraction}", "data.test_fraction=0", f"trainer.fast={fast}"
    run(*SMALL, "trainer.max_epochs=3", *options, "stopping=converged", "stopping.max_epochs=3")
    assert counted == [rows] * 3


@pytest.mark.parametrize("fast", [True, False])
def test_the_loss_of_all_rows_is_no_step_for_buffers_and_counters(
    fast: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure, counts = LinearRegression.configure_model, list[tuple[float, float, float, int, bool]]()

    def with_buffers(self: LinearRegression) -> None:
        configure(self)
        self.register_buffer("changed", torch.tensor(0.0))
        self.register_buffer("replaced", torch.tensor(0.0))
        self.register_buffer("scale", torch.tensor(1.0))
        self.counter = SumMetric()
        self.steps = 0

    def counting(self: LinearRegression, batch: Any, batch_idx: int) -> Tensor:
        self.changed += 1
        self.replaced = self.replaced + 1
        self.counter.update(1)
        self.steps += 1
        return PLAIN(self, batch, batch_idx) * self.scale  # the gradient needs the buffer

    def at_end(self: LinearRegression) -> None:
        total = self.counter.compute().item()
        counts.append((self.changed.item(), self.replaced.item(), total, self.steps, self.counter.training))

    monkeypatch.setattr(LinearRegression, "configure_model", with_buffers)
    monkeypatch.setattr(LinearRegression, "training_step", counting)
    monkeypatch.setattr(LinearRegression, "on_train_epoch_end", at_end)
    options = "data.val_fraction=0", "data.test_fraction=0", f"trainer.fast={fast}"
    run(*SMALL, *options, "stopping=converged", "stopping.max_epochs=2")
    assert counts == [(steps, steps, steps, steps, True) for steps in (8, 16)]


@pytest.mark.parametrize("fast", [True, False])
def test_the_last_batch_of_an_epoch_knows_that_it_is(fast: bool, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    last: list[bool] = []

    def noting(self: LinearRegression, batch: Any, batch_idx: int) -> Tensor:
        if self.training:
            last.append(self.trainer.is_last_batch)
        return PLAIN(self, batch, batch_idx)

    monkeypatch.setattr(LinearRegression, "training_step", noting)
    run(*SMALL, "trainer.max_epochs=2", f"trainer.fast={fast}")
    assert last == [*[False] * 5, True] * 2


def test_a_metric_of_other_rows_has_the_mode_of_its_name_and_not_of_its_last_part() -> None:
    monitor = MonitorConfig("val/acc/dataloader_idx_0", "max")
    assert monitor.mode_of("test/acc/dataloader_idx_0", None, "x") == "max"
    with pytest.raises(Exception, match="x must be min or max"):
        monitor.mode_of("val/loss/dataloader_idx_0", None, "x")


QUIET = (*SMALL, "optimizer=sgd", "trainer.max_epochs=2", "trainer.fast=false")  # the optimizer's own step is called


STANDSTILL = "note: no weight changed in 12 steps"


def standstill(self: torch.optim.SGD, closure: Any) -> None:
    closure()


def test_a_run_that_changes_no_weight_says_so(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.optim.SGD, "step", standstill)
    whole = run(*QUIET)
    assert (whole.status, whole.reason) == ("completed", None)
    assert caplog.messages[-1] == STANDSTILL


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_a_weight_has_changed_before_or_after_an_interruption(
    first: bool, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def part(moves: bool, **how: Any) -> Any:
        with monkeypatch.context() as patch:
            if not moves:
                patch.setattr(torch.optim.SGD, "step", standstill)
            found = run(*QUIET, run_dir=tmp_path / "r", **how)
        return found.status, found.reason

    assert part(first, callbacks=[SignalAt(3, where="on_before_backward")]) == ("interrupted", "interrupted by SIGTERM")
    assert part(not first, resume=True) == ("completed", None)
    assert STANDSTILL not in caplog.messages


@pytest.mark.parametrize("batches", [2, 0.5])
def test_overfitting_batches_takes_the_same_in_every_epoch(batches: float, run: Run) -> None:
    options = *SMALL, f"trainer.overfit_batches={batches}", "data.val_fraction=0"
    with pytest.raises(UserError) as raised:
        run(*options, "batch.shuffle=true")
    assert str(raised.value) == (
        "trainer.overfit_batches needs the same batches in every epoch: shuffle must be false and no sampler random"
    )
    trace: list[list[float]] = []

    class Trace(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            trace.append(batch[0].flatten().tolist())

    run(*options, "batch.shuffle=false", "trainer.max_epochs=2", callbacks=[Trace()])
    assert len(trace) > 2 and trace[: len(trace) // 2] == trace[len(trace) // 2 :]


@pytest.mark.parametrize("fast", [pytest.param("true", marks=needs_fast), "false"])
@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_callback_that_goes_through_the_training_rows_changes_nothing(
    run: Run, fast: str, within: bool, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_dataloader(self: RegressionData) -> Any:
        return DataLoader(TensorDataset(*self.batches(self.train, None).tensors), batch_size=8, shuffle=True)

    class Reads(Callback):
        def on_validation_end(self, trainer: Any, *_: Any) -> None:
            rows.append(sum(len(batch[0]) for batch in trainer.train_dataloader))
            positions.append(trainer.train_dataloader.state_dict() if trainer.global_step % 6 else None)

        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            rows.append(sum(len(batch[0]) for batch in trainer.train_dataloader))

    if not in_memory:
        monkeypatch.setattr(RegressionData, "train_dataloader", train_dataloader)
    rows, positions = list[int](), list[Any]()
    options = [*SMALL, "trainer.max_epochs=2", f"trainer.fast={fast}"]
    options += ["trainer.val_check_interval=0.5"] if within else []
    alone, beside = run(*options), run(*options, callbacks=[Reads()])
    assert rows == [48] * (6 if within else 4)  # 0.8 of 60
    assert [(p["epoch"], p["position"]) for p in positions if p] == ([(0, 3), (1, 3)] if within else [])
    assert (beside.steps, beside.metrics) == (alone.steps, alone.metrics)


def test_overfitting_batches_takes_the_same_in_every_validation(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def val_dataloader(self: RegressionData) -> Any:
        rows = TensorDataset(*self.batches(self.val, None).tensors)
        return DataLoader(rows, batch_size=2, shuffle=shuffle)

    seen: list[Any] = []

    class Trace(Callback):
        def on_validation_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
            seen.append(batch[0].tolist())

    monkeypatch.setattr(RegressionData, "val_dataloader", val_dataloader)
    options = *SMALL, "trainer.overfit_batches=1", "batch.shuffle=false", "trainer.max_epochs=2"
    shuffle = True
    with pytest.raises(UserError) as raised:
        run(*options)
    assert str(raised.value) == (
        "trainer.overfit_batches needs the same batches in every epoch: shuffle must be false and no sampler random"
        " in val_dataloader"
    )
    shuffle = False
    run(*options, callbacks=[Trace()])
    assert len(seen) == 2 and seen[0] == seen[1]  # validation's own rows, as in Lightning


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # from CombinedLoader
def test_loaders_that_draw_an_order_are_shuffled() -> None:
    rows, order = range(4), WeightedRandomSampler([0.5] * 4, 4)
    listed, stream = DataLoader(rows, sampler=[3, 1]), DataLoader(Stream())  # type: ignore[arg-type]
    ordered = DataLoader(rows), InMemoryBatches(torch.zeros(4, 1)), [0, 1], listed, stream  # type: ignore[arg-type]
    drawn = (
        DataLoader(rows, shuffle=True),  # type: ignore[arg-type]
        DataLoader(rows, sampler=SubsetRandomSampler(rows)),  # type: ignore[arg-type]
        DataLoader(rows, sampler=order),  # type: ignore[arg-type]
        InMemoryBatches(torch.zeros(4, 1), shuffle=True),
        DataLoader(rows, batch_sampler=BatchSampler(order, 2, drop_last=False)),  # type: ignore[arg-type]
        DataLoader(rows, batch_sampler=Buckets()),  # type: ignore[arg-type]
        DataLoader(rows, sampler=Endless()),  # type: ignore[arg-type]
    )
    assert [is_shuffled(loader) for loader in ordered] == [False] * 5
    assert [is_shuffled(loader) for loader in drawn] == [True] * 7
    assert is_shuffled({"a": ordered[0], "b": drawn[0]}) and not is_shuffled([ordered[0], ordered[1]])
    assert is_shuffled(CombinedLoader({"a": ordered[0], "b": drawn[1]}))
    assert not is_shuffled(CombinedLoader([ordered[0], ordered[1]]))


def test_training_without_a_batch_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match=r"^training must have a batch: train_dataloader or trainer.limit_train_bat"):
        run(*SMALL, "trainer.limit_train_batches=0")


def test_a_callback_does_not_overwrite_what_the_machinery_says_of_a_run(run: Run) -> None:
    class Own(ResultCallback):
        def result(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
            return {"status": "great", "steps": 7, "mine": 1}

    with pytest.raises(UserError) as raised:
        run(*SMALL, "trainer.max_epochs=1", callbacks=[Own()])
    assert str(raised.value) == "Own.result must not have status: result.json has one already"
