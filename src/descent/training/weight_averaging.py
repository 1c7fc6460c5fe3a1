"""Makes Lightning's weight averaging include all layers of a module, and notes what it cannot do."""

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging

from descent.errors import UserError, invalid
from descent.training.sparse_callback import callbacks_of

log = logging.getLogger(__name__)

AVERAGES = (StochasticWeightAveraging, WeightAveraging)
NEEDED = "{} needs the layers of {} to be made in __init__ or configure_model: it copies the module before its setup"


def averages_in(trainer: Trainer) -> list[Callback]:
    return [callback for callback in callbacks_of(trainer, Callback) if isinstance(callback, AVERAGES)]


class LayersBeforeAveraging(Callback):
    """Runs before an average, which copies the module in ``setup``, before ``configure_model``.

    Layers that do not exist by then would silently not be averaged.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        name = type(averages_in(trainer)[0]).__name__
        if trainer.world_size > 1 and callbacks_of(trainer, WeightAveraging):
            raise UserError(f"{name} needs a single device (trainer.devices=1)")
        try:
            with trainer.init_module():
                pl_module.configure_model()  # Lightning calls it again, which must have no effect
        except AttributeError as error:  # it is made in setup
            raise UserError(f"{NEEDED.format(name, type(pl_module).__name__)} ({error})") from error

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for average in averages_in(trainer):
            if _averaged(average, trainer, pl_module).keys() != pl_module.state_dict().keys():
                raise UserError(NEEDED.format(type(average).__name__, type(pl_module).__name__))
        if not callbacks_of(trainer, StochasticWeightAveraging):
            return
        for config in trainer.lr_scheduler_configs:  # of this project's config, or of the module's own
            name = type(config.scheduler).__name__
            log.warning("note: StochasticWeightAveraging replaces %s once it begins to average", name)


def _averaged(average: Callback, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """The averaged weights, by name."""
    if isinstance(average, StochasticWeightAveraging):
        found: dict[str, Any] = average.state_dict()["average_model_state"]
        return found
    saved: dict[str, Any] = {"state_dict": {}}
    average.on_save_checkpoint(trainer, pl_module, saved)
    return saved["state_dict"]  # type: ignore[no-any-return]


def check_monitor(trainer: Trainer, metric: str, is_of_training: bool) -> None:
    """Raises an error if the best weights were chosen by those in training, which are not the averaged ones."""
    for average in callbacks_of(trainer, WeightAveraging):
        if is_of_training:
            what = f"a metric of validation with {type(average).__name__}, which saves other weights than it trains"
            raise invalid("monitor.metric", what, metric)


def note_inexact_resuming(key: str) -> None:
    """Logs a note on the callback at this key, such as ``callbacks.swa``."""
    log.warning(
        "note: a run resumed within an epoch is not exact with %s, which sets its learning rate only"
        " at the start of an epoch; interrupted between epochs, it resumes exactly",
        key,
    )
