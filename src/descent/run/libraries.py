"""What Lightning logs and warns of while a run lasts; the caller's own settings come back after it."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LIGHTNING = ("lightning", "lightning.pytorch", "lightning.fabric")
IGNORED: tuple[tuple[str, type[Warning]], ...] = (
    # At the first step of each fit: Lightning calls torch's tree functions in a way that torch has deprecated.
    (r".*LeafSpec.*", FutureWarning),
    # Lightning says it wherever Slurm is installed, as on a login node.
    (r"The `srun` command is available on your system but is not used", UserWarning),
    # What is logged is reduced over the processes before Lightning sees it.
    (r"It is recommended to use `self.log\(.*sync_dist=True", UserWarning),
    # Of a ModelCheckpoint beside the project's own checkpoints.
    (r"Checkpoint directory .* exists and is not empty", UserWarning),
    # The curves have a point after each of the first epochs.
    (r"The number of training batches .* is smaller than the logging interval", UserWarning),
)


@contextmanager
def libraries_as_here() -> Iterator[None]:
    """Within it Lightning's messages go where the caller's do, and known warnings of libraries are not shown."""
    loggers = [logging.getLogger(name) for name in LIGHTNING]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    with warnings.catch_warnings():
        for message, category in IGNORED:
            warnings.filterwarnings("ignore", message, category)
        for logger in loggers:
            logger.handlers.clear()
            logger.propagate = True
        try:
            yield
        finally:
            for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
                logger.handlers[:], logger.propagate = handlers, propagate
                logger.setLevel(level)


def wandb_run() -> Any:
    """The run of Weights & Biases that this process is in; ``None``: in none."""
    return getattr(sys.modules.get("wandb"), "run", None)


def end_wandb_run(before: Any, exit_code: int) -> None:
    """Ends the one that was begun since ``before``: Lightning leaves it open, and would write the next run into it."""
    if wandb_run() is not before:
        sys.modules["wandb"].finish(exit_code=exit_code)
