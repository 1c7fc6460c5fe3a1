"""What a callback of a project may add to a run's result and console."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import RenderableType


class ResultCallback(Callback):
    """A callback that has something to say of a run.

    Attributes:
        in_sweeps: whether its tables are also shown, and ``after_result`` called, of the runs of a sweep.
    """

    in_sweeps = False

    def result(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Entries for ``result.json``, plain values by name; ``metrics`` among them are added to the others.

        Called after training, with the last weights.
        """
        return {}

    def tables(self, result: Mapping[str, Any]) -> Iterable[RenderableType]:
        """What the console shows of these entries, after training.

        Args:
            result: all of ``result.json``.
        """
        return ()

    def after_result(self, trainer: Trainer, result: Mapping[str, Any], run_dir: Path) -> None:
        """Called when the result of a completed run is written. An error here is a note; the run is no worse for it."""
