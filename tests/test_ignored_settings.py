"""Tests the notes on what a module makes in another way than the config says."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from test_resume import SignalAt
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

from descent.errors import note_once
from regression.data.module import RegressionData
from regression.model import LinearRegression

FEW = ("data.num_samples=40", "trainer.max_epochs=1", "batch.size=8")
SAYS = "note: LinearRegression.configure_optimizers returned"


class Lookahead(Optimizer):
    """Averages the weights of another optimizer, which it wraps."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__([{**group} for group in optimizer.param_groups], {})
        self.optimizer = optimizer

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        return self.optimizer.step(closure)


@pytest.fixture
def notes(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    note_once.cache_clear()
    yield lambda: [text for text in caplog.messages if "the config has" in text]


def groups(module: LinearRegression) -> Any:
    weight, bias = module.parameters()
    return SGD([{"params": [weight]}, {"params": [bias], "lr": 0.5}], lr=0.05)


def scheduled(module: LinearRegression, rate: float = 0.05) -> Any:
    optimizer = SGD(module.parameters(), lr=rate)
    return [optimizer], [StepLR(optimizer, 1)]


def one_cycle(module: LinearRegression) -> Any:
    optimizer = SGD(module.parameters(), lr=0.1, momentum=0.5)
    steps = int(module.trainer.estimated_stepping_batches)
    return [optimizer], [OneCycleLR(optimizer, 0.3, total_steps=steps)]  # cycles the momentum, too


@pytest.mark.parametrize(
    ("make", "overrides", "expected"),
    [
        (lambda module: SGD(module.parameters(), lr=0.05), (), []),
        (groups, (), []),
        (scheduled, ("scheduler=step",), []),
        (one_cycle, ("scheduler=one_cycle", "optimizer=momentum", "optimizer.lr=0.1"), []),
        (lambda module: SGD(module.parameters(), lr=torch.tensor(0.02)), ("optimizer.lr=0.02",), []),
        (lambda module: Lookahead(SGD(module.parameters(), lr=0.05)), (), []),
        (lambda module: Adam(module.parameters(), lr=0.05, betas=(0.9, 0.99)), ("optimizer=adam", "optimizer.lr=0.05",
        "+optimizer.betas=[0.9,0.99]"), []),
        (
            lambda module: Adam(module.parameters(), lr=1e-3),
            ("optimizer=adamw", "optimizer.lr=0.02", "optimizer.weight_decay=0.1"),
            [
                f"{SAYS} Adam, the config has optimizer._target_=torch.optim.AdamW",
                f"{SAYS} Adam with lr=0.001, the config has optimizer.lr=0.02",
                f"{SAYS} Adam with weight_decay=0, the config has optimizer.weight_decay=0.1",
            ],
        ),
        (
            lambda module: AdamW(module.parameters(), lr=0.02, betas=(0.5, 0.6)),
            ("optimizer=adamw", "optimizer.lr=0.02", "+optimizer.betas=[0.9,0.99]"),
            [f"{SAYS} AdamW with betas=[0.5, 0.6], the config has optimizer.betas=[0.9, 0.99]"],
        ),
        (groups, ("optimizer.lr=0.3",), [f"{SAYS} SGD with lr=0.05, 0.5, the config has optimizer.lr=0.3"]),
        (
            lambda module: SGD(module.parameters(), lr=0.05),
            ("scheduler=cosine",),
            [
                f"{SAYS} no scheduler, the config has"
                " scheduler._target_=torch.optim.lr_scheduler.CosineAnnealingLR"
            ],
        ),
        (
            scheduled,
            ("scheduler=cosine",),
            [f"{SAYS} StepLR, the config has scheduler._target_=torch.optim.lr_scheduler.CosineAnnealingLR"],
        ),
    ],
    ids=["as in the config", "groups", "with a scheduler", "one cycle", "a tensor", "a wrapper", "tuples",
    "another class", "other betas",
    "other groups", "no scheduler", "another scheduler"],
)  # fmt: skip
def test_what_configure_optimizers_returns_is_compared_with_the_config(
    make: Callable[[LinearRegression], Any],
    overrides: tuple[str, ...],
    expected: list[str],
    run: Run,
    notes: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LinearRegression, "configure_optimizers", make)
    assert run(*FEW, *overrides).status == "completed"
    assert notes() == expected


@pytest.mark.parametrize("size", [8, 32])
def test_the_batch_size_of_a_dataloader_is_compared_with_the_config(
    size: int, run: Run, notes: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = TensorDataset(torch.randn(40, 5), torch.randn(40))
    monkeypatch.setattr(RegressionData, "train_dataloader", lambda self: DataLoader(rows, batch_size=size))
    run(*FEW, "trainer.fast=false")
    expected = "note: train_dataloader has batches of 32 rows, the config has batch.size=8"
    assert notes() == ([] if size == 8 else [expected])


def test_a_resumed_run_has_no_notes_on_rates_that_the_module_changed(
    tmp_path: Path, run: Run, notes: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def halve(self: LinearRegression) -> None:
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] /= 2

    monkeypatch.setattr(LinearRegression, "on_train_epoch_start", halve)
    again = *FEW, "trainer.max_epochs=3"
    run(*again, run_dir=tmp_path / "r", callbacks=[SignalAt(9)])
    assert run(*again, run_dir=tmp_path / "r", resume=True).status == "completed"
    assert notes() == []
