"""Tests that checkpoints keep what they can, and that notes name what a resumed run lacks."""

import signal
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import needs_fast, posix
from digits.data import Augmented, DigitsData
from digits.model import Digits
from gan.model import GAN, cross_entropy
from lightning.pytorch import Callback, LightningModule, Trainer
from running import SignalAt, advised, equal, in_child, train_project
from test_resuming import assert_same, kept
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Sampler, Subset
from torchmetrics import MeanMetric, Metric, MetricTracker, MinMaxMetric
from torchmetrics.wrappers import Running

from descent.training.checkpoints import Checkpoints
from descent.training.sparse_callback import callbacks_of

FEW = ("data.num_workers=0", "data.num_rows=200", "trainer.max_epochs=2")
PLAIN = Digits.training_step


class Average(Callback):
    """The running mean of the first weights, which no checkpoint saves."""

    mean: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.mean = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.mean = 0.9 * self.mean + 0.1 * next(pl_module.parameters()).mean().item()


class Saving(Callback):
    """Makes the run write a checkpoint after each step."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for checkpoints in callbacks_of(trainer, Checkpoints):
            checkpoints.interval.every_steps = 1


class Kept(Average):
    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}


class ByEpoch(Callback):
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Does nothing: being called counts."""


class Rotating(Sampler[int]):
    def __init__(self, rows: Any) -> None:
        self.order = list(range(len(rows)))

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        self.order = [*self.order[1:], self.order[0]]
        return iter(self.order)


@pytest.fixture
def notes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:
    def notes(*callbacks: Callback) -> list[str]:
        train_project("digits", tmp_path / "run", *FEW, callbacks=callbacks)
        return [text for text in caplog.messages if "may differ" in text]

    return notes


MODULE = "which no checkpoint contains; save it with a buffer, or on_save_checkpoint and on_load_checkpoint"
DATA = "which no checkpoint contains; save it with state_dict and load_state_dict of the data module"


def test_the_state_of_a_callback_is_noted(notes: Callable[..., list[str]]) -> None:
    assert notes(Average()) == [
        "note: a resumed run may differ, because training changes mean of Average, which no checkpoint contains;"
        " save it with its state_dict and load_state_dict"
    ]


def test_an_attribute_that_changes_later_gets_a_note_of_its_own(notes: Callable[..., list[str]]) -> None:
    class Later(Average):
        epochs = 0

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.epochs += trainer.current_epoch == 1

    assert [note.split(" of ")[0].rpartition(" ")[2] for note in notes(Later(), Saving())] == ["mean", "epochs"]


def test_callbacks_of_one_class_are_not_taken_for_each_other(notes: Callable[..., list[str]]) -> None:
    class Rate(Callback):
        def __init__(self, rate: float) -> None:
            self.rate, self.state = rate, str(rate)

        @property
        def state_key(self) -> str:
            return self.state

    assert notes(Rate(0.9), Rate(0.99)) == []


