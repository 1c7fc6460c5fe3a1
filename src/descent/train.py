"""One run, from a config to a result."""

import logging
import math
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger
from torch.nn.functional import mse_loss

from descent.callbacks.checkpoints import Checkpoints
from descent.callbacks.converged import Converged
from descent.callbacks.divergence import DivergenceError
from descent.checkpoint_io import read_checkpoint
from descent.config import Config
from descent.data.module import RegressionData
from descent.errors import must
from descent.hparams import flat_hparams
from descent.logger import RunLogger
from descent.model import LinearRegression
from descent.optimum import least_squares
from descent.result import Result
from descent.signals import Interrupted, deferred
from descent.trainer import build_trainer, monitored

log = logging.getLogger(__name__)


def train(
    config: Config,
    run_dir: Path,
    command: str | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
) -> Result:
    """Trains, evaluates, and leaves checkpoints, TensorBoard events and ``result.json`` in ``run_dir``.

    SIGINT and SIGTERM end training at the next step from which it can be resumed.

    Args:
        config: from ``descent.config.parse``.
        run_dir: the run's own directory; made if it is not there.
        command: recorded in the result; ``None``: the command line of this process.
        callbacks: further Lightning callbacks.
        resume: go on from ``checkpoints/last.ckpt``, where there is one.

    Raises:
        UserError: the data cannot be used, torch refuses an argument of the optimizer or the scheduler, a
            checkpoint cannot be loaded, or the disk not written to.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    # The first step of each fit: Lightning calls torch's tree functions in a way that torch has deprecated.
    warnings.filterwarnings("ignore", r".*LeafSpec.*", FutureWarning)

    data = RegressionData(config.data, config.batch, seed=config.seed, center=config.model.bias)
    _check_data(config, data)
    last = run_dir / "checkpoints" / "last.ckpt"
    checkpoint = last if resume and last.is_file() else None
    resumed_at = read_checkpoint(last)["global_step"] if checkpoint else None
    with deferred() as signals:
        trainer = build_trainer(config, data, run_dir, callbacks, signals, resumed_at)
        logger = trainer.logger
        model = _build_model(config, data, trainer)
        result = _new_result(config, data, command)
        before = _predict(model, config.predict_at)
        started = time.perf_counter()
        try:
            trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except DivergenceError as error:
            result.status, result.reason = "diverged", str(error)
        except Interrupted as error:
            result.status, result.reason = "interrupted", str(error)
        result.seconds = time.perf_counter() - started
        _describe(result, trainer, model, data)
        after = _predict(model, config.predict_at)
        result.predictions = [
            {"input": row, "before": b, "after": a} for row, b, a in zip(config.predict_at, before, after, strict=True)
        ]
        if result.status == "completed" and not math.isfinite(result.metrics["train/loss"]):
            result.status, result.reason = "diverged", "the training loss is not finite after the last step"
        if result.status == "completed" and len(data.test):
            trainer.logger = None  # the points of test/* are written below, once the run is complete
            # fast_dev_run keeps no checkpoint
            best = None if config.trainer.fast_dev_run else run_dir / "checkpoints" / "best.ckpt"
            trainer.test(model, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
            result.metrics |= {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("test/")}
        if result.status == "completed" and signals.number is not None:
            result.status, result.reason = "interrupted", str(Interrupted(signals.number))
        result.signal = signals.number
        if result.status != "interrupted":
            _log_final(logger, result)
        if isinstance(logger, RunLogger):  # fast_dev_run has another
            logger.close()
        result.write(run_dir)
    return result


def _new_result(config: Config, data: RegressionData, command: str | None) -> Result:
    """What is known of the outcome before training."""
    rows = data.rows
    true = None if rows.true_weight is None else {"weight": list(rows.true_weight), "bias": rows.true_bias}
    return Result(
        status="completed",
        seed=config.seed,
        command=command or shlex.join(["python", *sys.argv]),
        features=list(rows.feature_names),
        rows={"train": len(data.train), "val": len(data.val), "test": len(data.test)},
        hparams=flat_hparams(config),
        optimum=_optimum(data, config.model.bias),
        true_parameters=true,
    )


def _describe(result: Result, trainer: Trainer, model: LinearRegression, data: RegressionData) -> None:
    """What is known after it."""
    weight, bias = model.own_units()
    result.parameters = {"weight": weight, "bias": bias}
    result.stopped = _why_stopped(trainer)
    if isinstance(trainer.checkpoint_callback, Checkpoints):
        result.seconds += trainer.checkpoint_callback.seconds_before
    _count(result, trainer, data)
    result.metrics = _measure(model, data)


def _check_data(config: Config, data: RegressionData) -> None:
    """What can only be known with the data at hand."""
    for row in config.predict_at:
        if len(row) != data.num_features:
            raise must("predict_at", f"rows of {data.num_features} numbers, one for each feature", row)
    size, rows = config.batch.size, len(data.train)
    if size is not None and size > rows:
        log.warning("batch.size=%d is more than the %d training rows: every batch is all of them", size, rows)


def _build_model(config: Config, data: RegressionData, trainer: Trainer) -> LinearRegression:
    seed_everything(config.seed, verbose=False)
    scheduler = dict(config.scheduler)
    if scheduler.get("monitor"):
        scheduler["monitor"] = monitored(scheduler["monitor"], len(data.val) > 0)
    with trainer.init_module():  # on the device and in the precision of training from the start
        return LinearRegression(
            num_features=data.num_features,
            optimizer=config.optimizer,
            bias=config.model.bias,
            init_weight=config.model.init_weight,
            init_bias=config.model.init_bias,
            scheduler=scheduler,
            standardization=asdict(data.standardization),
        )


def _optimum(data: RegressionData, bias: bool) -> dict[str, Any]:
    """The least-squares solution in the data's own units; curvature and learning rate in those of training."""
    found = least_squares(torch.from_numpy(data.train.x), torch.from_numpy(data.train.y), bias)
    if not found.unique:
        log.warning("the least-squares solution is not unique; the one nearest to 0 is reported")
    weight, own_bias = data.standardization.own_units(found.weight, found.bias)
    own = {"loss": found.loss * data.standardization.loss_unit, "weight": weight, "bias": own_bias}
    return asdict(found) | own


