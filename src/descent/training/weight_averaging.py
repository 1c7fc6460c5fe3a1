"""Makes ``StochasticWeightAveraging`` average all layers of a module, and notes what it cannot do."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging

from descent.errors import UserError
from descent.training.sparse_callback import callbacks_of

log = logging.getLogger(__name__)

NEEDED = (
    "StochasticWeightAveraging needs the layers of {} to be made in __init__ or configure_model: it copies the module"
    " before its setup"
)


class LayersBeforeAveraging(Callback):
    """Runs before ``StochasticWeightAveraging``, which copies the module in ``setup``, before ``configure_model``.

    Layers that do not exist by then would silently not be averaged.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        try:
            with trainer.init_module():
                pl_module.configure_model()  # Lightning calls it again, which must have no effect
        except AttributeError as error:  # it is made in setup
            raise UserError(f"{NEEDED.format(type(pl_module).__name__)} ({error})") from error

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for averaging in callbacks_of(trainer, StochasticWeightAveraging):
            if averaging.state_dict()["average_model_state"].keys() != pl_module.state_dict().keys():
                raise UserError(NEEDED.format(type(pl_module).__name__))
        for config in trainer.lr_scheduler_configs:  # of this project's config, or of the module's own
            name = type(config.scheduler).__name__
            log.warning("note: StochasticWeightAveraging replaces %s once it begins to average", name)


def note_inexact_resuming(name: str) -> None:
    """Logs a note on the callback of this name."""
    log.warning(
        "note: a run resumed within an epoch is not exact with callbacks.%s, which sets its learning rate only"
        " at the start of an epoch; interrupted between epochs, it resumes exactly",
        name,
    )
