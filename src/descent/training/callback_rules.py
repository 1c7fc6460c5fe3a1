"""Keeps the callbacks of a config or a module from interfering with the run's own results and checkpoints."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Checkpoint,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from lightning.pytorch.utilities.model_helpers import is_overridden

from descent.errors import UserError, invalid
from descent.training.sparse_callback import callbacks_of
from descent.training.training_loss import TrainingLoss
from descent.training.validation_schedule import validation_schedule
from descent.training.weight_averaging import AVERAGES, LayersBeforeAveraging, note_inexact_resuming

REFUSED: dict[tuple[type[Callback], ...], str] = {
    (BatchSizeFinder, LearningRateFinder): "it changes values of the config; use a sweep to try values",
    (GradientAccumulationScheduler, ModelPruning): "a run with it does not resume exactly",
}
OWN = ("best", "last")  # the names of the run's own checkpoints


def apply_rules(key: str, name: str, callback: Callback, checkpoints: Path) -> None:
    """Refuses a callback, notes what it prevents, or gives the last checkpoint of a ModelCheckpoint another name.

    Args:
        key: where the callback is, for messages: ``callbacks.<name>``.
        name: for its files.
        checkpoints: the directory of ``best.ckpt`` and ``last.ckpt``.

    Raises:
        UserError: it cannot be used, or would write one of these two files.
    """
    for kinds, why in REFUSED.items():
        if isinstance(callback, kinds):
            raise UserError(f"{key} must not be {type(callback).__name__}: {why}")
    if isinstance(callback, StochasticWeightAveraging):
        note_inexact_resuming(key)
    if isinstance(callback, ModelCheckpoint) and callback.dirpath in (None, str(checkpoints.resolve())):
        if callback.filename in OWN:
            rule = "another name than best and last, which the run's own checkpoints have"
            raise invalid(f"{key}.filename", rule, callback.filename)
        if callback.CHECKPOINT_NAME_LAST in OWN:  # for save_last; the run could not resume from it
            callback.CHECKPOINT_NAME_LAST = f"{name}-last"


def attach_own(model: LightningModule, trainer: Trainer, checkpoints: Path) -> None:
    """Adds the callbacks of the module's ``configure_callbacks`` to the Trainer's, by the same rules.

    As in Lightning, they replace those of the same class. Lightning would do so again to validate and test after
    training, with new ones.
    """
    if not is_overridden("configure_callbacks", model):
        return
    model.trainer = trainer
    found = model.configure_callbacks()
    model.configure_callbacks = list  # type: ignore[method-assign]  # no more
    given = list(found) if isinstance(found, Sequence) else [found]
    for index, callback in enumerate(given):
        key = f"{type(model).__name__}.configure_callbacks[{index}]"
        apply_rules(key, type(callback).__name__, callback, checkpoints)
    if any(getattr(callback, "monitor", None) for callback in given):
        intervals = validation_schedule(trainer).intervals
        intervals.validate_every = intervals.validate_every or 1
    if any(isinstance(callback, AVERAGES) for callback in given):
        given.insert(0, LayersBeforeAveraging())
    kinds = {type(callback) for callback in given}
    others = [callback for callback in callbacks_of(trainer, Callback) if type(callback) not in kinds]
    where = next(index for index, callback in enumerate(others) if isinstance(callback, TrainingLoss))
    last = [callback for callback in given if isinstance(callback, Checkpoint)]
    others[where:where] = [callback for callback in given if callback not in last]
    trainer.callbacks = others + last  # type: ignore[attr-defined]  # set in Trainer's connector
