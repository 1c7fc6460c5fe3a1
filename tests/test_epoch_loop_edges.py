"""Tests edge cases of fast steps: unlimited epochs, double precision, a user's scheduler and sparse callbacks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from test_epoch_loop import Brought, NoneNowAndThen, brought, fit, same

from descent.batches.in_memory import Batch, InMemoryBatches
from descent.fast.epoch_loop import EpochLoop
from descent.training.intervals import Intervals
from descent.training.max_steps import MaxSteps
from descent.training.sparse_callback import SparseCallback
from descent.training.validation_schedule import ValidationSchedule


class Casts(Brought):
    """Creates a tensor in the step's default dtype."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        assert torch.full((1,), 0.1).dtype == torch.float64
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore")
def test_in_double_precision_a_step_creates_double_tensors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(50, 3).double()
    trainer = fit(
        brought(Casts), tmp_path, True, precision="64-true", batches=InMemoryBatches(x, x[:, 0], size=8), max_epochs=2
    )
    assert trainer.global_step == 14
    assert not [record for record in caplog.records if record.name == "descent.fast.epoch_loop"]


@pytest.mark.parametrize("size", [8, 50])
@pytest.mark.filterwarnings("ignore")
def test_a_run_with_unlimited_epochs_ends_at_max_steps(size: int, tmp_path: Path) -> None:
    trainers = [
        fit(brought(Brought), tmp_path / str(hurries), hurries, size=size, max_epochs=-1, callbacks=[MaxSteps(33)])
        for hurries in (True, False)
    ]
    assert [trainer.global_step for trainer in trainers] == [33, 33]
    assert same(*(trainer.lightning_module.state_dict() for trainer in trainers))


