"""Tests the end of a run: rare endings, counts, random numbers, evaluation on the CPU."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, config_of
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from test_stepping import SMALL  # six steps of up to 8 of 48 rows an epoch
from test_train import events
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from descent.errors import UserError
from descent.run.load import trainer_of
from descent.run.result import read_result
from descent.training.callback import ResultCallback
from descent.training.silent_logger import SilentLogger
from regression.base import RegressionModel
from regression.data.module import RegressionData
from regression.model import LinearRegression

PLAIN = LinearRegression.training_step


@pytest.mark.parametrize("val_fraction", [0.2, 0.0])
def test_a_run_that_is_resumed_at_its_end_has_the_metrics_of_before(
    val_fraction: float, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def logging(self: LinearRegression, batch: Any, batch_idx: int) -> Tensor:
        self.log("own", float(batch_idx))
        return PLAIN(self, batch, batch_idx)

    monkeypatch.setattr(LinearRegression, "training_step", logging)
    options = *SMALL, "trainer.max_epochs=2", f"data.val_fraction={val_fraction}"
    first = run(*options, run_dir=tmp_path / "r")
    assert first.metrics["own"] in (5.0, 6.0)  # the index of the last batch, of 48 rows or of 54
    again = run(*options, run_dir=tmp_path / "r", resume=True)
    assert again.metrics == first.metrics and next(iter(again.metrics)) == "train/loss"
    assert (again.steps, again.samples, again.stopped) == (first.steps, first.samples, None)
    if val_fraction:
        assert [point.step for point in events(tmp_path / "r").Scalars("val/loss")] == [6, 12]  # no point twice


class States(ResultCallback):
    """Records the state of torch's generator when training ends, when the result is made, and after the test."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def on_train_end(self, *_: Any) -> None:
        self.found.append(torch.get_rng_state())

    def result(self, *_: Any) -> dict[str, Any]:
        self.found.append(torch.get_rng_state())
        return {}

    def after_result(self, *_: Any) -> None:
        self.found.append(torch.get_rng_state())