def test_a_callback_that_holds_the_module_is_not_noted(notes: Callable[..., list[str]]) -> None:
    class Holds(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.model, self.trainer = pl_module, trainer

    assert notes(Holds()) == []


def test_metrics_modules_and_optimizers_that_only_a_callback_holds_are_noted(notes: Callable[..., list[str]]) -> None:
    class Own(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.metrics, self.average = {"mean": MeanMetric()}, AveragedModel(pl_module)
            self.optimizer = torch.optim.Adam([torch.ones(1, requires_grad=True)])
            self.frozen, self.layer = torch.nn.Linear(1, 1), next(pl_module.children())  # unchanged, and saved
            self.first, self.schedulers = trainer.optimizers[0], trainer.lr_scheduler_configs

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            self.metrics["mean"].update(1.0)
            self.average.update_parameters(pl_module)
            self.optimizer.param_groups[0]["lr"] *= 0.9

    assert notes(Own()) == [
        "note: a resumed run may differ, because training changes metrics, average, optimizer of Own, which no"
        " checkpoint contains; save it with its state_dict and load_state_dict"
    ]


def test_an_iterator_of_the_module_is_noted(notes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        next(self.others)
        return PLAIN(self, batch, batch_idx)

    monkeypatch.setattr(Digits, "on_fit_start", lambda self: vars(self).update(others=cycle([1, 2, 3])))
    monkeypatch.setattr(Digits, "training_step", step)
    assert notes() == [f"note: a resumed run may differ, because training changes others of Digits, {MODULE}"]


def test_metrics_in_a_plain_list_of_the_module_are_noted(
    notes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        self.own[0].update(1.0)
        return PLAIN(self, batch, batch_idx)

    monkeypatch.setattr(Digits, "on_fit_start", lambda self: vars(self).update(own=[MeanMetric()]))
    monkeypatch.setattr(Digits, "training_step", step)
    assert notes() == [f"note: a resumed run may differ, because training changes own of Digits, {MODULE}"]


def test_an_attribute_of_a_callback_with_a_state_dict_is_not_noted(notes: Callable[..., list[str]]) -> None:
    assert notes(Kept()) == []


def test_a_hook_that_a_run_resumed_within_an_epoch_misses_is_noted(notes: Callable[..., list[str]]) -> None:
    assert notes(ByEpoch()) == [
        "note: a run resumed within an epoch may differ, because on_train_epoch_start of ByEpoch is not called again;"
        " use on_train_batch_start, or save what it changes in the checkpoint"
    ]


def test_the_state_of_a_sampler_is_noted(notes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def rotated(self: DigitsData) -> Any:
        return DataLoader(Augmented(self.train), batch_size=32, sampler=Rotating(self.train))

    monkeypatch.setattr(DigitsData, "train_dataloader", rotated)
    assert notes() == [f"note: a resumed run may differ, because training changes order of Rotating, {DATA}"]


def test_the_state_of_a_dataset_is_noted(notes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    get = Augmented.__getitem__

    def cached(self: Any, index: int) -> Any:
        return vars(self).setdefault("cache", {}).setdefault(index, get(self, index))

    def filled(self: DigitsData) -> Any:
        rows = Augmented(self.train)
        vars(rows)["cache"] = {}
        return DataLoader(rows, batch_size=32)

    monkeypatch.setattr(Augmented, "__getitem__", cached)
    monkeypatch.setattr(DigitsData, "train_dataloader", filled)
    assert notes() == [f"note: a resumed run may differ, because training changes cache of Augmented, {DATA}"]


def test_what_libraries_cache_in_their_objects_is_not_noted(
    notes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Config:
        problem_type = ""

    step, Config.__module__ = Digits.training_step, "transformers.configuration_utils"

    def caching(self: Any, batch: Any, batch_idx: int) -> Any:
        self.config.problem_type = "single_label_classification"
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Digits, "training_step", caching)
    monkeypatch.setattr(Digits, "on_fit_start", lambda self: setattr(self, "config", Config()))
    assert notes() == []


def test_what_training_changes_in_modules_of_such_libraries_is_noted(
    notes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class DynamicEmbedding(nn.Module):  # such as a rotary embedding that depends on the longest sequence so far
        def __init__(self) -> None:
            super().__init__()
            self.longest = 0
            self.register_buffer("frequencies", torch.zeros(2), persistent=False)

    step, DynamicEmbedding.__module__ = Digits.training_step, "transformers.modeling_rope_utils"

    def scaling(self: Any, batch: Any, batch_idx: int) -> Any:
        self.embedding.longest = 1
        self.embedding.frequencies += 1
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Digits, "training_step", scaling)
    monkeypatch.setattr(Digits, "on_fit_start", lambda self: setattr(self, "embedding", DynamicEmbedding()))
    (note,) = notes()
    assert "training changes embedding.longest, embedding.frequencies of Digits, which no checkpoint" in note


class Drifting:
    """A transform that counts its calls, and makes them visible in the rows."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: Tensor) -> Tensor:
        self.calls += 1
        return image + 0.001 * self.calls


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_the_state_of_a_transform_is_noted_with_and_without_workers(
    workers: int, persistent: bool, notes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    get = Augmented.__getitem__

    def transformed(self: Any, index: int) -> Any:
        image, digit = get(self, index)
        return self.transform(image), digit

    def counted(self: DigitsData) -> Any:
        rows = Augmented(self.train)
        vars(rows)["transform"] = Drifting()
        return DataLoader(Subset(rows, range(200)), 32, num_workers=workers, persistent_workers=persistent)

    monkeypatch.setattr(Augmented, "__getitem__", transformed)
    monkeypatch.setattr(DigitsData, "train_dataloader", counted)
    in_workers = (
        "note: a run resumed within an epoch may differ, because fetching changes calls of Drifting in DataLoader"
        " workers, which no checkpoint contains; use the row's index or random numbers instead"
    )
    in_process = f"note: a resumed run may differ, because training changes calls of Drifting, {DATA}"
    assert notes() == [in_workers if workers else in_process]


def test_a_data_module_that_counts_is_noted(notes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(self: DigitsData) -> None:
        vars(self)["given"] = vars(self).get("given", 0) + 1

    setup = DigitsData.setup

    def set_up(self: DigitsData, stage: str) -> None:
        setup(self, stage)
        counted(self)

    monkeypatch.setattr(DigitsData, "setup", set_up)
    monkeypatch.setattr(Digits, "on_train_batch_start", lambda self, *_: counted(self.trainer.datamodule))
    assert notes() == [f"note: a resumed run may differ, because training changes given of DigitsData, {DATA}"]


def test_what_a_step_changes_of_the_module_is_noted(
    notes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(self: Digits) -> None:
        self.ema, self.rng, self.best = torch.zeros(()), np.random.default_rng(0), None
        self.weights, self.same, self.left = {"a": 1.0}, torch.ones(2), None

    def step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        loss = PLAIN(self, batch, batch_idx)
        self.ema = 0.9 * self.ema + 0.1 * loss.detach()
        self.rng.random()
        self.best = loss.item()
        self.weights["a"] *= 0.9
        self.left = loss  # for a hook to use
        return loss

    monkeypatch.setattr(Digits, "configure_model", make)
    monkeypatch.setattr(Digits, "training_step", step)
    assert notes() == [
        "note: a resumed run may differ, because training changes ema, rng, best, weights of Digits, which no"
        " checkpoint contains; save it with a buffer, or on_save_checkpoint and on_load_checkpoint"
    ]


def test_a_class_attribute_that_a_step_changes_is_noted(
    notes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        loss = PLAIN(self, batch, batch_idx)
        self.running = 0.9 * self.running + 0.1 * loss.item()
        return loss

    monkeypatch.setattr(Digits, "running", 1.0, raising=False)
    monkeypatch.setattr(Digits, "constant", 2.0, raising=False)
    monkeypatch.setattr(Digits, "training_step", step)
    assert [note.split(" of ")[0] for note in notes()] == [
        "note: a resumed run may differ, because training changes running"
    ]


@pytest.mark.parametrize("has_hook", [False, True])
def test_an_attribute_made_in_a_step_is_noted_unless_it_may_be_from_on_train_start(
    has_hook: bool, notes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        self.seen = getattr(self, "seen", 0) + 1
        self.layers.mask = torch.ones(2)  # a cache
        return PLAIN(self, batch, batch_idx)

    if has_hook:
        monkeypatch.setattr(Digits, "on_train_start", lambda self: None)
    monkeypatch.setattr(Digits, "training_step", step)
    assert [note.split(" of ")[0] for note in notes()] == [
        "note: a resumed run may differ, because training changes seen"
    ] * (not has_hook)


def assert_goes_on_exactly(name: str, path: Path, options: tuple[str, ...], batches: tuple[int, ...]) -> None:
    train_project(name, path / "whole", *options)
    for batch in (*batches, 0):
        train_project(name, path / "run", *options, callbacks=[SignalAt(batch)], resume=True)
    assert_same(path / "run", path / "whole")


@needs_fast  # keeps an epoch's sums
def test_a_loader_that_is_made_by_chance_in_each_epoch_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def part(self: DigitsData) -> Any:
        return DataLoader(Augmented(Subset(self.train, torch.randperm(200)[:150].tolist())), batch_size=32)

    monkeypatch.setattr(DigitsData, "train_dataloader", part)
    options = *FEW, "trainer.max_epochs=4", "trainer.reload_dataloaders_every_n_epochs=1"
    assert_goes_on_exactly("digits", tmp_path, options, (3, 8, 14))
    assert "may differ" not in caplog.text and "exact only" not in caplog.text
    few = "trainer.max_epochs=1", "trainer.reload_dataloaders_every_n_epochs=2"
    train_project("digits", tmp_path / "each second", *FEW, *few)
    assert "note: a resumed run is exact only if train_dataloader returns the same loader each time" in caplog.text


@needs_fast  # keeps an epoch's sums
def test_gradients_that_are_added_up_by_hand_resume_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add_up(self: GAN, batch: Any, batch_idx: int) -> None:
        (real,) = batch
        generator, discriminator = self.optimizers()
        d_loss = cross_entropy(self.discriminator(real), torch.ones(len(real), 1))
        discriminator.zero_grad()
        self.manual_backward(d_loss)
        discriminator.step()
        g_loss = cross_entropy(self.discriminator(self.sample(len(real))), torch.ones(len(real), 1))
        self.manual_backward(g_loss)
        if self.trainer.fit_loop.total_batch_idx % 3 == 2:  # also across epochs
            generator.step()
            generator.zero_grad()

    monkeypatch.setattr(GAN, "training_step", add_up)
    assert_goes_on_exactly("gan", tmp_path, (), (2, 4, 7, 9))


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # no step in the rest of the epoch
@needs_fast  # keeps an epoch's sums
@posix
def test_epochs_that_end_without_a_step_resume_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = GAN.training_step

    def first_steps(self: GAN, batch: Any, batch_idx: int) -> None:
        if batch_idx < 3:
            step(self, batch, batch_idx)
        else:
            self.sample(2)  # draws numbers

    monkeypatch.setattr(GAN, "training_step", first_steps)
    train_project("gan", tmp_path / "whole", "checkpoint.every_steps=1")

    def train_until(batch: int) -> Any:
        at = SignalAt(batch, signal.SIGKILL)
        train_project("gan", tmp_path / "run", "checkpoint.every_steps=1", callbacks=[at], resume=True)

    for batch, ended in ((5, -signal.SIGKILL), (0, 0)):
        output = tmp_path / "output"
        assert in_child(lambda batch=batch: train_until(batch), output) == ended, output.read_text()
    assert equal(kept(tmp_path / "run"), kept(tmp_path / "whole"))


@advised
@posix
@needs_fast  # keeps an epoch's sums
def test_workers_that_live_on_in_validation_leave_the_random_numbers_of_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def persistent(self: DigitsData) -> Any:
        return DataLoader(self.val, batch_size=100, num_workers=1, persistent_workers=True)

    monkeypatch.setattr(DigitsData, "val_dataloader", persistent)
    assert_goes_on_exactly("digits", tmp_path, (*FEW, "trainer.max_epochs=3"), (10,))


def test_a_metric_of_ones_own_is_not_noted(notes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(MeanMetric):
        """A subclass of a torchmetrics metric."""

    def step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        loss = PLAIN(self, batch, batch_idx)
        self.own(loss.detach())
        self.log("train/own", self.own, on_epoch=True)
        return loss

    monkeypatch.setattr(Digits, "configure_model", lambda self: setattr(self, "own", Own()))
    monkeypatch.setattr(Digits, "training_step", step)
    assert notes() == []


class Counting(MeanMetric):
    calls = 0

    def update(self, *args: Any) -> None:
        super().update(*args)
        self.calls += 1


@pytest.mark.parametrize(
    ("metric", "changed"),
    [
        (Counting, "own.calls"),
        (lambda: MinMaxMetric(MeanMetric()), "own.min_val, own.max_val"),
        (lambda: Running(MeanMetric(), window=20), "own._num_vals_seen"),
    ],
    ids=["own", "min_max", "running"],
)
def test_attributes_of_a_metric_that_are_no_state_are_noted(
    metric: Callable[[], Metric], changed: str, notes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        loss = PLAIN(self, batch, batch_idx)
        self.own(loss.detach())
        return loss

    monkeypatch.setattr(Digits, "configure_model", lambda self: setattr(self, "own", metric()))
    monkeypatch.setattr(Digits, "training_step", step)
    assert [note.partition(" of ")[0] for note in notes()] == [
        f"note: a resumed run may differ, because training changes {changed}"
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_generator_of_a_dataset_is_not_noted(
    workers: int, notes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    get = Augmented.__getitem__

    def noisy(self: Any, index: int) -> Any:
        image, digit = get(self, index)
        return image + 0.1 * float(self.generator.random()), digit

    def drawn(self: DigitsData) -> Any:
        rows = Augmented(self.train)
        vars(rows)["generator"] = np.random.default_rng(0)
        return DataLoader(rows, batch_size=32, num_workers=workers)

    monkeypatch.setattr(Augmented, "__getitem__", noisy)
    monkeypatch.setattr(DigitsData, "train_dataloader", drawn)
    assert notes() == []


@needs_fast  # restores the states of metrics
def test_a_metric_tracker_resumes_with_all_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validate = Digits.validation_step

    def validation_step(self: Any, batch: Any, batch_idx: int) -> None:
        validate(self, batch, batch_idx)
        self.tracker.update(next(self.parameters()).mean())

    def on_validation_epoch_end(self: Any) -> None:
        self.log("val/first", self.tracker.compute_all()[0])
        self.log("val/lowest", self.tracker.best_metric())

    monkeypatch.setattr(
        Digits, "configure_model", lambda self: setattr(self, "tracker", MetricTracker(MeanMetric(), maximize=False))
    )
    monkeypatch.setattr(Digits, "on_validation_epoch_start", lambda self: self.tracker.increment())
    monkeypatch.setattr(Digits, "validation_step", validation_step)
    monkeypatch.setattr(Digits, "on_validation_epoch_end", on_validation_epoch_end)
    assert_goes_on_exactly("digits", tmp_path, FEW, (3, 8))


@needs_fast  # keeps an epoch's sums
def test_gradients_that_are_not_zeroed_resume_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fade(self: Digits, *_: Any) -> None:
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(0.5)

    monkeypatch.setattr(Digits, "optimizer_zero_grad", fade)
    assert_goes_on_exactly("digits", tmp_path, FEW, (3, 7, 9))


def test_a_signal_within_an_epoch_of_averaged_weights_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        self.left = PLAIN(self, batch, batch_idx)  # cannot be copied: it has a graph
        loss: Tensor = self.left
        return loss

    monkeypatch.setattr(Digits, "training_step", step)
    swa = ("_target_=lightning.pytorch.callbacks.StochasticWeightAveraging", "swa_lrs=0.01", "swa_epoch_start=1")
    given = *FEW, *(f"+callbacks.own.{entry}" for entry in swa)
    found = train_project("digits", tmp_path, *given, callbacks=[SignalAt(10, signal.SIGTERM)])
    assert (found.status, found.exit_code, found.steps) == ("interrupted", 143, 10)
