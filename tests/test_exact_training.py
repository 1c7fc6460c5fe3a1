"""Tests that training in Lightning resumes bit for bit from any step, with any loader."""

import random
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from loaders import LEFT_AS_THEY_ARE, LOADERS, ROWS, WITH_WORKERS, Rows, SizedStream, Stream, disturb, drawn, quiet
from torch import Tensor, nn
from torch.utils.data import DataLoader

from descent.batches.exact import exact, load_positions
from descent.batches.in_memory import InMemoryBatches
from descent.training.random_state import random_state, set_random_state


class Module(LightningModule):
    """Its weights depend on every value of every batch and on their order; it draws random numbers, like dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 1)).double()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        parts = batch.values() if isinstance(batch, dict) else [batch]
        losses = []
        for part in parts:
            x = torch.atleast_2d((part[0] if isinstance(part, list | tuple) else part).double())
            x = nn.functional.pad(x if x.shape[0] > 1 or x.shape[1] <= 2 else x.T, (0, 2))[:, :2]
            losses.append((self.layers(x).sum(dim=1) - x[:, 0] - drawn()).square().mean())
        return torch.stack(losses).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-4, momentum=0.9)


class Listing(Module):
    """Takes the batches of a CombinedLoader, and records which loaders had one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[bool]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append([part is not None for part in batch])
        parts = [part for part in batch if part is not None]
        return super().training_step(dict(enumerate(parts)), batch_idx)


class Saver(Callback):
    """Saves and stops at a step or at the end of an epoch; when resuming, restores the random states."""

    def __init__(self, path: Path, step: int | None = None, epoch: int | None = None) -> None:
        self.path, self.step, self.epoch = path, step, epoch
        self.loader: Any = None
        self.states: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.states is not None:
            set_random_state(self.states)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.step == trainer.fit_loop.epoch_loop.total_batch_idx + 1:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.epoch == trainer.current_epoch:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        trainer.should_stop = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["random_state"] = random_state()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.states = checkpoint["random_state"]
        load_positions(self.loader, checkpoint)


def fit(
    loader: Any, saver: Saver, resume: bool = False, replace: bool = True, module: Module | None = None, **options: Any
) -> list[Tensor]:
    module = module or Module()
    saver.loader = exact(loader, 1)[0] if replace else loader
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[saver],
        **options,
    )
    disturb()
    if not resume:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
    trainer.fit(module, saver.loader, ckpt_path=saver.path if resume else None, weights_only=False)
    return list(module.parameters())


def assert_resumes_exactly(
    make: Callable[[], Any], tmp_path: Path, stops: list[dict[str, int]], **options: Any
) -> None:
    whole = fit(make(), Saver(tmp_path / "no"), **options)
    for number, stop in enumerate(stops):
        path = tmp_path / f"{number}.ckpt"
        part = fit(make(), Saver(path, **stop), **options)
        resumed = fit(make(), Saver(path), resume=True, **options)
        assert not all(map(torch.equal, whole, part)), stop
        assert all(map(torch.equal, whole, resumed)), stop


STOPS = [{"step": 1}, {"step": 4}, {"epoch": 0}, {"step": 8}]


@quiet
@pytest.mark.parametrize("name", [name for name in LOADERS | LEFT_AS_THEY_ARE if name != "an endless sampler"])
def test_training_resumes_bit_for_bit_from_any_step(name: str, tmp_path: Path) -> None:
    assert_resumes_exactly((LOADERS | LEFT_AS_THEY_ARE)[name], tmp_path, STOPS)


@quiet
@pytest.mark.parametrize("name", WITH_WORKERS)
def test_training_with_workers_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    assert_resumes_exactly(WITH_WORKERS[name], tmp_path, [{"step": 9}])


