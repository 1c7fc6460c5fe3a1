"""The Trainer and its callbacks, from the config."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.profilers import AdvancedProfiler, PassThroughProfiler, Profiler, SimpleProfiler

from descent.config.rules import better
from descent.config.schema import Config
from descent.errors import UserError, must
from descent.fast.epoch_loop import EpochLoop
from descent.run.signals import Deferred
from descent.training.budget import Budget
from descent.training.checkpoint_io import AtomicCheckpointIO
from descent.training.checkpoints import Checkpoints
from descent.training.curves import Curves
from descent.training.divergence import Divergence
from descent.training.logger import RunLogger
from descent.training.max_steps import MaxSteps
from descent.training.progress import Progress
from descent.training.spacing import Spacing
from descent.training.telemetry import Telemetry
from regression.callbacks.converged import Converged
from regression.callbacks.to_optimum import ToOptimum
from regression.callbacks.training_loss import TrainingLoss
from regression.data.module import RegressionData
from regression.data.sources import numbered
from regression.optimum import largest_stable_lr

PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
}


class NoProfiler(PassThroughProfiler):
    """Lightning's own makes a new context at each of some 70 places in a step, which costs a tenth of the step."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self.nothing


def build_trainer(
    config: Config,
    data: RegressionData,
    run_dir: Path,
    callbacks: Sequence[Callback] = (),
    signals: Deferred | None = None,
    resumed_at: int | None = None,
    identity: dict[str, Any] | None = None,
    on_start: Callable[[], None] | None = None,
) -> Trainer:
    """A Trainer that logs to TensorBoard and keeps ``checkpoints/best.ckpt`` and ``last.ckpt`` in ``run_dir``.

    Args:
        callbacks: further ones, after the project's own.
        signals: where a signal shows that asks the run to end; ``None``: none will.
        resumed_at: the step from which a resumed run goes on.
        identity: of the run, kept in its checkpoints.
        on_start: called right before the first step.
    """
    options = config.trainer
    if options.precision == "16-mixed" and not torch.cuda.is_available():  # Lightning would use bfloat16
        raise must("trainer.precision", "one that this machine has (16-mixed needs CUDA)", options.precision)
    spacing = _spacing(config, data, callbacks)
    try:
        trainer = Trainer(
            accelerator=options.accelerator,
            devices=1,
            precision=options.precision,  # type: ignore[arg-type]  # a Literal there, checked by the schema here
            max_epochs=options.max_epochs,
            gradient_clip_val=config.clip.gradient_clip_val,
            gradient_clip_algorithm=config.clip.gradient_clip_algorithm,
            check_val_every_n_epoch=spacing.validate_every or 1,
            log_every_n_steps=min(options.log_every_n_steps, data.batches_per_epoch),
            limit_val_batches=None if len(data.val) else 0,
            num_sanity_val_steps=0,
            deterministic=options.deterministic,
            fast_dev_run=options.fast_dev_run,
            enable_checkpointing=not options.fast_dev_run,
            profiler=PROFILERS[options.profiler](dirpath=run_dir / "profile", filename=options.profiler)
            if options.profiler
            else NoProfiler(),
            logger=RunLogger(run_dir, resumed_at),
            plugins=AtomicCheckpointIO(),
            callbacks=[
                *_own_callbacks(config, data, spacing),
                *callbacks,
                *_checkpoints(config, data, run_dir, signals, identity or {}, on_start),
            ],
            enable_progress_bar=False,  # Progress takes its place
            enable_model_summary=False,
            default_root_dir=run_dir,
        )
    except MisconfigurationException as error:
        raise UserError(f"trainer: {error}") from error
    if not len(data.val):
        trainer.limit_val_batches = 0  # fast_dev_run has made it 1
    trainer.fit_loop.epoch_loop = EpochLoop(trainer, spacing)
    return trainer


def monitored(monitor: str, has_validation: bool) -> str:
    """``monitor``, or the training loss where the validation that it names does not take place."""
    return "train/loss" if monitor.startswith("val/") and not has_validation else monitor


def _spacing(config: Config, data: RegressionData, callbacks: Sequence[Callback]) -> Spacing:
    every = config.trainer.check_val_every_n_epoch
    monitors = any(getattr(callback, "monitor", None) for callback in callbacks)
    if every is None and (config.stopping.patience or config.scheduler.get("monitor") or monitors):
        every = 1  # something waits for it
    evaluated = data.val if len(data.val) else data.train
    return Spacing(config.trainer.log_every_n_steps, every, data.batches_per_epoch, evaluated.x.size)


def _stable_lr(config: Config, data: RegressionData) -> float | None:
    """Of SGD on all rows; ``None`` for other optimizers, with clipping, and where the curvature is not known."""
    given = config.optimizer
    if given["_target_"] != "torch.optim.SGD" or given.get("dampening") or data.optimum is None:
        return None
    if config.clip.gradient_clip_val is not None:
        return None
    return largest_stable_lr(
        data.optimum, given.get("momentum", 0.0), given.get("nesterov", False), given.get("weight_decay", 0.0)
    )


def _own_callbacks(config: Config, data: RegressionData, spacing: Spacing) -> list[Callback]:
    stopping, has_validation = config.stopping, len(data.val) > 0
    names = data.rows.feature_names
    if names == numbered(len(names)):
        names = tuple(name.removeprefix("x_") for name in names)
    callbacks: list[Callback] = [
        Divergence(stopping.diverged_above, _stable_lr(config, data)),
        Curves(spacing, names),
        Telemetry(spacing),
    ]
    if data.triangle is not None and data.optimum is not None:
        callbacks.append(ToOptimum(spacing, data.triangle, len(data.train), data.optimum))
    monitors = stopping.monitor if stopping.patience else None, config.scheduler.get("monitor")
    watched = "train/loss" in {monitored(monitor, has_validation) for monitor in monitors if monitor}
    if config.trainer.max_steps is not None:
        callbacks.append(MaxSteps(config.trainer.max_steps))
    budget = stopping.max_samples, stopping.max_gradient_evaluations, stopping.max_seconds
    if any(limit is not None for limit in budget):
        callbacks.append(Budget(*budget))
    if not has_validation or watched:
        callbacks.append(TrainingLoss(every_epoch=watched))
    if stopping.patience is not None:
        callbacks.append(
            EarlyStopping(
                monitor=monitored(stopping.monitor, has_validation),
                patience=stopping.patience,
                min_delta=stopping.min_delta,
                mode=better(monitored(stopping.monitor, has_validation)),
                check_on_train_epoch_end=not has_validation or stopping.monitor == "train/loss",
                check_finite=False,  # Divergence sees to that
            )
        )
    if stopping.gradient_norm is not None or stopping.loss_change is not None:
        callbacks.append(Converged(stopping.gradient_norm, stopping.loss_change))
    if config.trainer.enable_progress_bar:
        callbacks.append(Progress(spacing, data.standardization.loss_unit))
    return callbacks


def _checkpoints(
    config: Config,
    data: RegressionData,
    run_dir: Path,
    signals: Deferred | None,
    identity: dict[str, Any],
    on_start: Callable[[], None] | None,
) -> list[Callback]:
    if config.trainer.fast_dev_run:
        return []
    monitor = monitored("val/loss", len(data.val) > 0)
    every = config.checkpoint
    directory = run_dir / "checkpoints"
    return [
        Checkpoints(
            *(directory, monitor, every.every_seconds, every.every_steps, signals or Deferred(), identity, on_start)
        )
    ]
