"""Tests how many threads a run uses, and that it restores the process's number."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Run
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from test_resume import SMALL, SignalAt
from torch.utils.data import DataLoader, Sampler

from descent.training.threads import Threads

OWN = 3  # the process's number of threads in these tests


class Seen(Callback):
    """Records the number of threads at the end of each epoch."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.numbers.add(torch.get_num_threads())


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(OWN)
    yield
    assert torch.get_num_threads() == OWN, "a run must restore the number of threads"
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), 1),
        (("trainer.num_threads=2",), 2),
        (("data.num_samples=20", "data.num_features=400", "batch.size=null", "data.standardize=false"), 1),
        (("data.num_samples=1500", "data.num_features=1000", "batch.size=null", "trainer.max_epochs=1"), OWN),
    ],
    ids=["small", "given", "some parameters", "large"],
)
def test_small_steps_use_one_thread(overrides: tuple[str, ...], expected: int, run: Run) -> None:
    seen = Seen()
    assert run(*SMALL, *overrides, callbacks=[seen]).status == "completed"
    assert seen.numbers == {expected}


def test_a_diverged_run_restores_the_number_of_threads(run: Run) -> None:
    assert run(*SMALL, "optimizer.lr=100").status == "diverged"


def test_a_resumed_run_uses_its_original_number_of_threads(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("descent.training.threads.SMALL", 0)
    run(*SMALL, callbacks=[SignalAt(7)], run_dir=tmp_path / "r")
    torch.set_num_threads(2)  # like another machine
    seen: Any = Seen()
    assert run(*SMALL, callbacks=[seen], run_dir=tmp_path / "r", resume=True).status == "completed"
    assert seen.numbers == {OWN}
    torch.set_num_threads(OWN)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch, in Lightning
@pytest.mark.parametrize(("batch_size", "small"), [(40, True), (100, False), (None, False)])
def test_of_several_loaders_the_rows_of_all_count(batch_size: int | None, small: bool) -> None:
    rows: Any = range(1000)
    loaders = {"a": DataLoader(rows, batch_size), "b": [DataLoader(rows, 10)]}
    trainer: Any = SimpleNamespace(train_dataloader=CombinedLoader(loaders, "max_size_cycle"))
    module: Any = torch.nn.Linear(10_000, 1)
    module.device = torch.device("cpu")
    assert Threads(None)._is_small(trainer, module) is small


class Unsized(Sampler[list[int]]):
    """Batches whose number is not known, as those of equal numbers of tokens."""

    def __iter__(self) -> Iterator[list[int]]:
        yield [0, 1]


@pytest.mark.parametrize(
    ("sampler", "batch_size", "small"),
    [
        ([[0, 1, 2], [3]] * 10, None, True),  # 1,000 rows in 20 batches
        ([range(1000)], None, False),
        (Unsized(), 50, True),
        (Unsized(), 500, False),
        (Unsized(), None, False),
    ],
    ids=["several", "one", "of the config", "large in the config", "unknown"],
)
def test_a_batch_sampler_has_the_mean_of_its_rows_or_those_of_the_config(
    sampler: Any, batch_size: int | None, small: bool
) -> None:
    rows: Any = range(1000)
    trainer: Any = SimpleNamespace(train_dataloader=DataLoader(rows, batch_sampler=sampler))
    module: Any = torch.nn.Linear(10_000, 1)
    module.device = torch.device("cpu")
    assert Threads(None, batch_size)._is_small(trainer, module) is small
