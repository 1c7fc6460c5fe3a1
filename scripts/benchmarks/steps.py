"""Measures training time per optimizer step, with logging, validation, checkpoints and safeguards."""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import torch

from benchmarks.measure import in_turn
from benchmarks.rivals import LEARNING_RATE, Setting, compiled, plain_loop, usual_lightning
from descent.run.cli import load_config
from descent.run.train import train

BATCH = {1: "single", 32: "mini", None: "full"}
OPTIMIZERS = ("sgd", "adam")


def overrides_of(setting: Setting) -> list[str]:
    """Returns the setting as overrides of ``scripts/train.py``."""
    batches = -(-setting.rows // (setting.size or setting.rows))
    samples = setting.rows * 5 // 4 if setting.validation else setting.rows
    return [
        *([] if setting.validation else ["data.val_fraction=0", "data.test_fraction=0"]),
        *(f"optimizer={setting.optimizer}", f"optimizer.lr={LEARNING_RATE}", f"batch={BATCH[setting.size]}"),
        *(f"clip={setting.clip}", f"data.num_samples={samples}", f"data.num_features={setting.features}"),
        *(f"trainer.max_epochs={-(-setting.steps // batches)}", f"trainer.max_steps={setting.steps}"),
        *(f"trainer.accelerator={setting.device}", "trainer.enable_progress_bar=false"),
    ]


def here(conf: Path, setting: Setting) -> float:
    """Returns microseconds per step in ``descent.run.train.train``."""
    return seconds_of(conf, overrides_of(setting), setting.steps) / setting.steps * 1e6


def seconds_of(conf: Path, overrides: Sequence[str], steps: int) -> float:
    """Returns the ``seconds`` of the result of a run, which are those of training alone.

    Raises:
        RuntimeError: the run has taken another number of steps.
    """
    with tempfile.TemporaryDirectory() as directory:
        result = train(load_config(conf, overrides), Path(directory))
    if result.steps != steps:
        raise RuntimeError(f"{result.steps} steps instead of {steps}: {result.reason}")
    return result.seconds


def step_rows(conf: Path, quick: bool) -> Iterator[str]:
    """Measures steps against the tutorial's plain loop, usual Lightning code, and scikit-learn's compiled code."""
    rounds, share = (1, 10) if quick else (3, 1)
    for size, steps, bar in ((1, 20_000 // share, 1.25), (32, 20_000 // share, 1.25), (None, 2_000, 1.5)):
        for optimizer, clip in product(OPTIMIZERS, ("none", "norm")):
            if quick and (optimizer, clip) not in (("sgd", "none"), ("adam", "norm")):
                continue
            yield from _against_loops(conf, Setting(optimizer, size, clip, 1000, 5, steps), rounds, bar)
    for size, steps in ((32, 20_000 // share), (None, 2_000)):
        yield from _against_loops(conf, Setting("sgd", size, "none", 1000, 5, steps, validation=False), rounds, 1.25)
    for size, steps in ((32, 1_000), (1, 1_000), (None, 100))[: 1 if quick else 3]:
        setting = Setting("sgd", size, "none", 1000, 5, steps // share)
        usual = partial(usual_lightning, setting)
        yield in_turn(str(setting), partial(here, conf, setting), "usual Lightning", usual, rounds, "us")
    setting = Setting("sgd", 1, "none", 1000, 5, 20_000 // share)
    yield in_turn(str(setting), partial(here, conf, setting), "SGDRegressor", partial(compiled, setting), rounds, "us")
    for optimizer in () if quick else OPTIMIZERS:
        yield from _against_loops(conf, Setting(optimizer, None, "none", 1_000_000, 10, 50), rounds, 1.03)


def _against_loops(conf: Path, setting: Setting, rounds: int, bar: float) -> Iterator[str]:
    ours = partial(here, conf, setting)
    yield in_turn(str(setting), ours, "plain loop", partial(plain_loop, setting), rounds, "us", bar)
    if setting.size is None and rounds > 1:
        unindexed = partial(plain_loop, setting, indexed=False)
        yield in_turn(str(setting), ours, "the same, not indexing", unindexed, rounds, "us")


def gpu_rows(conf: Path) -> Iterator[str]:
    """Measures steps on a CUDA GPU; without one, the rows are empty."""
    for (size, steps), optimizer in product(((32, 5_000), (None, 1_000)), OPTIMIZERS):
        setting = Setting(optimizer, size, "none", 1000, 5, steps, device="cuda")
        for against, loop in (("plain loop", plain_loop), ("usual Lightning", usual_lightning)):
            if torch.cuda.is_available():
                yield in_turn(str(setting), partial(here, conf, setting), against, partial(loop, setting), 3, "us")
            else:
                yield f"| {setting} |  | {against} |  |  |  |  |"