def _predict(model: LinearRegression, inputs: list[list[float]]) -> list[float]:
    if not inputs:
        return []
    with torch.no_grad():
        predictions: list[float] = model.predict_step(model.linear.weight.new_tensor(inputs)).tolist()
    return predictions


@torch.no_grad()
def _measure(model: LinearRegression, data: RegressionData) -> dict[str, float]:
    """``train/loss`` and ``val/*`` at the model's weights, whenever the last validation was."""
    rows = data.train_dataloader()
    loss = mse_loss(model(rows.x), rows.y).item() * model.units.loss_unit
    model.val_metrics.reset()
    for batch in data.val_dataloader():
        model.update(model.val_metrics, batch)
    values = model.val_metrics.compute() if len(data.val) else {}
    return {"train/loss": loss} | {name: value.item() for name, value in values.items()}


def _why_stopped(trainer: Trainer) -> str | None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set in Trainer's connector
        if isinstance(callback, Converged) and callback.reason:
            return callback.reason
        if isinstance(callback, EarlyStopping) and callback.stopped_epoch:
            return f"{callback.monitor} has not improved for {callback.patience} validations"
    return None


def _count(result: Result, trainer: Trainer, data: RegressionData) -> None:
    steps, rows, size = trainer.global_step, len(data.train), data.batch.size or len(data.train)
    passes, rest = divmod(steps, data.batches_per_epoch)
    result.steps, result.epochs = steps, passes
    result.samples = passes * rows + min(rest * size, rows)
    # torch's L-BFGS counts for itself how often it called the closure
    counted = sum(state.get("func_evals", 0) for state in trainer.optimizers[0].state.values())
    result.gradient_evaluations = counted or steps


def _log_final(logger: Logger | None, result: Result) -> None:
    """The points of ``test/*``, and the HParams tab: the settings beside the final metrics, under tags of their own."""
    shown = {k: v for k, v in result.hparams.items() if v is not None and not k.startswith(("stopping.", "trainer."))}
    for key in ("trainer.max_epochs", "trainer.precision"):
        shown[key] = result.hparams[key]
    if isinstance(logger, RunLogger):
        tested = {name: value for name, value in result.metrics.items() if name.startswith("test/")}
        logger.log_metrics(tested, result.steps)
        final = {f"hp/{name.replace('/', '_')}": value for name, value in result.metrics.items()}
        logger.log_hyperparams(shown, final, step=result.steps)
