"""Tests that hooks at the start of training do not undo what a resumed run got from its checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import needs_fast
from digits.model import Digits
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from running import SignalAt, advised, equal, train_project
from torch import nn
from torchmetrics import MaxMetric

from descent.training.checkpoint_io import read_checkpoint

pytestmark = [advised, needs_fast]  # which keeps the sums and metrics of an unfinished epoch
FEW = ("trainer.max_epochs=4", "data.num_workers=0", "data.num_rows=130")  # 5 batches an epoch
STOPPED = (8, 10, 17, 0)  # within an epoch, at its last batch, within a later one; 0: at the end


def assert_resumed_equals_whole(tmp_path: Path, *callbacks: Callable[[], Callback]) -> None:
    whole = train_project("digits", tmp_path / "whole", *FEW, callbacks=[make() for make in callbacks])
    for batch in STOPPED:
        given = [*(make() for make in callbacks), SignalAt(batch)]
        found = train_project("digits", tmp_path / "run", *FEW, callbacks=given, resume=True)
    assert (found.status, found.metrics, found.best) == ("completed", whole.metrics, whole.best)
    last, before = (read_checkpoint(tmp_path / d / "checkpoints/last.ckpt") for d in ("run", "whole"))
    for key in ("state_dict", "optimizer_states", "flags"):
        assert equal(last[key], before[key]), key


class Lowest(Callback):
    """Gives the module a metric of minus the accuracy, so that the first epochs count."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            pl_module.lowest = MaxMetric()


def test_metrics_that_on_train_start_resets_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validated = Digits.on_validation_epoch_end

    def on_validation_epoch_end(self: Any) -> None:
        validated(self)
        self.lowest(-self.val_acc.compute())
        self.log("val/lowest", self.lowest.compute())

    monkeypatch.setattr(Digits, "on_validation_epoch_end", on_validation_epoch_end)
    monkeypatch.setattr(Digits, "on_train_start", lambda self: self.lowest.reset())
    assert_resumed_equals_whole(tmp_path, Lowest)


class Initialises(Callback):
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        initialise(pl_module)


def initialise(module: Any) -> None:
    with torch.no_grad():
        nn.init.constant_(module.layers[-1].bias, 0.5)


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "of a callback"])
def test_weights_that_a_start_hook_sets_keep_the_checkpoints_values(
    hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if hook == "of a callback":
        assert_resumed_equals_whole(tmp_path, Initialises)
    else:
        monkeypatch.setattr(Digits, hook, initialise)
        assert_resumed_equals_whole(tmp_path)
    notes = [message for message in caplog.messages if "checkpoint's values" in message]
    note = (
        "note: on_fit_start or on_train_start sets layers.6.bias again; the resumed run keeps the checkpoint's values"
    )
    assert notes == [note] * (len(STOPPED) - 1)  # none at the first start


def test_layers_that_on_train_start_freezes_stay_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unfreeze(self: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.current_epoch == 1 and batch_idx == 0:
            self.layers[0].requires_grad_(True)

    monkeypatch.setattr(Digits, "on_train_start", lambda self: self.layers[0].requires_grad_(False))
    monkeypatch.setattr(Digits, "on_train_batch_start", unfreeze)
    assert_resumed_equals_whole(tmp_path)


class Counts(Callback):
    """Counts batches from the start of training, also in a resumed run."""

    batches = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.batches = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = state_dict["batches"]


class Continues(Counts):
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the number."""


@pytest.mark.parametrize(("kind", "noted"), [(Counts, True), (Continues, False)])
def test_a_callback_that_sets_its_saved_state_again_is_noted(
    kind: type[Counts], noted: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for batch in (8, 0):
        callbacks = [kind(), SignalAt(batch)]
        train_project("digits", tmp_path, *FEW, callbacks=callbacks, resume=True)
    assert callbacks[0].batches == (20 - 8 if noted else 20)
    note = (
        "note: the resumed run may differ, because on_fit_start or on_train_start of Counts sets its saved state again"
    )
    assert [message.startswith(note) for message in caplog.messages if "start of" in message] == [True] * noted


def test_a_learning_rate_that_on_train_start_sets_keeps_the_checkpoints_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def configure_optimizers(self: Any) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    def on_train_start(self: Any) -> None:
        self.optimizers().param_groups[0]["lr"] = 0.05

    monkeypatch.setattr(Digits, "configure_optimizers", configure_optimizers)
    monkeypatch.setattr(Digits, "on_train_start", on_train_start)
    assert_resumed_equals_whole(tmp_path)
    notes = [message for message in caplog.messages if "checkpoint's values" in message]
    assert notes and "sets lr of SGD again" in notes[0]


def test_an_attribute_that_the_module_saves_and_sets_again_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def on_train_start(self: Any) -> None:
        self.calls = 0

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        self.calls += 1
        return trained(self, batch, batch_idx)

    trained = Digits.training_step
    monkeypatch.setattr(Digits, "calls", 0, raising=False)
    monkeypatch.setattr(Digits, "training_step", step)
    monkeypatch.setattr(Digits, "on_save_checkpoint", lambda self, saved: saved.update(calls=self.calls))
    monkeypatch.setattr(Digits, "on_load_checkpoint", lambda self, saved: setattr(self, "calls", saved["calls"]))
    for hook, noted in ((on_train_start, True), (lambda self: None, False)):
        monkeypatch.setattr(Digits, "on_train_start", hook)
        caplog.clear()
        for batch in (8, 0):
            train_project("digits", tmp_path / str(noted), *FEW, callbacks=[SignalAt(batch)], resume=True)
        found = [message for message in caplog.messages if "of Digits sets calls again" in message]
        assert [message.startswith("note: the resumed run may differ") for message in found] == [True] * noted


class Sparse(Callback):
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            pl_module.register_buffer("graph", torch.eye(3).to_sparse())


def test_a_module_with_a_sparse_buffer_and_a_start_hook_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def on_train_start(self: Any) -> None:
        self.graph.mul_(2)

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        return trained(self, batch, batch_idx) * self.graph.to_dense().sum()

    trained = Digits.training_step
    monkeypatch.setattr(Digits, "on_train_start", on_train_start)
    monkeypatch.setattr(Digits, "training_step", step)
    whole = train_project("digits", tmp_path / "whole", *FEW, callbacks=[Sparse()])
    for batch in (8, 0):
        given = [Sparse(), SignalAt(batch)]
        found = train_project("digits", tmp_path / "run", *FEW, callbacks=given, resume=True)
    assert found.metrics == whole.metrics
    assert "sets graph again; the resumed run keeps" in caplog.text


def test_a_hook_of_lightning_is_not_taken_for_the_projects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Limited(Timer):
        """Its time passes between the checkpoint and the resumed run's start."""

    for batch in (8, 0):
        given = [Limited(duration={"hours": 1}), SignalAt(batch)]
        train_project("digits", tmp_path, *FEW, callbacks=given, resume=True)
    assert "again" not in caplog.text


def test_a_metric_that_a_step_makes_later_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        if not hasattr(self, "later"):
            self.later = MaxMetric()
        loss = trained(self, batch, batch_idx)
        self.later(loss.detach())
        return loss

    trained = Digits.training_step
    monkeypatch.setattr(Digits, "training_step", step)
    for batch in (8, 0):
        train_project("digits", tmp_path, *FEW, callbacks=[SignalAt(batch)], resume=True)
    assert "note: the resumed run may differ, because it starts without later" in caplog.text
