"""Completes the result after training: metrics, counts, why it stopped, entries of callbacks."""

import logging
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng

from descent.config.messages import one_line
from descent.config.metric import without_split
from descent.errors import UserError, counted, invalid
from descent.run.result import Result
from descent.training.budget import Budget, SampleCounter, gradient_evaluations
from descent.training.callback import ResultCallback
from descent.training.checkpoints import Checkpoints
from descent.training.converged import Converged
from descent.training.divergence import Divergence
from descent.training.logged_metrics import LoggedMetrics, of_one_batch
from descent.training.logger import RunLogger
from descent.training.silent_logger import SilentLogger, without_metrics
from descent.training.sparse_callback import callbacks_of
from descent.training.training_curves import TrainingCurves
from descent.training.training_loss import full_loss_value, has_full_loss, loss_unit
from descent.training.validation_schedule import monitored, validation_schedule
from descent.training.weight_averaging import averages_in

log = logging.getLogger(__name__)

FIRST = ("optimizer", "optimizer.lr", "batch.size", "clip", "scheduler")  # in HParams, where no override says more


def describe(result: Result, trainer: Trainer, model: LightningModule, data: Any) -> None:
    """Adds to the result what is known after training: metrics at the last weights, counts, entries of callbacks."""
    schedule = validation_schedule(trainer)
    (curves,) = callbacks_of(trainer, TrainingCurves)
    result.seconds = curves.seconds()
    result.stopped = _why_stopped(trainer)
    result.checksum = getattr(data, "checksum", None)
    result.quantities = {name: str(what) for name, what in getattr(model, "metric_quantities", {}).items()}
    _count(result, trainer)
    # before validation, which makes the Trainer release the training batches
    in_memory = has_full_loss(trainer)
    result.metrics = {"train/loss": math.nan} if in_memory else {}  # a placeholder, to list it first
    logged = dict(trainer.callback_metrics)
    for before in callbacks_of(trainer, LoggedMetrics):
        logged = before.metrics | logged  # a resumed run with no steps left has only the metrics of its checkpoint
        result.of_one_batch = sorted((before.of_one_batch | of_one_batch(trainer)) & logged.keys())
    result.metrics |= {name: value.item() for name, value in logged.items()}
    full = ["train/loss"] if in_memory else []
    result.of_last_epoch = [name for name in result.metrics if name.startswith("train/") and name not in full]
    if in_memory:
        loss = full_loss_value(trainer, model)
        result.metrics["train/loss"] = loss * loss_unit(model)
        (divergence,) = callbacks_of(trainer, Divergence)
        if result.status == "completed" and not loss <= divergence.limit:
            _diverged(result)
    elif result.status == "completed" and not all(weight.isfinite().all() for weight in model.parameters()):
        _diverged(result)
    if not callbacks_of(trainer, Checkpoints):  # fast_dev_run; in other runs Checkpoints checks it after one epoch
        metric = monitored(result.monitor["metric"], schedule.has_validation)
        if metric not in result.metrics:
            raise invalid("monitor.metric", f"one that was logged ({', '.join(result.metrics)})", metric)
    for kept in callbacks_of(trainer, Checkpoints):  # none with fast_dev_run
        if averages_in(trainer):  # the last weights were averaged after their validation
            schedule.validated_step = kept.best.compared_step = -1
        if trainer.enable_validation and schedule.validated_step != trainer.global_step:
            new = result.status == "completed" and kept.best.compared_step != trainer.global_step
            result.metrics |= _validate(result, trainer, model, data, logged=new)
            if new:
                kept.compare_last(trainer, model)
        best = kept.best
        result.monitor["metric"] = best.metric
        result.best = {"step": best.best_step, "metric": best.metric, "value": best.best_value}
    for callback in callbacks_of(trainer, ResultCallback):
        result.callbacks.append(callback)
        entries = callback.result(trainer, model)
        result.metrics |= entries.pop("metrics", {})
        if taken := sorted({*entries} & {key.name for key in fields(Result)}):
            raise UserError(f"{type(callback).__name__}.result must not have {taken[0]}: result.json has one already")
        result.entries |= entries


