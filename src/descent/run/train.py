"""Trains a model from a config and returns the result."""

import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything

from descent.config.hparams import flat_hparams, notes_on_unused
from descent.config.identity import config_digest, flat_config
from descent.config.messages import one_line
from descent.config.runtime import check_run_dir
from descent.config.schema import Config
from descent.errors import UserError
from descent.files import locked
from descent.processes import is_main
from descent.run.after_training import describe, test, write
from descent.run.code import code_digests, note_changes
from descent.run.libraries import end_wandb_run, quiet_libraries, wandb_run
from descent.run.load import load_state_before_setup
from descent.run.other_processes import other_processes
from descent.run.result import Result, mark_unfinished
from descent.signals import Interrupted, deferred, stop_mark
from descent.training.build import build, build_data
from descent.training.callback_rules import attach_own
from descent.training.divergence import DivergenceError
from descent.training.loaders import make_exact
from descent.training.logger import RunLogger
from descent.training.max_steps import NO_BATCH
from descent.training.restoring import Start, check_callbacks, check_checkpoint, check_processes, restoring
from descent.training.shared_batches import SharedBatches
from descent.training.sparse_callback import callbacks_of
from descent.training.threads import threads_as_here
from descent.training.trainer import build_trainer
from descent.training.unchanged_weights import UnchangedWeights

log = logging.getLogger(__name__)


def train(
    config: Config,
    run_dir: Path,
    command: str | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
    longer: bool = False,
    on_start: Callable[[], None] | None = None,
    in_sweep: bool = False,
) -> Result:
    """Trains and evaluates; writes checkpoints, TensorBoard events and ``result.json`` to ``run_dir``.

    SIGINT, SIGTERM and SIGHUP end training at the next step from which it can be resumed. If a resumed run fails
    before its first new step, its files stay unchanged.

    Args:
        config: from ``descent.config.parse.parse``.
        run_dir: the run's own directory; created if missing.
        command: recorded in the result; ``None``: the command line of this process.
        callbacks: additional Lightning callbacks.
        resume: resume from ``checkpoints/last.ckpt``, if there is one.
        longer: allow a resumed run a larger ``trainer.max_epochs`` than it started with.
        on_start: called right before the first step.
        in_sweep: whether the run is a job of a sweep; see ``ResultCallback.in_sweeps``.

    Returns:
        the result; also of a run that diverged or was interrupted, see its ``status``.

    Raises:
        UserError: the data cannot be used, torch rejects an argument of the optimizer or the scheduler, a
            checkpoint cannot be loaded or is of another config or other data, the disk cannot be written to, or
            another process trains in ``run_dir``.
    """
    check_run_dir(config)
    run_dir = Path(run_dir)

    def begin() -> None:
        if resume and is_main():
            mark_unfinished(run_dir)
        if on_start is not None:
            on_start()

    start, open_run, exit_code = Start(begin), wandb_run(), 1
    with quiet_libraries(), locked(run_dir, "the run") if is_main() else nullcontext():
        try:
            result = _train(config, run_dir, command, callbacks, resume, longer, start, in_sweep)
            exit_code = result.exit_code
            return result
        except Exception as error:
            shown = error
            # from TensorBoard's writer: checkpoints and results raise their own error; a missing file is an input
            if isinstance(error, OSError) and error.strerror and not isinstance(error, FileNotFoundError):
                shown = UserError(f"cannot write {os.fsdecode(error.filename or run_dir)}: {error.strerror}")
            result = _new_result(config, command)
            result.status, result.reason = "failed", one_line(shown)
            _write_unfinished(result, run_dir, start)
            if shown is error:
                raise
            raise shown from error
        finally:
            end_wandb_run(open_run, exit_code)


def _new_result(config: Config, command: str | None) -> Result:
    """Creates the result with what is known before training."""
    command = command or shlex.join(["python", *sys.argv])
    digest, hparams, code = config_digest(config), flat_hparams(config), code_digests(config)
    return Result("completed", config.seed, command, config_digest=digest, hparams=hparams, code=code)


