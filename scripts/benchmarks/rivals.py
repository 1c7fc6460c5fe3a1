"""Defines the training loops that the project is measured against."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, repeat

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.linear_model import SGDRegressor
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, TensorDataset

LEARNING_RATE = 0.001  # converges with every optimizer and batch size here
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
}


@dataclass(frozen=True)
class Setting:
    """One training: ``rows`` training rows, ``steps`` steps."""

    optimizer: str
    size: int | None
    clip: str
    rows: int
    features: int
    steps: int
    validation: bool = True  # on additional rows, an eighth as many
    device: str = "cpu"  # or cuda

    @property
    def clip_val(self) -> float | None:
        return 1.0 if self.clip == "norm" else None

    def data(self) -> tuple[Tensor, Tensor]:
        x = torch.randn(self.rows, self.features, device=self.device)
        return x, x.sum(dim=1) + torch.randn(self.rows, device=self.device)

    def optim(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        return OPTIMIZERS[self.optimizer](parameters, lr=LEARNING_RATE)

    def __str__(self) -> str:
        batch = f"batch {self.size}" if self.size else f"full batch of {self.rows:,} x {self.features}"
        validation = "" if self.validation else ", no validation"
        step = "a step" if self.device == "cpu" else f"a step on {self.device}"
        return f"{step}, {batch}, {self.optimizer}{', clipped' if self.clip_val else ''}{validation}"

    def clock(self) -> float:
        """The time in seconds, when the device has done all that it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def plain_loop(setting: Setting, indexed: bool = True) -> float:
    """Returns microseconds per step in the tutorial's loop, with nothing logged.

    Args:
        indexed: whether a permutation indexes each batch; otherwise a batch is all rows in order.
    """
    x, y = setting.data()
    model = nn.Linear(setting.features, 1, device=setting.device)
    optim = setting.optim(model.parameters())
    batches = _batches(x, y, setting.size or setting.rows) if indexed else repeat((x, y))
    started = setting.clock()
    for inputs, targets in islice(batches, setting.steps):
        loss = mse_loss(model(inputs).squeeze(-1), targets)
        optim.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if setting.clip_val is not None:
            clip_grad_norm_(model.parameters(), setting.clip_val)
        optim.step()
    return (setting.clock() - started) / setting.steps * 1e6


def _batches(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields batches endlessly, in a new order each epoch."""
    while True:
        order = torch.randperm(len(y), device=y.device)
        for start in range(0, len(y), size):
            batch = order[start : start + size]
            yield x[batch], y[batch]


class UsualModule(LightningModule):
    """Linear regression as in Lightning's tutorials, with ``self.log`` on every step."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.linear, self.setting = nn.Linear(setting.features, 1), setting

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = mse_loss(self.linear(x).squeeze(-1), y)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val/loss", mse_loss(self.linear(x).squeeze(-1), y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.setting.optim(self.parameters())


def usual_lightning(setting: Setting) -> float:
    """Returns microseconds per step with ``DataLoader``, ``self.log`` on every step and TensorBoard.

    As by Lightning's defaults, each epoch ends with a validation and a checkpoint.
    """
    x, y = (tensor.cpu() for tensor in setting.data())
    held_out = setting.rows // 8
    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(
            accelerator=setting.device,
            devices=1,
            max_epochs=-1,
            max_steps=setting.steps,
            gradient_clip_val=setting.clip_val,
            logger=TensorBoardLogger(directory),
            default_root_dir=directory,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        train = DataLoader(TensorDataset(x, y), batch_size=setting.size or setting.rows, shuffle=True)
        val = DataLoader(TensorDataset(x[:held_out], y[:held_out]), batch_size=setting.size or held_out)
        started = setting.clock()
        trainer.fit(UsualModule(setting), train, val)
        return (setting.clock() - started) / setting.steps * 1e6


def compiled(setting: Setting) -> float:
    """Returns microseconds per step in scikit-learn's ``SGDRegressor``: one row per step, in Cython."""
    epochs = -(-setting.steps // setting.rows)
    model = SGDRegressor(penalty=None, learning_rate="constant", eta0=LEARNING_RATE, max_iter=epochs, tol=None)
    inputs, targets = (tensor.numpy() for tensor in setting.data())
    started = time.perf_counter()
    model.fit(inputs, targets)
    return (time.perf_counter() - started) / setting.steps * 1e6
