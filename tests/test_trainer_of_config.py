"""Tests which callbacks and options a Trainer gets from the config, without training."""

import math
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, config_of
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler

from descent.errors import UserError
from descent.fast.epoch_loop import EpochLoop
from descent.training.checkpoint_io import AtomicCheckpointIO
from descent.training.checkpoints import Checkpoints
from descent.training.telemetry import Telemetry
from descent.training.trainer import NoProfiler, build_trainer

FIRST = ["ValidationSchedule", "Divergence", "LoggedMetrics", "ModuleFlags", "StartHooks", "IgnoredSettings"]
FIRST += ["TrainingCurves", "Telemetry", "SampleCounter", "OptimizerModes", "Threads"]
ENDS = (
    *("stopping.patience=3", "stopping.min_delta=0.5", "stopping.mode=max", "stopping.monitor=val/r2"),
    *("stopping.gradient_norm=0.25", "stopping.loss_change=0.125", "stopping.max_samples=100"),
    *("stopping.max_gradient_evaluations=7", "stopping.max_seconds=9", "trainer.max_steps=5"),
    *("stopping.diverged_above=77", "trainer.enable_progress_bar=true", "checkpoint.every_steps=13"),
    *("checkpoint.every_seconds=null", "monitor.metric=val/loss", "monitor.mode=max", "trainer.log_every_n_steps=11"),
)


def made(tmp_path: Path, *overrides: str, **given: Any) -> tuple[Any, list[str], dict[str, Any]]:
    """Returns a Trainer, the names of its callbacks in order, and the callbacks by name."""
    config = config_of("callbacks=none", "trainer.enable_progress_bar=false", *overrides)
    trainer: Any = build_trainer(config, tmp_path, **given)
    names = [type(callback).__name__ for callback in trainer.callbacks]
    return trainer, names, dict(zip(names, trainer.callbacks, strict=True))


def test_every_stopping_rule_and_the_bar_have_a_callback_with_its_limits(tmp_path: Path) -> None:
    _, names, of = made(tmp_path, *ENDS)
    last = [
        "TrainingLoss",
        "MaxSteps",
        "Budget",
        "Patience",
        "Converged",
        "RunProgressBar",
        "UnsavedAttributes",
        "Checkpoints",
    ]
    assert names == FIRST + last
    assert (of["TrainingLoss"].metrics, of["TrainingLoss"].every_epoch) == (["val/loss", "val/r2"], True)
    assert of["MaxSteps"].max_steps == 5
    assert of["Budget"].limits == {"samples": 100, "gradient evaluations": 7, "seconds": 9}
    patience = of["Patience"]
    assert (patience.monitor, patience.patience, patience.mode, patience.min_delta) == ("val/r2", 3, "max", 0.5)
    assert not patience.check_finite
    assert (of["Converged"].gradient_norm, of["Converged"].loss_change) == (0.25, 0.125)
    assert of["Divergence"].factor == 77
    kept = of["Checkpoints"]
    assert (kept.directory, kept.best.metric, kept.best.sign) == (tmp_path / "checkpoints", "val/loss", -1)
    assert (kept.interval.every_seconds, kept.interval.every_steps, kept.identity, kept.on_start) == (
        math.inf,
        13,
        {},
        None,
    )
    intervals = of["ValidationSchedule"].intervals
    assert (intervals.log_every, intervals.validate_every) == (11, 1)  # patience needs a validation after each epoch
    for name in ("Divergence", "TrainingCurves", "Telemetry", "RunProgressBar"):
        assert of[name].intervals is intervals, name


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("stopping.max_samples=100", "Budget"),
        ("stopping.max_gradient_evaluations=7", "Budget"),
        ("stopping.max_seconds=9", "Budget"),
        ("stopping.gradient_norm=1", "Converged"),
        ("stopping.loss_change=1", "Converged"),
        ("trainer.max_steps=5", "MaxSteps"),
        ("trainer.enable_progress_bar=true", "RunProgressBar"),
        ("seed=0", None),
    ],
)
def test_each_stopping_rule_adds_only_its_callback(override: str, name: str | None, tmp_path: Path) -> None:
    _, names, of = made(tmp_path, override)
    assert names == [*FIRST, "TrainingLoss", *([name] if name else []), "UnsavedAttributes", "Checkpoints"]
    assert (of["TrainingLoss"].metrics, of["TrainingLoss"].every_epoch) == (["val/loss"], False)


@pytest.mark.parametrize("kind", [RichProgressBar, TQDMProgressBar])
def test_a_progress_bar_of_lightning_replaces_the_machinerys(kind: type, tmp_path: Path) -> None:
    given = f"+callbacks.mine._target_={kind.__module__}.{kind.__name__}"
    trainer, names, _ = made(tmp_path, "trainer.enable_progress_bar=true", given)
    assert isinstance(trainer.progress_bar_callback, kind) and "RunProgressBar" not in names


def test_enable_progress_bar_false_also_leaves_out_a_given_bar(tmp_path: Path) -> None:
    given = "+callbacks.mine._target_=lightning.pytorch.callbacks.RichProgressBar"
    trainer, _, _ = made(tmp_path, "trainer.enable_progress_bar=false", given)
    assert trainer.progress_bar_callback is None


