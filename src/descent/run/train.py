"""One run, from a config to a result."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything

from descent.batches.exact import exact, load_positions
from descent.config.hparams import flat_hparams, unused_groups
from descent.config.identity import config_digest, flat_config
from descent.config.messages import one_line
from descent.config.schema import Config
from descent.errors import UserError
from descent.files import locked
from descent.run.after_training import command_line, describe, log_final, new_result, test
from descent.run.libraries import libraries_as_here
from descent.run.result import Result
from descent.signals import Interrupted, deferred
from descent.training.build import build
from descent.training.callback import ResultCallback
from descent.training.divergence import DivergenceError
from descent.training.logger import RunLogger
from descent.training.restoring import Start, check_checkpoint, restoring
from descent.training.sparse_callback import callbacks_of
from descent.training.trainer import build_trainer

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
            result = Result("failed", config.seed, command_line(command), reason, hparams=hparams)
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
    if unused := unused_groups(config):
        said = "note: neither model nor data take anything of %s: interpolation in their YAML files would hand it on"
        log.warning(said, " and ".join(unused))
    data = build(config.data, "data", LightningDataModule)
    identity = {"config_digest": config_digest(config), "config": flat_config(config)}
    last = run_dir / "checkpoints" / "last.ckpt"
    checkpoint = last if resume and last.is_file() else None
    loaded = check_checkpoint(last, identity, longer) if checkpoint else None
    _make_exact(data, config.seed, loaded)
    resumed_at = int(loaded["global_step"]) if loaded else None
    with deferred() as signals:
        trainer = build_trainer(config, run_dir, callbacks, signals, resumed_at, identity, start)
        loggers = list(trainer.loggers)
        model = _build_model(config, trainer)
        result = new_result(config, command)
        started = time.perf_counter()
        try:
            with restoring(checkpoint, start, loggers):
                trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except DivergenceError as error:
            result.status, result.reason = "diverged", str(error)
        except Interrupted as interrupted:
            _interrupt(result, interrupted)
        result.seconds = time.perf_counter() - started
        describe(result, trainer, model, data)
        if result.status == "completed":
            best = None if config.trainer.fast_dev_run else run_dir / "checkpoints" / "best.ckpt"  # which it has not
            test(result, trainer, model, data, best)
        if result.status == "completed" and signals.number is not None:
            _interrupt(result, Interrupted(signals.number))
        if result.status != "interrupted":
            log_final(trainer, result)
        result.write(run_dir)
        if result.status == "completed" and not config.trainer.fast_dev_run:
            _call_after_result(trainer, result, run_dir)
        for logger in loggers:
            if isinstance(logger, RunLogger):  # fast_dev_run has another
                logger.close()
    return result


def _make_exact(data: LightningDataModule, seed: int, checkpoint: dict[str, Any] | None) -> None:
    """Batches in an order of the seed's and the epoch's, from the position in the checkpoint on."""
    given: Callable[[], Any] = data.train_dataloader
    notes, positions = set[str](), [checkpoint]

    def train_dataloader() -> Any:
        loader, note = exact(given(), seed)
        if note and note not in notes:
            log.warning("note: %s", note)
            notes.add(note)
        if positions and (loaded := positions.pop()):
            load_positions(loader, loaded)
        return loader

    data.train_dataloader = train_dataloader  # type: ignore[method-assign]


def _call_after_result(trainer: Trainer, result: Result, run_dir: Path) -> None:
    for callback in callbacks_of(trainer, ResultCallback):
        try:
            callback.after_result(trainer, result.as_dict(), run_dir)
        except Exception as error:  # whatever it is, the run is no worse for it
            log.warning("note: %s could not do its work: %s", type(callback).__name__, error)


def _interrupt(result: Result, interrupted: Interrupted) -> None:
    result.status, result.reason, result.signal = "interrupted", str(interrupted), interrupted.number


def _build_model(config: Config, trainer: Trainer) -> LightningModule:
    seed_everything(config.seed, verbose=False)
    with trainer.init_module():  # on the device and in the precision of training from the start
        return build(config.model, "model", LightningModule)
