"""Steps taken without Lightning's loop are those that Lightning's loop takes, bit for bit in double precision."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, options
from lightning.pytorch import Callback, LightningModule, Trainer
from test_conf import needs_full_batch
from test_resume import SMALL
from test_train import events

from descent.checkpoint_io import read_checkpoint


class Listener(Callback):
    """Wants every step, which keeps all of them in Lightning's own loop."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        pass


def same(a: Any, b: Any) -> bool:
    """Whether two checkpoints are equal, all but the seconds that they took."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key != "seconds")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return bool(a == b)


def assert_equals_lightnings_loop(run: Run, tmp_path: Path, *overrides: str) -> None:
    directories = tmp_path / "here", tmp_path / "lightning"
    here, lightning = (
        run(*SMALL, *overrides, run_dir=directory, callbacks=[Listener()] if directory.name == "lightning" else [])
        for directory in directories
    )
    for name in ("status", "reason", "stopped", "metrics", "parameters", "steps", "epochs", "gradient_evaluations"):
        assert getattr(here, name) == getattr(lightning, name), name
    written = [{path.name for path in directory.glob("checkpoints/*.ckpt")} for directory in directories]
    assert written[0] == written[1]
    for name in written[0]:
        a, b = (read_checkpoint(directory / "checkpoints" / name) for directory in directories)
        for key in a.keys() | b.keys():
            if (name, key) == ("best.ckpt", "loops"):  # of the moment at which the file was written
                continue
            assert same(a[key], b[key]), (key, a[key], b[key])
    points = [
        {tag: [(p.step, p.value) for p in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
        for read in map(events, directories)
    ]
    assert points[0] == points[1]


@pytest.mark.parametrize("batch", ["mini", "single", "full"])
@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_steps_of_every_optimizer_equal_lightnings(optimizer: str, batch: str, run: Run, tmp_path: Path) -> None:
    if needs_full_batch(optimizer) and batch != "full":
        pytest.skip("full batch only")
    size = {"full": "null", "single": "1", "mini": "8"}[batch]
    epochs = "trainer.max_epochs=60" if batch == "full" else "trainer.max_epochs=4"
    assert_equals_lightnings_loop(
        run, tmp_path, f"optimizer={optimizer}", f"batch={batch}", f"batch.size={size}", epochs
    )


@pytest.mark.parametrize(
    "overrides",
    [
        *(["optimizer=momentum", f"scheduler={name}", "trainer.max_epochs=25"] for name in options("scheduler")),
        *([f"clip={name}", "clip.gradient_clip_val=0.1"] for name in options("clip") if name != "none"),
        *([f"stopping={name}", "trainer.max_epochs=40"] for name in options("stopping")),
        ["scheduler=cosine", "scheduler.interval=step", "scheduler.frequency=3"],
        ["scheduler=exponential", "batch=full", "batch.size=null", "trainer.max_epochs=50"],
        ["trainer.max_steps=13", "trainer.log_every_n_steps=4"],
        ["trainer.max_steps=33", "batch=full", "batch.size=null", "trainer.max_epochs=50"],
        ["data.val_fraction=0", "trainer.max_epochs=30"],
        ["trainer.max_epochs=43", "trainer.check_val_every_n_epoch=7"],
        ["trainer.max_epochs=130", "trainer.log_every_n_steps=7"],
        ["checkpoint.every_steps=3"],
        ["optimizer.lr=1.9", "trainer.max_epochs=100"],
        ["batch.shuffle=false"],
    ],
    ids=lambda overrides: ",".join(overrides)[:60],
)
def test_everything_around_the_steps_equals_lightnings(overrides: list[str], run: Run, tmp_path: Path) -> None:
    assert_equals_lightnings_loop(run, tmp_path, *overrides)
