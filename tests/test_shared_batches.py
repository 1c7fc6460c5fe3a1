"""Tests in one process how batches are shared out over processes, and what is refused."""

from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import config_of
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from descent.batches.exact import exact, parts
from descent.batches.in_memory import InMemoryBatches
from descent.batches.share import Share
from descent.config.hparams import ONE_PROCESS, flat_hparams
from descent.config.identity import config_digest
from descent.errors import UserError
from descent.processes import Started, common_name, is_main, started
from descent.training.launch import check_started
from descent.training.loaders import make_exact
from descent.training.mean_loss import note_other_losses

BY_OTHERS = ("TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BY_OTHERS:
        monkeypatch.delenv(name, raising=False)


def rows_of(loader: Any) -> list[list[float]]:
    return [batch[0].flatten().tolist() for batch in loader]


@pytest.mark.parametrize(("rows", "size", "world"), [(10, 4, 2), (9, 4, 2), (7, 3, 3), (5, None, 2), (8, 1, 2)])
@pytest.mark.parametrize("kind", ["in memory", "a DataLoader", "with workers"])
def test_each_row_of_a_batch_goes_to_one_process(rows: int, size: int | None, world: int, kind: str) -> None:
    def loader(rank: int | None) -> Any:
        x = torch.arange(float(rows)).view(-1, 1)
        made: Any = InMemoryBatches(x, size=size, shuffle=True, seed=3)
        if kind != "in memory":
            workers = 2 if kind == "with workers" and rank == 0 and size == 4 else 0
            made, _ = exact(DataLoader(TensorDataset(x), size or rows, shuffle=True, num_workers=workers), 3)
        made.share = None if rank is None else Share(rank, world)
        return made

    whole, each = loader(None), [loader(rank) for rank in range(world)]
    for epoch in range(2):
        for every in (whole, *each):
            every.set_epoch(epoch)
        counts: list[list[tuple[int, int]]] = []
        shares: list[list[list[float]]] = []
        for part in each:
            counts.append([])
            shares.append([])
            for batch in part:
                counts[-1].append((part.share.rows, part.share.own))
                shares[-1].append(batch[0].flatten().tolist())
        for number, batch in enumerate(rows_of(whole)):
            taken = [share[number][: count[number][1]] for share, count in zip(shares, counts, strict=True)]
            assert sorted(chain.from_iterable(taken)) == sorted(batch)
            assert all(share[number] for share in shares)  # a process without a row gets another's
            assert {count[number][0] for count in counts} == {len(batch)}


def test_share_weights_give_the_mean_over_all_rows() -> None:
    values = [3.0, 5.0, 10.0]
    for rows in (1, 2, 3):
        total = 0.0
        for rank in range(2):
            share = Share(rank, 2)
            share.count(rows)
            part = share.of(values[:rows])
            total += share.weight * sum(part) / len(part)
        assert total / 2 == pytest.approx(sum(values[:rows]) / rows)


class Rows(LightningDataModule):
    def __init__(self, **loaders: Any) -> None:
        super().__init__()
        self.loaders = loaders

    def train_dataloader(self) -> Any:
        return self.loaders.get("train", DataLoader(TensorDataset(torch.ones(4, 1)), 2))

    def val_dataloader(self) -> Any:
        return self.loaders.get("val", DataLoader(TensorDataset(torch.ones(4, 1)), 2))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(torch.ones(4, 1))


PLAIN = TensorDataset(torch.ones(4, 1))


def second() -> Any:
    """Returns a stub Trainer of the second of two processes."""
    return SimpleNamespace(world_size=2, global_rank=1, overfit_batches=0.0, reload_dataloaders_every_n_epochs=0)


NEEDS = "several devices (trainer.devices, trainer.num_nodes) need "
INDICES = f"{NEEDS}loaders whose batches can be split, with indices and a length; "


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "loader", "said"),
    [
        ("train", DataLoader(Stream(), 2), f"{INDICES}train_dataloader returns a DataLoader of Stream"),
        ("val", DataLoader(Stream(), 2), f"{INDICES}val_dataloader returns a DataLoader of Stream"),
        ("val", [[torch.ones(1)]], f"{INDICES}val_dataloader returns a Tensor"),
        (
            *("train", [DataLoader(PLAIN, 2), DataLoader(PLAIN, 2)]),
            f"{NEEDS}a train_dataloader that returns one loader: a loss over several has no single weight",
        ),
        (
            *("train", {"a": DataLoader(PLAIN, 2)}),
            f"{NEEDS}a train_dataloader that returns one loader: a loss over several has no single weight",
        ),
        (
            *("val", DataLoader(PLAIN, None)),
            f"{NEEDS}batches of several rows: the DataLoader of val_dataloader has batch_size=None",
        ),
        (
            *("train", DataLoader(PLAIN, 2, sampler=DistributedSampler(PLAIN, 2, 0))),
            f"{NEEDS}a train_dataloader without DistributedSampler: the run splits each batch itself",
        ),
    ],
)
def test_loaders_that_cannot_be_shared_out_are_refused(name: str, loader: Any, said: str) -> None:
    data, trainer = Rows(**{name: loader}), second()
    make_exact(data, config_of(), None, trainer)
    with pytest.raises(UserError) as error:
        getattr(data, f"{name}_dataloader")()
    assert str(error.value) == said


