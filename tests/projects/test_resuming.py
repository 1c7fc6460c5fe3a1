"""Tests that runs of any project resume bit for bit after Ctrl-C or kill -9."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import needs_fast, posix
from digits.model import Digits
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from running import NAMES, SignalAt, Trace, advised, batches_trained, equal, in_child, train_project
from test_train import events

from descent.run.result import read_result
from descent.training.checkpoint_io import read_checkpoint

pytestmark = advised
EPOCH = {"digits": 10, "gan": 6, "lengths": 7, "stream": 7}  # batches

Whole = Callable[[str], tuple[Path, Trace]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """An uninterrupted run of a project."""
    made: dict[str, tuple[Path, Trace]] = {}

    def whole(name: str) -> tuple[Path, Trace]:
        if name not in made:
            trace, run_dir = Trace(), tmp_path_factory.mktemp("whole") / name
            train_project(name, run_dir, callbacks=[trace])
            made[name] = run_dir, trace
        return made[name]

    return whole


def kept(run_dir: Path) -> dict[str, Any]:
    """The last checkpoint without its times."""
    checkpoint = read_checkpoint(run_dir / "checkpoints/last.ckpt")
    for state in checkpoint["callbacks"].values():
        state.pop("seconds", None)
    # It counts a step of ReduceLROnPlateau, which follows the end of the epoch.
    del checkpoint["loops"]["fit_loop"]["epoch_loop.scheduler_progress"]
    return checkpoint


def points(run_dir: Path) -> dict[str, Any]:
    found = events(run_dir)
    tags = [tag for tag in found.Tags()["scalars"] if tag != "train/seconds"]
    return {tag: sorted((point.step, point.value) for point in found.Scalars(tag)) for tag in tags}


def assert_same(run_dir: Path, expected_dir: Path) -> None:
    found, expected = read_result(run_dir), read_result(expected_dir)
    for name in ("status", "stopped", "metrics", "best", "steps", "epochs", "samples", "gradient_evaluations"):
        assert equal(found[name], expected[name]), name
    now, before = kept(run_dir), kept(expected_dir)
    assert now.keys() == before.keys()
    for name in before:
        assert equal(now[name], before[name]), (name, now[name], before[name])
    best, best_before = (read_checkpoint(d / "checkpoints/best.ckpt")["state_dict"] for d in (run_dir, expected_dir))
    assert equal(best, best_before)
    assert points(run_dir) == points(expected_dir)


@needs_fast  # keeps an epoch's sums
@pytest.mark.parametrize("name", NAMES)
def test_a_run_interrupted_by_ctrl_c_resumes_bit_for_bit(name: str, whole: Whole, tmp_path: Path) -> None:
    expected_dir, expected_trace = whole(name)
    trace, epoch = Trace(), EPOCH[name]
    # first step, within an epoch, last of an epoch, first of an epoch, last step of the run
    for batch in (1, epoch // 2, epoch, epoch + 1, 3 * epoch, 0):
        at = SignalAt(batch)
        found = train_project(name, tmp_path / "run", callbacks=[trace, at], resume=True)
        assert at.sent == (batch > 0)
        assert found.status == ("interrupted" if at.sent else "completed")
    assert trace.steps == expected_trace.steps
    assert_same(tmp_path / "run", expected_dir)


@needs_fast  # keeps an epoch's sums
@posix
@pytest.mark.parametrize("name", NAMES)
def test_a_run_ended_by_kill_9_resumes_bit_for_bit(name: str, whole: Whole, tmp_path: Path) -> None:
    expected_dir, _ = whole(name)
    every = "checkpoint.every_steps=3"

    def train_until(batch: int) -> Any:
        train_project(name, tmp_path / "run", every, callbacks=[SignalAt(batch, signal.SIGKILL)], resume=True)

    for batch in (EPOCH[name] // 2 + 1, EPOCH[name] + 3):
        assert in_child(lambda batch=batch: train_until(batch)) == -signal.SIGKILL
        assert (tmp_path / "run/checkpoints/last.ckpt").is_file()
        assert not (tmp_path / "run/result.json").exists()
    assert in_child(lambda: train_until(0), tmp_path / "output") == 0, (tmp_path / "output").read_text()
    assert_same(tmp_path / "run", expected_dir)


@needs_fast  # keeps an epoch's sums
def test_epochs_whose_rest_the_module_leaves_out_resume_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave_out_the_rest(self: Digits, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 4 else None

    monkeypatch.setattr(Digits, "on_train_batch_start", leave_out_the_rest)
    options = "data.num_workers=0", "data.num_rows=200"
    first = train_project("digits", tmp_path / "whole", *options)
    assert (first.status, first.steps) == ("completed", 12)
    for batch in (2, 8, 13):  # Lightning counts skipped batches
        at = SignalAt(batch)
        train_project("digits", tmp_path / "run", *options, callbacks=[at], resume=True)
        assert at.sent
    train_project("digits", tmp_path / "run", *options, resume=True)
    assert_same(tmp_path / "run", tmp_path / "whole")


@needs_fast  # keeps an epoch's sums
def test_callbacks_and_arrays_of_the_module_itself_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(self: Digits) -> list[Callback]:
        self.drawn = np.zeros(3, np.float32)
        return [EarlyStopping("val/loss", patience=1), ModelCheckpoint(save_last=True)]

    def draw(self: Digits, batch: Any, batch_idx: int) -> None:
        self.drawn += np.random.normal(size=3)

    def load(self: Digits, saved: dict[str, Any]) -> None:
        self.drawn = saved["drawn"]

    monkeypatch.setattr(Digits, "configure_callbacks", make)
    monkeypatch.setattr(Digits, "on_train_batch_start", draw)
    monkeypatch.setattr(Digits, "on_save_checkpoint", lambda self, saved: saved.update(drawn=self.drawn.copy()))
    monkeypatch.setattr(Digits, "on_load_checkpoint", load)
    options = "data.num_workers=0", "data.num_rows=200", "optimizer.lr=1.0", "trainer.max_epochs=30"
    result = train_project("digits", tmp_path / "whole", *options)
    assert result.stopped == "val/loss has not improved for 1 validation"
    for batch in (3, 9, 0):
        train_project("digits", tmp_path / "run", *options, callbacks=[SignalAt(batch)], resume=True)
    found, expected = kept(tmp_path / "run"), kept(tmp_path / "whole")
    assert np.array_equal(found.pop("drawn"), expected.pop("drawn"))
    assert equal(found["state_dict"], expected["state_dict"])
    assert read_result(tmp_path / "run")["stopped"] == result.stopped
    assert (tmp_path / "run/checkpoints/ModelCheckpoint-last.ckpt").is_file()


class Thaw(Callback):
    """Freezes the first layer in the first epoch, and the normalisation in the last."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        layers = pl_module.get_submodule("layers")
        layers.get_submodule("0").requires_grad_(trainer.current_epoch > 0)
        layers.get_submodule("1").train(trainer.current_epoch < 2)


