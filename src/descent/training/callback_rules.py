"""Keeps the callbacks of a config from interfering with the run's own results and checkpoints."""

from pathlib import Path

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)

from descent.errors import UserError, invalid
from descent.training.weight_averaging import note_inexact_resuming

REFUSED: dict[tuple[type[Callback], ...], str] = {
    (BatchSizeFinder, LearningRateFinder): "it changes values of the config; use a sweep to try values",
    (GradientAccumulationScheduler, ModelPruning): "a run with it does not resume exactly",
}
OWN = ("best", "last")  # the names of the run's own checkpoints


def apply_rules(name: str, callback: Callback, checkpoints: Path) -> None:
    """Refuses a callback, notes what it prevents, or gives the last checkpoint of a ModelCheckpoint another name.

    Args:
        name: in the config's ``callbacks``.
        checkpoints: the directory of ``best.ckpt`` and ``last.ckpt``.

    Raises:
        UserError: it cannot be used, or would write one of these two files.
    """
    for kinds, why in REFUSED.items():
        if isinstance(callback, kinds):
            raise UserError(f"callbacks.{name} must not be {type(callback).__name__}: {why}")
    if isinstance(callback, StochasticWeightAveraging):
        note_inexact_resuming(name)
    if isinstance(callback, ModelCheckpoint) and callback.dirpath in (None, str(checkpoints.resolve())):
        if callback.filename in OWN:
            rule = "another name than best and last, which the run's own checkpoints have"
            raise invalid(f"callbacks.{name}.filename", rule, callback.filename)
        if callback.CHECKPOINT_NAME_LAST in OWN:  # for save_last; the run could not resume from it
            callback.CHECKPOINT_NAME_LAST = f"{name}-last"