def _train(
    config: Config,
    run_dir: Path,
    command: str | None,
    callbacks: Sequence[Callback],
    resume: bool,
    longer: bool,
    start: Start,
    in_sweep: bool,
) -> Result:
    for note in notes_on_unused(config):
        log.warning("note: %s", note)
    data = build_data(config)
    identity = {"config_digest": config_digest(config), "config": flat_config(config), "code": code_digests(config)}
    last = run_dir / "checkpoints" / "last.ckpt"
    checkpoint = last if resume and last.is_file() else None
    if last.is_file() and not resume and is_main():
        log.warning("note: the run in %s is replaced; resume=True would continue it", run_dir)
        (run_dir / "evaluation.json").unlink(missing_ok=True)  # it is of the old weights
    loaded = check_checkpoint(last, identity, longer) if checkpoint else None
    resumed_at = int(loaded["global_step"]) if loaded else None
    note_changes(loaded["run"].get("code") if loaded else None, config, f"the last checkpoint of {run_dir}")
    unchanged = UnchangedWeights()
    with deferred(stop_mark(run_dir.parent) if in_sweep else None) as signals:
        trainer = build_trainer(config, run_dir, [*callbacks, unchanged], signals, resumed_at, identity, start)
        if in_sweep and trainer.world_size > 1:
            raise UserError("a job of a sweep must have one process: trainer.devices=1, trainer.num_nodes=1")
        if loaded:
            check_processes(trainer, last, loaded)
            load_state_before_setup(data, loaded)
        make_exact(data, config, loaded, trainer)
        loggers = list(trainer.loggers)
        model = _build_model(config, trainer)
        attach_own(model, trainer, run_dir / "checkpoints")
        check_callbacks(trainer, last, loaded["callbacks"] if loaded else [])
        for shared in callbacks_of(trainer, SharedBatches):
            shared.attach(model)
        result = _new_result(config, command)
        result.monitor = {"metric": config.monitor.metric, "mode": config.monitor.mode}
        if resume and (resumed_at is not None or not in_sweep) and is_main():
            print(f"resuming at step {resumed_at or 0:,} of {run_dir}", flush=True)

        def on_lost(reason: str, number: int | None) -> int:
            lost = _new_result(config, command)
            lost.status, lost.reason = "failed", reason
            if number := signals.number or number:
                _interrupt(lost, number)
            _write_unfinished(lost, run_dir, start)
            return lost.exit_code

        with other_processes(trainer, on_lost):
            _fit(result, trainer, model, data, checkpoint, start)
            if 0 in (trainer.limit_train_batches, trainer.num_training_batches):
                raise UserError(NO_BATCH)
            describe(result, trainer, model, data)
            if result.status == "completed":
                best = run_dir / "checkpoints" / "best.ckpt"
                test(result, trainer, model, data, None if config.trainer.fast_dev_run else best)  # which saves none
                if signals.number is not None:
                    _interrupt(result, signals.number)
            if is_main():
                write(result, trainer, run_dir, in_sweep, unchanged.is_unchanged(model), config.trainer.fast_dev_run)
                for logger in loggers:
                    if isinstance(logger, RunLogger):  # fast_dev_run replaces the loggers
                        logger.close()
    return result


def _write_unfinished(result: Result, run_dir: Path, start: Start) -> None:
    """Writes the result of a run that failed before it could report."""
    if not is_main():
        return
    with suppress(UserError):  # the disk may be what failed
        result.write(run_dir) if start.made else result.write_unless_trained(run_dir)


def _fit(
    result: Result,
    trainer: Trainer,
    model: LightningModule,
    data: LightningDataModule,
    checkpoint: Path | None,
    start: Start,
) -> None:
    try:
        with threads_as_here(), restoring(checkpoint, start, trainer.loggers):
            trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except DivergenceError as error:
        result.status, result.reason = "diverged", str(error)
    except Interrupted as interrupted:
        _interrupt(result, interrupted.number)


def _interrupt(result: Result, number: int) -> None:
    result.status, result.reason, result.signal = "interrupted", str(Interrupted(number)), number


def _build_model(config: Config, trainer: Trainer) -> LightningModule:
    seed_everything(config.seed, verbose=False)
    with trainer.init_module():  # on the device and in the precision of training from the start
        return build(config.model, "model", LightningModule)
