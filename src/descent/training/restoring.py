"""Going on from a checkpoint: whether it is of this run, and what is said where it cannot be loaded."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Len
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.loggers import Logger
from pydantic import BaseModel, Strict, ValidationError
from torch import Tensor
from torch.optim import Optimizer

from descent.config.identity import LENGTH, differences
from descent.errors import UserError, validation_error
from descent.training.checkpoint_io import read_checkpoint
from descent.training.logger import RunLogger
from descent.training.sparse_callback import callbacks_of

log = logging.getLogger(__name__)

Filled = Annotated[dict[Any, Any], Len(1)]


class Run(BaseModel):
    config: Filled


class Loops(BaseModel):
    fit_loop: Filled


class Resumable(BaseModel):
    """What a resumed run needs of its checkpoint."""

    run: Run
    loops: Loops
    random_state: Filled
    state_dict: Filled
    callbacks: Filled
    optimizer_states: list[Any]
    lr_schedulers: list[Any]
    global_step: Annotated[int, Strict()]


class Start:
    """Is called right before the first step of a process.

    Attributes:
        made: whether it was called. Until then nothing of what a run has may change.
    """

    made = False

    def __init__(self, then: Callable[[], None] | None) -> None:
        self.then = then

    def __call__(self) -> None:
        self.made = True
        if self.then is not None:
            self.then()


def check_checkpoint(last: Path, identity: dict[str, Any], longer: bool) -> dict[str, Any]:
    """The checkpoint from which a run goes on.

    Args:
        last: its file.
        identity: of the run that is to go on: its ``config``, see ``descent.config.identity``.
        longer: whether the run may have become longer.

    Raises:
        UserError: the checkpoint is damaged, or of another config.
    """
    loaded = read_checkpoint(last)
    try:
        Resumable.model_validate(loaded)
    except ValidationError as error:
        raise UserError(
            f"{last} must be a checkpoint that this version of the project wrote, to be resumed exactly;"
            f" its {validation_error(error, separator='/')}"
        ) from error
    saved, now = loaded["run"], identity["config"]
    began_with = saved["config"].get(LENGTH)
    longer = longer and isinstance(began_with, int) and began_with <= now[LENGTH]
    changed = differences(saved["config"], now, allowed=[LENGTH] if longer else [])
    if changed:
        raise UserError(f"{last} must be of the same config, to be resumed: {changed}")
    return loaded


def check_callbacks(trainer: Trainer, last: Path, loaded: Mapping[str, Any]) -> None:
    """Refuses a checkpoint with the state of a callback that is not there: it would be lost."""
    owners = {callback.state_key for callback in callbacks_of(trainer, Callback)}
    if lost := sorted(set(loaded["callbacks"]) - owners):
        raise UserError(
            f"{last} must be a checkpoint of this version of the project and of the same callbacks, to be resumed"
            f" exactly; it has the state of {', '.join(lost)}"
        )


def check_processes(trainer: Trainer, last: Path, loaded: Mapping[str, Any]) -> None:
    """Refuses a checkpoint of another number of processes: each has its own random numbers in it, and its metrics."""
    began_with = loaded["run"].get("processes", 1)
    if began_with != trainer.world_size:
        raise UserError(
            f"{last} must be resumed by as many processes as wrote it, {began_with}, got {trainer.world_size}"
        )


def check_length(trainer: Trainer, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Of a run that has become longer: what was laid out for the length that it began with is refused, or said.

    Raises:
        UserError: Lightning's ``StochasticWeightAveraging`` is among the callbacks.
    """
    if before[LENGTH] == now[LENGTH]:
        return
    if callbacks_of(trainer, StochasticWeightAveraging):
        raise UserError(f"{LENGTH} must stay {before[LENGTH]}: StochasticWeightAveraging is laid out for it")
    if trainer.lr_scheduler_configs and "scheduler._target_" not in now:
        log.warning(
            "note: the run is longer than it began, %s epochs and not %s; where the module's own scheduler depends on"
            " that, the learning rates are not those of a run that began with this length",
            *(now[LENGTH], before[LENGTH]),
        )


def restore_dtypes(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Gives each state its saved precision: torch loads NAdam's single precision product as a double."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in saved["state"].items():
        state = optimizer.state[parameters[index]]
        for name, value in values.items():
            if isinstance(value, Tensor):
                state[name] = value.to(state[name].device, copy=True)


@contextmanager
def restoring(checkpoint: Path | None, start: Start, loggers: Sequence[Logger]) -> Iterator[None]:
    """Within it an error before the first step names the checkpoint, whose content is the cause.

    Args:
        checkpoint: ``None``: the run begins anew.
        start: of this process.
        loggers: whose event files are removed, should there be no first step.
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
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(
            f"{checkpoint} must be a whole checkpoint of this run; it cannot be loaded: {reason}"
        ) from error
