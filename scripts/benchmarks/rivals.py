"""What the project's training is measured against."""

import tempfile
import time
from collections.abc import Callable

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.linear_model import SGDRegressor
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, TensorDataset

Optimizers = Callable[..., torch.optim.Optimizer]  # a class of torch's, or one with some arguments given
LEARNING_RATE = 0.001  # converges with every optimizer and batch size here


def unindexed_loop(x: Tensor, y: Tensor, optimizer: Optimizers, steps: int, clip: float | None) -> float:
    """Microseconds a step of the full batch in a loop that does not even index."""
    model = nn.Linear(x.shape[1], 1)
    optim = optimizer(model.parameters(), lr=LEARNING_RATE)
    started = time.perf_counter()
    for _ in range(steps):
        loss = mse_loss(model(x).squeeze(-1), y)
        optim.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            clip_grad_norm_(model.parameters(), clip)
        optim.step()
    return (time.perf_counter() - started) / steps * 1e6


def plain_loop(x: Tensor, y: Tensor, optimizer: Optimizers, size: int | None, steps: int, clip: float | None) -> float:
    """Microseconds a step in the tutorial's loop: tensors indexed by a permutation, nothing logged."""
    model = nn.Linear(x.shape[1], 1)
    optim = optimizer(model.parameters(), lr=LEARNING_RATE)
    rows, done = len(y), 0
    started = time.perf_counter()
    while done < steps:
        order = torch.randperm(rows)
        for start in range(0, rows, size or rows):
            batch = order[start : start + (size or rows)]
            loss = mse_loss(model(x[batch]).squeeze(-1), y[batch])
            optim.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if clip is not None:
                clip_grad_norm_(model.parameters(), clip)
            optim.step()
            done += 1
            if done == steps:
                break
    return (time.perf_counter() - started) / steps * 1e6


class UsualModule(LightningModule):
    """Linear regression as Lightning's tutorials have it, with ``self.log`` on every step."""

    def __init__(self, features: int, optimizer: Optimizers) -> None:
        super().__init__()
        self.linear, self.optimizer = nn.Linear(features, 1), optimizer

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = mse_loss(self.linear(x).squeeze(-1), y)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val/loss", mse_loss(self.linear(x).squeeze(-1), y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters(), lr=LEARNING_RATE)


def usual_lightning(
    x: Tensor, y: Tensor, optimizer: Optimizers, size: int | None, steps: int, clip: float | None
) -> float:
    """Microseconds a step with ``DataLoader``, ``self.log`` on every step and TensorBoard."""
    rows, held_out = TensorDataset(x, y), len(y) // 8
    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=-1,
            max_steps=steps,
            gradient_clip_val=clip,
            logger=TensorBoardLogger(directory),
            default_root_dir=directory,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        train = DataLoader(rows, batch_size=size or len(y), shuffle=True)
        val = DataLoader(TensorDataset(x[:held_out], y[:held_out]), batch_size=size or held_out)
        started = time.perf_counter()
        trainer.fit(UsualModule(x.shape[1], optimizer), train, val)
        return (time.perf_counter() - started) / steps * 1e6


def compiled(x: Tensor, y: Tensor, steps: int) -> float:
    """Microseconds a step in scikit-learn's ``SGDRegressor``: one row a step, a fixed algorithm in Cython."""
    model = SGDRegressor(
        penalty=None, learning_rate="constant", eta0=LEARNING_RATE, max_iter=-(-steps // len(y)), tol=None
    )
    inputs, targets = x.numpy(), y.numpy()
    started = time.perf_counter()
    model.fit(inputs, targets)
    return (time.perf_counter() - started) / steps * 1e6