@pytest.mark.parametrize(("steps", "validations"), [(20, 4), (12, 2)])  # one after each whole epoch, and at the end
def test_validation_and_test_after_training_draw_none_of_its_random_numbers(
    steps: int, validations: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    for name in ("validation", "test"):

        def draw(self: LinearRegression, name: str = name) -> None:
            torch.rand(())
            drawn.append(name)

        monkeypatch.setattr(LinearRegression, f"on_{name}_epoch_start", draw)
    states = States()
    run(*SMALL, "trainer.max_epochs=4", f"trainer.max_steps={steps}", callbacks=[states])
    assert drawn == ["validation"] * validations + ["test"]
    before, made, after = states.found
    assert torch.equal(before, made) and torch.equal(before, after)


@pytest.mark.parametrize("hook", ["test_step", "test_dataloader"])
def test_a_project_without_a_test_is_not_tested(hook: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(RegressionModel if hook == "test_step" else RegressionData, hook)
    result = run(*SMALL, "trainer.max_epochs=1")
    assert result.status == "completed" and not [name for name in result.metrics if name.startswith("test")]


@pytest.mark.parametrize(
    ("limits", "stopped"),
    [
        ({"stopping_threshold": 1e9}, "Stopping threshold reached: train/loss = {} < 1000000000.0. Signaling"),
        ({"patience": 1, "min_delta": 1e9}, "train/loss has not improved for 1 validation"),
    ],
    ids=["threshold", "patience"],
)
def test_a_stopping_rule_of_lightnings_says_why_it_stopped(limits: dict[str, Any], stopped: str, run: Run) -> None:
    rule = EarlyStopping("train/loss", check_on_train_epoch_end=True, **limits)
    result = run(*SMALL, "trainer.max_epochs=5", "data.val_fraction=0", callbacks=[rule])
    assert result.stopped is not None and result.epochs < 5
    start, _, end = stopped.partition("{}")
    assert result.stopped.startswith(start) and end in result.stopped


@pytest.mark.parametrize(("limit", "steps", "samples"), [(4, 9, 72), (0.5, 8, 64), (6, 13, 48 + 48 + 8), (6, 12, 96)])
@pytest.mark.parametrize("size", [8, 10])
def test_samples_are_the_rows_of_the_batches_that_the_steps_have_seen(
    size: int, limit: float, steps: int, samples: int, run: Run
) -> None:
    options = f"trainer.limit_train_batches={limit}", f"trainer.max_steps={steps}", f"batch.size={size}"
    result = run(*SMALL, *options, "trainer.max_epochs=9")
    seen = 0
    batches = [min(size, 48 - start) for start in range(0, 48, size)]
    batches = batches[: int(limit * len(batches)) if isinstance(limit, float) else limit]
    for step in range(steps):
        seen += batches[step % len(batches)]
    assert (result.steps, result.samples, result.epochs) == (steps, seen, steps // len(batches))
    assert size == 10 or seen == samples


@pytest.mark.parametrize("scheduler", ["none", "cosine"])
@pytest.mark.parametrize("loader", [[], DataLoader([])], ids=["list", "DataLoader"])  # type: ignore[arg-type]
@pytest.mark.filterwarnings("ignore:Total length of")
def test_a_loader_without_a_batch_is_refused(
    loader: Any, scheduler: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RegressionData, "train_dataloader", lambda self: loader)
    with pytest.raises(UserError) as raised:
        run(*SMALL, "trainer.max_epochs=1", "optimizer=sgd", f"scheduler={scheduler}")
    assert str(raised.value) == (
        "training must have a batch: train_dataloader or trainer.limit_train_batches leaves none"
    )


def test_a_signal_in_the_test_of_the_best_weights_interrupts_the_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LinearRegression, "on_test_epoch_end", lambda self: signal.raise_signal(signal.SIGTERM))
        result = run(*SMALL, "trainer.max_epochs=1", run_dir=tmp_path / "r")
    assert (result.status, result.reason, result.exit_code) == ("interrupted", "interrupted by SIGTERM", 143)
    assert read_result(tmp_path / "r")["status"] == "interrupted"
    assert run(*SMALL, "trainer.max_epochs=1", run_dir=tmp_path / "r", resume=True).status == "completed"


def test_a_run_that_diverges_at_its_first_step_says_so_and_not_that_no_weight_changed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, closure: closure())
    monkeypatch.setattr(LinearRegression, "training_step", lambda *given: PLAIN(*given) * torch.nan)
    result = run(*SMALL, "optimizer=sgd", "trainer.max_epochs=1", "trainer.fast=false")
    assert result.status == "diverged" and result.reason is not None
    assert "no weight changed" not in result.reason


class Breaks(Callback):
    """Makes the bias infinite after an epoch's last batch."""

    def on_train_batch_end(self, trainer: Any, pl_module: LinearRegression, *_: Any) -> None:
        if trainer.is_last_batch:
            pl_module.linear.bias.data.fill_(torch.inf)


@pytest.mark.parametrize("in_memory", [True, False])
def test_weights_that_the_last_step_leaves_without_a_finite_loss_are_divergence(
    in_memory: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = DataLoader(TensorDataset(torch.ones(16, 2).double(), torch.ones(16).double()), 8)
    callbacks = []
    if in_memory:
        nan = lambda self, *given: PLAIN(self, *given) * (torch.nan if self.global_step and not self.training else 1.0)  # noqa: E731
        monkeypatch.setattr(LinearRegression, "training_step", nan)
    else:
        monkeypatch.setattr(RegressionData, "train_dataloader", lambda self: loader)
        callbacks.append(Breaks())
    result = run(*SMALL, "trainer.max_epochs=1", "callbacks=none", "data.val_fraction=0.5", callbacks=callbacks)
    reason = "the loss or a weight after the last step is not finite, or the loss is far above the first"
    assert (result.status, result.reason) == ("diverged", reason)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(torch.ones(2).double(), torch.ones(()).double())] * 8)


def test_a_note_on_a_loader_is_logged_once_however_often_the_loader_is_made(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[int] = []

    def loader(self: RegressionData) -> Any:
        made.append(1)
        return DataLoader(Stream(), 8)

    monkeypatch.setattr(RegressionData, "train_dataloader", loader)
    often = "trainer.max_epochs=3", "trainer.reload_dataloaders_every_n_epochs=1"
    run(*SMALL, *often, "callbacks=none")
    assert len(made) == 3
    assert len([text for text in caplog.messages if text.startswith("note: a run resumed in the middle")]) == 1


def test_a_trained_model_is_tested_on_the_cpu_as_its_config_says_and_leaves_nothing(tmp_path: Path) -> None:
    config = config_of("trainer.precision=16-mixed", "trainer.accelerator=auto", "+trainer.limit_test_batches=3")
    callback = ResultCallback()
    trainer = trainer_of(config, tmp_path, callback)
    assert (trainer.precision, trainer.limit_test_batches, trainer.num_devices) == ("32-true", 3, 1)
    assert trainer.strategy.root_device == torch.device("cpu")
    (logger,) = trainer.loggers
    assert isinstance(logger, SilentLogger) and trainer.log_dir == str(tmp_path)
    assert (trainer.checkpoint_callbacks, trainer.progress_bar_callback) == ([], None)
    assert callback in trainer.callbacks and trainer.default_root_dir == str(tmp_path)
    whole = trainer_of(config_of("trainer.precision=bf16-mixed"), tmp_path)
    assert (whole.precision, whole.limit_test_batches) == ("bf16-mixed", 1.0)
