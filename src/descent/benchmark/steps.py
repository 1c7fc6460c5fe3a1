"""Time in training, with logging, validation, checkpoints and safeguards on, for each optimizer step."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from descent.benchmark.measure import Row, in_turn
from descent.benchmark.rivals import LEARNING_RATE, compiled, plain_loop, usual_lightning
from descent.cli import load_config
from descent.train import train

BARS = {1: 1.25, 32: 1.25, None: 1.5}


def step_rows(conf: Path, quick: bool) -> Iterator[Row]:
    """The rows of the table for single steps, for each optimizer, batch size and clipping."""
    rounds, share = (1, 10) if quick else (5, 1)
    for optimizer in ("sgd", "adam"):
        for clip in ("none", "norm"):
            for size, steps in ((1, 20_000), (32, 20_000), (None, 2_000)):
                yield from _rows(conf, optimizer, clip, size, 1000, 5, steps // share, rounds, BARS[size])
    if not quick:
        for optimizer in ("sgd", "adam"):
            yield from _rows(conf, optimizer, "none", None, 1_000_000, 10, 50, rounds, 1.03)


def _rows(
    conf: Path,
    optimizer: str,
    clip: str,
    size: int | None,
    rows: int,
    features: int,
    steps: int,
    rounds: int,
    bar: float,
) -> Iterator[Row]:
    x = torch.randn(rows, features)
    y = x.sum(dim=1) + torch.randn(rows)
    torch_name, clip_val = {"sgd": "SGD", "adam": "Adam"}[optimizer], 1.0 if clip == "norm" else None
    batch = "full" if size is None else {1: "single", 32: "mini"}[size]
    epochs = -(-steps // -(-rows // (size or rows)))

    def ours() -> float:
        overrides = [
            *(f"optimizer={optimizer}", f"optimizer.lr={LEARNING_RATE}", f"batch={batch}", f"clip={clip}"),
            *(f"data.num_samples={rows * 5 // 4}", f"data.num_features={features}"),
            *(f"trainer.max_epochs={epochs}", f"trainer.max_steps={steps}", "trainer.accelerator=cpu"),
            "trainer.enable_progress_bar=false",
        ]
        with tempfile.TemporaryDirectory() as directory:
            result = train(load_config(conf, overrides), Path(directory))
        assert result.steps == steps, result
        return result.seconds / steps

    def loop() -> float:
        return plain_loop(x, y, torch_name, size, steps, clip_val) / steps

    what = f"a step, batch {size or f'of all {rows:,}'}, {optimizer}, clip={clip}"
    yield in_turn(what, ours, "plain loop", loop, rounds, bar, "us", 1e6)
    if rows > 1000:
        return
    few = max(steps // 20, 50)
    yield in_turn(
        *(what, ours, "usual Lightning"),
        lambda: usual_lightning(x, y, torch_name, size, few, clip_val) / few,
        *(1, None, "us", 1e6),
    )
    if size == 1 and optimizer == "sgd" and clip == "none":
        yield in_turn(what, ours, "SGDRegressor", lambda: compiled(x, y, steps) / steps, 1, None, "us", 1e6)
