"""Tests Lightning's callbacks, loggers and Trainer arguments on other projects, set by config alone."""

import signal
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from conftest import config_of, needs_fast
from digits.model import Digits
from lengths.data import padded, rows
from lengths.model import Reader
from lightning.pytorch import Callback, LightningModule, Trainer
from running import SignalAt, advised, equal, overrides_of, train_project
from test_train import events
from torch import Tensor
from torch._dynamo import OptimizedModule
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics.classification import MulticlassConfusionMatrix

from descent.errors import UserError
from descent.run.load import load_model
from descent.training.build import build_data
from descent.training.checkpoint_io import read_checkpoint

pytestmark = advised
FEW = ("trainer.max_epochs=3", "data.num_workers=0", "data.num_rows=130")  # 5 batches an epoch
CALLBACKS: dict[str, tuple[str, ...]] = {
    "ModelCheckpoint": ("monitor=val/acc", "mode=max", "save_top_k=2"),
    "EarlyStopping": ("monitor=val/acc", "mode=max", "patience=1"),
    "LearningRateMonitor": (),
    "RichModelSummary": (),
    "Timer": (),
    "DeviceStatsMonitor": ("cpu_stats=false",),  # CPU statistics need psutil
}


def callback(name: str) -> list[str]:
    given = [f"+callbacks.own.{argument}" for argument in CALLBACKS[name]]
    return [f"+callbacks.own._target_=lightning.pytorch.callbacks.{name}", *given]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_fast) if name == "EarlyStopping" else name for name in CALLBACKS]
)
def test_lightnings_callbacks_work_and_resume(name: str, tmp_path: Path) -> None:
    expected = train_project("digits", tmp_path / "whole", *FEW, *callback(name))
    assert expected.status == "completed"
    for batch in (8, 0):
        at = SignalAt(batch, signal.SIGTERM)
        found = train_project("digits", tmp_path / "run", *FEW, *callback(name), callbacks=[at], resume=True)
        assert found.status == ("interrupted" if batch else "completed")
    assert found.metrics == expected.metrics and found.best == expected.best
    last, before = (read_checkpoint(tmp_path / d / "checkpoints/last.ckpt") for d in ("run", "whole"))
    assert equal(last["state_dict"], before["state_dict"])


OWN = "+callbacks.own._target_=lightning.pytorch.callbacks.ModelCheckpoint"