@needs_fast  # keeps an epoch's sums
def test_layers_that_an_epochs_start_freezes_stay_so_in_a_run_resumed_within_it(tmp_path: Path) -> None:
    options = "data.num_workers=0", "data.num_rows=200"
    first = train_project("digits", tmp_path / "whole", *options, callbacks=[Thaw()])
    assert (first.status, first.steps) == ("completed", 21)
    for batch in (3, 10, 17, 0):
        train_project("digits", tmp_path / "run", *options, callbacks=[Thaw(), SignalAt(batch)], resume=True)
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_attributes_that_training_changes_and_no_checkpoint_has_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def notes(name: str) -> list[str]:
        caplog.clear()
        train_project("digits", tmp_path / name, "data.num_workers=0", "data.num_rows=64", "trainer.max_epochs=1")
        return [text for text in caplog.messages if "no checkpoint contains" in text]

    def count(self: Digits, batch: Any, batch_idx: int) -> None:
        self.seen += 1
        self.outputs.append(batch_idx)
        self.scale *= 0.9

    assert notes("nothing") == []

    def make(self: Digits) -> None:
        self.seen, self.outputs, self.fixed = 0, [], 3
        self.register_buffer("scale", torch.ones(1), persistent=False)

    monkeypatch.setattr(Digits, "configure_model", make)
    monkeypatch.setattr(Digits, "on_train_batch_start", count)
    assert notes("counted") == [
        "note: a resumed run may differ, because training changes seen, outputs, scale of Digits, which no"
        " checkpoint contains; save it with a buffer, or on_save_checkpoint and on_load_checkpoint"
    ]
    monkeypatch.setattr(Digits, "on_save_checkpoint", lambda self, checkpoint: None)
    assert notes("saved by hand") == []


