"""Compares fast steps with Lightning's own loop, bit for bit in double precision."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Listener, Run, options
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, EarlyStopping, GradientAccumulationScheduler
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers import CSVLogger
from test_conf import needs_full_batch
from test_resume import SMALL, tags
from test_train import events
from torch import nn
from torch.nn.functional import mse_loss

from descent.batches.in_memory import Batch, InMemoryBatches
from descent.fast.epoch_loop import EpochLoop
from descent.training.checkpoint_io import read_checkpoint
from descent.training.intervals import Intervals
from descent.training.validation_schedule import ValidationSchedule


def same(a: Any, b: Any) -> bool:
    """Whether two checkpoints are equal except for their seconds."""
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
            if (name, key) == ("best.ckpt", "loops"):  # depends on when the file was written
                continue
            assert same(a[key], b[key]), (key, a[key], b[key])
    points = [
        {tag: [(p.step, p.value) for p in events(directory).Scalars(tag)] for tag in tags(directory)}
        for directory in directories
    ]
    assert points[0] == points[1]


@pytest.mark.parametrize("loss", ["mse", "huber"])
@pytest.mark.parametrize("model", options("model"))
def test_every_model_trains_as_in_lightnings_loop(
    model: str, loss: str, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = f"model={model}", f"model.loss={loss}", "optimizer=adam", "data.standardize=true"
    assert_equals_lightnings_loop(run, tmp_path, *overrides)
    (note,) = [message for message in caplog.messages if "Lightning's own loop" in message]
    assert "the callback Listener" in note  # the run without the Listener has no note


@pytest.mark.parametrize(
    ("optimizer", "batch"),
    [
        (optimizer, batch)
        for optimizer in options("optimizer")
        for batch in ("full", "mini")
        if batch == "full" or not needs_full_batch(optimizer)
    ],
)
def test_every_optimizer_steps_as_in_lightnings_loop(optimizer: str, batch: str, run: Run, tmp_path: Path) -> None:
    size = {"full": "null", "mini": "8"}[batch]
    epochs = "trainer.max_epochs=60" if batch == "full" else "trainer.max_epochs=4"
    assert_equals_lightnings_loop(
        run, tmp_path, f"optimizer={optimizer}", f"batch={batch}", f"batch.size={size}", epochs
    )


@pytest.mark.parametrize(
    "overrides",
    [
        *(["optimizer=momentum", f"scheduler={name}", "trainer.max_epochs=22"] for name in options("scheduler")),
        *([f"clip={name}", "clip.gradient_clip_val=0.1"] for name in options("clip") if name != "none"),
        *([f"stopping={name}", "trainer.max_epochs=40"] for name in options("stopping") if name != "none"),
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
        ["batch=single", "optimizer=adam"],
        ["batch=single", "data.num_samples=760", "trainer.log_every_n_steps=1000", "trainer.max_epochs=1"],
        ["stopping.max_samples=111"],
    ],
    ids=lambda overrides: ",".join(overrides)[:60],
)
def test_options_work_as_in_lightnings_loop(overrides: list[str], run: Run, tmp_path: Path) -> None:
    assert_equals_lightnings_loop(run, tmp_path, *overrides)


class Brought(LightningModule):
    """A user's module with layers, dropout and a dictionary as output."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        x, y = batch
        return {"loss": mse_loss(self.layers(x).squeeze(-1), y), "more": batch_idx}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class Logging(Brought):
    """Logs from the third epoch on."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        if self.trainer.current_epoch >= 2:
            self.log("mine", output["loss"], on_step=True, on_epoch=True)
        if self.trainer.is_last_batch:
            output["loss"] = 2 * output["loss"]
        return output


class Scaling(Brought):
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.layers[0].weight.grad *= 2


class ByHand(Brought):
    automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx)["loss"])
        optimizer.step()


class Annealed(Brought):
    """Its loss depends on the current step, epoch and batch."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)["loss"]
        loss = loss / (1 + self.global_step) + 0.1 * self.current_epoch * loss + 0.01 * batch_idx * loss
        return 2 * loss if self.trainer.is_last_batch else loss


class NoneNowAndThen(Brought):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        return None if self.global_step % 5 == 4 else output


class OnlyBatch(Brought):
    def training_step(self, batch: Batch) -> Any:  # type: ignore[override]
        return super().training_step(batch, 0)


class Stops(Brought):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        self.trainer.should_stop = self.global_step >= 16
        return super().training_step(batch, batch_idx)


class Twice(torch.optim.SGD):
    """Evaluates the closure twice a step."""

    def step(self, closure: Any = None) -> Any:
        assert closure is not None
        closure()
        return super().step(closure)