def test(result: Result, trainer: Trainer, model: LightningModule, data: Any, best: Path | None) -> None:
    """Adds the metrics on the test rows, if there are any, with the weights of the checkpoint ``best``."""
    if not (is_overridden("test_step", model) and is_overridden("test_dataloader", data)):
        return
    # it would replace the weights of the checkpoint by those that were not averaged
    trainer.callbacks = [one for one in callbacks_of(trainer, Callback) if not isinstance(one, WeightAveraging)]  # type: ignore[attr-defined]
    with isolate_rng(), without_metrics(trainer.loggers):  # log_final writes the metrics
        seed_everything(result.seed, verbose=False)  # so that evaluate.py gets the same random numbers
        trainer.test(model, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
    for name, value in trainer.callback_metrics.items():  # a module may log them without test/ or with another split
        key = f"test/{without_split(name)}" if name in result.metrics else name
        result.metrics[key] = value.item()


def log_final(trainer: Trainer, result: Result, in_sweep: bool) -> None:
    """Logs ``test/*``, and the settings with the final metrics (as ``hp/*``) for TensorBoard's HParams tab."""
    hidden = ("stopping.", "trainer.", "callbacks", "logger")
    shown = {k: v for k, v in result.hparams.items() if v is not None and not k.startswith(hidden)}
    for key in ("trainer.max_epochs", "trainer.precision"):
        shown[key] = result.hparams[key]
    tested = {name: value for name, value in result.metrics.items() if name.startswith("test/")}
    decides = result.monitor["metric"]
    metrics = {name: result.metrics[name] for name in (decides, *result.metrics) if name in result.metrics}
    given = [key for key in re.findall(r"([\w./]+)=", result.command) if result.hparams.get(key) is not None]
    shown |= {key: result.hparams[key] for key in given}
    for logger in trainer.loggers:
        if tested:
            logger.log_metrics(tested, result.steps)
        if isinstance(logger, RunLogger):
            logger.log_final(shown, metrics, result.steps, given or FIRST, only=in_sweep and bool(given))
        else:
            logger.log_hyperparams(shown)


def write(
    result: Result, trainer: Trainer, run_dir: Path, in_sweep: bool, is_unchanged: bool, is_trial: bool | int
) -> None:
    """Logs the final metrics, writes ``result.json`` and calls the callbacks' ``after_result``.

    Args:
        in_sweep: whether the run is a job of a sweep.
        is_unchanged: whether the weights are still the initial ones.
        is_trial: ``trainer.fast_dev_run``; if set, ``after_result`` is not called.
    """
    if result.status == "completed" and is_unchanged:
        log.warning("note: no weight changed in %s steps", f"{result.steps:,}")
    if result.status != "interrupted":
        log_final(trainer, result, in_sweep)
    result.write(run_dir)
    if result.status == "completed" and not is_trial:
        _call_after_result(trainer, result, run_dir, in_sweep)


def _call_after_result(trainer: Trainer, result: Result, run_dir: Path, in_sweep: bool) -> None:
    for callback in callbacks_of(trainer, ResultCallback):
        if in_sweep and not callback.in_sweeps:
            continue
        try:
            callback.after_result(trainer, result.as_dict(), run_dir)
        except Exception as error:  # the run itself is complete
            log.warning("note: %s failed: %s", type(callback).__name__, error)


def _diverged(result: Result) -> None:
    result.status = "diverged"
    result.reason = "the loss or a weight after the last step is not finite, or the loss is far above the first"


def _validate(result: Result, trainer: Trainer, model: LightningModule, data: Any, logged: bool) -> dict[str, float]:
    """Returns the validation metrics at the last weights; with ``logged``, also writes them to the loggers."""
    loggers, own = trainer.loggers, trainer.callbacks  # type: ignore[attr-defined]  # set in Trainer's connector
    if not logged:
        trainer.loggers = [SilentLogger(trainer.default_root_dir) for _ in loggers]
    # it would start a new average, from a copy of a module that may be in the middle of a step
    trainer.callbacks = [one for one in own if not isinstance(one, StochasticWeightAveraging)]  # type: ignore[attr-defined]
    # called again, they may make new layers or load other weights
    hooks = {"setup", "configure_model"} - vars(model).keys()
    vars(model).update(dict.fromkeys(hooks, lambda *_, **__: None))
    try:
        with isolate_rng():
            trainer.validate(model, datamodule=data, verbose=False)
    except Exception as error:
        if result.status == "completed":
            raise
        # an interrupted run keeps its exit code, by which a cluster requeues it
        log.warning("note: result.json has no validation metrics of the last step: %s", one_line(error))
        return {}
    finally:
        trainer.loggers, trainer.callbacks = loggers, own  # type: ignore[attr-defined]
        for hook in hooks:
            del vars(model)[hook]
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def _why_stopped(trainer: Trainer) -> str | None:
    for callback in callbacks_of(trainer, Callback):
        if isinstance(callback, Converged | Budget) and callback.reason:
            return callback.reason
        if isinstance(callback, EarlyStopping):
            if callback.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
                return f"{callback.monitor} has not improved for {counted(callback.patience, 'validation')}"
            if callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
                return callback.stopping_reason_message
    return None


def _count(result: Result, trainer: Trainer) -> None:
    result.steps, result.gradient_evaluations = trainer.global_step, gradient_evaluations(trainer)
    batches = trainer.num_training_batches
    whole = (trainer.fit_loop.epoch_loop.total_batch_idx + 1) // batches  # only complete epochs count
    result.epochs = trainer.current_epoch if batches == math.inf else int(whole)
    (counter,) = callbacks_of(trainer, SampleCounter)
    result.samples = counter.total(trainer)
