"""Checks that a checkpoint can resume this run, and says why if it cannot."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Annotated, Any

from annotated_types import Len
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.loggers import Logger
from pydantic import BaseModel, Strict, ValidationError
from torch import Tensor
from torch.optim import Optimizer

from descent.config.identity import LENGTH, differences
from descent.config.messages import own_method
from descent.errors import UserError, validation_error
from descent.training.checkpoint_io import read_checkpoint
from descent.training.logger import RunLogger
from descent.training.sparse_callback import callbacks_of
from descent.training.weight_averaging import averages_in

log = logging.getLogger(__name__)

Filled = Annotated[dict[Any, Any], Len(1)]


class Run(BaseModel):
    config: Filled


class Loops(BaseModel):
    fit_loop: Filled


class Resumable(BaseModel):
    """The parts of a checkpoint that a resumed run needs."""

    run: Run
    loops: Loops
    random_state: Filled
    state_dict: Filled
    callbacks: Filled
    optimizer_states: list[Any]
    lr_schedulers: list[Any]
    global_step: Annotated[int, Strict()]


class Start:
    """Called right before the first step of a process.

    Attributes:
        made: whether it was called. Before that, the results of an earlier process must not change.
    """

    made = False

    def __init__(self, then: Callable[[], None] | None) -> None:
        self.then = then

    def __call__(self) -> None:
        self.made = True
        if self.then is not None:
            self.then()


def check_checkpoint(last: Path, identity: dict[str, Any], longer: bool) -> dict[str, Any]:
    """Reads the checkpoint that a run resumes from.

    Args:
        last: the file.
        identity: of the run to resume: its ``config``, see ``descent.config.identity``.
        longer: whether ``trainer.max_epochs`` may be larger than in the checkpoint.

    Raises:
        UserError: the checkpoint is damaged, or from another config.
    """
    loaded = read_checkpoint(last)
    try:
        Resumable.model_validate(loaded)
    except ValidationError as error:
        raise UserError(
            f"{last} must be a checkpoint from this version of the project to be resumed exactly;"
            f" its {validation_error(error, separator='/')}"
        ) from error
    saved, now = loaded["run"], identity["config"]
    began_with = saved["config"].get(LENGTH)
    longer = longer and isinstance(began_with, int) and began_with <= now[LENGTH]
    changed = differences(saved["config"], now, allowed=[LENGTH] if longer else [])
    if changed:
        raise UserError(f"{last} must have the same config to be resumed: {changed}")
    return loaded


def check_callbacks(trainer: Trainer, last: Path, states: Iterable[str]) -> None:
    """Refuses a checkpoint with the state of a missing callback: it would be lost."""
    owners = {callback.state_key for callback in callbacks_of(trainer, Callback)}
    if lost := sorted(set(states) - owners):
        raise UserError(
            f"{last} must be a checkpoint from this version of the project, with the same callbacks, to be resumed"
            f" exactly; it has the state of {', '.join(lost)}"
        )


def check_processes(trainer: Trainer, last: Path, loaded: Mapping[str, Any]) -> None:
    """Refuses a checkpoint from another number of processes: it has the random state and metrics of each."""
    began_with = loaded["run"].get("processes", 1)
    if began_with != trainer.world_size:
        raise UserError(
            f"{last} must be resumed by as many processes as wrote it ({began_with}), got {trainer.world_size}"
        )


def check_length(trainer: Trainer, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses, or notes, schedules that depend on the original length of a run that is now longer.

    Raises:
        UserError: an average of the weights is among the callbacks, which replaces them at the end.
    """
    if before[LENGTH] == now[LENGTH]:
        return
    for average in averages_in(trainer):
        is_scheduled = isinstance(average, StochasticWeightAveraging)
        why = "was scheduled for that length" if is_scheduled else "replaces the weights at the end of training"
        raise UserError(f"{LENGTH} must stay {before[LENGTH]}: {type(average).__name__} {why}")
    if trainer.lr_scheduler_configs and "scheduler._target_" not in now:
        log.warning(
            "note: the run now has %s epochs instead of %s; if the module's own scheduler depends on that number, the"
            " learning rates differ from those of a new run of this length",
            *(now[LENGTH], before[LENGTH]),
        )


def restore_dtypes(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Restores the saved dtypes: torch casts states, such as NAdam's ``mu_product``, to the weights' dtype."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in saved["state"].items():
        state = optimizer.state[parameters[index]]
        for name, value in values.items():
            if isinstance(value, Tensor):
                state[name] = value.to(state[name].device, copy=True)


@contextmanager
def restoring(checkpoint: Path | None, start: Start, loggers: Sequence[Logger]) -> Iterator[None]:
    """Makes an error before the first step name the checkpoint, whose content is the cause.

    Args:
        checkpoint: ``None`` for a new run.
        start: of this process.
        loggers: their new event files are removed after such an error.
    """
    try:
        yield
    except Exception as error:
        if checkpoint is None or start.made:
            raise
        for logger in loggers:
            if isinstance(logger, RunLogger):
                logger.discard()
        if not isinstance(error, LookupError | TypeError | ValueError | AttributeError | RuntimeError):
            raise
        loading = any("checkpoint_connector" in frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__))
        if own_method(error) and not loading:  # such as setup, where a file is missing
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(
            f"{checkpoint} must be a whole checkpoint of this run, written by the same code;"
            f" it cannot be loaded: {reason}"
        ) from error
