"""Going on from a checkpoint: whether it is of this run, and what is said where it cannot be loaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from descent.config.identity import LENGTH, differences
from descent.errors import UserError
from descent.training.checkpoint_io import read_checkpoint
from descent.training.logger import RunLogger

KINDS: dict[str, type] = {  # of what a resumed run needs
    **dict.fromkeys(("run/config", "random_state", "state_dict", "loops/fit_loop", "callbacks"), dict),
    **dict.fromkeys(("optimizer_states", "lr_schedulers"), list),
    **dict.fromkeys(("global_step", "run/checksum"), int),
}


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


def check_checkpoint(last: Path, identity: dict[str, Any], longer: bool) -> int:
    """The step from which a run goes on.

    Args:
        last: the checkpoint.
        identity: of the run that is to go on: ``config``, see ``descent.config.identity``, and ``checksum``.
        longer: whether the run may have become longer.

    Raises:
        UserError: the checkpoint is damaged, or of another config or other data.
    """
    loaded = read_checkpoint(last)
    for path, kind in KINDS.items():
        value: Any = loaded
        for key in path.split("/"):
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind) or not (value or kind in (int, list)):
            raise UserError(
                f"{last} must be a checkpoint that this version of the project wrote, to be resumed exactly;"
                f" its {path} is {value!r:.40}"
            )
    saved, now = loaded["run"], identity["config"]
    began_with = saved["config"].get(LENGTH)
    longer = longer and isinstance(began_with, int) and began_with <= now[LENGTH]
    changed = differences(saved["config"], now, allowed=[LENGTH] if longer else [])
    if changed:
        raise UserError(f"{last} must be of the same config, to be resumed: {changed}")
    if saved["checksum"] != identity["checksum"]:
        raise UserError(f"data must be what the run began with to be resumed: its rows are not those of {last}")
    return int(loaded["global_step"])


@contextmanager
def restoring(checkpoint: Path | None, start: Start, logger: Logger | None) -> Iterator[None]:
    """Within it an error before the first step names the checkpoint, whose content is the cause.

    Args:
        checkpoint: ``None``: the run begins anew.
        start: of this process.
        logger: whose event file is removed, should there be no first step.
    """
    try:
        yield
    except Exception as error:
        if checkpoint is None or start.made:
            raise
        if isinstance(logger, RunLogger):
            logger.discard()
        if not isinstance(error, LookupError | TypeError | ValueError | AttributeError | RuntimeError):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(
            f"{checkpoint} must be a whole checkpoint of this run; it cannot be loaded: {reason}"
        ) from error
