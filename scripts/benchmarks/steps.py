"""Time in training for each optimizer step, with logging, validation, checkpoints and safeguards on."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Row, in_turn
from benchmarks.rivals import LEARNING_RATE, Optimizers, compiled, plain_loop, unindexed_loop, usual_lightning
from descent.run.cli import load_config
from descent.run.train import train

BATCH = {1: "single", 32: "mini", None: "full"}
TORCH: dict[str, Optimizers] = {
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
}
OPTIMIZERS = ("sgd", "adam")


@dataclass(frozen=True)
class Setting:
    """One training: ``rows`` training rows, ``steps`` steps."""

    optimizer: str
    size: int | None
    clip: str
    rows: int
    features: int
    steps: int
    validation: bool = True  # on an eighth as many rows more

    @property
    def clip_val(self) -> float | None:
        return 1.0 if self.clip == "norm" else None

    def data(self) -> tuple[Tensor, Tensor]:
        x = torch.randn(self.rows, self.features)
        return x, x.sum(dim=1) + torch.randn(self.rows)

    def overrides(self) -> list[str]:
        batches = -(-self.rows // (self.size or self.rows))
        rows = ["data.val_fraction=0", "data.test_fraction=0"] if not self.validation else []
        samples = self.rows * 5 // 4 if self.validation else self.rows
        return [
            *rows,
            *(f"optimizer={self.optimizer}", f"optimizer.lr={LEARNING_RATE}", f"batch={BATCH[self.size]}"),
            *(f"clip={self.clip}", f"data.num_samples={samples}", f"data.num_features={self.features}"),
            *(f"trainer.max_epochs={-(-self.steps // batches)}", f"trainer.max_steps={self.steps}"),
            *("trainer.accelerator=cpu", "trainer.enable_progress_bar=false"),
        ]

    def __str__(self) -> str:
        batch = f"batch {self.size}" if self.size else f"full batch of {self.rows:,} x {self.features}"
        validation = "" if self.validation else ", no validation"
        return f"a step, {batch}, {self.optimizer}{', clipped' if self.clip_val else ''}{validation}"


def here(conf: Path, setting: Setting) -> float:
    """Microseconds a step in ``descent.run.train.train``, by what its result says of the time in training."""
    with tempfile.TemporaryDirectory() as directory:
        result = train(load_config(conf, setting.overrides()), Path(directory))
    if result.steps != setting.steps:
        raise RuntimeError(f"{result.steps} steps instead of {setting.steps}: {result.reason}")
    return result.seconds / setting.steps * 1e6


def step_rows(conf: Path, quick: bool) -> Iterator[Row]:
    """Against the tutorial's plain loop, the usual Lightning way, and scikit-learn's compiled code."""
    rounds, share = (1, 10) if quick else (3, 1)
    for size, steps, bar in ((1, 20_000 // share, 1.25), (32, 20_000 // share, 1.25), (None, 2_000, 1.5)):
        for optimizer, clip in product(OPTIMIZERS, ("none", "norm")):
            if quick and (optimizer, clip) not in (("sgd", "none"), ("adam", "norm")):
                continue
            setting = Setting(optimizer, size, clip, 1000, 5, steps)
            yield from _against_loops(conf, setting, rounds, bar)
    for size, steps in ((32, 20_000 // share), (None, 2_000)):
        yield from _against_loops(conf, Setting("sgd", size, "none", 1000, 5, steps, validation=False), rounds, 1.25)
    for size, steps in ((32, 1_000), (1, 1_000), (None, 100))[: 1 if quick else 3]:
        setting = Setting("sgd", size, "none", 1000, 5, steps // share)
        x, y = setting.data()
        theirs = partial(usual_lightning, x, y, torch.optim.SGD, size, setting.steps, None)
        yield in_turn(str(setting), partial(here, conf, setting), "usual Lightning", theirs, rounds, "us")
    setting = Setting("sgd", 1, "none", 1000, 5, 20_000 // share)
    compiled_loop = partial(compiled, *setting.data(), setting.steps)
    yield in_turn(str(setting), partial(here, conf, setting), "SGDRegressor", compiled_loop, rounds, "us")
    for optimizer in () if quick else OPTIMIZERS:
        yield from _against_loops(conf, Setting(optimizer, None, "none", 1_000_000, 10, 50), rounds, 1.03)


def _against_loops(conf: Path, setting: Setting, rounds: int, bar: float) -> Iterator[Row]:
    (x, y), optimizer = setting.data(), TORCH[setting.optimizer]
    ours = partial(here, conf, setting)
    loop = partial(plain_loop, x, y, optimizer, setting.size, setting.steps, setting.clip_val)
    yield in_turn(str(setting), ours, "plain loop", loop, rounds, "us", bar)
    if setting.size is None and rounds > 1:
        unindexed = partial(unindexed_loop, x, y, optimizer, setting.steps, setting.clip_val)
        yield in_turn(str(setting), ours, "the same, not indexing", unindexed, rounds, "us")