@quiet
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("shuffle", {"limit_train_batches": 3}),
        ("shuffle", {"limit_train_batches": 0.7}),
        ("in memory", {"limit_train_batches": 3}),
        ("stream", {"limit_train_batches": 3}),
        ("an endless sampler", {"limit_train_batches": 4}),
        ("shuffle", {"accumulate_grad_batches": 4}),
        ("shuffle", {"reload_dataloaders_every_n_epochs": 1}),
        ("stream", {"reload_dataloaders_every_n_epochs": 1}),
    ],
    ids=str,
)
def test_training_with_lightnings_options_resumes_bit_for_bit(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    # checkpoints do not hold gradients that are being accumulated
    stops = [{"step": 4}, {"epoch": 0}] if "accumulate_grad_batches" in options else [{"step": 2}, {"epoch": 1}]
    assert_resumes_exactly((LOADERS | LEFT_AS_THEY_ARE)[name], tmp_path, stops, **options)


@quiet
def test_a_module_that_reads_estimated_stepping_batches_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asking(self: Module) -> Any:
        assert self.trainer.estimated_stepping_batches in (18, -1)  # makes Lightning set up the loader early
        return torch.optim.SGD(self.parameters(), lr=1e-4, momentum=0.9)

    monkeypatch.setattr(Module, "configure_optimizers", asking)
    for name in ("shuffle", "stream", "stateful"):
        (tmp_path / name).mkdir()
        assert_resumes_exactly((LOADERS | LEFT_AS_THEY_ARE)[name], tmp_path / name, [{"step": 8}, {"epoch": 0}])


@quiet
def test_several_loaders_resume_bit_for_bit(tmp_path: Path) -> None:
    def make() -> dict[str, Any]:
        x = torch.arange(44.0).view(ROWS, 2)
        short = {"short": DataLoader(Rows(drawn), 8, shuffle=True), "memory": InMemoryBatches(x, size=8, shuffle=True)}
        return {"long": LOADERS["shuffle"](), **short}

    # after 3 steps the short loaders end, after 4 they have started again
    assert_resumes_exactly(make, tmp_path, [*STOPS, {"step": 3}])


@quiet
def test_exhausted_loaders_stay_exhausted_in_a_resumed_run(tmp_path: Path) -> None:
    def make() -> CombinedLoader:
        x = torch.arange(44.0).view(ROWS, 2)
        short = DataLoader(Rows(drawn), 8, shuffle=True), InMemoryBatches(x, size=8, shuffle=True)
        return CombinedLoader([LOADERS["shuffle"](), *short, DataLoader(SizedStream(), 8)], "max_size")

    def train(resume: bool = False, **stop: int) -> tuple[list[Tensor], list[list[bool]]]:
        module = Listing()
        return fit(make(), Saver(tmp_path / "a.ckpt", **stop), resume, module=module), module.seen

    assert exact(make(), 1)[1] == exact(DataLoader(SizedStream(), 8), 1)[1]  # no note on the mode
    epochs = ([[True] * 4] * 3 + [[True, False, False, False]] * 3) * 3
    whole, seen = train()
    assert seen == epochs
    for step in (2, 3, 4, 6, 10):
        train(step=step)
        weights, seen = train(resume=True)
        assert seen == epochs[step:], step
        assert all(map(torch.equal, whole, weights)), step


@quiet
def test_loading_a_position_after_the_first_batch_was_fetched_is_refused() -> None:
    loader, _ = exact(DataLoader(Stream(), 4), 0)
    next(iter(loader))  # as Lightning does before training if there is no length
    loader.load_state_dict({"epoch": 0, "position": 0})
    with pytest.raises(RuntimeError, match="before its first batch"):
        loader.load_state_dict({"epoch": 0, "position": 3})


@quiet
def test_lightning_does_not_warn_that_exact_loaders_are_not_resumable(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    def warned(replace: bool) -> bool:
        recwarn.clear()
        path = tmp_path / f"{replace}.ckpt"
        for resume in (False, True):
            fit(LOADERS["shuffle"](), Saver(path, step=None if resume else 2), resume, replace)
        return any("dataloader is not resumable" in str(warning.message) for warning in recwarn)

    assert warned(replace=False)
    assert not warned(replace=True)


@quiet
def test_workers_end_when_training_stops_within_an_epoch(tmp_path: Path) -> None:
    for make in WITH_WORKERS.values():
        before = active_children()
        saver = Saver(tmp_path / "a.ckpt", step=2)
        fit(make(), saver)
        assert saver.loader.num_workers == 2  # the loader still exists
        assert set(active_children()) <= set(before)
