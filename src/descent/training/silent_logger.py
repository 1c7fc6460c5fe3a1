"""Keeps evaluations out of the logs, though hooks can still use the logger."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger


class SilentLogger(DummyLogger):
    """Discards everything; for hooks that use ``trainer.logger.experiment``."""

    def __init__(self, save_dir: Path | str) -> None:
        super().__init__()
        self.directory = str(save_dir)

    @property
    def save_dir(self) -> str:
        return self.directory

    @property
    def log_dir(self) -> str:
        return self.directory


@contextmanager
def without_metrics(loggers: Sequence[Logger]) -> Iterator[None]:
    """Discards the metrics that Lightning logs, but not what hooks give to ``trainer.logger.experiment``."""
    given = [logger.log_metrics for logger in loggers]
    for logger in loggers:
        logger.log_metrics = lambda metrics, step=None: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        for logger, log_metrics in zip(loggers, given, strict=True):
            logger.log_metrics = log_metrics  # type: ignore[method-assign]