@pytest.mark.filterwarnings("ignore::FutureWarning")  # from CombinedLoader
def test_validation_loaders_in_any_collection_are_shared_out() -> None:
    trainer = second()
    in_memory, of_rows = InMemoryBatches(torch.ones(4, 1)), DataLoader(PLAIN, 2)
    for loader in ([in_memory], {"a": of_rows}, CombinedLoader([of_rows]), of_rows):
        data = Rows(val=loader)
        make_exact(data, config_of(), None, trainer)
        (part,) = parts(data.val_dataloader())
        assert (part.share.rank, part.share.world) == (1, 2)


@pytest.mark.parametrize(
    ("given", "found", "name"),
    [
        ({}, None, None),
        ({"TORCHELASTIC_RUN_ID": "mine", "RANK": "1", "WORLD_SIZE": "2"}, Started("torchrun", 1, 2), "torchrun_mine"),
        (
            {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "1"},
            *(Started("srun", 0, 2), "slurm_7.1"),
        ),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None, None),
        ({"LOCAL_RANK": "1"}, Started("Lightning", 1, None), None),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value),
)
def test_a_process_knows_how_it_was_started(
    given: dict[str, str], found: Started | None, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    assert (started(), common_name()) == (found, name)
    assert is_main() == (found is None or found.rank == 0)


def test_a_number_of_processes_that_differs_from_the_config_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^trainer\.num_nodes=2 needs torchrun or srun, "):
        check_started(config_of("trainer.num_nodes=2").trainer)
    for key, value in {"TORCHELASTIC_RUN_ID": "mine", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    check_started(config_of("trainer.num_nodes=2").trainer)
    check_started(config_of("trainer.devices=auto").trainer)
    with pytest.raises(UserError) as error:
        check_started(config_of("trainer.devices=4").trainer)
    assert str(error.value) == (
        "trainer.devices=4 times trainer.num_nodes=1 must be 2, the number of processes that torchrun started, got 4"
    )


class Mean(LightningModule):
    how = "mean"

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(2, 1), list[Tensor]()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.layer(batch).square()
        self.seen.append(loss)
        return loss.sum() if self.how == "sum" else loss.mean() + (torch.rand(()) if self.how == "random" else 0)


def test_a_loss_that_is_not_a_mean_over_rows_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    for how, notes in {"mean": 0, "random": 0, "sum": 1}.items():
        module = Mean()
        module.how = how
        note_other_losses(module, torch.randn(5, 2), 5)
        assert len(caplog.messages) == notes
        assert module.seen == []
    assert "because its loss is not the mean over the rows of a batch" in caplog.messages[0]
    module.norm = nn.BatchNorm1d(2)
    note_other_losses(module, torch.randn(1, 2), 1)
    assert caplog.messages[1].startswith("note: batch normalisation in Mean uses the statistics of each process's rows")


def test_a_job_of_a_sweep_must_have_one_process(run: Any, tmp_path: Path) -> None:
    from descent.run.train import train

    with pytest.raises(UserError, match=r"^a job of a sweep must have one process"):
        train(config_of("trainer=ddp_cpu", "figures=false"), tmp_path / "job", in_sweep=True)


def test_devices_and_strategy_are_hyperparameters_only_for_several_processes() -> None:
    one, two = flat_hparams(config_of()), flat_hparams(config_of("trainer=ddp_cpu"))
    assert not [key for key in one if key in ONE_PROCESS]
    assert {key: two[key] for key in ONE_PROCESS if key in two} == {"trainer.devices": 2, "trainer.strategy": "ddp"}
    assert config_digest(config_of("trainer.accelerator=cpu")) != config_digest(config_of("trainer=ddp_cpu"))
