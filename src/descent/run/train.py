"""One run, from a config to a result."""

import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger

from descent.config.hparams import flat_hparams
from descent.config.identity import config_digest, flat_config
from descent.config.messages import one_line
from descent.config.schema import Config
from descent.errors import UserError, must
from descent.run.files import locked
from descent.run.libraries import libraries_as_here
from descent.run.outcome import describe, log_final, loss_limit, new_result, predict
from descent.run.result import Result
from descent.run.signals import Interrupted, deferred
from descent.training.curves import Curves
from descent.training.divergence import DivergenceError
from descent.training.logger import RunLogger
from descent.training.restoring import Start, check_checkpoint, restoring
from descent.training.trainer import build_trainer, monitored
from regression.data.module import RegressionData
from regression.data.table import LARGEST
from regression.model import LinearRegression

log = logging.getLogger(__name__)


def train(
    config: Config,
    run_dir: Path,
    command: str | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
    longer: bool = False,
    on_start: Callable[[], None] | None = None,
) -> Result:
    """Trains, evaluates, and leaves checkpoints, TensorBoard events and ``result.json`` in ``run_dir``.

    SIGINT, SIGTERM and SIGHUP end training at the next step from which it can be resumed. Where a run that is resumed
    fails before its first new step, nothing of what it had is changed.

    Args:
        config: from ``descent.config.parse.parse``.
        run_dir: the run's own directory; made if it is not there.
        command: recorded in the result; ``None``: the command line of this process.
        callbacks: further Lightning callbacks.
        resume: go on from ``checkpoints/last.ckpt``, where there is one.
        longer: ``trainer.max_epochs`` may then be larger than the run began with.
        on_start: called right before the first step.

    Raises:
        UserError: the data cannot be used, torch refuses an argument of the optimizer or the scheduler, a
            checkpoint cannot be loaded or is of another config or other data, the disk cannot be written to, or
            another process trains in ``run_dir``.
    """
    run_dir = Path(run_dir)
    start = Start(on_start)
    with libraries_as_here(), locked(run_dir, "the run"):
        try:
            return _train(config, run_dir, command, callbacks, resume, longer, start)
        except Exception as error:
            shown = error
            if isinstance(error, OSError):  # TensorBoard's writer; checkpoints and results say it themselves
                shown = UserError(f"cannot write {os.fsdecode(error.filename or run_dir)}: {error.strerror}")
            reason, hparams = one_line(shown), flat_hparams(config)
            result = Result("failed", config.seed, _command(command), reason, hparams=hparams)
            result.config_digest = config_digest(config)
            with suppress(UserError):  # the disk may be what failed
                result.write(run_dir) if start.made else result.write_unless_trained(run_dir)
            if shown is error:
                raise
            raise shown from error


def _train(
    config: Config,
    run_dir: Path,
    command: str | None,
    callbacks: Sequence[Callback],
    resume: bool,
    longer: bool,
    start: Start,
) -> Result:
    data = RegressionData(config.data, config.batch, seed=config.seed, bias=config.model.bias)
    _check_data(config, data)
    identity = {"config_digest": config_digest(config), "checksum": data.checksum, "config": flat_config(config)}
    last = run_dir / "checkpoints" / "last.ckpt"
    checkpoint = last if resume and last.is_file() else None
    resumed_at = check_checkpoint(last, identity, longer) if checkpoint else None
    with deferred() as signals:
        trainer = build_trainer(config, data, run_dir, callbacks, signals, resumed_at, identity, start)
        logger = trainer.logger
        model = _build_model(config, data, trainer)
        result = new_result(config, data, _command(command))
        before = predict(model, config.predict_at)
        started = time.perf_counter()
        try:
            with restoring(checkpoint, start, logger):
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


def _command(command: str | None) -> str:
    return command or shlex.join(["python", *sys.argv])


def _draw(result: Result, data: RegressionData, trainer: Trainer, logger: Logger | None, run_dir: Path) -> None:
    from regression.figures import draw_figures  # matplotlib comes in here

    (curves,) = (c for c in trainer.callbacks if isinstance(c, Curves))  # type: ignore[attr-defined]
    try:
        draw_figures(result, data, np.array(curves.path) if curves.path else None, logger, run_dir)
    except Exception as error:  # whatever it is, the run is no worse for it
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