class Mine(Telemetry):
    """Replaces the machinery's own callback."""


class Watching(Callback):
    def __init__(self, monitor: str | None) -> None:
        self.monitor = monitor


def test_monitored_metrics_are_evaluated_each_epoch_and_a_subclass_replaces_its_callback(
    tmp_path: Path,
) -> None:
    mine, watching = Mine(), Watching("train/loss")
    _, names, of = made(tmp_path, callbacks=[watching, mine])
    assert names == [name if name != "Telemetry" else "Mine" for name in FIRST] + [
        *("Watching", "TrainingLoss", "UnsavedAttributes", "Checkpoints")
    ]
    assert (of["TrainingLoss"].metrics, of["TrainingLoss"].every_epoch) == (["val/loss", "train/loss"], True)
    assert mine.intervals is of["ValidationSchedule"].intervals and mine.intervals.validate_every == 1
    _, _, of = made(tmp_path, "trainer.check_val_every_n_epoch=4", callbacks=[watching])
    assert of["Telemetry"].intervals.validate_every == 4
    _, _, of = made(tmp_path, "scheduler=plateau", "scheduler.monitor=val/mae", "scheduler.mode=min")
    assert (of["TrainingLoss"].metrics, of["TrainingLoss"].every_epoch) == (["val/loss", "val/mae"], True)
    _, _, of = made(tmp_path, callbacks=[Watching(None)])
    assert of["Telemetry"].intervals.validate_every is None
    assert (of["TrainingLoss"].metrics, of["TrainingLoss"].every_epoch) == (["val/loss"], False)


def test_the_trainer_has_the_configs_options(tmp_path: Path) -> None:
    options = "clip=value", "clip.gradient_clip_val=0.25", "trainer.max_epochs=7", "trainer.log_every_n_steps=9"
    trainer, _, of = made(tmp_path, *options, "trainer.accumulate_grad_batches=3", "trainer.precision=bf16-mixed")
    assert (trainer.gradient_clip_val, trainer.gradient_clip_algorithm) == (0.25, "value")
    assert (trainer.max_epochs, trainer.max_steps, trainer.log_every_n_steps) == (7, -1, 9)
    assert (trainer.accumulate_grad_batches, trainer.precision) == (3, "bf16-mixed")
    assert (trainer.num_sanity_val_steps, trainer.check_val_every_n_epoch) == (0, 1)
    assert trainer.default_root_dir == str(tmp_path)
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
    assert type(trainer.fit_loop.epoch_loop) is EpochLoop and isinstance(trainer.profiler, NoProfiler)
    assert trainer.checkpoint_callback is of["Checkpoints"]
    assert type(made(tmp_path, "trainer.fast=false")[0].fit_loop.epoch_loop) is not EpochLoop
    assert made(tmp_path, "trainer.check_val_every_n_epoch=4")[0].check_val_every_n_epoch == 4
    trial = made(tmp_path, "trainer.fast_dev_run=true")[0]
    assert trial.fast_dev_run and not [c for c in trial.callbacks if isinstance(c, Checkpoints)]
    for kind, profiler in (("simple", SimpleProfiler), ("advanced", AdvancedProfiler)):
        assert type(made(tmp_path, f"trainer.profiler={kind}")[0].profiler) is profiler


NOT_EXACT = "a run with it does not resume exactly"
NOT_ITS_CONFIG = "it changes values of the config; use a sweep to try values"


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("BatchSizeFinder", "", NOT_ITS_CONFIG),
        ("LearningRateFinder", "", NOT_ITS_CONFIG),
        ("ModelPruning", ", pruning_fn: l1_unstructured", NOT_EXACT),
        ("GradientAccumulationScheduler", ", scheduling: {0: 2}", NOT_EXACT),
    ],
)
def test_callbacks_that_break_exact_resuming_or_change_settings_are_refused(
    name: str, arguments: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        made(tmp_path, f"+callbacks.own={{_target_: lightning.pytorch.callbacks.{name}{arguments}}}")
    assert str(refused.value) == f"callbacks.own must not be {name}: {why}"


def test_weight_averaging_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    averaging = "lightning.pytorch.callbacks.StochasticWeightAveraging"
    made(tmp_path, f"+callbacks.own={{_target_: {averaging}, swa_lrs: 0.01}}")
    (said,) = (record.getMessage() for record in caplog.records if record.name.startswith("descent"))
    assert said == (
        "note: a run resumed within an epoch is not exact with callbacks.own, which sets its learning rate only"
        " at the start of an epoch; interrupted between epochs, it resumes exactly"
    )


def test_a_scheduler_that_weight_averaging_replaces_is_noted(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run("trainer.max_epochs=2", "callbacks=swa", "scheduler=cosine", run_dir=tmp_path)
    assert "note: StochasticWeightAveraging replaces CosineAnnealingLR once it begins to average" in caplog.messages


@pytest.mark.parametrize("library", ["wandb", "mlflow"])
def test_a_logger_without_its_library_names_the_command_that_installs_it(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("descent.training.logger.find_spec", lambda name: None)
    with pytest.raises(UserError) as raised:
        made(tmp_path, f"logger={library}")
    command = f"pip install -c constraints.txt -e '.[{library}]'"
    assert str(raised.value) == f"logger.{library} needs {library}: {command}"
