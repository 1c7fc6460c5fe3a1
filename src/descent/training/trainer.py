"""Builds the Trainer and its callbacks from the config."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.profilers import AdvancedProfiler, PassThroughProfiler, Profiler, SimpleProfiler

from descent.config.schema import Config
from descent.errors import UserError, invalid
from descent.processes import is_main
from descent.signals import Deferred
from descent.training.budget import Budget, SampleCounter
from descent.training.build import build
from descent.training.callback_rules import apply_rules
from descent.training.checkpoint_io import AtomicCheckpointIO
from descent.training.checkpoints import Checkpoints
from descent.training.converged import Converged
from descent.training.divergence import Divergence
from descent.training.early_stopping import Patience
from descent.training.ignored_settings import IgnoredSettings
from descent.training.intervals import Intervals
from descent.training.launch import check_started, check_world, cluster_plugins
from descent.training.logged_metrics import LoggedMetrics
from descent.training.logger import build_loggers, count_all_steps
from descent.training.max_steps import MaxSteps
from descent.training.module_flags import ModuleFlags
from descent.training.optimizer_modes import OptimizerModes
from descent.training.progress_bar import RunProgressBar
from descent.training.shared_batches import SharedBatches
from descent.training.start_hooks import StartHooks
from descent.training.step_metrics import StepMetrics
from descent.training.telemetry import Telemetry
from descent.training.threads import Threads
from descent.training.training_curves import TrainingCurves
from descent.training.training_loss import TrainingLoss
from descent.training.unsaved_attributes import UnsavedAttributes
from descent.training.validation_schedule import ValidationSchedule
from descent.training.weight_averaging import AVERAGES, LayersBeforeAveraging

log = logging.getLogger(__name__)

AVAILABLE: dict[str, Callable[[], bool]] = {
    "gpu": lambda: torch.cuda.is_available() or torch.backends.mps.is_available(),
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
}
PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
}


class NoProfiler(PassThroughProfiler):
    """Does nothing; Lightning's makes new contexts at about 70 places in a step, which take a tenth of it."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self.nothing


def build_trainer(
    config: Config,
    run_dir: Path,
    callbacks: Sequence[Callback] = (),
    signals: Deferred | None = None,
    resumed_at: int | None = None,
    identity: dict[str, Any] | None = None,
    on_start: Callable[[], None] | None = None,
) -> Trainer:
    """A Trainer that logs, and keeps ``checkpoints/best.ckpt`` and ``last.ckpt`` in ``run_dir``.

    Args:
        callbacks: appended to those of the config.
        signals: holds the signal that stops the run; ``None``: signals are not handled.
        resumed_at: the step that a resumed run continues from.
        identity: of the run, saved in its checkpoints.
        on_start: called right before the first step.
    """
    options = config.trainer
    if not AVAILABLE.get(options.accelerator, lambda: True)():
        raise invalid("trainer.accelerator", "one that this machine has", options.accelerator)
    if options.precision == "16-mixed" and not torch.cuda.is_available():  # Lightning would use bfloat16
        raise invalid("trainer.precision", "one that this machine has (16-mixed needs CUDA)", options.precision)
    given = [build(spec, f"callbacks.{name}", Callback) for name, spec in config.callbacks.items()]
    for name, callback in zip(config.callbacks, given, strict=True):
        apply_rules(f"callbacks.{name}", name, callback, run_dir / "checkpoints")
    given += callbacks
    if not options.enable_progress_bar:
        given = [callback for callback in given if not isinstance(callback, ProgressBar)]
    if options.fast_dev_run:  # saves no checkpoints
        given = [callback for callback in given if not isinstance(callback, Checkpoint)]
    every = options.check_val_every_n_epoch
    if every is None and (config.stopping.patience or any(getattr(callback, "monitor", None) for callback in given)):
        every = 1  # something monitors a metric
    check_started(options)
    intervals = Intervals(options.log_every_n_steps, every)
    loggers = build_loggers(config, run_dir, resumed_at)
    checkpoints = Checkpoints(
        *(run_dir / "checkpoints", config.monitor, config.checkpoint.every_seconds, config.checkpoint.every_steps),
        *(signals or Deferred(), identity or {}, on_start),
    )
    try:
        trainer = Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=options.strategy,
            use_distributed_sampler=False,
            precision=options.precision,  # type: ignore[arg-type]  # checked by parse
            max_epochs=options.max_epochs,
            check_val_every_n_epoch=every or 1,  # callbacks may read it before ValidationSchedule sets it
            gradient_clip_val=config.clip.gradient_clip_val,
            gradient_clip_algorithm=config.clip.gradient_clip_algorithm,
            log_every_n_steps=options.log_every_n_steps,
            num_sanity_val_steps=0,
            deterministic=options.deterministic,
            fast_dev_run=options.fast_dev_run,
            enable_checkpointing=not options.fast_dev_run,
            profiler=PROFILERS[options.profiler](dirpath=run_dir / "profile", filename=options.profiler)
            if options.profiler
            else NoProfiler(),
            logger=loggers,
            plugins=[AtomicCheckpointIO(), *cluster_plugins()],
            callbacks=[
                *_own_callbacks(config, intervals, given),
                *([] if options.fast_dev_run else [checkpoints]),
            ],
            enable_progress_bar=_has_bar(given),  # otherwise RunProgressBar replaces it
            enable_model_summary=False,
            default_root_dir=run_dir,
            **options.arguments,
        )
    except MisconfigurationException as error:
        raise UserError(f"trainer: {error}") from error
    check_world(trainer)
    if trainer.world_size > 1:
        own: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set in Trainer's connector
        own.insert(0, SharedBatches(config.seed, signals or Deferred()))
    for logger in loggers:
        count_all_steps(logger, trainer)
    if options.fast:
        _take_fast_steps(trainer)
    return trainer


