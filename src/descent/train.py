"""One run, from a config to a result."""

import logging
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger

from descent.callbacks.curves import Curves
from descent.callbacks.divergence import DivergenceError
from descent.checkpoint_io import read_checkpoint
from descent.config import Config
from descent.data.module import RegressionData
from descent.data.table import LARGEST
from descent.errors import UserError, must
from descent.logger import RunLogger
from descent.model import LinearRegression
from descent.outcome import describe, log_final, loss_limit, new_result, predict
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
        config: from ``descent.parse.parse``.
        run_dir: the run's own directory; made if it is not there.
        command: recorded in the result; ``None``: the command line of this process.
        callbacks: further Lightning callbacks.
        resume: go on from ``checkpoints/last.ckpt``, where there is one.

    Raises:
        UserError: the data cannot be used, torch refuses an argument of the optimizer or the scheduler, a
            checkpoint cannot be loaded, or the disk not written to.
    """
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    for library in ("lightning", "lightning.pytorch", "lightning.fabric"):  # they bring handlers of their own
        logging.getLogger(library).handlers.clear()
        logging.getLogger(library).propagate = True
    # The first step of each fit: Lightning calls torch's tree functions in a way that torch has deprecated.
    warnings.filterwarnings("ignore", r".*LeafSpec.*", FutureWarning)

    try:
        return _train(config, run_dir, command, callbacks, resume)
    except OSError as error:  # TensorBoard's writer; checkpoints and results say it themselves
        raise UserError(f"cannot write {os.fsdecode(error.filename or run_dir)}: {error.strerror}") from error


def _train(config: Config, run_dir: Path, command: str | None, callbacks: Sequence[Callback], resume: bool) -> Result:
    data = RegressionData(config.data, config.batch, seed=config.seed, bias=config.model.bias)
    _check_data(config, data)
    last = run_dir / "checkpoints" / "last.ckpt"
    checkpoint = last if resume and last.is_file() else None
    resumed_at = read_checkpoint(last)["global_step"] if checkpoint else None
    with deferred() as signals:
        trainer = build_trainer(config, data, run_dir, callbacks, signals, resumed_at)
        logger = trainer.logger
        model = _build_model(config, data, trainer)
        result = new_result(config, data, command)
        before = predict(model, config.predict_at)
        started = time.perf_counter()
        try:
            trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except DivergenceError as error:
            result.status, result.reason = "diverged", str(error)
        except Interrupted as interrupted:
            _interrupt(result, interrupted)
        result.seconds = time.perf_counter() - started
        describe(result, trainer, model, data)
        after = predict(model, config.predict_at)
        result.predictions = [
            {"input": row, "before": b, "after": a} for row, b, a in zip(config.predict_at, before, after, strict=True)
        ]
        if result.status == "completed" and not result.metrics["train/loss"] <= loss_limit(trainer):
            result.status = "diverged"
            result.reason = "the training loss after the last step is not finite, or far above the first"
        if result.status == "completed" and len(data.test):
            trainer.logger = None  # the points of test/* are written below, once the run is complete
            # fast_dev_run keeps no checkpoint
            best = None if config.trainer.fast_dev_run else run_dir / "checkpoints" / "best.ckpt"
            trainer.test(model, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
            result.metrics |= {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("test/")}
        if result.status == "completed" and signals.number is not None:
            _interrupt(result, Interrupted(signals.number))
        if result.status != "interrupted":
            log_final(logger, result)
        result.write(run_dir)
        if config.figures and result.status == "completed" and not config.trainer.fast_dev_run:
            _draw(result, data, trainer, logger, run_dir)
        if isinstance(logger, RunLogger):  # fast_dev_run has another
            logger.close()
    return result


def _draw(result: Result, data: RegressionData, trainer: Trainer, logger: Logger | None, run_dir: Path) -> None:
    from descent.figures import draw_figures  # matplotlib comes in here

    (curves,) = (c for c in trainer.callbacks if isinstance(c, Curves))  # type: ignore[attr-defined]
    try:
        draw_figures(result, data, np.array(curves.path) if curves.path else None, logger, run_dir)
    except (ArithmeticError, ValueError, RuntimeError, OSError, UserError) as error:  # the run is no worse for it
        log.warning("note: not every figure could be drawn: %s", error)


def _interrupt(result: Result, interrupted: Interrupted) -> None:
    result.status, result.reason, result.signal = "interrupted", str(interrupted), interrupted.number


def _check_data(config: Config, data: RegressionData) -> None:
    """What can only be known with the data at hand."""
    for row in config.predict_at:
        if len(row) != data.num_features:
            raise must("predict_at", f"rows of {data.num_features} numbers, one for each feature", row)
        if max(map(abs, row)) > LARGEST:
            raise must("predict_at", f"rows of numbers up to {LARGEST:g}", row)
    size, rows = config.batch.size, len(data.train)
    if size is not None and size > rows:
        log.warning("note: batch.size=%d is more than the %d training rows: every batch is all of them", size, rows)


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
            target_center=float(data.train.y.mean()),
            target_scale=float(data.train.y.std()) or 1.0,
        )