class WithTwice(Brought):
    def configure_optimizers(self) -> Any:
        return Twice(self.parameters(), lr=0.01)


class Halves(torch.optim.SGD):
    """Halves the gradients where others zero them."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter.grad /= 2


class WithHalves(Brought):
    def configure_optimizers(self) -> Any:
        return Halves(self.parameters(), lr=0.01)


class Thaw(BaseFinetuning):
    """Adds parameters to the optimizer in the third epoch."""

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.layers[0])

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Any) -> None:
        if epoch == 2:
            self.unfreeze_and_add_param_group(pl_module.layers[0], optimizer)


def fit(
    module: LightningModule,
    directory: Path,
    hurries: bool,
    batches: Any = None,
    size: int = 8,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Trainer:
    torch.manual_seed(0)
    trainer = Trainer(
        *(),
        **({"accelerator": "cpu", "max_epochs": 5, "log_every_n_steps": 3, "enable_checkpointing": False} | options),
        # where an epoch is a single step, the fast loop takes several at once
        callbacks=[*callbacks, ValidationSchedule(Intervals(3, 1 if size == 8 else 7))],
        logger=CSVLogger(directory),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if hurries:
        trainer.fit_loop.epoch_loop = EpochLoop(trainer)
    x = torch.randn(50, 3)
    trainer.fit(module, batches or InMemoryBatches(x, x.sum(dim=1), size=size, shuffle=True))
    return trainer


def brought(kind: type[LightningModule]) -> LightningModule:
    torch.manual_seed(1)
    return kind()


@pytest.mark.parametrize("size", [8, 50])
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Brought, None),
        (Annealed, None),
        (NoneNowAndThen, None),
        (Stops, None),
        (WithTwice, None),
        (WithHalves, None),
        (OnlyBatch, "training_step does not take (batch, batch_idx)"),
        (Logging, "training_step logs with self.log"),
        (Scaling, "Scaling overrides on_before_optimizer_step"),
        (ByHand, "the module uses manual optimization"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_users_module_trains_the_same_and_a_note_says_why_it_is_not_fast(
    kind: type[LightningModule], why: str | None, size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    modules = brought(kind), brought(kind)
    epochs = 5 if size == 8 else 30
    trainers = [
        fit(module, tmp_path / str(hurries), bool(hurries), size=size, max_epochs=epochs)
        for hurries, module in enumerate(modules)
    ]
    assert same(*(module.state_dict() for module in modules))
    assert same(*(dict(trainer.fit_loop.state_dict()) for trainer in trainers))
    assert same(*(trainer.logged_metrics for trainer in trainers))
    logged = [list(tmp_path.glob(f"{hurries}/**/metrics.csv")) for hurries in (0, 1)]
    assert [path.read_text() for path in logged[0]] == [path.read_text() for path in logged[1]]
    notes = [r.getMessage() for r in caplog.records if r.name == "descent.fast.epoch_loop"]
    assert notes == ([f"note: every training step goes through Lightning's own loop, because {why}"] if why else [])


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_clip_val": 0.1},
        {"callbacks": [Thaw()]},
        {"callbacks": [GradientAccumulationScheduler({0: 1, 2: 2})]},
        {"callbacks": [EarlyStopping("mine", patience=1, check_on_train_epoch_end=True)]},
    ],
    ids=["clip", "finetuning", "accumulation", "stopping"],
)
@pytest.mark.filterwarnings("ignore")
def test_clipping_finetuning_accumulation_and_stopping_work_in_fast_steps(
    options: dict[str, Any], tmp_path: Path
) -> None:
    class Monitored(Brought):
        def on_train_epoch_end(self) -> None:
            self.log("mine", torch.tensor(float(self.current_epoch >= 2)))

    modules = brought(Monitored), brought(Monitored)
    trainers = [
        fit(module, tmp_path / str(hurries), bool(hurries), **copy.deepcopy(options))
        for hurries, module in enumerate(modules)
    ]
    assert same(*(module.state_dict() for module in modules))
    assert trainers[0].global_step == trainers[1].global_step


@pytest.mark.filterwarnings("ignore")
def test_a_second_fit_trains_the_second_module(tmp_path: Path) -> None:
    first, second, alone = brought(Brought), brought(Brought), brought(Brought)
    trainer = fit(first, tmp_path / "a", True)
    fit(alone, tmp_path / "b", False, max_epochs=3)
    torch.manual_seed(0)
    x = torch.randn(50, 3)
    trainer.fit_loop.epoch_progress.reset()
    trainer.fit_loop.max_epochs = 3
    trainer.fit(second, InMemoryBatches(x, x.sum(dim=1), size=8, shuffle=True))
    assert same(second.state_dict(), alone.state_dict())