def _take_fast_steps(trainer: Trainer) -> None:
    try:
        # descent.fast is optional, for mypy too
        from descent.fast.epoch_loop import EpochLoop  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return
    trainer.fit_loop.epoch_loop = EpochLoop(trainer)


def _own_callbacks(config: Config, intervals: Intervals, given: Sequence[Callback]) -> list[Callback]:
    """The template's callbacks around the config's, which replace those of ``first`` of the same class."""
    stopping = config.stopping
    first: list[Callback] = [
        ValidationSchedule(intervals),
        Divergence(stopping.diverged_above),
        LoggedMetrics(),
        ModuleFlags(),
        StartHooks(),
        IgnoredSettings(config),
        TrainingCurves(),
        Telemetry(),
    ]
    first += [SampleCounter(), OptimizerModes(), Threads(config.trainer.num_threads, config.batch.size)]
    if any(isinstance(callback, AVERAGES) for callback in given):
        first.append(LayersBeforeAveraging())
    first = [next((callback for callback in given if isinstance(callback, type(own))), own) for own in first]
    given = [callback for callback in given if callback not in first]
    waiting = [config.scheduler.get("monitor"), *(getattr(callback, "monitor", None) for callback in given)]
    waiting += [stopping.monitor] if stopping.patience is not None else []
    watched = [metric for metric in waiting if metric]
    last: list[Callback] = [TrainingLoss([config.monitor.metric, *watched], every_epoch=bool(watched))]
    if config.trainer.max_steps is not None:
        last.append(MaxSteps(config.trainer.max_steps))
    budget = stopping.max_samples, stopping.max_gradient_evaluations, stopping.max_seconds
    if any(limit is not None for limit in budget):
        last.append(Budget(*budget))
    if stopping.patience is not None:
        last.append(
            Patience(
                monitor=stopping.monitor,
                patience=stopping.patience,
                min_delta=stopping.min_delta,
                mode=config.monitor.mode_of(stopping.monitor, stopping.mode, "stopping.mode"),
                check_on_train_epoch_end=True,
                check_finite=False,  # Divergence checks this
            )
        )
    if stopping.gradient_norm is not None or stopping.loss_change is not None:
        last.append(Converged(stopping.gradient_norm, stopping.loss_change))
    if config.trainer.enable_progress_bar and is_main() and not _has_bar(given):
        last.append(RunProgressBar(intervals))
    # last, since other callbacks make attributes when training starts
    callbacks = [*first, *given, *last, UnsavedAttributes()]
    for callback in callbacks:
        if isinstance(callback, StepMetrics | Divergence):
            callback.intervals = intervals
    return callbacks


def _has_bar(callbacks: Sequence[Callback]) -> bool:
    return any(isinstance(callback, ProgressBar) for callback in callbacks)