def test_the_last_checkpoint_of_a_model_checkpoint_does_not_replace_the_runs_own(tmp_path: Path) -> None:
    own = OWN, "+callbacks.own.save_last=true", "+callbacks.own.filename=latest"
    for batch in (8, 0):
        train_project("digits", tmp_path / "run", *FEW, *own, callbacks=[SignalAt(batch)], resume=True)
        names = {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
        assert names == {"best.ckpt", "last.ckpt", "latest.ckpt", "own-last.ckpt"}
    assert "random_state" in read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")


@pytest.mark.parametrize("folder", [(), ("+callbacks.own.dirpath=${hydra:runtime.output_dir}/checkpoints",)])
@pytest.mark.parametrize("name", ["best", "last"])
def test_a_model_checkpoint_with_the_name_of_the_runs_own_is_refused(
    name: str, folder: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tuple(text.replace("${hydra:runtime.output_dir}", str(tmp_path / "run")) for text in folder)
    with pytest.raises(UserError) as caught:
        train_project("digits", tmp_path / "run", *FEW, OWN, f"+callbacks.own.filename={name}", *folder)
    assert str(caught.value) == (
        "callbacks.own.filename must be another name than best and last, which the run's own checkpoints have,"
        f" got '{name}'"
    )


def test_a_trial_run_leaves_out_a_model_checkpoint(tmp_path: Path) -> None:
    result = train_project("digits", tmp_path / "run", *FEW, OWN, "trainer.fast_dev_run=true")
    assert result.status == "completed" and not [*tmp_path.rglob("*.ckpt")]


class Compiles(Callback):
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module.layers, OptimizedModule):
            pl_module.layers = torch.compile(pl_module.layers, backend="eager")  # others need a C++ compiler


@needs_fast  # keeps the sums of an unfinished epoch
def test_a_compiled_network_trains_and_resumes_as_if_it_were_not(tmp_path: Path) -> None:
    expected = train_project("digits", tmp_path / "whole", *FEW)
    for batch in (8, 0):
        given = [Compiles(), SignalAt(batch)]
        found = train_project("digits", tmp_path / "run", *FEW, callbacks=given, resume=True)
    assert (found.status, found.metrics, found.best) == ("completed", expected.metrics, expected.best)
    last, before = (read_checkpoint(tmp_path / d / "checkpoints/last.ckpt")["state_dict"] for d in ("run", "whole"))
    assert any("_orig_mod." in name for name in last)
    assert equal({name.replace("_orig_mod.", ""): value for name, value in last.items()}, before)
    assert equal(load_model(tmp_path / "run", "last").state_dict(), before)  # of a module that is not compiled


class Averages(Callback):
    """Makes what a module's ``__init__`` would."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            pl_module.average = AveragedModel(pl_module.layers, multi_avg_fn=get_ema_multi_avg_fn(0.9))
            pl_module.average.requires_grad_(False)


@needs_fast  # keeps the sums of an unfinished epoch
def test_a_moving_average_in_the_module_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def update(self: Any, *_: Any) -> None:
        self.average.update_parameters(self.layers)

    monkeypatch.setattr(Digits, "on_train_batch_end", update)
    whole = train_project("digits", tmp_path / "whole", *FEW, callbacks=[Averages()])
    for batch in (8, 0):
        given = [Averages(), SignalAt(batch)]
        found = train_project("digits", tmp_path / "run", *FEW, callbacks=given, resume=True)
    assert found.metrics == whole.metrics
    last, before = (read_checkpoint(tmp_path / d / "checkpoints/last.ckpt")["state_dict"] for d in ("run", "whole"))
    assert equal(last, before) and last["average.n_averaged"] == 15
    assert not equal(last["average.module.6.weight"], last["layers.6.weight"])


class EvaluatesAverage(Callback):
    """Validates with averaged weights and saves these, as Lightning's own averaging does."""

    average: dict[str, Tensor]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.average = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        for name, value in pl_module.state_dict().items():
            self.average[name].copy_(0.7 * self.average[name] + 0.3 * value)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.current = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
            pl_module.load_state_dict(self.average)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            pl_module.load_state_dict(self.current)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = self.average


def test_the_best_checkpoint_has_the_weights_that_a_callback_saves(tmp_path: Path) -> None:
    monitored = "monitor.metric=val/acc", "monitor.mode=max"
    result = train_project("digits", tmp_path / "run", *FEW, *monitored, callbacks=[EvaluatesAverage()])
    data: Any = build_data(config_of(*overrides_of("digits", *FEW)))
    data.setup("fit")
    images, digits = (torch.stack([torch.as_tensor(row[part]) for row in data.val]) for part in (0, 1))
    found = (load_model(tmp_path / "run")(images).argmax(dim=1) == digits).double().mean().item()
    assert result.best is not None
    assert found == pytest.approx(result.best["value"])
    best, last = (read_checkpoint(tmp_path / f"run/checkpoints/{name}.ckpt") for name in ("best", "last"))
    assert result.best["step"] == best["global_step"]
    assert (best["global_step"] == last["global_step"]) == equal(best["state_dict"], last["state_dict"])


@dataclass(frozen=True)
class Scale:
    value: float


def test_what_callbacks_and_modules_save_is_kept_with_the_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reads(Callback):
        def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
            (state,), (schedule,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
            checkpoint["own"] = [checkpoint["global_step"], state["param_groups"][0]["lr"], schedule["last_epoch"]]
            assert checkpoint["loops"]["fit_loop"] and checkpoint["callbacks"]

    scales = [Scale(1.0), Scale(2.0)]
    monkeypatch.setattr(Digits, "on_save_checkpoint", lambda self, saved: saved.update(scales=scales, few=range(3)))
    monkeypatch.setattr("descent.training.checkpoint_io._not_loaded", lambda path: "")  # they are not refused here
    schedule = "scheduler=step", "scheduler.step_size=1", "scheduler.gamma=0.5"
    few = "trainer.max_epochs=2", "data.num_workers=0", "data.num_rows=130", *schedule
    monkeypatch.setattr(Digits, "test_step", None)
    train_project("digits", tmp_path / "run", *few, callbacks=[Reads()])
    best = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=False)
    assert best["scales"] == scales and best["few"] == range(3)
    assert best["own"][0] == best["global_step"] > 0 and not {"optimizer_states", "logged"} & best.keys()


class Embeds(Callback):
    def __init__(self, sparse: bool) -> None:
        self.sparse = sparse

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            pl_module.embedding = torch.nn.Embedding.from_pretrained(torch.eye(10), freeze=False, sparse=self.sparse)


@pytest.mark.parametrize("most", [1_000_000, 10], ids=["statistics of all numbers", "only norms"])
def test_sparse_gradients_have_the_statistics_of_dense_ones(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def training_step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        images, digits = batch
        return torch.nn.functional.cross_entropy(self(images) + self.embedding(digits), digits)

    monkeypatch.setattr("descent.training.telemetry.MOST_KEPT", most)
    monkeypatch.setattr(Digits, "training_step", training_step)
    monkeypatch.setattr(Digits, "configure_optimizers", lambda self: torch.optim.SGD(self.parameters(), lr=0.1))
    found = {}
    for sparse in (True, False):
        train_project("digits", tmp_path / str(sparse), *FEW, callbacks=[Embeds(sparse)])
        written = events(tmp_path / str(sparse))
        tags = [tag for tag in ("grad/norm", "update/relative") if tag in written.Tags()["scalars"]]
        found[sparse] = [(tag, [point.value for point in written.Scalars(tag)]) for tag in tags]
    assert [tag for tag, _ in found[True]] == ["grad/norm", "update/relative"][: 2 if most > 10 else 1]
    assert all(value == pytest.approx(dict(found[False])[tag]) for tag, value in found[True])


def test_weight_averaging_works_and_says_that_it_is_not_resumed_exactly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    swa = ("_target_=lightning.pytorch.callbacks.StochasticWeightAveraging", "swa_lrs=0.01", "swa_epoch_start=1")
    result = train_project("digits", tmp_path / "run", *FEW, *(f"+callbacks.own.{entry}" for entry in swa))
    assert result.status == "completed"
    assert "a run resumed within an epoch is not exact with callbacks.own, which sets its learning rate" in caplog.text


def test_the_metrics_of_averaged_weights_are_of_their_average(tmp_path: Path) -> None:
    swa = ("_target_=lightning.pytorch.callbacks.StochasticWeightAveraging", "swa_lrs=0.01", "swa_epoch_start=1")
    given = [f"+callbacks.own.{entry}" for entry in swa]
    result = train_project("lengths", tmp_path / "run", "trainer.max_epochs=3", *given)
    model = Reader()
    model.load_state_dict(read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["state_dict"])
    batch = padded(rows(50, 1))
    with torch.no_grad():
        error = (model(batch["sequences"], batch["lengths"]) - batch["targets"]).abs().mean().item()
    assert result.metrics["val/mae"] == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize(
    ("scheduler", "accumulated"),
    [
        pytest.param("none", 2, marks=pytest.mark.soak),
        ("cosine", 2),
        pytest.param("one_cycle", 3, marks=pytest.mark.soak),
    ],
)
def test_a_run_that_accumulates_gradients_resumes_bit_for_bit(scheduler: str, accumulated: int, tmp_path: Path) -> None:
    overrides = (*FEW, f"trainer.accumulate_grad_batches={accumulated}", f"scheduler={scheduler}")
    expected = train_project("digits", tmp_path / "whole", *overrides)
    assert expected.steps == 3 * -(-5 // accumulated)
    for batch in (1, 7, 10, 0):
        found = train_project("digits", tmp_path / "run", *overrides, callbacks=[SignalAt(batch)], resume=True)
    assert found.metrics == expected.metrics
    last, before = (read_checkpoint(tmp_path / d / "checkpoints/last.ckpt") for d in ("run", "whole"))
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert equal(last[key], before[key])


def test_what_is_logged_of_accumulated_gradients_is_of_the_whole_step(tmp_path: Path) -> None:
    accumulated = "trainer.accumulate_grad_batches=3"  # 7 batches: 3, 3 and 1
    overrides = accumulated, "trainer.max_epochs=2", "trainer.log_every_n_steps=1"
    seen: list[float] = []

    class Losses(Callback):
        def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
            seen.append(loss.item() * 3)

    whole = train_project("lengths", tmp_path / "whole", *overrides, callbacks=[Losses()])
    first = train_project("lengths", tmp_path / "run", *overrides, callbacks=[SignalAt(10)])
    train_project("lengths", tmp_path / "run", *overrides, resume=True)
    assert (first.status, first.gradient_evaluations) == ("interrupted", 10)
    assert (whole.steps, whole.gradient_evaluations, len(seen)) == (6, 14, 14)
    expected = [fmean(seen[i:j]) for i, j in pairwise([0, 3, 6, 7, 10, 13, 14])]
    for tag, values in (("train/loss", expected), ("grad/evaluations", [3, 6, 7, 10, 13, 14])):
        curves = [events(tmp_path / name).Scalars(tag) for name in ("whole", "run")]
        assert [point.value for point in curves[0]] == pytest.approx(values, rel=1e-6)
        assert [(point.step, point.value) for point in curves[0]] == [(point.step, point.value) for point in curves[1]]


@pytest.mark.parametrize("limit", ["max_gradient_evaluations=7", "max_samples=224"])  # within the third step
def test_a_budget_ends_training_after_a_whole_step_of_accumulated_gradients(limit: str, tmp_path: Path) -> None:
    accumulated = "trainer.accumulate_grad_batches=3", "data.num_rows=600"
    result = train_project("digits", tmp_path / "run", *FEW, *accumulated, f"stopping.{limit}")
    assert (result.steps, result.gradient_evaluations, result.samples) == (3, 9, 288)
    assert result.stopped is not None and result.stopped.startswith("its budget of ")


def test_metrics_go_to_several_loggers(tmp_path: Path) -> None:
    train_project("lengths", tmp_path / "run", "logger=tensorboard_and_csv")
    (table,) = (tmp_path / "run/csv").rglob("metrics.csv")
    assert "val/mae" in table.read_text().splitlines()[0].split(",")
    assert "val/mae" in events(tmp_path / "run").Tags()["scalars"]
    assert not list((tmp_path / "run").glob("lightning_logs"))


def test_a_monitor_that_was_never_logged_is_an_error_that_lists_what_was(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        train_project("digits", tmp_path / "run", *FEW, "monitor.metric=val/f1")
    assert str(caught.value) == (
        "monitor.metric must be one that was logged (train/loss, val/loss, val/acc), got 'val/f1'"
    )


class Text(Callback):
    """Uses the logger's own methods, as the guides say."""

    def add(self, trainer: Trainer, tag: str) -> None:
        logger: Any = trainer.logger
        logger.experiment.add_text(tag, "text", trainer.global_step)
        assert Path(logger.log_dir) == Path(str(trainer.log_dir)) == Path(trainer.default_root_dir)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.add(trainer, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.add(trainer, "test")


@needs_fast  # keeps an epoch's sums
def test_hooks_can_use_the_logger_in_interrupted_runs_and_in_the_test(tmp_path: Path) -> None:
    for name, batches in (("whole", (0,)), ("run", (3, 8, 0))):
        for batch in batches:
            callbacks = [Text(), SignalAt(batch, signal.SIGTERM)]
            found = train_project("digits", tmp_path / name, *FEW, callbacks=callbacks, resume=True)
            assert (found.status, found.signal) == (("interrupted", signal.SIGTERM) if batch else ("completed", None))
    texts = []
    for name in ("whole", "run"):
        found_events = events(tmp_path / name)
        texts.append({tag: [e.step for e in found_events.Tensors(tag)] for tag in found_events.Tags()["tensors"]})
    assert texts[0]["test/text_summary"] == [15] and texts[0]["val/text_summary"] == [5, 10, 15]
    assert texts[1] == texts[0]


def test_an_interrupted_run_whose_last_validation_fails_stays_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(self: Digits, *_: Any) -> None:
        if self.trainer.state.fn == "validate":
            raise ValueError("mine")
        self.log("val/acc", 0.5)

    monkeypatch.setattr(Digits, "validation_step", fails)
    found = train_project("digits", tmp_path / "run", *FEW, callbacks=[SignalAt(8, signal.SIGTERM)])
    assert (found.status, found.signal, found.steps) == ("interrupted", signal.SIGTERM, 8)
    (note,) = [message for message in caplog.messages if "has no validation metrics" in message]
    assert note.startswith("note: result.json has no validation metrics of the last step: ValueError")


def test_a_monitor_that_is_nan_is_noted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Digits, "validation_step", lambda self, batch, n: self.log("val/acc", torch.tensor(torch.nan)))
    result = train_project("digits", tmp_path / "run", *FEW)
    assert (result.status, result.steps) == ("completed", 15)
    assert [message for message in caplog.messages if "is nan" in message] == [
        "note: val/acc is nan at step 5, so these weights cannot be the best; if it stays nan, best.ckpt has the last"
        " weights"
    ]
    assert read_checkpoint(tmp_path / "run/checkpoints/best.ckpt")["global_step"] == 15


@needs_fast  # keeps an epoch's sums
def test_the_curve_of_a_loss_that_the_module_logs_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def training_step(self: Reader, batch: Any, batch_idx: int) -> Any:
        self.log("train/loss", torch.tensor(7.0), on_step=False, on_epoch=True, batch_size=1)
        return self(batch["sequences"], batch["lengths"]).square().mean()

    monkeypatch.setattr(Reader, "training_step", training_step)
    train_project("lengths", tmp_path / "run", "trainer.log_every_n_steps=1")
    assert [(point.step, point.value) for point in events(tmp_path / "run").Scalars("train/loss")] == [
        (7, 7.0),
        (14, 7.0),
        (21, 7.0),
    ]


@pytest.mark.parametrize("loss", [float("nan"), 1e9])
def test_a_loss_that_is_not_finite_or_far_above_the_first_is_divergence(
    loss: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Digits.training_step
    monkeypatch.setattr(
        Digits, "training_step", lambda self, batch, n: step(self, batch, n) * (loss if self.global_step == 7 else 1)
    )
    result = train_project("digits", tmp_path / "run", *FEW)
    assert result.status == "diverged" and result.steps == 8
    assert "before step 8" in str(result.reason)


@needs_fast  # knows what self.log was given
def test_metrics_of_the_last_batch_are_told_from_means_of_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step: Any = Digits.training_step

    def logging(self: Any, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = step(self, batch, batch_idx)
        self.log("train/last", loss)
        self.log("train/loss", loss)
        self.log("train/mean", loss, on_step=False, on_epoch=True)
        self.log("train/both", loss, on_step=True, on_epoch=True)
        self.log("train/again", loss)
        return loss

    monkeypatch.setattr(Digits, "training_step", logging)
    monkeypatch.setattr(Digits, "on_train_epoch_end", lambda self: self.log("train/again", 1.0))
    result = train_project("digits", tmp_path / "run", *FEW)
    assert len([text for text in caplog.messages if "the final train/loss is of one batch alone" in text]) == 1
    assert {*result.of_one_batch} == {"train/last", "train/loss", "train/both_step"}
    assert {*result.of_one_batch} < {*result.of_last_epoch}
    for at in (8, 0, 0):  # interrupted within an epoch, resumed, and with no steps left
        caught = [SignalAt(at, signal.SIGTERM)]
        resumed = train_project("digits", tmp_path / "cut", *FEW, callbacks=caught, resume=True)
        assert resumed.of_one_batch == result.of_one_batch


def test_a_confusion_matrix_of_torchmetrics_is_drawn_in_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(self: Digits) -> None:
        matrix = MulticlassConfusionMatrix(10)
        matrix.update(torch.tensor([1, 2, 2]), torch.tensor([1, 2, 3]))
        figure, _ = matrix.plot()
        logger: Any = self.logger
        logger.experiment.add_figure("confusion", figure, self.trainer.global_step)

    monkeypatch.setattr(Digits, "on_validation_epoch_end", draw)
    train_project("digits", tmp_path / "run", "trainer.max_epochs=1", "data.num_workers=0", "logger=tensorboard")
    assert [image.step for image in events(tmp_path / "run").Images("confusion")] == [10]
