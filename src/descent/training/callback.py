"""Lets a project's callback add to a run's result and console output."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import RenderableType


class ResultCallback(Callback):
    """A callback that reports on a run.

    Attributes:
        in_sweeps: whether to show its tables and call ``after_result`` for the runs of a sweep, too.
    """

    in_sweeps = False

    def result(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Entries for ``result.json``: plain values by name. An entry ``metrics`` is merged with the other metrics.
        Any other name that ``result.json`` has already is an error.

        Called after training, with the last weights.
        """
        return {}

    def tables(self, result: Mapping[str, Any]) -> Iterable[RenderableType]:
        """What the console shows after training.

        Args:
            result: all of ``result.json``.
        """
        return ()

    def after_result(self, trainer: Trainer, result: Mapping[str, Any], run_dir: Path) -> None:
        """Called after the result of a completed run is written. An error here becomes a note; the run still counts."""
