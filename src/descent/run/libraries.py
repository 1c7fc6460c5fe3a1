"""Redirects Lightning's log messages and hides known warnings during a run."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LIGHTNING = ("lightning", "lightning.pytorch", "lightning.fabric")
IGNORED: tuple[tuple[str, type[Warning]], ...] = (
    # At the first step of each fit: Lightning uses torch's tree functions in a deprecated way.
    (r".*LeafSpec.*", FutureWarning),
    # Shown wherever Slurm is installed, as on a login node.
    (r"The `srun` command is available on your system but is not used", UserWarning),
    # Logged values are reduced over the processes before Lightning sees them.
    (r"It is recommended to use `self.log\(.*sync_dist=True", UserWarning),
    # From a ModelCheckpoint callback added to the project's own checkpoints.
    (r"Checkpoint directory .* exists and is not empty", UserWarning),
    # A note says that stochastic weight averaging replaces the scheduler.
    (r"SWA is currently only supported every epoch", UserWarning),
    # An average needs a single device, which has all layers.
    (r"You're using the WeightAveraging callback with a model that overrides", UserWarning),
    # The curves get a point after each of the first epochs anyway.
    (r"The number of training batches .* is smaller than the logging interval", UserWarning),
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Sends Lightning's messages to the caller's log handlers and hides known warnings, until it exits."""
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
    """Returns the open Weights & Biases run of this process; ``None``: there is none."""
    return getattr(sys.modules.get("wandb"), "run", None)


def end_wandb_run(before: Any, exit_code: int) -> None:
    """Ends the run that was opened since ``before``: Lightning leaves it open and would log the next run to it."""
    if wandb_run() is not before:
        sys.modules["wandb"].finish(exit_code=exit_code)
