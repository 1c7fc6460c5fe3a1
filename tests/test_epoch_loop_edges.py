"""Steps without Lightning's loop where epochs have no number, precision is double, or a scheduler is brought."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from test_epoch_loop import Brought, brought, fit, same

from descent.batches.in_memory import Batch, InMemoryBatches
from descent.fast.epoch_loop import EpochLoop
from descent.training.intervals import Intervals
from descent.training.max_steps import MaxSteps
from descent.training.validation_schedule import ValidationSchedule


class Casts(Brought):
    """Makes a tensor in the precision of the step."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        assert torch.full((1,), 0.1).dtype == torch.float64
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore")
def test_in_double_precision_what_a_step_makes_is_double(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(50, 3).double()
    trainer = fit(
        brought(Casts), tmp_path, True, precision="64-true", batches=InMemoryBatches(x, x[:, 0], size=8), max_epochs=2
    )
    assert trainer.global_step == 14
    assert not [record for record in caplog.records if record.name == "descent.fast.epoch_loop"]


@pytest.mark.parametrize("size", [8, 50])
@pytest.mark.filterwarnings("ignore")
def test_a_run_without_a_number_of_epochs_ends_by_its_steps(size: int, tmp_path: Path) -> None:
    trainers = [
        fit(brought(Brought), tmp_path / str(hurries), hurries, size=size, max_epochs=-1, callbacks=[MaxSteps(33)])
        for hurries in (True, False)
    ]
    assert [trainer.global_step for trainer in trainers] == [33, 33]
    assert same(*(trainer.lightning_module.state_dict() for trainer in trainers))


class Validated(Brought):
    """Notes the epochs that are validated."""

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
def test_a_plateau_scheduler_that_is_brought_has_a_validation_after_each_epoch(plateau: bool, tmp_path: Path) -> None:
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