@needs_fast  # keeps an epoch's sums
def test_a_mean_over_an_epoch_that_a_resumed_run_lacks_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def log_first(self: Digits, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.log("train/first", 1.0, on_epoch=True)

    monkeypatch.setattr(Digits, "on_train_batch_start", log_first)
    options = "data.num_workers=0", "data.num_rows=200"
    for batch in (3, 0):
        assert "self.log" not in caplog.text
        train_project("digits", tmp_path / "run", *options, callbacks=[SignalAt(batch)], resume=True)
    assert [text for text in caplog.messages if "self.log" in text] == [
        "note: epoch 1 has no value of train/first: the run was resumed within the epoch, and self.log has not logged"
        " one since"
    ]


@needs_fast  # keeps the states of metrics
def test_metrics_that_the_end_of_an_epoch_computes_resume_without_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def step(self: Digits, batch: Any, batch_idx: int) -> Any:
        self.train_metrics.update(self(batch[0]), batch[1])
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def compute(self: Digits) -> None:
        self.log_dict(self.train_metrics.compute())
        self.train_metrics.reset()

    monkeypatch.setattr(Digits, "training_step", step)
    monkeypatch.setattr(Digits, "on_train_epoch_end", compute)
    options = "data.num_workers=0", "data.num_rows=200", "trainer.max_epochs=3"
    expected = train_project("digits", tmp_path / "whole", *options)
    for batch in (9, 0):  # within the second epoch, whose results still have the first epoch's keys
        found = train_project("digits", tmp_path / "run", *options, callbacks=[SignalAt(batch)], resume=True)
    assert found.metrics == expected.metrics and "train/acc" in found.metrics
    assert "has no value of" not in caplog.text


@needs_fast  # keeps an epoch's sums
def test_what_the_module_does_at_the_end_of_a_step_belongs_to_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def average(self: Digits, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.layers[1].running_mean.mul_(0.9).add_(0.1 * self.layers[0].bias.detach())
        self.log("train/mean", self.layers[1].running_mean.mean(), on_step=False, on_epoch=True)

    monkeypatch.setattr(Digits, "on_train_batch_end", average)
    options = "data.num_workers=0", "data.num_rows=200"
    train_project("digits", tmp_path / "whole", *options)
    for batch in (3, 4, 13, 20, 0):
        train_project("digits", tmp_path / "run", *options, callbacks=[SignalAt(batch)], resume=True)
    assert_same(tmp_path / "run", tmp_path / "whole")


class SignalToAll(SignalAt):
    """Signals the whole process group from another process, as a terminal or ``timeout`` does."""

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if batches_trained(trainer) == self.batch:
            kill = ["kill", f"-{int(self.number)}", "--", f"-{os.getpgid(0)}"]
            subprocess.run(kill, start_new_session=True, check=True)
            time.sleep(0.2)  # the workers' reaction, if any


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_run_and_its_workers_interrupts_the_run_and_is_noted_once(
    number: signal.Signals, tmp_path: Path
) -> None:
    overrides = "trainer.max_epochs=1", "data.num_rows=1000"

    def train() -> None:
        os.setpgid(0, 0)
        result = train_project("digits", tmp_path / "run", *overrides, callbacks=[SignalToAll(3, number)])
        print(result.reason, "at", result.steps)

    assert in_child(train, tmp_path / "output") == 0
    output = (tmp_path / "output").read_text()
    assert f"interrupted by {number.name} at 3\n" in output
    assert output.count("stopping at the next step") == 1
