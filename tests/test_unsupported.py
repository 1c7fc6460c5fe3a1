"""Tests what makes steps use Lightning's own loop, the full notes, and what does not."""

import logging
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Listener
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.strategies import SingleDeviceStrategy
from test_epoch_loop import Brought, brought, fit
from torch.utils.data import DataLoader, TensorDataset

from descent.batches.in_memory import Batch, InMemoryBatches
from descent.fast.unsupported import unsupported
from descent.training.sparse_callback import SparseCallback


def nothing(*args: Any, **options: Any) -> None:
    pass


def listening(base: type, hook: str) -> Any:
    return type("Mine", (base,), {hook: nothing})()


class ByTheIterator(Brought):
    def training_step(self, dataloader_iter: Any, batch_idx: int = 0) -> Any:  # type: ignore[override]
        batch, index, _ = next(dataloader_iter)
        return super().training_step(batch, index)


class PlateauAtEachStep(Brought):
    interval = "step"

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        options = {"monitor": "mine", "interval": self.interval, "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, **options}}


class WithStep(Brought):
    """Calls only super() in a hook, which still counts as overriding it."""

    def on_after_backward(self) -> None:
        super().on_after_backward()


class WithTransfer(Brought):
    def transfer_batch_to_device(self, *args: Any) -> Any:
        return super().transfer_batch_to_device(*args)


class Rows(LightningDataModule):
    def train_dataloader(self) -> InMemoryBatches:
        x = torch.randn(50, 3)
        return InMemoryBatches(x, x.sum(dim=1), size=8)


class RowsOnTheirWay(Rows):
    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return batch


class Ours(InMemoryBatches):
    """A user's subclass, whose ``__iter__`` may do anything."""


class Strategy(SingleDeviceStrategy):
    pass


def note(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith(("descent", "regression"))]


class PlateauAtEachEpoch(PlateauAtEachStep):
    interval = "epoch"


class DecaysAtEachStep(Brought):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": decay, "interval": "step"}}


class LogsEpochs(Brought):
    def on_train_epoch_start(self) -> None:
        self.log("mine", 1.0)


class LeavesOut(Callback):
    """Skips the backward pass, like StochasticWeightAveraging in its last epoch."""

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        trainer.fit_loop._skip_backward = True


X = torch.randn(50, 3)
LOADER = DataLoader(TensorDataset(X, X[:, 0]), 8)
LISTENS = "the callback Mine listens to every step ({})"


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        (WithStep, {}, "WithStep overrides on_after_backward"),
        (WithTransfer, {}, "WithTransfer overrides transfer_batch_to_device"),
        (Brought, {"batches": RowsOnTheirWay()}, "RowsOnTheirWay overrides on_before_batch_transfer"),
        *(
            (Brought, {"callbacks": [listening(Callback, hook)]}, LISTENS.format(hook))
            for hook in (
                *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward"),
                *("on_after_backward", "on_before_optimizer_step"),
            )
        ),
        (Brought, {"callbacks": [listening(SparseCallback, "on_after_backward")]}, LISTENS.format("on_after_backward")),
        (ByTheIterator, {}, "training_step takes a dataloader_iter"),
        (Brought, {"profiler": "simple"}, "the profiler listens to every step"),
        (Brought, {"precision": "bf16-mixed"}, "precision bf16-mixed scales or casts in every step"),
        (Brought, {"strategy": Strategy("cpu")}, "the strategy is not SingleDeviceStrategy"),
        (Brought, {"accumulate_grad_batches": 2}, "gradients are accumulated"),
        (Brought, {"callbacks": [LeavesOut()]}, "a callback skips backward passes"),
        (Brought, {"max_steps": 9}, "Trainer has max_steps instead of the callback MaxSteps"),
        (Brought, {"min_steps": 9}, "Trainer has min_steps or min_epochs"),
        (Brought, {"min_epochs": 2}, "Trainer has min_steps or min_epochs"),
        (PlateauAtEachStep, {}, "a scheduler monitors a metric at every step"),
        (
            Brought,
            {"batches": LOADER},
            "the batches come from DataLoader, not InMemoryBatches or StreamedBatches",
        ),
        (
            Brought,
            {"batches": Ours(X, X[:, 0], size=8)},
            "the batches come from Ours, not InMemoryBatches or StreamedBatches",
        ),
        (Brought, {"limit_train_batches": 3}, "training uses only part of each epoch's batches"),
        (Brought, {"val_check_interval": 2}, "validation runs within an epoch"),
        (Brought, {"val_check_interval": timedelta(days=1)}, "validation runs within an epoch"),
        (Brought, {"batches": Rows(), "reload_dataloaders_every_n_epochs": 1}, "the batches are reloaded"),
        (Brought, {"precision": "64-true"}, "the batches are not in the training precision"),
        (
            Brought,
            {"precision": "64-true", "batches": InMemoryBatches(X.double(), X[:, 0], size=8)},
            "the batches are not in the training precision",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore")
def test_the_note_names_what_needs_lightnings_loop(  # type: ignore[no-untyped-def]
    kind, options: dict[str, Any], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="descent.fast")
    trainer = fit(brought(kind), tmp_path, True, **({"max_epochs": 2} | options))
    expected = f"note: every training step goes through Lightning's own loop, because {why}"
    assert note(caplog) == [expected]
    ordinary = why.startswith("the batches come from")  # noted in the log file only
    assert (expected in [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]) is not ordinary
    assert trainer.global_step > 0


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Brought, {"min_epochs": 1}),
        (Brought, {"callbacks": [listening(Callback, hook) for hook in ("on_train_epoch_end", "on_validation_end")]}),
        (
            Brought,
            {
                "callbacks": [
                    listening(SparseCallback, "on_train_batch_end"),
                    listening(SparseCallback, "on_before_optimizer_step"),
                ]
            },
        ),
        (Brought, {"batches": Rows()}),
        (Brought, {"precision": "64-true", "batches": InMemoryBatches(X.double(), X[:, 0].double(), size=8)}),
        (PlateauAtEachEpoch, {}),
        (DecaysAtEachStep, {}),
        (LogsEpochs, {}),
    ],
    ids=["min-epochs", "epochs", "watchers", "datamodule", "double", "plateau", "steps", "logs"],
)
@pytest.mark.filterwarnings("ignore")
def test_without_a_reason_there_is_no_note(  # type: ignore[no-untyped-def]
    kind, options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(brought(kind), tmp_path, True, **({"max_epochs": 2} | options))
    assert note(caplog) == []


@pytest.mark.filterwarnings("ignore")
def test_fast_dev_run_has_no_note_on_the_loop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(brought(Brought), tmp_path, True, fast_dev_run=True, callbacks=[Listener()])
    assert note(caplog) == []


class Epochs(Callback):
    """Overrides only on_train_epoch_start."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize("size", [8, 50])
@pytest.mark.filterwarnings("ignore")
def test_a_callback_with_an_epoch_hook_gets_every_epoch(size: int, tmp_path: Path) -> None:
    epochs = Epochs()
    fit(brought(Brought), tmp_path, True, size=size, max_epochs=30, callbacks=[epochs], log_every_n_steps=1000)
    per_epoch = -(-50 // size)
    assert epochs.steps == list(range(0, 30 * per_epoch, per_epoch))


TRANSFERS = ["on_after_batch_transfer", "on_before_batch_transfer", "transfer_batch_to_device"]
OF_CALLBACKS = [
    *("on_after_backward", "on_before_backward", "on_before_optimizer_step", "on_before_zero_grad"),
    *("on_train_batch_end", "on_train_batch_start"),
]
OF_MODULES = [
    *("backward", "clip_gradients", "configure_gradient_clipping", "lr_scheduler_step", *OF_CALLBACKS, *TRANSFERS),
    *("optimizer_step", "optimizer_zero_grad"),
]


def why_not(module: Any = None, datamodule: Any = None, callbacks: Any = ()) -> str | None:
    parts = {
        "lightning_module": module or LightningModule(),
        "datamodule": datamodule,
        "callbacks": callbacks,
        "world_size": 1,
    }
    return unsupported(SimpleNamespace(**parts))  # type: ignore[arg-type]


def test_every_overridden_step_hook_is_named_on_classes_and_instances() -> None:
    for hook in OF_MODULES:
        assert why_not(listening(LightningModule, hook)) == f"Mine overrides {hook}"
    for hook in TRANSFERS:
        assert why_not(datamodule=listening(LightningDataModule, hook)) == f"Mine overrides {hook}"
    for hook in OF_CALLBACKS:
        assert why_not(callbacks=[Callback(), listening(Callback, hook)]) == LISTENS.format(hook)
        if hook not in ("on_train_batch_end", "on_before_optimizer_step"):
            assert why_not(callbacks=[listening(SparseCallback, hook)]) == LISTENS.format(hook)
    module, callback = LightningModule(), Callback()
    for thing, hook in ((module, "on_after_backward"), (callback, "on_train_batch_end")):
        setattr(thing, hook, nothing)
    assert why_not(module) == "LightningModule overrides on_after_backward"
    assert why_not(callbacks=[callback]) == "the callback Callback listens to every step (on_train_batch_end)"
    every = type("Mine", (LightningModule,), dict.fromkeys(OF_MODULES, nothing))()
    assert why_not(every) == "Mine overrides backward"  # alphabetically first, and the module before callbacks
    assert why_not(module, callbacks=[callback]) == "LightningModule overrides on_after_backward"


@pytest.mark.filterwarnings("ignore")
def test_batches_on_another_device_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    batches = InMemoryBatches(X, torch.empty(50, device="meta"), size=8)
    with pytest.raises(NotImplementedError):
        fit(brought(Brought), tmp_path, True, batches=batches)
    reason = "the batches are not on the training device"
    assert note(caplog) == [f"note: every training step goes through Lightning's own loop, because {reason}"]