class Counts(Brought):
    """Records the counts that a training step can read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[tuple[Any, ...]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        loop = self.trainer.fit_loop
        where = batch_idx, loop.batch_idx, loop.total_batch_idx, self.trainer.is_last_batch
        self.read.append((*where, self.global_step, self.current_epoch))
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("size", [8, 50])
@pytest.mark.filterwarnings("ignore")
def test_a_step_reads_the_same_counts_as_in_lightnings_loop(size: int, tmp_path: Path) -> None:
    here, lightning = (brought(Counts), brought(Counts))
    fit(here, tmp_path / "here", True, size=size, max_epochs=9)
    fit(lightning, tmp_path / "lightning", False, size=size, max_epochs=9)
    assert len(here.read) == 9 * -(-50 // size)
    assert here.read == lightning.read


class Validated(Brought):
    """Records which epochs are validated."""

    def __init__(self, plateau: bool) -> None:
        super().__init__()
        self.plateau, self.epochs = plateau, []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.epochs.append(self.current_epoch + 1)
        self.log("mine", 1.0)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        lr_scheduler = {"scheduler": scheduler, "monitor": "mine"}
        return {"optimizer": optimizer} | ({"lr_scheduler": lr_scheduler} if self.plateau else {})


@pytest.mark.parametrize("plateau", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_a_users_plateau_scheduler_gets_a_validation_after_each_epoch(plateau: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    module, x = Validated(plateau), torch.randn(50, 3)
    trainer = Trainer(
        **{"accelerator": "cpu", "max_epochs": 25, "enable_checkpointing": False, "logger": False},
        **{"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0},
        callbacks=[ValidationSchedule(Intervals(50, None))],
    )
    trainer.fit_loop.epoch_loop = EpochLoop(trainer)
    trainer.fit(module, InMemoryBatches(x, x[:, 0], size=8), InMemoryBatches(x, x[:, 0]))
    assert module.epochs == (list(range(1, 26)) if plateau else [*range(1, 21), 25])


class Recorder(SparseCallback):
    """Records the arguments of its hooks at every third and fifth step."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def wants(self, step: int) -> bool:
        return step % 3 == 0 or step % 5 == 0

    def next_active_step(self, trainer: Trainer, step: int) -> float:
        return next(number for number in range(step, step + 4) if self.wants(number))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self.wants(trainer.global_step + 1):
            gradients = [None if p.grad is None else p.grad.clone() for p in pl_module.parameters()]
            self.seen.append((trainer.global_step, type(optimizer).__name__, gradients))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.wants(trainer.global_step):
            progress = trainer.fit_loop.epoch_loop.batch_progress.state_dict()
            parameters = [parameter.detach().clone() for parameter in pl_module.parameters()]
            self.seen.append((trainer.global_step, outputs, batch, batch_idx, progress, parameters))
            assert not any(value.requires_grad for value in outputs.values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("size", [8, 50])
@pytest.mark.parametrize("kind", [Brought, NoneNowAndThen])
@pytest.mark.filterwarnings("ignore")
def test_a_sparse_callback_gets_the_same_arguments_as_from_lightning(
    kind: type[LightningModule], size: int, tmp_path: Path
) -> None:
    recorders = Recorder(), Recorder()
    for hurries, recorder in enumerate(recorders):
        epochs = 3 if size == 8 else 21
        fit(
            brought(kind),
            tmp_path / str(hurries),
            bool(hurries),
            size=size,
            max_epochs=epochs,
            callbacks=[recorder],
            gradient_clip_val=0.1,
        )
    given = [[entry for entry in recorder.seen if len(entry) > 3] for recorder in recorders]
    assert [entry[0] for entry in given[1]] == [step for step in range(1, 22) if step % 3 == 0 or step % 5 == 0]
    assert same(recorders[0].seen, recorders[1].seen)


class Counter(SparseCallback):
    """Wants no step, and records the epochs of the steps that it gets."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.epochs.append(trainer.current_epoch)


@pytest.mark.filterwarnings("ignore")
def test_steps_are_fast_again_when_the_reason_against_it_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counter = Counter()
    accumulation = GradientAccumulationScheduler({0: 2, 2: 1, 4: 2})
    fit(brought(Brought), tmp_path, True, callbacks=[counter, accumulation])
    assert counter.epochs == [0] * 7 + [1] * 7 + [4] * 7
    reason = "gradients are accumulated"
    assert [record.getMessage() for record in caplog.records if record.name == "descent.fast.epoch_loop"] == [
        f"note: every training step goes through Lightning's own loop, because {reason}"
    ] * 2


class LogsSteps(Recorder):
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        pl_module.log("mine", 1.0)


class Breaks(Brought):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        if self.global_step == 9:
            raise KeyError(batch_idx)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("kind", "callbacks", "error", "steps"),
    [(Brought, [LogsSteps()], MisconfigurationException, 3), (Breaks, [], KeyError, 9)],
)
@pytest.mark.filterwarnings("ignore")
def test_after_an_error_in_a_step_the_batches_keep_their_position(
    kind: type[LightningModule], callbacks: Any, error: type[Exception], steps: int, tmp_path: Path
) -> None:
    module, x = brought(kind), torch.randn(50, 3)
    batches = InMemoryBatches(x, x[:, 0], size=8)
    with pytest.raises(error):
        fit(module, tmp_path, True, batches=batches, callbacks=callbacks)
    assert (module.global_step, batches.position) == (steps, steps % 7)
    assert module._current_fx_name is None


class EveryTenth(SparseCallback):
    """Wants every tenth step, and the end of its epoch."""

    def __init__(self) -> None:
        self.ends: list[int] = []

    def next_active_step(self, trainer: Trainer, step: int) -> float:
        return -(-step // 10) * 10

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ends.append(trainer.global_step)


@pytest.mark.filterwarnings("ignore")
def test_a_callback_that_wants_an_epochs_last_step_gets_its_epoch_end(tmp_path: Path) -> None:
    callback = EveryTenth()
    fit(brought(Brought), tmp_path, True, size=50, max_epochs=30, callbacks=[callback])
    assert callback.ends == [7, 10, 14, 20, 21, 28, 30]  # every seventh epoch is validated
